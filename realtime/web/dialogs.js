/**
 * What opens above the page: dialogs, menus, the choice of an emoji, toasts. Each takes the focus, gives it
 * back when it closes, and closes with Escape.
 */

import { icon } from "./icons.js";
import { el } from "./parts.js";

const EMOJI = ("👍 ❤️ 😂 🎉 😮 😢 🙏 👀 🔥 ✅ ❌ 💯 🚀 😀 😅 😉 😍 🤔 😎 😴 🥳 😭 😡 👋 👏 🙌 💪 🤝 ☕ 🍕 🎂 🌈 "
  + "⭐ ⚡ 💡 📌 📎 🐛 🧪 🎵 🎸 🎧").split(" ");
const QUICK = EMOJI.slice(0, 6);

/** A modal dialog with a form. `fill(form, close)` puts things in; `submit(form)` returns when it is done, and
 *  what it throws is shown. Resolves to what `submit` returned, or null when it was closed. */
export function openDialog({ title, action, fill, submit, wide = false, danger = false }) {
  const dialog = el("dialog", { class: wide ? "dialog wide" : "dialog", "aria-labelledby": "dialog-title" });
  const wrong = el("p", { class: "form-error", role: "alert", hidden: "" });
  const form = el("form", { method: "dialog", autocomplete: "off" });
  const cancel = el("button", { type: "button", class: "ghost" }, action ? "Cancel" : "Close");
  const confirm = action
    ? el("button", { type: "submit", class: danger ? "primary danger" : "primary" }, action) : null;
  form.append(el("h2", { id: "dialog-title" }, title));
  const { promise, resolve } = Promise.withResolvers();
  let result = null;
  const close = (value = null) => {
    result = value;
    dialog.close();
  };
  fill(form, close);
  form.append(wrong, el("div", { class: "dialog-actions" }, cancel, confirm));
  cancel.addEventListener("click", () => close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!submit || confirm?.disabled) return;
    if (confirm) confirm.disabled = true;
    try {
      close((await submit(form)) ?? true);
    } catch (error) {
      wrong.textContent = `${error.message}.`.replace(/\.\.$/u, ".");
      wrong.hidden = false;
    } finally {
      if (confirm) confirm.disabled = false;
    }
  });
  dialog.append(form);
  dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(result);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && close()); // beside it
  document.body.append(dialog);
  dialog.showModal();
  return promise;
}

/** A labelled field of a dialog. */
export function field(label, attributes = {}, tag = "input") {
  const id = `field-${label.toLowerCase().replace(/\W+/gu, "-")}`;
  const input = el(tag, { id, name: label, ...attributes });
  return { node: el("div", { class: "field" }, el("label", { for: id }, label), input), input };
}

/** A labelled choice of one among `[value, words]`. */
export function choice(label, options, chosen) {
  const made = field(label, {}, "select");
  made.input.append(...options.map(([value, words]) =>
    el("option", value === chosen ? { value, selected: "" } : { value }, words)));
  return made;
}

/** Ask before something that cannot be taken back. @returns {Promise<boolean>} */
export async function confirmed(title, text, action, act) {
  const fill = (form) => form.append(el("p", { class: "dialog-text" }, text));
  return await openDialog({ title, action, fill, submit: act, danger: true }) !== null;
}

// --- menus ----------------------------------------------------------------------------------------

let openMenu = null;

/** A menu at a node. Items: `{ label, icon?, act, danger?, checked? }` or null for a line. Arrow keys move,
 *  Enter chooses, Escape and Tab close. `reactions(emoji)` puts a row of emoji above them. */
export function showMenu(anchor, items, { label = "Actions", reactions = null, at = null } = {}) {
  openMenu?.();
  const back = document.activeElement;
  const menu = el("div", { class: "menu", role: "menu", "aria-label": label, tabindex: "-1" });
  let done = false;
  const close = (refocus = true) => {
    if (done) return;
    done = true;
    openMenu = null;
    stopped.abort();
    menu.remove();
    anchor.removeAttribute("data-open");
    if (refocus && back?.isConnected) back.focus({ preventScroll: true });
  };
  const stopped = new AbortController();
  openMenu = close;
  if (reactions) menu.append(quickRow(reactions, close, anchor));
  for (const item of items) menu.append(item === null ? el("hr", { role: "separator" }) : itemNode(item, close));
  document.body.append(menu);
  place(menu, at ?? anchor.getBoundingClientRect());
  anchor.setAttribute("data-open", "");
  const options = [...menu.querySelectorAll("[role^=menuitem]")];
  rove(menu, options);
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Tab") return;
    event.preventDefault();
    event.stopPropagation();
    close();
  });
  const outside = (event) => menu.contains(event.target) || close(false);
  document.addEventListener("pointerdown", outside, { signal: stopped.signal, capture: true });
  addEventListener("resize", () => close(false), { signal: stopped.signal });
  options[0]?.focus({ preventScroll: true });
  return close;
}

function itemNode({ label, icon: name, act, danger, checked }, close) {
  const role = checked === undefined ? "menuitem" : "menuitemradio";
  const node = el("button", { type: "button", role, tabindex: "-1", class: danger ? "danger" : null },
    name ? icon(name) : el("span", { class: "tick", "aria-hidden": "true" }, checked ? "✓" : ""), label);
  if (checked !== undefined) node.setAttribute("aria-checked", String(checked));
  node.addEventListener("click", () => {
    close();
    act();
  });
  return node;
}

function quickRow(choose, close, anchor) {
  const row = el("div", { class: "menu-emoji", role: "group", "aria-label": "React" });
  for (const emoji of QUICK) {
    const node = el("button", { type: "button", role: "menuitem", tabindex: "-1", "aria-label": `React ${emoji}` },
      el("span", { class: "glyph" }, emoji));
    node.addEventListener("click", () => {
      close();
      choose(emoji);
    });
    row.append(node);
  }
  const more = el("button", { type: "button", role: "menuitem", tabindex: "-1", "aria-label": "More reactions" },
    icon("smile"));
  more.addEventListener("click", () => {
    const box = anchor.getBoundingClientRect();
    close();
    showEmoji(anchor, choose, box);
  });
  row.append(more);
  return row;
}

/** Choose an emoji among all that we offer. */
export function showEmoji(anchor, choose, at = null) {
  const close = showMenu(anchor, [], { label: "Emoji", at });
  const grid = el("div", { class: "emoji-grid", role: "group", "aria-label": "Emoji" });
  for (const emoji of EMOJI) {
    const node = el("button", { type: "button", role: "menuitem", tabindex: "-1", "aria-label": emoji },
      el("span", { class: "glyph" }, emoji));
    node.addEventListener("click", () => {
      close();
      choose(emoji);
    });
    grid.append(node);
  }
  const menu = document.querySelector(".menu");
  menu.append(grid);
  place(menu, at ?? anchor.getBoundingClientRect());
  const options = [...grid.children];
  rove(menu, options);
  options[0].focus({ preventScroll: true });
}

/** Arrow keys, Home and End move the focus among `options`. */
export function rove(parent, options) {
  parent.addEventListener("keydown", (event) => {
    const here = options.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    let next = null;
    if (step) next = options[(here + step + options.length) % options.length];
    else if (event.key === "Home") next = options[0];
    else if (event.key === "End") next = options.at(-1);
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    next.focus();
  });
}

/** Put it near a box, inside the window. */
function place(node, box) {
  const { width, height } = node.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.right - width), innerWidth - width - 8);
  const below = box.bottom + 4;
  const top = below + height <= innerHeight - 8 ? below : Math.max(8, box.top - height - 4);
  node.style.setProperty("left", `${Math.max(8, left)}px`);
  node.style.setProperty("top", `${Math.min(top, Math.max(8, innerHeight - height - 8))}px`);
}

// --- toasts ---------------------------------------------------------------------------------------

const TOAST_MS = 6_000;
const TOASTS_MAX = 3;

/** A few words at the edge of the page, for a while; `act` makes them a button. */
export function toast(text, { tone = "", act = null } = {}) {
  const box = document.getElementById("toasts");
  const node = act
    ? el("button", { type: "button", class: `toast ${tone}` }, text) : el("p", { class: `toast ${tone}` }, text);
  if (act) {
    node.addEventListener("click", () => {
      node.remove();
      act();
    });
  }
  while (box.children.length >= TOASTS_MAX) box.firstElementChild.remove();
  box.append(node);
  setTimeout(() => node.remove(), TOAST_MS);
  const announce = document.getElementById("announce");
  announce.textContent = text;
}

/** Do something, and say what went wrong with it. */
export async function attempt(act) {
  try {
    return await act();
  } catch (error) {
    toast(error.message, { tone: "bad" });
    return null;
  }
}

/** What the side panel shows in place of the members: a thread, what was found, what is pinned, reports. */

import { Composer } from "./composer.js";
import { attempt, choice } from "./dialogs.js";
import { formatted, snippet } from "./format.js";
import { icon } from "./icons.js";
import { avatar, count, dayName, el, timeElement } from "./parts.js";

/** The panel itself; one thing is in it at a time. */
export class Panel {
  #onClose = () => {};

  /** @param {(open: boolean) => void} follow  what opens and closes with it on a narrow page */
  constructor(follow) {
    this.node = document.getElementById("panel");
    this.people = document.getElementById("people");
    this.side = document.getElementById("side");
    this.follow = follow;
    /** What it shows. @type {string|null} */
    this.name = null;
  }

  open(name, title, content, { onClose = () => {}, focus = null } = {}) {
    this.#onClose();
    this.#onClose = onClose;
    this.name = name;
    const close = el("button", { type: "button", class: "icon-button", "aria-label": `Close ${title.toLowerCase()}` },
      icon("close"));
    close.addEventListener("click", () => this.close());
    this.node.replaceChildren(el("div", { class: "panel-top" }, el("h2", {}, title), close), content);
    this.node.hidden = false;
    this.people.hidden = true;
    this.side.setAttribute("aria-label", title);
    this.follow(true);
    (focus ?? close).focus();
  }

  close({ refocus = true } = {}) {
    if (this.name === null) return;
    this.#onClose();
    this.#onClose = () => {};
    this.name = null;
    this.node.hidden = true;
    this.node.replaceChildren();
    this.people.hidden = false;
    this.side.setAttribute("aria-label", "Members and connection");
    this.follow(false);
    if (refocus) document.getElementById("text")?.focus();
  }
}

/** A message in a list, with what was found in it or all of it; choosing it leads to it. */
function card(message, words, go) {
  const at = new Date(message.at);
  const node = el("button", { type: "button", class: "card-message" },
    el("span", { class: "card-top" }, avatar(message.from), el("span", { class: "who" }, message.from),
      el("span", { class: "card-time" }, `${dayName(at)}, `, timeElement(at, ""))),
    el("span", { class: "card-words" }, ...words),
    message.attachments.length
      ? el("span", { class: "card-files" }, icon("file", 14), message.attachments.map(({ name }) => name).join(", "))
      : null);
  node.addEventListener("click", () => go(message));
  return el("li", {}, node);
}

// --- search ---------------------------------------------------------------------------------------

/** @param {{ panel: Panel, chat: any, room(): any, titleOf(name: string): string, go(message: any): void,
 *            shownOf(message: any): any }} context */
export function openSearch({ panel, chat, room, titleOf, go, shownOf }) {
  const query = el("input", { type: "search", id: "query", placeholder: 'words, "a phrase", from:ada', autocomplete: "off",
    spellcheck: "false" });
  const where = choice("Where", [["room", "This conversation"], ["all", "All conversations"]], "room");
  const order = choice("Order", [["newest", "Newest first"], ["rank", "Best first"]], "newest");
  const files = el("input", { type: "checkbox", id: "query-files" });
  const list = el("ul", { class: "cards" });
  const said = el("p", { class: "panel-said", role: "status" });
  const more = el("button", { type: "button", class: "ghost wide", hidden: "" }, "Show more");
  let asked = 0;
  let found = 0;
  let position;
  const ask = (next) => attempt(async () => {
    const words = query.value.trim();
    const number = ++asked;
    if (!words) return;
    const answer = await chat.search(words, {
      room: where.input.value === "room" ? room().name : null, order: order.input.value,
      has: files.checked ? ["attachment"] : undefined, position: next ? position : undefined, limit: 20,
    });
    if (number !== asked) return; // another question came after it
    if (!next) { list.replaceChildren(); found = 0; }
    position = answer.position;
    found += answer.hits.length;
    for (const hit of answer.hits) list.append(hitNode(hit, where.input.value === "all"));
    more.hidden = !answer.more;
    said.textContent = found ? `${count(found, "message", "messages")}${answer.more ? ", and there are more" : ""}`
      : "Nothing was found.";
  });
  const hitNode = (hit, named) => {
    const message = shownOf(hit.message);
    const node = card(message, snippet(hit.snippet), go);
    if (named) node.firstElementChild.prepend(el("span", { class: "card-room" }, titleOf(message.room)));
    return node;
  };
  const form = el("form", { class: "search", role: "search" },
    el("label", { class: "visually-hidden", for: "query" }, "Search messages"),
    el("div", { class: "search-row" }, query, el("button", { type: "submit", class: "icon-button", "aria-label": "Find" },
      icon("search"))),
    el("div", { class: "search-more" }, where.node, order.node,
      el("label", { class: "check", for: "query-files" }, files, "With a file")));
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(false); });
  for (const each of [where.input, order.input, files]) each.addEventListener("change", () => ask(false));
  more.addEventListener("click", () => ask(true));
  panel.open("search", "Search", el("div", { class: "panel-body" }, form, said, list, more), { focus: query });
}

// --- pins -----------------------------------------------------------------------------------------

export async function openPins({ panel, room, go, me }) {
  const pins = await attempt(() => room.pins());
  if (pins === null) return;
  const list = el("ul", { class: "cards" }, ...pins.map((message) =>
    card(message, formatted(message.text, message.entities, me), go)));
  const none = pins.length ? null : el("p", { class: "panel-said" }, "Nothing is pinned here.");
  panel.open("pins", "Pinned messages", el("div", { class: "panel-body" }, ...[none, list].filter(Boolean)));
}

// --- threads --------------------------------------------------------------------------------------

/** A message with the answers to it, and where one more is written. */
export class ThreadPane {
  #nodes = new Map();
  #window = null;

  /** @param {{ panel: Panel, room: any, view: any, message: any, names(): string[],
   *            menu(message: any, node: any): void, online(): boolean }} context */
  constructor(context) {
    this.context = context;
    const { room, message } = context;
    this.list = el("ol", { class: "log thread", role: "list" });
    this.waiting = el("ol", { class: "log pending" });
    this.log = el("div", { class: "thread-log", role: "log", "aria-label": "Thread", "aria-live": "polite" }, this.list);
    this.composer = new Composer({
      label: "Reply in thread", room: () => room, names: context.names,
      send: (text, attachments) => { room.send(text, { attachments, thread: message.id }); return true; },
    });
    this.body = el("div", { class: "panel-body thread-body" },
      el("div", { class: "thread-scroller" }, this.log, this.waiting), this.composer.form);
    this.list.addEventListener("keydown", (event) => this.#onKey(event));
    this.list.addEventListener("contextmenu", (event) => this.#onContext(event));
  }

  async open() {
    const { panel, room, message } = this.context;
    const end = room.on("change", () => this.draw());
    panel.open("thread", "Thread", this.body, {
      focus: this.composer.text,
      onClose: () => {
        end();
        this.composer.clear();
        room.closeThread(message.id);
      },
    });
    this.draw();
    await attempt(async () => {
      this.#window = await room.thread(message.id);
      this.draw();
    });
  }

  draw() {
    const { room, view, message, online } = this.context;
    const origin = room.window.get(message.id) ?? message;
    const messages = [origin, ...(this.#window?.list ?? [])];
    for (const each of messages) {
      const known = this.#nodes.get(each.key);
      if (!known) {
        const node = view.make(room, each);
        bare(node);
        node.tabIndex = 0;
        this.#nodes.set(each.key, { node, rev: each.rev });
        this.list.append(node);
      } else if (known.rev !== each.rev) {
        view.fill(known.node, room, each);
        bare(known.node);
        known.rev = each.rev;
      }
    }
    const mine = room.pending.filter(({ content }) => content.thread === message.id);
    this.waiting.replaceChildren(...mine.map((pending) => view.pending(room, pending, online())));
    const scroller = this.body.firstElementChild;
    scroller.scrollTop = scroller.scrollHeight;
  }

  #messageAt(node) {
    const key = node.closest(".message")?.dataset.key;
    return this.#window?.get(key) ?? this.context.room.window.get(key) ?? null;
  }

  #onKey(event) {
    if (event.key !== "Enter" || !event.target.classList.contains("message")) return;
    event.preventDefault();
    this.context.menu(this.#messageAt(event.target), event.target);
  }

  #onContext(event) {
    const node = event.target.closest(".message");
    if (!node || event.target.closest("a")) return;
    event.preventDefault();
    this.context.menu(this.#messageAt(node), node, new DOMRect(event.clientX, event.clientY, 0, 0));
  }
}

/** Without what leads to the thread that it stands in. */
function bare(node) {
  for (const part of node.querySelectorAll(".thread-link, .quote.of-thread")) part.remove();
}

// --- reports --------------------------------------------------------------------------------------

const VERDICTS = [["dismiss", "Dismiss"], ["hide", "Hide it"], ["delete", "Delete it"], ["ban", "Ban its sender"]];

/** What members have reported, for moderators. */
export async function openReports({ panel, room, go, shownOf }) {
  const body = el("div", { class: "panel-body" });
  const load = async () => {
    const { reports } = await room.ask("chat_reports", { state: "open" });
    const nodes = reports.map((report) => reportNode(report, { room, go, shownOf, load }));
    body.replaceChildren(nodes.length ? el("ul", { class: "cards" }, ...nodes)
      : el("p", { class: "panel-said" }, "Nothing is reported here."));
  };
  if (await attempt(async () => { await load(); return true; })) panel.open("reports", "Reports", body);
}

function reportNode(report, { room, go, shownOf, load }) {
  const message = report.message ? shownOf(report.message) : null;
  const tools = VERDICTS.map(([verdict, label]) => {
    const node = el("button", { type: "button", class: verdict === "dismiss" ? "ghost small" : "ghost small danger" }, label);
    node.addEventListener("click", () => attempt(async () => {
      await room.room.command("chat_resolve", { report: report.report ?? report.id, verdict });
      await load();
    }));
    return node;
  });
  const about = el("p", { class: "report-reason" }, el("strong", {}, report.by ?? report.user ?? "Somebody"),
    `: ${report.reason ?? ""}`);
  return el("li", { class: "report" }, about,
    message ? card(message, [message.text], go).firstElementChild : null,
    el("div", { class: "report-tools" }, ...tools));
}

/**
 * The conversation on the page: messages in the room's order, what is still being sent below them,
 * day lines, unread marks and the scroll position. Knows nothing of the network.
 */

import { avatar, count, dayName, el, hueOf, isEmoji, timeElement, withLinks } from "./parts.js";

const GROUP_MS = 5 * 60_000;
const BOTTOM_PX = 64;
const SHOWN_LIMIT = 1_000;

export class Thread {
  #parts;
  #me;
  #onUnread;
  #shown = new Set(); // epoch:offset of each message in the page
  #pending = []; // handles, oldest first
  #unread = 0;
  #unreadLine = null;
  #pinned = true;

  /** @param {{ scroller: HTMLElement, log: HTMLElement, pending: HTMLElement, pill: HTMLButtonElement,
   *            empty: HTMLElement }} parts
   *  @param {string} me  @param {(unread: number) => void} onUnread */
  constructor(parts, me, onUnread) {
    this.#parts = parts;
    this.#me = me;
    this.#onUnread = onUnread;
    this.stopped = new AbortController();
    const { signal } = this.stopped;
    parts.log.replaceChildren();
    parts.pending.replaceChildren();
    parts.pill.hidden = true;
    parts.scroller.addEventListener("scroll", () => this.#onScroll(), { signal });
    parts.pill.addEventListener("click", () => this.toBottom(), { signal });
    document.addEventListener("visibilitychange", () => this.#onScroll(), { signal });
    // A phone's keyboard, a growing composer or a turned screen must not hide the newest line.
    const resized = new ResizeObserver(() => this.#pinned && this.toBottom());
    resized.observe(parts.scroller);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  get firstOffset() {
    const first = this.#parts.log.querySelector(".message");
    return first ? Number(first.dataset.offset) : null;
  }

  /** Show a message at the end. Returns false when it is there already. */
  add(message) {
    if (!this.#remember(message)) return false;
    const own = message.from === this.#me;
    const node = this.#render(message.from ?? "", message.content?.text, new Date(message.timestamp), message);
    if (own) this.#takePending(message);
    const away = !own && (!this.#pinned || document.hidden);
    if (away && this.#unread === 0) this.#markUnreadHere();
    this.#append(node);
    if (away) this.#setUnread(this.#unread + 1);
    if (own || this.#pinned) this.toBottom({ read: !document.hidden });
    this.#trim();
    return true;
  }

  /** Put earlier messages on top, oldest first, and without moving what the reader looks at. */
  addOlder(messages) {
    const { log, scroller } = this.#parts;
    const before = scroller.scrollHeight;
    const anchor = log.firstElementChild;
    // Announcing fifty old lines would bury a screen reader's user.
    log.setAttribute("aria-busy", "true");
    for (const message of messages) {
      if (!this.#remember(message)) continue;
      const at = new Date(message.timestamp);
      const node = this.#render(message.from ?? "", message.content?.text, at, message);
      if (message.from === this.#me) this.#takePending(message);
      this.#dayLine(node, anchor);
      log.insertBefore(node, anchor);
      this.#group(node);
    }
    this.#dropDoubleDay(anchor);
    this.#group(anchor);
    log.removeAttribute("aria-busy");
    this.#showEmpty();
    if (this.#pinned) this.toBottom();
    else scroller.scrollTop += scroller.scrollHeight - before;
  }

  /** A quiet line between the messages: joins, gaps, a restart. `tone`: "", "good" or "warn". */
  note(text, tone = "") {
    const node = el("li", { class: `note ${tone}` }, text);
    this.#parts.log.append(node);
    this.#showEmpty();
    if (this.#pinned) this.toBottom();
    return node;
  }

  /** Show a message that has not been acknowledged yet. */
  addPending(text, waiting) {
    const node = this.#render(this.#me, text, new Date(), null);
    const state = el("span", { class: "state" });
    node.append(state);
    const handle = { text, node, state, offset: null };
    this.#pending.push(handle);
    this.#parts.pending.append(node);
    this.setWaiting(waiting);
    this.#group(node);
    this.#showEmpty();
    this.toBottom();
    return handle;
  }

  /** The server keeps it: the message itself comes, or came, as a push. */
  acknowledged(handle, { epoch, offset }) {
    handle.offset = `${epoch}:${offset}`;
    if (this.#shown.has(handle.offset)) this.#removePending(handle);
  }

  failed(handle, reason, onRetry) {
    handle.node.classList.add("failed");
    const retry = el("button", { type: "button", class: "link" }, "Try again");
    retry.addEventListener("click", () => {
      handle.node.classList.remove("failed");
      handle.state.replaceChildren();
      onRetry();
    });
    handle.state.replaceChildren(`Not sent: ${reason} `, retry);
  }

  setWaiting(waiting) {
    for (const handle of this.#pending) {
      if (handle.node.classList.contains("failed")) continue;
      handle.state.textContent = waiting ? "Waiting for the connection" : "";
    }
  }

  toBottom({ read = true } = {}) {
    const { scroller } = this.#parts;
    this.#pinned = true;
    scroller.scrollTop = scroller.scrollHeight;
    if (read && !document.hidden) this.#setUnread(0);
  }

  // --- the elements -----------------------------------------------------------------------------

  #render(from, text, at, message) {
    const own = from === this.#me;
    const body = typeof text === "string" ? text : "";
    const node = el("li", { class: "message first last" },
      avatar(from),
      el("div", { class: "byline" }, el("span", { class: "who" }, own ? "You" : from), timeElement(at, "")),
      el("div", { class: "bubble", dir: "auto" }, ...withLinks(body)),
      timeElement(at, "side-time"));
    node.classList.toggle("own", own);
    node.classList.toggle("emoji", isEmoji(body));
    node.style.setProperty("--hue", hueOf(from));
    Object.assign(node.dataset, { from, at: at.getTime() });
    if (message) node.dataset.offset = message.offset;
    return node;
  }

  #append(node) {
    this.#dayLine(node, null);
    this.#parts.log.append(node);
    this.#group(node);
    this.#group(this.#parts.pending.firstElementChild);
    this.#showEmpty();
  }

  /** Insert a day's line before `anchor` when `node` opens a new day there. */
  #dayLine(node, anchor) {
    const { log } = this.#parts;
    let before = anchor ? anchor.previousElementSibling : log.lastElementChild;
    while (before && !before.dataset.at) before = before.previousElementSibling;
    const day = dayOf(node);
    if (before && dayOf(before) === day) return;
    const line = el("li", { class: "day" }, dayName(new Date(Number(node.dataset.at))));
    line.dataset.day = day;
    log.insertBefore(line, anchor);
  }

  /** Older messages of the same day came above `line`: it has become the second of its day. */
  #dropDoubleDay(line) {
    const above = line?.previousElementSibling;
    if (!above?.dataset.at || line.dataset.day !== dayOf(above)) return;
    const next = line.nextElementSibling;
    line.remove();
    this.#group(next);
  }

  /** Messages of one person within five minutes stand together. */
  #group(node) {
    if (!node?.dataset.at) return;
    const inLog = node.parentElement === this.#parts.log;
    const previous = node.previousElementSibling ?? (inLog ? null : this.#parts.log.lastElementChild);
    const joined = Boolean(previous?.dataset.at) && previous.dataset.from === node.dataset.from
      && Math.abs(Number(node.dataset.at) - Number(previous.dataset.at)) < GROUP_MS;
    node.classList.toggle("first", !joined);
    if (previous?.dataset.at) previous.classList.toggle("last", !joined);
  }

  #showEmpty() {
    const { log, pending, empty } = this.#parts;
    empty.hidden = Boolean(log.querySelector(".message") ?? pending.firstElementChild);
  }

  #trim() {
    if (!this.#pinned || this.#shown.size <= SHOWN_LIMIT) return;
    const [oldest] = this.#shown;
    this.#shown.delete(oldest);
    const { log } = this.#parts;
    while (!log.firstElementChild.dataset.at) log.firstElementChild.remove();
    log.firstElementChild.remove();
    const first = log.querySelector(".message");
    this.#dayLine(first, log.firstElementChild);
    this.#group(first);
  }

  // --- what is being sent -----------------------------------------------------------------------

  #remember({ epoch, offset }) {
    const place = `${epoch}:${offset}`;
    if (this.#shown.has(place)) return false;
    this.#shown.add(place);
    return true;
  }

  /** Our own message came back: it replaces its pending copy, also when its ack comes after it. */
  #takePending({ epoch, offset, content }) {
    const place = `${epoch}:${offset}`;
    const handle = this.#pending.find((one) => one.offset === place)
      ?? this.#pending.find((one) => one.offset === null && one.text === content?.text);
    if (handle) this.#removePending(handle);
  }

  #removePending(handle) {
    this.#pending = this.#pending.filter((one) => one !== handle);
    handle.node.remove();
    this.#group(this.#parts.pending.firstElementChild);
  }

  // --- reading ----------------------------------------------------------------------------------

  #onScroll() {
    const { scroller } = this.#parts;
    this.#pinned = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < BOTTOM_PX;
    if (this.#pinned && !document.hidden) this.#setUnread(0);
  }

  #markUnreadHere() {
    this.#unreadLine?.remove();
    this.#unreadLine = el("li", { class: "day unread" }, "New");
    this.#parts.log.append(this.#unreadLine);
  }

  #setUnread(unread) {
    if (unread === this.#unread) return;
    this.#unread = unread;
    const { pill } = this.#parts;
    pill.hidden = unread === 0 || this.#pinned;
    pill.textContent = `${count(unread, "new message", "new messages")} ↓`;
    this.#onUnread(unread);
  }
}

function dayOf(node) {
  return new Date(Number(node.dataset.at)).toDateString();
}

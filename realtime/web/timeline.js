/**
 * The conversation on the page: messages, day lines, quiet notes, the line above what is unread, and the
 * scroll position. It draws what a room's window has; a node stays as long as its message does.
 */

import { icon } from "./icons.js";
import { count, dayName, el } from "./parts.js";

const GROUP_MS = 5 * 60_000;
const BOTTOM_PX = 64;
const EDGE_PX = 500;
const NOTES_MAX = 200;

export class Timeline {
  #parts;
  #view;
  #handlers;
  #list;
  #nodes = new Map(); // key → { node, rev }
  #notes = []; // { key, after, text, tone }
  #room = null;
  #noteNumber = 0;
  #unread = 0;
  #unreadKey = null;
  #pinned = true;
  #loading = false;
  #online = true;
  #tools = null;
  #pointed = null; // the message that the tools stand at
  #current = null; // key of the message that Tab comes to
  #drawn = false;
  #bound = new AbortController();

  /** @param {{ scroller: HTMLElement, log: HTMLElement, pending: HTMLElement, pill: HTMLButtonElement,
   *            empty: HTMLElement, older: HTMLButtonElement, seen: HTMLElement }} parts
   *  @param {import("./message_view.js").MessageView} view
   *  @param {{ unread(count: number): void, watched(atEnd: boolean): void, menu(message: any, node: any): void,
   *            quick(what: string, message: any, node: any): void, failed(error: Error): void }} handlers */
  constructor(parts, view, handlers) {
    this.#parts = parts;
    this.#view = view;
    this.#handlers = handlers;
    this.#list = parts.log.querySelector("ol");
    const { signal } = this.#bound;
    const { scroller } = parts;
    scroller.addEventListener("scroll", () => this.#onScroll(), { signal, passive: true });
    parts.pill.addEventListener("click", () => this.toNewest(), { signal });
    parts.older.addEventListener("click", () => this.loadOlder(), { signal });
    document.addEventListener("visibilitychange", () => this.#onScroll(), { signal });
    this.#list.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    this.#list.addEventListener("focusin", (event) => this.#onFocus(event), { signal });
    this.#list.addEventListener("contextmenu", (event) => this.#onContext(event), { signal });
    this.#bindTools(signal);
    // A phone's keyboard, a growing composer or a turned screen must not hide the newest line.
    const resized = new ResizeObserver(() => this.#pinned && this.toBottom());
    for (const node of [scroller, this.#list, parts.pending]) resized.observe(node);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  /** One set of tools for all messages: it stands at the one that the pointer is on. Outside of the log, which
   *  is read out; by keyboard Enter on a message has the same. On a screen without a pointer a tap does. */
  #bindTools(signal) {
    const button = (name, label, act) => {
      const node = el("button", { type: "button", class: "icon-button", tabindex: "-1", "aria-label": label }, icon(name));
      node.addEventListener("click", () => this.#pointed && act(this.#pointed, node));
      return node;
    };
    const { quick } = this.#handlers;
    this.#tools = el("div", { class: "tools", hidden: "" },
      button("smile", "React", (message, node) => quick("react", message, node)),
      button("reply", "Reply", (message, node) => quick("reply", message, node)),
      button("more", "More", (message, node) => this.#handlers.menu(message, node)));
    this.#parts.log.after(this.#tools);
    this.#list.addEventListener("pointerover", (event) => event.pointerType !== "touch" && this.#point(event), { signal });
    this.#parts.scroller.addEventListener("pointerleave", () => { this.#tools.hidden = true; }, { signal });
    this.#list.addEventListener("click", (event) => {
      const { target } = event;
      if (!matchMedia("(hover: none)").matches || target.closest("a, button") || String(getSelection())) return;
      const message = this.messageAt(target);
      if (message) this.#handlers.menu(message, target.closest(".message"));
    }, { signal });
    signal.addEventListener("abort", () => this.#tools.remove());
  }

  #point({ target }) {
    const message = this.messageAt(target);
    this.#pointed = message;
    this.#tools.hidden = !message?.id || message.deleted || this.#room.plain;
    if (this.#tools.hidden) return;
    const node = target.closest(".message");
    const top = node.offsetTop + node.querySelector(".stack").offsetTop - this.#tools.offsetHeight + 3;
    this.#tools.style.setProperty("top", `${Math.max(0, top)}px`);
  }

  end() {
    this.#bound.abort();
    this.show(null);
  }

  /** Whether the end of the conversation is in view and somebody looks. */
  get atEnd() {
    return this.#pinned && !document.hidden && (this.#room?.window.live ?? true);
  }

  get messages() {
    return this.#room?.window.list ?? [];
  }

  /** Show another room, or none. */
  show(room) {
    this.#room = room;
    this.#nodes.clear();
    this.#notes = [];
    this.#unreadKey = null;
    this.#unread = 0;
    this.#current = null;
    this.#pinned = true;
    this.#list.replaceChildren();
    this.#parts.pending.replaceChildren();
    this.#parts.pill.hidden = true;
    if (!room) return;
    this.#parts.log.setAttribute("aria-busy", "true"); // nobody wants to hear a whole page of history
    this.#markUnread(room.about);
    this.draw();
    this.toBottom();
    queueMicrotask(() => this.#parts.log.removeAttribute("aria-busy"));
  }

  /** Somebody else has said something. */
  heard(message) {
    if (this.atEnd) return;
    if (this.#unread === 0) this.#unreadKey = message.key;
    this.#setUnread(this.#unread + 1);
  }

  setOnline(online) {
    this.#online = online;
    if (this.#room) this.#drawPending();
  }

  /** A quiet line after what is there now: joins, gaps, a restart. `tone`: "", "good" or "warn". */
  note(text, tone = "") {
    const note = { key: `note:${this.#noteNumber++}`, after: this.#room?.window.last?.key ?? null, text, tone };
    this.#notes = [...this.#notes, note].slice(-NOTES_MAX);
    this.draw();
    return note;
  }

  /** Change the text of a note while it is the last line. @returns {boolean} */
  extend(note, text) {
    if (note === null || note !== this.#notes.at(-1) || note.after !== (this.#room?.window.last?.key ?? null)) {
      return false;
    }
    note.text = text;
    const known = this.#nodes.get(note.key);
    if (known) known.node.textContent = text;
    return true;
  }

  // --- drawing ------------------------------------------------------------------------------------

  /** Draw at the end of this turn, however often it is asked for. */
  changed() {
    if (this.#drawn) return;
    this.#drawn = true;
    queueMicrotask(() => {
      this.#drawn = false;
      if (this.#room) this.draw();
    });
  }

  draw() {
    const room = this.#room;
    if (!room) return;
    const { scroller, older, empty } = this.#parts;
    const anchor = this.#pinned ? null : this.#anchor();
    this.#put(this.#items(room));
    this.#drawPending();
    older.hidden = !room.window.more || this.#loading;
    empty.hidden = room.window.list.length > 0 || room.pending.length > 0 || room.window.more;
    room.window.held = !this.#pinned;
    this.#drawSeen();
    if (this.#pinned) this.toBottom();
    else if (anchor?.node.isConnected) {
      scroller.scrollTop += anchor.node.getBoundingClientRect().top - anchor.top;
    }
  }

  /** All lines in order, as `{ key, make }` or `{ key, message, first, last }`. */
  #items(room) {
    const items = [];
    const notes = Map.groupBy(this.#notes, ({ after }) => (after !== null && room.window.get(after) ? after : null));
    const noteItem = ({ key, text, tone }) => ({ key, make: () => el("li", { class: `note ${tone}` }, text) });
    items.push(...(notes.get(null) ?? []).filter(({ after }) => after === null).map(noteItem));
    let before = null;
    for (const message of room.window.list) {
      const day = new Date(message.at).toDateString();
      if (!before || new Date(before.at).toDateString() !== day) {
        items.push({ key: `day:${day}`, make: () => el("li", { class: "day" }, dayName(new Date(message.at))) });
      }
      if (message.key === this.#unreadKey) {
        items.push({ key: "unread", make: () => el("li", { class: "day unread" }, "New") });
      }
      items.push({ key: message.key, message, first: true, last: true });
      this.#group(items);
      items.push(...(notes.get(message.key) ?? []).map(noteItem));
      before = message;
    }
    return items;
  }

  /** Messages of one person within five minutes stand together. */
  #group(items) {
    const here = items.at(-1);
    const above = items.at(-2);
    if (!above?.message || !standTogether(above.message, here.message)) return;
    above.last = false;
    here.first = false;
  }

  #put(items) {
    const list = this.#list;
    const keys = new Set(items.map(({ key }) => key));
    for (const [key, { node }] of this.#nodes) {
      if (keys.has(key)) continue;
      node.remove();
      this.#nodes.delete(key);
    }
    let at = list.firstElementChild;
    for (const item of items) {
      const node = this.#node(item);
      if (node === at) at = at.nextElementSibling;
      else list.insertBefore(node, at);
    }
    this.#keepTabStop();
  }

  #node({ key, message, make, first, last }) {
    let known = this.#nodes.get(key);
    if (!known) {
      known = { node: message ? this.#view.make(this.#room, message) : make(), rev: message?.rev };
      this.#nodes.set(key, known);
    } else if (message && known.rev !== message.rev) {
      this.#view.fill(known.node, this.#room, message);
      known.rev = message.rev;
    }
    if (message) {
      known.node.classList.toggle("first", first);
      known.node.classList.toggle("last", last);
    }
    return known.node;
  }

  #drawPending() {
    const room = this.#room;
    const shown = room.pending;
    const nodes = shown.map((pending) => this.#view.pending(room, pending, this.#online));
    for (let index = 1; index < nodes.length; index++) {
      nodes[index].classList.remove("first");
      nodes[index - 1].classList.remove("last");
    }
    this.#parts.pending.replaceChildren(...nodes);
    const last = room.window.last;
    const joined = Boolean(nodes.length && last && standTogether(last, { from: room.chat.me, at: shown[0].at }));
    nodes[0]?.classList.toggle("first", !joined);
  }

  #drawSeen() {
    const own = this.#room.window.list.findLast(({ from, deleted }) => from === this.#room.chat.me && !deleted);
    const readers = own ? this.#room.readersOf(own) : [];
    const names = readers.length > 4 ? `${readers.slice(0, 3).join(", ")} and ${readers.length - 3} others`
      : readers.join(", ");
    this.#parts.seen.textContent = names ? `Seen by ${names}` : "";
  }

  // --- scrolling ----------------------------------------------------------------------------------

  toBottom() {
    const { scroller } = this.#parts;
    this.#pinned = true;
    scroller.scrollTop = scroller.scrollHeight;
    this.#look();
  }

  async toNewest() {
    if (this.#room && !this.#room.window.live) await this.#load(() => this.#room.newest());
    this.toBottom();
  }

  /** Bring a message into view, and the focus to it. @returns {Promise<boolean>} */
  async toMessage(key) {
    const room = this.#room;
    if (!this.#nodes.has(key)) {
      this.#pinned = false;
      if (!await room.around(key) || room !== this.#room) return false;
      this.draw();
    }
    const found = this.#nodes.get(key);
    if (!found) return false;
    this.#pinned = false;
    found.node.scrollIntoView({ block: "center" });
    this.#focus(found.node);
    found.node.classList.remove("called");
    found.node.getBoundingClientRect(); // so that the animation begins anew
    found.node.classList.add("called");
    return true;
  }

  async loadOlder() {
    if (!this.#room?.window.more) return;
    await this.#load(() => this.#room.older());
  }

  async #load(act) {
    const room = this.#room;
    if (this.#loading) return;
    this.#loading = true;
    this.#parts.log.setAttribute("aria-busy", "true");
    try {
      await act();
    } catch (error) {
      // Without a connection the reader asks again once it is back; anything else is worth a line.
      if (!error.temporary) this.#handlers.failed(error);
    } finally {
      this.#loading = false;
      if (room === this.#room) this.draw();
      this.#parts.log.removeAttribute("aria-busy");
    }
  }

  #onScroll() {
    const { scroller, pill } = this.#parts;
    const room = this.#room;
    this.#tools.hidden = true;
    if (!room) return;
    const left = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    this.#pinned = left < BOTTOM_PX && room.window.live;
    room.window.held = !this.#pinned;
    this.#look();
    if (scroller.scrollTop < EDGE_PX && left > BOTTOM_PX && room.window.more) this.loadOlder();
    if (left < EDGE_PX && !room.window.live) this.#load(() => room.newer());
    this.#showPill(pill);
  }

  #look() {
    const atEnd = this.atEnd;
    if (atEnd) this.#setUnread(0);
    this.#handlers.watched(atEnd);
    this.#showPill(this.#parts.pill);
  }

  #setUnread(unread) {
    if (unread === this.#unread) return;
    this.#unread = unread;
    this.#showPill(this.#parts.pill);
    this.#handlers.unread(unread);
  }

  #showPill(pill) {
    const away = this.#room !== null && !this.#room.window.live;
    pill.hidden = this.#pinned || (this.#unread === 0 && !away);
    pill.textContent = this.#unread ? `${count(this.#unread, "new message", "new messages")} ↓`
      : "To the newest messages ↓";
  }

  /** The line above what was not read when we came. */
  #markUnread({ read_id: readId, unread }) {
    if (!readId || !unread) return;
    const first = this.#room.window.list.find(({ id, from }) => id > readId && from !== this.#room.chat.me);
    this.#unreadKey = first?.key ?? null;
  }

  /** The first message in view, and where it is: it stays there when others come above it. */
  #anchor() {
    const { top } = this.#parts.scroller.getBoundingClientRect();
    const node = [...this.#list.children].find((one) => one.getBoundingClientRect().bottom > top);
    return node ? { node, top: node.getBoundingClientRect().top } : null;
  }

  // --- by keyboard --------------------------------------------------------------------------------

  /** One message is where Tab comes to: the one that had the focus, else the last. */
  #keepTabStop() {
    const stop = this.#nodes.get(this.#current)?.node ?? [...this.#list.querySelectorAll(".message")].at(-1);
    for (const node of this.#list.querySelectorAll('.message[tabindex="0"]')) node.tabIndex = -1;
    if (stop) stop.tabIndex = 0;
  }

  #focus(node) {
    this.#current = node.dataset.key;
    this.#keepTabStop();
    node.focus({ preventScroll: true });
  }

  #onFocus({ target }) {
    const node = target.closest(".message");
    if (node && node.dataset.key !== this.#current) {
      this.#current = node.dataset.key;
      this.#keepTabStop();
    }
  }

  #onKey(event) {
    const node = event.target;
    if (!node.classList.contains("message")) {
      if (event.key === "Escape") node.closest(".message")?.focus();
      return;
    }
    const messages = [...this.#list.querySelectorAll(".message")];
    const here = messages.indexOf(node);
    const next = {
      ArrowUp: messages[here - 1], ArrowDown: messages[here + 1], Home: messages[0], End: messages.at(-1),
    }[event.key];
    if (next) {
      this.#focus(next);
      next.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" || event.key === "ContextMenu" || event.key === " ") {
      this.#handlers.menu(this.#room.window.get(node.dataset.key), node);
    } else if (event.key === "ArrowRight") {
      node.querySelector(".stack button, .stack a")?.focus();
    } else if (event.key === "ArrowUp") {
      this.loadOlder();
    } else {
      return;
    }
    event.preventDefault();
  }

  #onContext(event) {
    const node = event.target.closest(".message");
    // Links and chosen text keep the browser's own menu.
    if (!node || event.target.closest("a") || String(getSelection())) return;
    event.preventDefault();
    this.#handlers.menu(this.#room.window.get(node.dataset.key), node, new DOMRect(event.clientX, event.clientY, 0, 0));
  }

  /** The message of a node in the log. */
  messageAt(node) {
    const found = node?.closest?.(".message");
    return found && this.#list.contains(found) ? this.#room?.window.get(found.dataset.key) ?? null : null;
  }
}

function standTogether(above, below) {
  return above.from === below.from && Math.abs(below.at - above.at) < GROUP_MS
    && new Date(above.at).toDateString() === new Date(below.at).toDateString();
}

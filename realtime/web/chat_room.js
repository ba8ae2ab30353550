/** One room of the chat that is open: what was said, what is being sent, who types, who has read what. */

import { CHANGES, Window, shownOf } from "./fold.js";
import { Emitter, randomKey } from "./room.js";
import { Unreadable } from "./seal.js";

const TYPING_SHOWN_MS = 6_000;
const HISTORY_PAGES = 5;

/** A message on its way. `state`: "waiting" for the connection or its answer, "failed", "sent". */
class Pending {
  constructor(room, key, content, at) {
    Object.assign(this, { room, key, content, at, state: "waiting", error: null, place: null, rev: 0 });
    this.from = room.chat.me;
    this.text = content.text ?? "";
    /** Resolves to its place and id once it is kept; rejects where it is refused. */
    this.sent = null;
  }
}

/**
 * Events:
 *   change ()               something of `window`, `pending`, `threads`, `reads` or `about` is another
 *   news (Shown)            somebody else has said something
 *   notice (content, Message)  the server says what was done to the room
 *   typing (string[])       who types
 *   read (user, id)
 *   gap (Gap)   resumed ({ recovered, missed })   presence (…)   unread (…)   closed (error)   as of `Room`
 */
export class ChatRoom extends Emitter {
  #typing = new Map(); // user → timer
  #readTimer = null;
  #readId = null;

  constructor(chat, name) {
    super();
    this.chat = chat;
    this.name = name;
    /** @type {import("./room.js").Room|null} */
    this.room = null;
    /** What `chat_room` says of it; empty where the server keeps none. */
    this.about = { room: name, title: "", unread: 0, mentions: 0 };
    this.window = new Window(chat.me, chat.windowLimit);
    /** @type {Pending[]} oldest first */
    this.pending = [];
    /** @type {Map<string, Window>} open threads by the id of their first message */
    this.threads = new Map();
    /** @type {Map<string, string>} by user, the id of the last message that they have read */
    this.reads = new Map();
    /** Whether messages and typing are all there is: nothing is kept, or nothing can be read, by the server. */
    this.plain = false;
    /** Whether somebody looks at its end right now: then news is not unread. */
    this.watched = false;
    /** Lowest offset that was fetched of the present epoch, where the history is paged by offsets. */
    this.oldest = null;
    /** Whether what was said last is here. */
    this.loaded = false;
    /** Resolves once it is open. @type {Promise<ChatRoom>} */
    this.opened = Promise.resolve(this);
  }

  get title() {
    return this.about.title || this.name.replace(/^chat:/, "");
  }

  get role() {
    return this.about.role ?? "none";
  }

  /** Whether we may do what moderators do. */
  get moderates() {
    return this.role === "moderator" || this.role === "owner";
  }

  isForMe(message) {
    return message.from !== this.chat.me && (message.mentions.includes(this.chat.me) || message.here);
  }

  // --- coming and going ---------------------------------------------------------------------------

  async _open({ load = true, ...options }) {
    const room = await this.chat.client.join(this.name, options);
    this.room = room;
    // At once: a change that comes before the page of history it is about is in that page already.
    room.on("message", (message) => this.#onMessage(message));
    room.on("event", (message) => this.#onEvent(message));
    room.on("presence", (change) => this._emit("presence", change));
    room.on("gap", (gap) => this.#onGap(gap));
    room.on("resumed", (how) => this._emit("resumed", how));
    room.on("unread", (unread) => this._emit("unread", unread));
    room.on("closed", (error) => this._emit("closed", error));
    this.plain = room.keys !== null || room.endToEnd || this.chat.kept === false;
    if (!this.plain) {
      const known = this.chat.mine.get(this.name);
      await this.describe().catch(() => known && this._describe(known));
    }
    if (load) await this.load();
    for (const entry of this.chat.outbox.entries) if (entry.room === this.name) this._resume(entry);
    return this;
  }

  /** Have what was said last. Of a room that is only listened to it is loaded when somebody goes there. */
  async load() {
    this.loaded = true;
    try {
      await this.older();
    } catch {
      this.window.more = true; // whoever scrolls up asks again, and hears why not
    }
  }

  async _leave() {
    for (const timer of this.#typing.values()) clearTimeout(timer);
    clearTimeout(this.#readTimer);
    await this.room?.leave();
  }

  /** Ask what the room is. */
  async describe() {
    this._describe(await this.ask("chat_room"));
    return this.about;
  }

  _describe(about) {
    Object.assign(this.about, about);
    if (this.about.role && this.about.role !== "none") this.chat.mine.set(this.name, this.about);
    this._emit("change");
  }

  // --- what was said ------------------------------------------------------------------------------

  /** Load the page before what is shown. @returns {Promise<import("./fold.js").Shown[]>} what is new */
  async older() {
    if (!this.plain) {
      try {
        const before = this.window.first?.id ?? undefined;
        const { messages, more } = await this.#page({ before });
        return this.#changed(this.window.before(messages, more));
      } catch (error) {
        if (error.temporary || this.window.list.length) throw error;
        this.plain = true; // sealed for the server, too: what it keeps it cannot read
      }
    }
    return this.#olderOfLog();
  }

  /** The log has other events, too: go on until there is something to show. */
  async #olderOfLog() {
    const { epoch } = this.room.position;
    let found = [];
    let more = true;
    for (let page = 0; more && found.length < this.chat.page && page < HISTORY_PAGES; page++) {
      const before = this.oldest ?? this.room.position.offset + 1;
      if (before <= 1) break;
      const answer = await this.room.history({ before, limit: 2 * this.chat.page });
      if (this.room.position.epoch !== epoch) return []; // began anew meanwhile: these offsets mean nothing
      this.oldest = answer.messages[0]?.offset ?? 1;
      found = [...answer.messages.filter(({ type }) => type === "chat_message"), ...found];
      more = answer.more;
    }
    return this.#changed(this.window.before(found.map(shownOf), more && this.oldest !== 1));
  }

  /** Load the page after what is shown. */
  async newer() {
    if (this.window.live) return [];
    if (this.plain || !this.window.last?.id) return this.newest();
    const { messages, more } = await this.#page({ after: this.window.last.id });
    return this.#changed(this.window.after(messages, more));
  }

  /** Show the end of the conversation. */
  async newest() {
    if (this.plain) {
      this.window.clear();
      this.oldest = null;
      return this.older();
    }
    const { messages, more } = await this.#page({});
    return this.#changed(this.window.replace(messages, { more, live: true }));
  }

  /** Show a message among those around it. @returns {Promise<boolean>} whether it is there */
  async around(id) {
    if (this.window.get(id)) return true;
    const half = Math.ceil(this.chat.page / 2);
    const [before, after] = await Promise.all([
      this.#page({ before: next(id), limit: half }), this.#page({ after: id, limit: half }),
    ]);
    const page = [...before.messages, ...after.messages];
    if (!page.some((message) => message.id === id)) return false;
    this.window.replace(page, { more: before.more, live: !after.more });
    this.#changed();
    return true;
  }

  async #page({ before, after, limit = this.chat.page, thread }) {
    const asked = { limit };
    for (const [name, value] of Object.entries({ before, after, thread })) {
      if (value !== undefined) asked[name] = value;
    }
    const { messages, more } = await this.ask("chat_history", asked);
    return { messages: messages.map(shownOf), more };
  }

  /** Open a thread: the answers to a message. @param {string} id @returns {Promise<Window>} */
  async thread(id) {
    const thread = new Window(this.chat.me, this.chat.windowLimit);
    this.threads.set(id, thread);
    const { messages, more } = await this.#page({ thread: id });
    thread.before(messages.filter((message) => message.id !== id), more);
    return thread;
  }

  closeThread(id) {
    this.threads.delete(id);
  }

  /** What a message said before it was edited. */
  async edits(id) {
    return (await this.ask("chat_edits", { id })).edits;
  }

  async pins() {
    return (await this.ask("chat_pins")).messages.map(shownOf);
  }

  // --- saying something ---------------------------------------------------------------------------

  /** Say something. It is in `pending` until the room has it.
   *  @param {string} text @param {{ attachments?: any[], replyTo?: string, thread?: string }} [options]
   *         attachments as the upload answered: `{ id, name, type, bytes }`
   *  @returns {Pending} */
  send(text, { attachments = [], replyTo, thread } = {}) {
    const content = { text };
    if (attachments.length) content.attachments = attachments.map(({ id }) => id);
    if (replyTo) content.reply_to = replyTo;
    if (thread) content.thread = thread;
    const pending = new Pending(this, randomKey(), content, Date.now());
    pending.attachments = attachments;
    const sealed = this.room.keys !== null || this.room.endToEnd;
    if (!sealed) {
      const { key, at } = pending;
      this.chat.outbox.put({ key, room: this.name, content, at, attachments });
    }
    this.pending.push(pending);
    this.#transmit(pending);
    this.#changed();
    return pending;
  }

  /** Try again what has failed, under the same key. */
  resend(pending) {
    Object.assign(pending, { state: "waiting", error: null, rev: pending.rev + 1 });
    this.#transmit(pending);
    this.#changed();
  }

  /** Give up what has failed. */
  discard(pending) {
    this.chat.outbox.drop(pending.key);
    this.#settle(pending);
  }

  _resume({ key, content, at, attachments = [] }) {
    if (this.pending.some((pending) => pending.key === key)) return;
    const pending = new Pending(this, key, content, at);
    pending.attachments = attachments;
    this.pending.push(pending);
    this.#transmit(pending);
    this.#changed();
  }

  #transmit(pending) {
    const { key, content } = pending;
    const sealed = this.room.keys !== null || this.room.endToEnd;
    pending.sent = sealed
      ? this.room.publish("chat_message", content, { key }) : this.room.command("chat_message", content, { key });
    pending.sent.then(
      (place) => this.#kept(pending, place),
      (error) => {
        if (this.chat.client.state === "closed" && !error.closeCode) return; // the outbox has it
        Object.assign(pending, { state: "failed", error, rev: pending.rev + 1 });
        if (!error.temporary) this.chat.outbox.drop(key);
        this.#changed();
      });
  }

  #kept(pending, place) {
    this.chat.outbox.drop(pending.key);
    pending.state = "sent";
    pending.place = place?.id ?? `${place?.epoch}:${place?.offset}`;
    const byPlace = (message) => message.epoch === place?.epoch && message.offset === place?.offset;
    const here = !this.window.live || this.window.get(pending.place) || this.window.list.some(byPlace);
    // An answer given again may be of a message that lies above what is shown.
    if (here || place?.duplicate) this.#settle(pending);
  }

  #settle(pending) {
    this.pending = this.pending.filter((one) => one !== pending);
    this.#changed();
  }

  /** Our own message came: its copy goes, also where the answer comes after it. */
  #takePending(message) {
    const same = ({ place, content, text }) => place === message.key
      || (place === null && text === message.text && (content.thread ?? null) === message.thread);
    const found = this.pending.find(({ place }) => place === message.key) ?? this.pending.find(same);
    if (found) this.#settle(found);
  }

  // --- doing something with what was said ---------------------------------------------------------

  edit(id, text) {
    return this.#do("chat_edit", { id, text });
  }

  remove(id) {
    return this.#do("chat_delete", { id });
  }

  /** @param {string} id @param {string} emoji @param {boolean} on */
  react(id, emoji, on = true) {
    return this.#do("chat_react", on ? { id, emoji } : { id, emoji, remove: true });
  }

  pin(id, pinned = true) {
    return this.#do("chat_pin", { id, pinned });
  }

  hide(id, hidden = true) {
    return this.#do("chat_hide", { id, hidden });
  }

  report(id, reason) {
    return this.#do("chat_report", { id, reason });
  }

  /** Change the room: `{ title?, topic?, slow_s?, retention_s?, visibility? }`. */
  async update(what) {
    await this.#do("chat_room_update", what);
    await this.describe();
  }

  archive(archived = true) {
    return this.#do("chat_room_archive", { archived });
  }

  delete() {
    return this.#do("chat_room_delete", {});
  }

  /** @returns {Promise<any[]>} the members, at most `max` */
  async members({ max = 500 } = {}) {
    const found = [];
    let after;
    do {
      const { members, more, after: next } =
        await this.ask("chat_members", after === undefined ? {} : { after });
      found.push(...members);
      after = more ? next : undefined;
    } while (after !== undefined && after !== null && found.length < max);
    return found;
  }

  invite(user, role) {
    return this.#do("chat_invite", role ? { user, role } : { user });
  }

  setRole(user, role) {
    return this.#do("chat_role", { user, role });
  }

  put(user, how, detail = {}) {
    return this.#do(`chat_${how}`, { user, ...detail }); // remove, ban, unban, mute, unmute
  }

  #do(type, content) {
    return this.room.command(type, content);
  }

  ask(type, content = {}) {
    return this.chat.ask(type, content, this.name);
  }

  // --- signs of life ------------------------------------------------------------------------------

  /** Say that we type, or have stopped. */
  type(typing = true) {
    this.room?.signal("chat_typing", typing ? {} : { typing });
  }

  /** We have read up to here. Told at most twice a second, and only onwards. */
  read(id) {
    if (this.plain || !id || (this.#readId !== null && id <= this.#readId)) return;
    this.#readId = id;
    Object.assign(this.about, { unread: 0, mentions: 0, read_id: id });
    this.chat._emit("rooms");
    this.#readTimer ??= setTimeout(() => {
      this.#readTimer = null;
      // Lost with the connection it is told again with the next message that is read.
      this.ask("chat_read_receipt", { id: this.#readId }).catch(() => { this.#readId = null; });
    }, 500);
  }

  /** Who has read a message, of whom we know. */
  readersOf(message) {
    if (!message.id) return [];
    const found = [];
    for (const [user, id] of this.reads) {
      if (id >= message.id && user !== message.from && user !== this.chat.me) found.push(user);
    }
    return found;
  }

  get typists() {
    return [...this.#typing.keys()];
  }

  #onEvent({ type, content, from }) {
    if (type === "chat_typing") {
      if (Array.isArray(content?.users)) this.#typists(content.users, content.expires_s);
      else this.#typist(content?.user ?? from, content?.typing !== false);
    } else if (type === "chat_read_receipt") {
      for (const { user, id } of content?.reads ?? [{ user: from, ...content }]) this.#reader(user, id);
    } else if (type === "chat_presence" && content?.status) {
      this.chat._status(content.user ?? from, content);
    }
  }

  #reader(user, id) {
    if (typeof user !== "string" || typeof id !== "string" || !(id > (this.reads.get(user) ?? ""))) return;
    this.reads.set(user, id);
    if (user === this.chat.me) this.#readElsewhere(id);
    this._emit("read", user, id);
  }

  /** We have, on this device or another. */
  #readElsewhere(id) {
    if (id > (this.about.read_id ?? "")) this.about.read_id = id;
    const last = this.window.last?.id ?? null;
    if (last !== null && id < last) return;
    Object.assign(this.about, { unread: 0, mentions: 0 });
    this.chat._emit("rooms");
  }

  #typists(users, expiresS) {
    for (const user of this.#typing.keys()) if (!users.includes(user)) this.#typist(user, false);
    for (const user of users) this.#typist(user, true, expiresS > 0 ? expiresS * 1000 : TYPING_SHOWN_MS);
  }

  #typist(user, typing, shownMs = TYPING_SHOWN_MS) {
    if (typeof user !== "string" || !user || user === this.chat.me) return;
    const known = this.#typing.has(user);
    clearTimeout(this.#typing.get(user));
    this.#typing.delete(user);
    if (typing) this.#typing.set(user, setTimeout(() => this.#typist(user, false), shownMs));
    if (known !== typing) this._emit("typing", this.typists);
  }

  // --- the room's log -----------------------------------------------------------------------------

  #onMessage(message) {
    const { type } = message;
    if (type === "chat_message") this.#said(message);
    else if (CHANGES.has(type)) this.#fold(message);
    else if (type === "chat_notice") this.#noticed(message);
    else this.#onEvent(message);
  }

  #said(push) {
    const message = shownOf(push);
    if (message.from !== this.chat.me) this.#typist(message.from, false);
    this.window.take(push);
    if (message.thread) {
      this.threads.get(message.thread)?.take(push);
      this.window.replied(message.thread, 1);
    }
    if (message.from === this.chat.me) this.#takePending(message);
    else this.#heard(message);
    this.#changed();
  }

  #heard(message) {
    if (message.id && this.about.read_id && message.id <= this.about.read_id) return; // read on another device
    this._emit("news", message);
    this.chat._heard(this, message);
  }

  #fold(push) {
    for (const window of [this.window, ...this.threads.values()]) {
      const message = window.take(push);
      if (message?.deleted && message.thread && window === this.window) window.replied(message.thread, -1);
    }
    this.#changed();
  }

  #noticed(push) {
    this._emit("notice", push.content ?? {}, push);
    if (this.plain) return;
    // Rights may be others now. What is shown is right without, and the next notice asks again.
    this.describe().catch(() => {});
  }

  #onGap(gap) {
    if (!this.plain) {
      this.newest().catch((error) => this.chat.client._emit("error", error)); // the tables have what the log lost
    } else if (gap.reason === "epoch_changed") {
      this.oldest = 1;
      this.window.more = false;
    }
    this._emit("gap", gap);
  }

  #changed(value) {
    this._emit("change");
    return value;
  }
}

/** Whether a message was sealed and could not be opened. */
export function isSealed({ content }) {
  return content instanceof Unreadable || Boolean(content?.sealed);
}

/** The id after an id: ids are decimal text of one length. */
function next(id) {
  return (BigInt(id) + 1n).toString().padStart(id.length, "0");
}

/**
 * The chat over realtime.js: its rooms, its commands, and the conversation as it stands, kept up to date
 * from what the rooms say.
 *
 *   import { connect } from "./realtime.js";
 *   import { Chat } from "./chat.js";
 *   const chat = new Chat(connect("wss://example.org/ws", { user: "ada" }));
 *   const room = await chat.open("chat:lobby");
 *   room.on("change", () => draw(room.window.list));
 *   await room.send("hello").sent;
 *   await room.react(room.window.last.id, "👍");
 *
 * It also works with a server that keeps nothing, or in rooms that are sealed end to end: `room.plain` says
 * that there are messages and typing, and nothing that asks the server to read or to find.
 * What was sent and not acknowledged is kept in an outbox over reloads (not in sealed rooms: there it would
 * lie open), and sent again under the same key: it is kept once. The lists are bounded.
 */

import { Outbox } from "./outbox.js";
import { ChatRoom } from "./chat_room.js";
import { Emitter } from "./room.js";

export { ChatRoom, Outbox };

const INVITES_MAX = 100;
const DIRECT_ASKED = 50;
const DIRECT_SHOWN = 12;

/**
 * Somebody's chat. Events:
 *   rooms ()                        `rooms` or `mine` changed: unread counts, titles, one more, one less
 *   news (ChatRoom, Shown)          somebody else has said something in a room that is open
 *   mention (ChatRoom, Shown)       and it is for us
 *   presence (user, { status, text?, last_seen? })
 *   invites (invites[])
 */
export class Chat extends Emitter {
  /** @type {Map<string, ChatRoom>} open rooms by name */
  rooms = new Map();
  /** @type {Map<string, any>} descriptions of the rooms that we are a member of, by name */
  mine = new Map();
  /** @type {any[]} */
  invited = [];
  /** @type {Map<string, { status: string, text?: string, last_seen?: string }>} */
  statuses = new Map();
  /** @type {Map<string, string[]>} who is in a direct room, by its name */
  #users = new Map();
  /** Whether the server has a chat with a store; null until it is known. */
  kept = null;

  /** @param {import("./realtime.js").Client} client
   *  @param {{ outbox?: Outbox|null, windowLimit?: number, page?: number }} [options] */
  constructor(client, { outbox = null, windowLimit = 400, page = 50 } = {}) {
    super();
    this.client = client;
    this.outbox = outbox ?? new Outbox("", null);
    this.windowLimit = windowLimit;
    this.page = page;
    client.on("message", (push) => this.#onPush(push));
  }

  get me() {
    return this.client.user;
  }

  /** Join a room, and `load` what was said last. @param {string} name @param {object} [options] as of
   *  `Client.join`, and `load` @returns {Promise<ChatRoom>} */
  async open(name, options = {}) {
    const known = this.rooms.get(name);
    if (known) return known.opened;
    const room = new ChatRoom(this, name);
    this.rooms.set(name, room);
    room.opened = room._open(options);
    try {
      return await room.opened;
    } catch (error) {
      this.rooms.delete(name);
      throw error;
    }
  }

  /** Leave a room, but stay its member. */
  async close(name) {
    const room = this.rooms.get(name);
    this.rooms.delete(name);
    await room?._leave();
    this._emit("rooms");
  }

  /** Send what the outbox has for rooms that are open. */
  flush() {
    for (const entry of this.outbox.entries) this.rooms.get(entry.room)?._resume(entry);
  }

  // --- rooms and who is in them -------------------------------------------------------------------

  /** Load the rooms that we are a member of, with unread counts, and the invitations. Says whether there is
   *  a chat with a store at all. @returns {Promise<boolean>} */
  async refresh() {
    try {
      const found = await this.list({ mine: true });
      this.kept = true;
      this.mine = new Map(found.map((about) => [about.room, about]));
    } catch (error) {
      if (error.temporary && this.kept !== null) return this.kept;
      if (error.code === "disconnected" || error.code === "ack_timeout") throw error;
      this.kept ??= false;
      return this.kept;
    }
    await this.#refreshRest();
    for (const [name, about] of [...this.mine]) this.rooms.get(name)?._describe(about);
    this._emit("rooms");
    return true;
  }

  async #refreshRest() {
    // Each may be missing on a server of another version, or refused: the list of rooms stands without.
    const [unread, invites] = await Promise.allSettled([
      this.ask("chat_unread"), this.ask("chat_invites"),
    ]);
    for (const each of unread.value?.rooms ?? []) {
      const about = this.mine.get(each.room);
      if (about) Object.assign(about, each);
    }
    await this.#learnDirect();
    if (invites.value) {
      const before = JSON.stringify(this.invited);
      this.invited = (invites.value.invites ?? []).slice(0, INVITES_MAX);
      if (JSON.stringify(this.invited) !== before) this._emit("invites", this.invited);
    }
  }

  /** A direct room is known by who is in it. */
  async #learnDirect() {
    const unknown = [...this.mine.values()].filter((about) =>
      about.visibility === "direct" && !this.#users.has(about.room)).slice(0, DIRECT_ASKED);
    for (const { room } of unknown) {
      const { members } = await this.ask("chat_members", { limit: DIRECT_SHOWN }, room);
      this.#users.set(room, members.map(({ user }) => user));
    }
    for (const about of this.mine.values()) about.users = this.#users.get(about.room);
  }

  /** @param {{ query?: string, mine?: boolean, max?: number }} [what] @returns {Promise<any[]>} */
  async list({ query, mine, max = 500 } = {}) {
    const found = [];
    let after;
    do {
      const { rooms, more, after: next } = await this.ask("chat_rooms", clean({ query, mine, after }));
      found.push(...rooms);
      after = more ? next : undefined;
    } while (after !== undefined && after !== null && found.length < max);
    return found;
  }

  /** @param {{ title: string, topic?: string, visibility: string, name?: string, members?: string[] }} what
   *  @returns {Promise<any>} its description */
  create(what) {
    return this.ask("chat_room_create", clean(what));
  }

  /** The room of just these and us. @param {string[]} users @returns {Promise<string>} its name */
  async direct(users) {
    return (await this.ask("chat_direct", { users })).room;
  }

  accept(room) {
    return this.#answer("chat_accept", room);
  }

  decline(room) {
    return this.#answer("chat_decline", room);
  }

  /** Become a member of a public room. */
  enter(room) {
    return this.#answer("chat_enter", room);
  }

  /** Be a member no longer. */
  async quit(room) {
    await this.ask("chat_quit", {}, room);
    this.mine.delete(room);
    await this.close(room).catch(() => {}); // the server may have put us out already
  }

  async #answer(type, room) {
    await this.ask(type, {}, room);
    await this.refresh();
  }

  // --- people -------------------------------------------------------------------------------------

  async setStatus(status, text = "") {
    await this.ask("chat_presence", clean({ status, text: text || undefined }));
    this._status(this.me, { status, text });
  }

  /** Ask for the status of people. */
  async statusesOf(users) {
    for (let from = 0; from < users.length; from += 100) {
      const { users: found } = await this.ask("chat_presence_of", { users: users.slice(from, from + 100) });
      for (const [user, status] of Object.entries(found)) this._status(user, status);
    }
  }

  // --- finding ------------------------------------------------------------------------------------

  /** @param {string} query @param {object} [options] of chat_search; `room` is the one to look in
   *  @returns {Promise<{ hits: any[], position?: any, more: boolean }>} */
  search(query, { room = null, ...options } = {}) {
    return this.ask("chat_search", clean({ query, ...options }), room);
  }

  /** Ask the server something. @param {string} type @param {object} [content] @param {string|null} [room] */
  ask(type, content = {}, room = null) {
    return this.client.ask(type, content, room);
  }

  /** What comes to us and not to a room: that we are asked in somewhere, or called, or what we say of ourselves
   *  on another device. */
  #onPush({ type, content, from }) {
    const about = type === "notification" ? content?.data : null;
    if (type === "chat_presence" && content?.status) this._status(content.user ?? from ?? this.me, content);
    else if (about?.chat || about?.type === "chat_mention") this.refresh().catch(() => {}); // or with the next one
  }

  // --- called by ChatRoom -------------------------------------------------------------------------

  _status(user, { status, text, last_seen }) {
    this.statuses.set(user, clean({ status, text, last_seen }));
    this._emit("presence", user, this.statuses.get(user));
  }

  /** Count what somebody said in a room that nobody looks at. */
  _heard(room, message) {
    const about = room.about;
    if (!room.watched) {
      about.unread = (about.unread ?? 0) + 1;
      if (room.isForMe(message)) about.mentions = (about.mentions ?? 0) + 1;
      this._emit("rooms");
    }
    this._emit("news", room, message);
    if (room.isForMe(message)) this._emit("mention", room, message);
  }
}

/** Without what is undefined. */
export function clean(content) {
  return Object.fromEntries(Object.entries(content).filter(([, value]) => value !== undefined));
}

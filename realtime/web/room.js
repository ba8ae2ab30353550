/**
 * A room as its members see it: its messages in their order (order.js), members, counts; and the queue
 * behind `for await`. Knows nothing of the connection; realtime.js is where to start reading.
 *
 * @typedef {{ offset: number, epoch: string }} Position  a message's place in its room
 * @typedef {{ type: string, room: string, from?: string, offset?: number, epoch?: string,
 *             content: any, timestamp?: string }} Message
 * @typedef {{ from: number|null, to: number|null, reason: string }} Gap  offsets that will not come;
 *             null where the room started anew and the loss cannot be counted
 * @typedef {"connecting"|"online"|"waiting"|"closed"} State
 */

import { Order, isPlaced } from "./order.js";

/** An `error` of the server, or a failure of the connection under the same kind of stable name. */
export class RealtimeError extends Error {
  /**
   * @param {string} code stable name, such as "rate_limited", "forbidden", "ack_timeout"
   * @param {string} message
   * @param {{ temporary?: boolean, retryAfterS?: number|null, closeCode?: number|null,
   *           limit?: string|null, allowed?: number|null }} [detail]
   */
  constructor(
    code, message, { temporary = false, retryAfterS = null, closeCode = null, limit = null, allowed = null } = {},
  ) {
    super(message);
    this.name = "RealtimeError";
    this.code = code;
    /** Is a retry worth it? */
    this.temporary = temporary;
    this.retryAfterS = retryAfterS;
    this.closeCode = closeCode;
    /** Which of the server's limits was met, and what it allows. */
    this.limit = limit;
    this.allowed = allowed;
  }
}

export class Emitter {
  #listeners = new Map();

  /** Call `listener` at each event of that name; returns a function that ends it. */
  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  _emit(name, ...values) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(...values);
      } catch (error) {
        // A listener's failure is its author's: report it, and serve the other listeners.
        if (typeof reportError === "function") reportError(error);
        else console.error(error);
      }
    }
  }
}

/**
 * A joined room. Events:
 *   message (Message)   the next message of the room's order
 *   event (Message)     something unordered: typing, cursors
 *   gap (Gap)           offsets that will not come
 *   presence ({ joined: string[], left: string[], members: string[] })
 *   resumed ({ recovered: boolean, missed: number })   joined again, after a reconnect or to be active,
 *                       and what was missed is here; not `recovered`: a gap has told what is not
 *   unread ({ count: number, position: Position|null })   while passive, about once a second: how much was
 *                       published since it turned passive; 0 when that is over
 *   closed (RealtimeError|null)   left, put out, or refused when it came to join again
 *
 * With `keys` (a Keyring of seal.js) all that it says is sealed, and all that it hears is opened, whatever the
 * server wants. What cannot be opened comes with an `Unreadable` in place of its content.
 */
export class Room extends Emitter {
  #client;
  #order;
  /** What readers have not taken yet, of all who iterate. */
  #queues = new Set();
  /** What came before somebody listened; one frame may hold our `joined` and the first messages. */
  #early;
  /** Settles when what was sealed, and what was heard, before now is on its way: both keep their order. */
  #sealed = Promise.resolve();
  #heard = Promise.resolve();
  #opening = 0;

  /** @param {Client} client @param {string} name @param {import("./seal.js").Keyring|null} [keys] */
  constructor(client, name, keys = null) {
    super();
    this.#client = client;
    this.#early = this.#newQueue();
    this.#order = new Order({
      message: (message) => this.#hear(message, (opened) => this.#deliver("message", opened)),
      gap: (gap) => this.#inTurn(() => this.#deliver("gap", gap)),
      resumed: (how) => this.#inTurn(() => this._emit("resumed", how)),
      free: () => Math.min(...[...this.#queues].map((queue) => queue.free), Infinity) - this.#opening,
    }, client.options.queueLimit >> 2);
    this.name = name;
    this.keys = keys;
    /** The server takes here only what is sealed. */
    this.endToEnd = false;
    /** @type {string[]} user ids */
    this.members = [];
    /** May be more than are named: the server lists a large room's first members only. */
    this.memberCount = 0;
    this.joined = false;
    this.isPassive = false;
    /** Publications since it turned passive. */
    this.unread = 0;
  }

  /** @returns {Position|null} the last message seen, or where we joined */
  get position() {
    return this.#order.position;
  }

  on(name, listener) {
    const end = super.on(name, listener);
    if (name === "message" && this.#early) queueMicrotask(() => this.#releaseEarly());
    return end;
  }

  /**
   * Publish, and resolve to its place in the room once the server keeps it. While offline it waits
   * for the connection; rejects at once when `pendingLimit` publishes wait already. What is not kept
   * at all, such as typing, is for `signal`. Rejects with `cannot_seal`, and sends nothing, where it has to
   * be sealed and cannot be.
   *
   * @param {string} type event type, such as "chat_message"
   * @param {any} content
   * @param {{ key?: string }} [options] your own idempotency key, to try again after an error
   * @returns {Promise<(Position & { duplicate: boolean })|null>} null where it names no place
   */
  publish(type, content, { key = randomKey() } = {}) {
    if (!this.keys && !this.endToEnd) return this.#client._publish(this, type, content, key);
    return this.#seal(type, content).then((sealed) => this.#client._publish(this, type, sealed, key));
  }

  /** Give a command of a feature, with the same promises as `publish`, and resolve to all that its answer
   *  says. @param {string} type @param {object} content @param {{ key?: string }} [options] */
  command(type, content, { key = randomKey() } = {}) {
    return this.#client._publish(this, type, content, key, (answer) => answer);
  }

  /** Send without an answer, now or never: for typing indicators and cursors. What has to be sealed and
   *  cannot be is an `error` of the client, and is not sent. */
  signal(type, content) {
    const send = (said) => {
      if (this.joined) this.#client._send({ type, room: this.name, content: said });
    };
    if (!this.keys && !this.endToEnd) send(content);
    else this.#seal(type, content).then(send, (error) => this.#client._emit("error", error));
  }

  /** @param {{ before?: number, after?: number, limit?: number }} [range] offsets, exclusive
   *  @returns {Promise<{ messages: Message[], more: boolean }>} */
  async history(range = {}) {
    const { content } = await this.#client._request("history", this.name, range);
    return { ...content, messages: await Promise.all(content.messages.map((message) => this.#open(message))) };
  }

  /** @returns {Promise<string[]>} who is in the room now */
  async presence() {
    const reply = await this.#client._request("presence", this.name, {});
    this._setMembers(reply.content.members ?? []);
    return this.members;
  }

  /** Get counts, as `unread` events, instead of messages, until `active`: for what nobody looks at. We
   *  stay a member. After a reconnect what was missed comes as messages, and the count begins anew.
   *  Without a connection it is passive from the next one on. */
  passive() {
    return this.#client._passive(this);
  }

  /** Get messages again, those that were missed first. */
  active() {
    return this.#client._active(this);
  }

  leave() {
    return this.#client._leave(this);
  }

  /** Messages and gaps as they come, at most `queueLimit` waiting; above it the oldest are dropped,
   *  and a gap with the reason "slow_reader" stands in for them. Ends when the room is closed. */
  async *[Symbol.asyncIterator]() {
    const queue = this.#newQueue();
    const ends = [
      this.on("message", (message) => queue.put(message)),
      this.on("gap", (gap) => queue.put(gapItem(this.name, gap))),
      this.on("closed", (error) => queue.end(error)),
    ];
    try {
      yield* queue;
    } finally {
      for (const end of ends) end();
      this.#drop(queue);
    }
  }

  // --- called by Client -----------------------------------------------------------------------

  /** What is sent in place of a content, in the order of the calls. */
  #seal(type, content) {
    const text = `${this.name} is sealed end to end: join it with keys`;
    const sealed = this.keys
      ? this.keys.seal(content, this.#place(this.#client.user, type))
      : Promise.reject(new RealtimeError("cannot_seal", text));
    const inTurn = this.#sealed.then(() => sealed);
    sealed.catch(() => {}); // whoever asked hears of it in its turn
    this.#sealed = inTurn.catch(() => {});
    return inTurn;
  }

  async #open(message) {
    if (!this.keys) return message;
    const content = await this.keys.open(message.content, this.#place(message.from ?? null, message.type));
    return { ...message, content };
  }

  #place(sender, type) {
    return { tenant: this.#client.greeting?.tenant ?? "", room: this.name, sender, type };
  }

  /** Open a message, and hand it on in its turn. */
  #hear(message, handOn) {
    this.#inTurn(handOn, this.keys ? this.#open(message) : message);
  }

  /** Do it when all that came before has been opened; at once where nothing is sealed. */
  #inTurn(act, value) {
    if (!this.keys) {
      act(value);
      return;
    }
    this.#opening += 1;
    this.#heard = this.#heard.then(() => value).then((opened) => {
      this.#opening -= 1;
      act(opened);
    }).catch((error) => console.error(error)); // a mistake of ours in one of them; the others come
  }

  #newQueue() {
    const queue = new BoundedQueue(this.#client.options.queueLimit);
    this.#queues.add(queue);
    return queue;
  }

  #drop(queue) {
    this.#queues.delete(queue);
    queue.take();
  }

  #deliver(name, value) {
    if (!this.#early) this._emit(name, value);
    else this.#early.put(name === "gap" ? gapItem(this.name, value) : value);
  }

  #releaseEarly() {
    if (!this.#early) return;
    const early = this.#early.take();
    this.#drop(this.#early);
    this.#early = null;
    for (const item of early) {
      if (item.type === "gap") this._emit("gap", item.content);
      else this._emit("message", item);
    }
  }

  _setMembers(members, count = null) {
    const next = [...new Set(members.map(userOf))];
    const before = new Set(this.members);
    const joined = next.filter((user) => !before.delete(user));
    const counted = this.memberCount;
    this.members = next;
    this.memberCount = count ?? next.length;
    if (joined.length || before.size || counted !== this.memberCount) {
      this._emit("presence", { joined, left: [...before], members: next });
    }
  }

  _presenceChanged({ joined = [], left = [], members, count }) {
    if (members) return this._setMembers(members, count);
    const gone = new Set(left.map(userOf));
    return this._setMembers([...this.members.filter((user) => !gone.has(user)), ...joined], count);
  }

  /** Nothing more will come after what has come. */
  _close(error) {
    this.joined = false;
    this.#inTurn(() => this._emit("closed", error));
  }

  _onJoined({ members = [], count, offset, epoch, recovered, messages = [], end_to_end: endToEnd }) {
    this.joined = true;
    this.endToEnd = endToEnd === true;
    this._setUnread(0);
    this._setMembers(members, count);
    const here = isPlaced({ offset, epoch }) ? { offset, epoch } : null;
    this.#order.joined(here, recovered === true, messages);
  }

  _onPush(message) {
    const { type, content } = message;
    if (type === "gap") this._onGap(content);
    else if (type === "presence") this._presenceChanged(content);
    else if (type === "unread") this._onUnread(content);
    else if (isPlaced(message)) this.#order.push(message);
    else this.#hear(message, (opened) => this._emit("event", opened));
  }

  _onGap({ from, to, reason = "dropped" }) {
    if (to === null) this.#order.gap({ from: null, to, reason });
    else if (typeof to === "number") this.#order.gap({ from: typeof from === "number" ? from : null, to, reason });
  }

  _onUnread({ count, offset, epoch }) {
    if (this.isPassive) this._setUnread(count, { offset, epoch }); // else on its way when we turned active
  }

  _setUnread(count, position = null) {
    if (count === this.unread) return;
    this.unread = count;
    this._emit("unread", { count, position });
  }

  /** The page of history that is missing next, or null. */
  get _wanted() {
    return this.#order.wanted;
  }

  _onPage(ask, content) {
    this.#order.page(ask, content);
  }

  _giveUp(ask) {
    this.#order.giveUp(ask);
  }

  /** Resolves when every reader has taken at least half of what may wait for it. */
  async _halfEmpty() {
    await this.#heard;
    for (const queue of this.#queues) await queue.halfEmpty();
  }
}

class BoundedQueue {
  #items = [];
  #limit;
  #wake = null;
  #taken = null;
  #ended = false;
  #error = null;

  constructor(limit) {
    this.#limit = limit;
  }

  /** How many may be put at once: half of it is left for what comes by itself. */
  get free() {
    return (this.#limit >> 1) - this.#items.length;
  }

  async halfEmpty() {
    while (this.free < 0) await new Promise((resolve) => { this.#taken = resolve; });
  }

  put(item) {
    if (this.#items.length >= this.#limit) this.#dropOldest();
    this.#items.push(item);
    this.#wake?.();
  }

  end(error) {
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  /** Merge the two oldest entries into one gap, so that the loss stays visible and counted. */
  #dropOldest() {
    const [first, second] = this.#items.splice(0, 2);
    const range = (item) =>
      item.type === "gap" ? item.content : { from: item.offset, to: item.offset };
    const { from } = range(first);
    const { to } = range(second ?? first);
    const counted = from !== null && to !== null && range(first).to !== null; // not across an epoch
    const content = { from: counted ? from : null, to: counted ? to : null, reason: "slow_reader" };
    this.#items.unshift(gapItem(first.room, content));
  }

  /** All that waits, and empty it. */
  take() {
    this.#taken?.();
    return this.#items.splice(0);
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#items.length) {
        const item = this.#items.shift();
        if (this.free >= 0) this.#taken?.();
        yield item;
      }
      if (this.#ended) break;
      await new Promise((resolve) => { this.#wake = resolve; });
      this.#wake = null;
    }
    if (this.#error) throw this.#error;
  }
}

function gapItem(room, content) {
  return { type: "gap", room, content };
}

function userOf(member) {
  return typeof member === "string" ? member : member.user_id ?? member.user ?? member.id;
}

/** A new idempotency key. */
export function randomKey() {
  // Not randomUUID: browsers offer that on https and localhost only.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

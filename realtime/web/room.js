/**
 * A room as its members see it: the order of its messages, gaps, members; and the queue behind
 * `for await`. Knows nothing of the connection; realtime.js is where to start reading.
 *
 * @typedef {{ offset: number, epoch: string }} Position  a message's place in its room
 * @typedef {{ type: string, room: string, from?: string, offset?: number, epoch?: string,
 *             content: any, timestamp?: string }} Message
 * @typedef {{ from: number|null, to: number|null, reason: string }} Gap  offsets that will not come;
 *             null where the room started anew and the loss cannot be counted
 * @typedef {"connecting"|"online"|"waiting"|"closed"} State
 */

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
 *   resumed ({ recovered: boolean, missed: number })   after a reconnect
 *   closed (RealtimeError|null)   left, or refused when it came to join again
 */
export class Room extends Emitter {
  #client;
  /** What came before somebody listened; one frame may hold our `joined` and the first messages. */
  #early;

  /** @param {Client} client @param {string} name */
  constructor(client, name) {
    super();
    this.#client = client;
    this.#early = new BoundedQueue(client.options.queueLimit);
    this.name = name;
    /** @type {Position|null} the last message seen, or where we joined */
    this.position = null;
    /** @type {string[]} user ids */
    this.members = [];
    /** May be more than are named: the server lists a large room's first members only. */
    this.memberCount = 0;
    this.joined = false;
  }

  on(name, listener) {
    const end = super.on(name, listener);
    if (name === "message" && this.#early) queueMicrotask(() => this.#releaseEarly());
    return end;
  }

  /**
   * Publish, and resolve to its place in the room once the server keeps it. While offline it waits
   * for the connection; rejects at once when `pendingLimit` publishes wait already.
   *
   * @param {string} type event type, such as "chat_message"
   * @param {any} content
   * @param {{ key?: string }} [options] your own idempotency key, to try again after an error
   * @returns {Promise<Position & { duplicate: boolean }>}
   */
  publish(type, content, { key = randomKey() } = {}) {
    return this.#client._publish(this, type, content, key);
  }

  /** Send without an answer, now or never: for typing indicators and cursors. */
  signal(type, content) {
    if (this.joined) this.#client._send({ type, room: this.name, content });
  }

  /** @param {{ before?: number, after?: number, limit?: number }} [range] offsets, exclusive
   *  @returns {Promise<{ messages: Message[], more: boolean }>} */
  async history(range = {}) {
    return (await this.#client._request("history", this.name, range)).content;
  }

  /** @returns {Promise<string[]>} who is in the room now */
  async presence() {
    const reply = await this.#client._request("presence", this.name, {});
    this._setMembers(reply.content.members ?? []);
    return this.members;
  }

  leave() {
    return this.#client._leave(this);
  }

  /** Messages and gaps as they come, at most `queueLimit` waiting; above it the oldest are dropped,
   *  and a gap with the reason "slow_reader" stands in for them. Ends when the room is closed. */
  async *[Symbol.asyncIterator]() {
    const queue = new BoundedQueue(this.#client.options.queueLimit);
    const ends = [
      this.on("message", (message) => queue.put(message)),
      this.on("gap", (gap) => queue.put(gapItem(this.name, gap))),
      this.on("closed", (error) => queue.end(error)),
    ];
    try {
      yield* queue;
    } finally {
      for (const end of ends) end();
    }
  }

  // --- called by Client -----------------------------------------------------------------------

  #deliver(name, value) {
    if (!this.#early) this._emit(name, value);
    else this.#early.put(name === "gap" ? gapItem(this.name, value) : value);
  }

  #releaseEarly() {
    const early = this.#early?.take() ?? [];
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

  _onJoined({ members = [], count, offset, epoch, recovered, messages = [] }) {
    const since = this.position;
    this.joined = true;
    this._setMembers(members, count);
    if (since === null) {
      this.position = { offset, epoch };
      return;
    }
    if (recovered) {
      const before = since.offset;
      for (const message of messages) this._onMessage(message);
      this._skipTo({ offset, epoch }, "lost");
      this._emit("resumed", { recovered: true, missed: offset - before });
      return;
    }
    this.position = { offset, epoch };
    const sameOrder = since.epoch === epoch && offset >= since.offset;
    if (!sameOrder) this.#deliver("gap", { from: null, to: null, reason: "epoch_changed" });
    else if (offset > since.offset) {
      this.#deliver("gap", { from: since.offset + 1, to: offset, reason: "unrecoverable" });
    }
    this._emit("resumed", { recovered: false, missed: 0 });
  }

  _onMessage(message) {
    if (typeof message.offset !== "number") {
      this._emit("event", message);
      return;
    }
    const { offset, epoch } = message;
    if (this.position && epoch === this.position.epoch && offset <= this.position.offset) return;
    this._skipTo({ offset: offset - 1, epoch }, "lost");
    this.position = { offset, epoch };
    this.#deliver("message", message);
  }

  /** Move to `position`; what lies between is a gap. Does nothing when we are there already. */
  _skipTo(position, reason) {
    const here = this.position ?? position;
    this.position = here;
    if (position.epoch !== here.epoch) {
      this.position = position;
      this.#deliver("gap", { from: null, to: null, reason: "epoch_changed" });
    } else if (position.offset > here.offset) {
      this.position = position;
      this.#deliver("gap", { from: here.offset + 1, to: position.offset, reason });
    }
  }

  _onGap({ to, reason }) {
    if (this.position) this._skipTo({ offset: to, epoch: this.position.epoch }, reason ?? "dropped");
  }
}

class BoundedQueue {
  #items = [];
  #limit;
  #wake = null;
  #ended = false;
  #error = null;

  constructor(limit) {
    this.#limit = limit;
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
    const content = { from: range(first).from, to: range(second ?? first).to, reason: "slow_reader" };
    this.#items.unshift(gapItem(first.room, content));
  }

  /** All that waits, and empty it. */
  take() {
    return this.#items.splice(0);
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#items.length) yield this.#items.shift();
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

/**
 * The JavaScript client: one connection, its rooms, acknowledged publishing, reconnect and resume.
 *
 * A dependency-free ES module for browsers and for Node ≥ 22 (on Node 20 and 21 pass a `WebSocket`
 * class in the options). It speaks `realtime.v1.json`, as docs/protocol.md describes it.
 *
 *   import { connect } from "./realtime.js";
 *   const client = connect("wss://example.org/ws", { user: "alice" });
 *   const room = await client.join("chat:lobby");
 *   room.on("message", (message) => console.log(message.from, message.content));
 *   const { offset } = await room.publish("chat_message", { text: "hi" });
 *
 * What it promises: the messages of a room come in order and once, over any number of reconnects; what
 * was missed is fetched from the room's history, and what the server no longer has comes as a `gap`; a publish that was under way when the connection broke is sent again under the same
 * idempotency key, so that it is kept once. All its queues are bounded.
 */

import { backoffMs, mayReconnect, readCloseReason } from "./reconnect.js";
import { Emitter, RealtimeError, Room, randomKey } from "./room.js";

export { RealtimeError, Room, backoffMs, mayReconnect, randomKey, readCloseReason };

const SUBPROTOCOL = "realtime.v1.json";

const NO_HEARTBEAT = 4002;
const TOKEN_EXPIRED = 4003;
const UNREADABLE = 1007;

const DEFAULTS = {
  user: null,
  /** A token, or an (async) function that brings a new one: asked before every attempt to connect, and
   *  when the server says that the present one ends soon. */
  token: null,
  ackTimeoutMs: 10_000,
  connectTimeoutMs: 10_000,
  pingIntervalMs: 5_000,
  pongTimeoutMs: 5_000,
  backoffBaseMs: 500,
  backoffCapMs: 30_000,
  pendingLimit: 1_000,
  queueLimit: 1_000,
  /** Make all rooms passive while the page is hidden, and active again when somebody looks: then that
   *  is not for others to decide. */
  passiveWhenHidden: false,
  random: Math.random,
};

/**
 * One connection that comes back by itself. Events:
 *   state (State, { delayMs?: number, error?: RealtimeError })
 *   connected (content of the server's greeting)
 *   rtt (milliseconds)    after every ping
 *   error (RealtimeError)   an error that answers no request
 *   tokenExpiring ({ expires_at, expires_in_s })   soon; where `token` is a function it has been asked
 *   message (Message)     a push that belongs to no joined room, such as a notification
 */
export class Client extends Emitter {
  #url;
  #socket = null;
  #rooms = new Map();
  /** id → request under way or waiting for the connection, in the order they were made */
  #requests = new Map();
  #nextId = 1;
  #attempt = 0;
  #window;
  #timers = {};
  #lastHeardMs = 0;
  #renewing = false;
  /** what the present connection came with */
  #usedToken = null;
  #giveUp = [];

  /** @param {string} url of the WebSocket endpoint, without the user's id
   *  @param {Partial<typeof DEFAULTS> & { WebSocket?: any }} [options] */
  constructor(url, options = {}) {
    super();
    this.options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...options };
    if (!this.options.WebSocket) throw new TypeError("no WebSocket here: pass one in the options");
    this.#url = url;
    this.#window = this.#ownWindow();
    /** @type {State} */
    this.state = "connecting";
    this.user = this.options.user;
    /** What the server said in `connected`: limits, node, heartbeat … */
    this.greeting = null;
    this.rttMs = null;
    /** Server clock minus ours, in milliseconds. */
    this.clockOffsetMs = 0;
    this.reconnects = 0;
    /** Resolves at the first connection; rejects when there will be none. */
    this.ready = new Promise((resolve, reject) => {
      this.on("connected", resolve);
      this.#giveUp.push(reject);
    });
    this.ready.catch(() => {}); // nobody has to wait for it: the state event tells the same
    if (this.options.passiveWhenHidden && globalThis.document) this.#followVisibility(document);
    this.#open();
  }

  /** Messages that wait for their ack. */
  get pending() {
    let count = 0;
    for (const request of this.#requests.values()) if (request.key) count += 1;
    return count;
  }

  /** Join a room (once: a second call returns the same Room). A private room asks for a room token:
   *  `token`, or an (async) function that brings a new one each time that the room is joined, which is
   *  then done again when the one before has ended. With `keys` all that is said there is sealed, and all
   *  that is heard is opened.
   *  @param {string} name such as "chat:lobby"
   *  @param {{ token?: any, keys?: import("./seal.js").Keyring|null }} [options]
   *  @returns {Promise<Room>} */
  join(name, { token = null, keys = null } = {}) {
    const known = this.#rooms.get(name);
    if (known) {
      if (keys) known.room.keys = keys;
      return known.promise;
    }
    const room = new Room(this, name, keys);
    room.isPassive = this.options.passiveWhenHidden && globalThis.document?.hidden === true;
    const entry = { room, token, fetching: false };
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    this.#rooms.set(name, entry);
    if (this.state === "closed") this.#dropRoom(entry, this.#closedError());
    else if (this.state === "online") this.#sendJoin(entry);
    return entry.promise;
  }

  /** Measure the round trip. @returns {Promise<{ rttMs: number, clockOffsetMs: number }>} */
  async ping() {
    const sent = now();
    const reply = await this._request("ping", null, {});
    const rttMs = now() - sent;
    const serverTime = Date.parse(reply.content.server_time);
    this.rttMs = rttMs;
    if (!Number.isNaN(serverTime)) this.clockOffsetMs = serverTime + rttMs / 2 - Date.now();
    this._emit("rtt", rttMs);
    return { rttMs, clockOffsetMs: this.clockOffsetMs };
  }

  /** Ask the server something, now or not at all: what a feature calls a question. A room may be named
   *  without having been joined. Rejects with "disconnected" where there is no connection.
   *  @param {string} type @param {object} [content] @param {string|null} [room]
   *  @returns {Promise<any>} the answer's content */
  async ask(type, content = {}, room = null) {
    return (await this._request(type, room, content)).content;
  }

  /** Hand the server a newer token before the present one ends. */
  async refresh(token) {
    if (typeof this.options.token !== "function") this.options.token = token;
    await this._request("refresh", null, { token });
  }

  /** Do not wait any longer: reconnect now. For "retry" buttons and the browser's `online` event. */
  reconnectNow() {
    if (this.state === "waiting") this.#open();
  }

  /** Leave everything and stay away. Waiting publishes are rejected with "closed". */
  close() {
    this.#stop(null, 1000);
  }

  // --- called by Room -------------------------------------------------------------------------

  /** @param {(answer: any) => any} [read] makes of the answer's content what the promise resolves to */
  _publish(room, type, content, key, read = placeOf) {
    if (this.state === "closed") return Promise.reject(this.#closedError());
    if (this.pending >= this.options.pendingLimit) {
      const text = `${this.options.pendingLimit} messages wait for the connection already`;
      return Promise.reject(new RealtimeError("pending_limit", text, { temporary: true }));
    }
    return new Promise((resolve, reject) => {
      const request = this.#newRequest(type, room.name, content, key, reject);
      request.resolve = (reply) => resolve(read(reply.content));
      const limit = this.greeting?.limits?.message_bytes ?? Infinity;
      const bytes = new TextEncoder().encode(JSON.stringify(request.envelope)).length;
      if (bytes > limit) {
        const text = `${bytes} bytes are more than the ${limit} that the server takes`;
        this.#settle(request, new RealtimeError("too_large", text));
      } else if (room.joined) {
        this.#transmit(request);
      }
    });
  }

  _request(type, room, content) {
    if (this.state !== "online") {
      return Promise.reject(new RealtimeError("disconnected", "not connected", { temporary: true }));
    }
    return new Promise((resolve, reject) => {
      const request = this.#newRequest(type, room, content, null, reject);
      request.resolve = resolve;
      this.#transmit(request);
    });
  }

  async _passive(room) {
    room.isPassive = true;
    if (!room.joined) return;
    try {
      await this._request("passive", room.name, {});
    } catch (error) {
      if (error.code === "disconnected") return; // the next connection asks again
      room.isPassive = false;
      // Whatever became of the request, after this it is active, and misses nothing.
      const entry = this.#rooms.get(room.name);
      if (room.joined && entry?.room === room) this.#sendJoin(entry);
      throw error;
    }
  }

  async _active(room) {
    room.isPassive = false;
    room._setUnread(0);
    const entry = this.#rooms.get(room.name);
    if (room.joined && entry?.room === room) await new Promise((resolve) => this.#sendJoin(entry, resolve));
  }

  async _leave(room) {
    const entry = this.#rooms.get(room.name);
    if (!entry) return;
    const wasJoined = room.joined;
    this.#dropRoom(entry, null);
    if (wasJoined) await this._request("leave", room.name, {});
  }

  _send(envelope) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(envelope));
  }

  // --- requests -------------------------------------------------------------------------------

  #newRequest(type, room, content, key, reject) {
    const id = this.#nextId++;
    const envelope = { type, id, content };
    if (room) envelope.room = room;
    if (key) envelope.key = key;
    const request = { id, envelope, key, room, reject, resolve: null, timer: null };
    this.#requests.set(id, request);
    return request;
  }

  #transmit(request) {
    clearTimeout(request.timer);
    request.timer = setTimeout(() => {
      const text = `no answer to ${request.envelope.type} in ${this.options.ackTimeoutMs} ms`;
      this.#settle(request, new RealtimeError("ack_timeout", text, { temporary: true }));
    }, this.options.ackTimeoutMs);
    this._send(request.envelope);
  }

  #settle(request, error, reply) {
    clearTimeout(request.timer);
    this.#requests.delete(request.id);
    if (error) request.reject(error);
    else request.resolve(reply);
  }

  // --- the connection's life -------------------------------------------------------------------

  async #open() {
    clearTimeout(this.#timers.retry);
    this.#setState("connecting");
    let token = null;
    try {
      token = await fetched(this.options.token);
    } catch (error) {
      this.#retry(new RealtimeError("unauthorized", `no token: ${error}`, { temporary: true }));
      return;
    }
    if (this.state !== "connecting") return;
    this.#usedToken = token;
    const protocols = token ? [SUBPROTOCOL, `bearer.${token}`] : [SUBPROTOCOL];
    const path = this.options.user === null ? "" : `/${encodeURIComponent(this.options.user)}`;
    const socket = new this.options.WebSocket(this.#url + path, protocols);
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    socket.onerror = () => {}; // says nothing; the close event that follows does
    this.#timers.connect = setTimeout(
      () => this.#lost(1006, "no greeting in time"), this.options.connectTimeoutMs);
  }

  #receive(data) {
    this.#lastHeardMs = now();
    if (typeof data !== "string") return;
    try {
      for (const line of data.split("\n")) {
        if (line.trim() !== "") this.#dispatch(JSON.parse(line));
      }
    } catch (error) {
      // No JSON, or none with the keys that its type promises: there is nothing to go on with.
      this.#lost(UNREADABLE, `the server sent what cannot be read: ${error}`);
    }
  }

  #dispatch(message) {
    const request = message.id === undefined ? undefined : this.#requests.get(message.id);
    if (message.type === "error") this.#onError(message.content ?? {}, request);
    else if (request) this.#settle(request, null, message);
    else if (message.id !== undefined) return; // an answer that came after its timeout
    else if (message.type === "connected") this.#onConnected(message.content);
    else this.#onPush(message);
  }

  #onPush(message) {
    if (message.type === "token_expiring") {
      this.#renew();
      this._emit("tokenExpiring", message.content);
      return;
    }
    const entry = this.#rooms.get(message.room ?? message.content?.room);
    if (!entry) {
      this._emit("message", message);
      return;
    }
    if (message.type === "left") {
      this.#onLeft(entry, message.content?.reason);
      return;
    }
    entry.room._onPush(message);
    if (entry.room._wanted) this.#catchUp(entry);
  }

  /** Fetch a newer token and hand it over. Failing that, the server closes, and the next one is fresh. */
  async #renew() {
    if (typeof this.options.token !== "function" || this.#renewing) return;
    this.#renewing = true;
    try {
      await this.refresh(await this.options.token());
    } catch (error) {
      if (error.code !== "disconnected") this._emit("error", error);
    } finally {
      this.#renewing = false;
    }
  }

  /** The server has put us out of a room: join again where that takes no more than a new room token. */
  #onLeft(entry, reason) {
    entry.room.joined = false;
    if (reason === "room_token_expired" && typeof entry.token === "function") this.#sendJoin(entry);
    else this.#dropRoom(entry, new RealtimeError("forbidden", `let out of ${entry.room.name}: ${reason}`));
  }

  #onError(content, request) {
    const error = new RealtimeError(content.name ?? "internal", content.message ?? "", {
      temporary: content.temporary === true,
      retryAfterS: content.retry_after ?? null,
      limit: content.limit ?? null,
      allowed: content.allowed ?? null,
    });
    if (request) this.#settle(request, error);
    else this._emit("error", error);
  }

  #onConnected(greeting) {
    clearTimeout(this.#timers.connect);
    if (this.greeting) this.reconnects += 1;
    this.greeting = greeting;
    this.user = greeting.user_id ?? greeting.user ?? this.user;
    this.#attempt = 0;
    const { min_ms: min, max_ms: max } = greeting.reconnect ?? {};
    this.#window = min >= 0 && max > min ? { min, max } : this.#ownWindow();
    this.#setState("online");
    this._emit("connected", greeting);
    for (const entry of [...this.#rooms.values()]) this.#sendJoin(entry);
    this.#ping();
  }

  /** Join, again where we were; then send what waits for the room, in its old order. `done` is called
   *  when it is settled either way. */
  async #sendJoin(entry, done = () => {}) {
    const { room } = entry;
    const content = {};
    if (entry.token !== null) {
      const socket = this.#socket;
      try {
        content.token = await fetched(entry.token);
      } catch (error) {
        this.#dropRoom(entry, new RealtimeError("forbidden", `no room token: ${error}`));
        done();
        return;
      }
      if (socket !== this.#socket || this.#rooms.get(room.name) !== entry) {
        done(); // the next `connected` brings the next try
        return;
      }
    }
    if (room.position) content.since = room.position;
    const request = this.#newRequest("join", room.name, content, null, (error) => {
      done();
      // Without a connection the next `connected` brings the next try; a refusal is final.
      if (error.code === "disconnected" || this.state !== "online") return;
      if (error.temporary) this.#retryJoin(entry, error);
      else this.#dropRoom(entry, error);
    });
    // At once and not by a promise: pushes that follow in the same frame must find the room joined.
    request.resolve = ({ content }) => {
      if (this.#rooms.get(room.name) === entry) this.#onJoined(entry, content);
      done();
    };
    this.#transmit(request);
  }

  #onJoined(entry, content) {
    const { room } = entry;
    const wasJoined = room.joined;
    room._onJoined(content);
    if (room._wanted) this.#catchUp(entry);
    entry.resolve(room);
    if (wasJoined) return; // it only turned active: what waits is on its way
    if (room.isPassive) this._passive(room).catch((error) => this._emit("error", error));
    for (const request of [...this.#requests.values()]) {
      if (request.key && request.room === room.name) this.#transmit(request);
    }
  }

  /** Page through the history until nothing is missing, no faster than the room is read. A lost
   *  connection ends it where it is, and the next one goes on from there. */
  async #catchUp(entry) {
    const { room } = entry;
    if (entry.fetching) return;
    entry.fetching = true;
    try {
      for (;;) {
        await room._halfEmpty();
        const ask = room._wanted;
        if (!ask || !room.joined || !await this.#fetchPage(room, ask)) return;
      }
    } finally {
      entry.fetching = false;
    }
  }

  /** @returns {Promise<boolean>} whether to go on asking over this connection */
  async #fetchPage(room, ask) {
    try {
      const { content } = await this._request("history", room.name, ask.content);
      room._onPage(ask, content);
      return true;
    } catch (error) {
      if (error.code === "disconnected" || this.state !== "online") return false;
      if (error.temporary) {
        const delayMs = (error.retryAfterS ?? 1) * 1000;
        await new Promise((resolve) => { setTimeout(resolve, delayMs); });
      } else {
        room._giveUp(ask);
      }
      return true;
    }
  }

  #retryJoin(entry, error) {
    const socket = this.#socket;
    const delayMs = error.retryAfterS === null
      ? backoffMs(2, this.#ownWindow(), this.options.backoffCapMs, this.options.random)
      : error.retryAfterS * 1000;
    setTimeout(() => {
      const current = this.#rooms.get(entry.room.name) === entry;
      if (current && socket === this.#socket && this.state === "online") this.#sendJoin(entry);
    }, delayMs);
  }

  #dropRoom(entry, error) {
    const { room } = entry;
    if (this.#rooms.get(room.name) === entry) this.#rooms.delete(room.name);
    const reason = error ?? new RealtimeError("closed", `left ${room.name}`);
    for (const request of [...this.#requests.values()]) {
      if (request.key && request.room === room.name) this.#settle(request, reason);
    }
    entry.promise.catch(() => {}); // told below as well
    entry.reject(reason);
    room._close(error);
  }

  #followVisibility(page) {
    const follow = () => {
      for (const { room } of this.#rooms.values()) {
        if (room.isPassive !== page.hidden) {
          (page.hidden ? room.passive() : room.active()).catch((error) => this._emit("error", error));
        }
      }
    };
    page.addEventListener("visibilitychange", follow);
    this.#giveUp.push(() => page.removeEventListener("visibilitychange", follow));
  }

  /** Ping now, and again after an interval: the round trip for the user, a deadline for the server. */
  #ping() {
    clearTimeout(this.#timers.ping);
    const sentMs = now();
    this.ping().catch(() => {}); // the deadline below is what judges
    clearTimeout(this.#timers.pong);
    this.#timers.pong = setTimeout(() => {
      // Any traffic proves life: a server busy with our room may answer the ping late.
      if (this.#lastHeardMs < sentMs) this.#lost(NO_HEARTBEAT, "no answer to a ping");
    }, this.options.pongTimeoutMs);
    const interval = Math.max(this.options.pingIntervalMs, 100);
    this.#timers.ping = setTimeout(() => this.#ping(), interval);
  }

  /** Look now whether the server is still there, as when a laptop wakes up. */
  probe() {
    if (this.state === "online") this.#ping();
    else this.reconnectNow();
  }

  #lost(code, reason) {
    this.#detach(code);
    const { text, window } = readCloseReason(reason);
    const error = new RealtimeError("disconnected", text || `connection lost (${code})`, {
      temporary: mayReconnect(code), closeCode: code,
    });
    for (const request of [...this.#requests.values()]) {
      clearTimeout(request.timer);
      if (!request.key) this.#settle(request, error);
    }
    for (const { room } of this.#rooms.values()) room.joined = false;
    // A token that is as it was has ended for good: without somebody to ask there is no way back. (Without
    // any, a cookie has brought it, and may bring another one.)
    const ended = code === TOKEN_EXPIRED && this.#usedToken !== null && this.options.token === this.#usedToken;
    if (ended || !mayReconnect(code)) {
      this.#stop(error, null);
      return;
    }
    if (window) {
      this.#window = window;
      this.#attempt = 0;
    }
    this.#retry(error);
  }

  #retry(error) {
    const { backoffCapMs, random } = this.options;
    const delayMs = backoffMs(this.#attempt++, this.#window, backoffCapMs, random);
    this.#timers.retry = setTimeout(() => this.#open(), delayMs);
    this.#setState("waiting", { delayMs, error });
  }

  /** Let go of the socket at once: with a dead network its own close event may take a minute. */
  #detach(code) {
    for (const name of ["connect", "ping", "pong", "retry"]) clearTimeout(this.#timers[name]);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    if (socket.readyState < 2) socket.close(code === 1000 ? 1000 : 3000);
  }

  #stop(error, code) {
    if (this.state === "closed") return;
    this.closeReason = error;
    this.#detach(code ?? 1000);
    this.#setState("closed", error ? { error } : {});
    const reason = this.#closedError();
    for (const entry of [...this.#rooms.values()]) this.#dropRoom(entry, error);
    for (const request of [...this.#requests.values()]) this.#settle(request, reason);
    for (const reject of this.#giveUp) reject(reason);
  }

  #closedError() {
    return this.closeReason ?? new RealtimeError("closed", "the client was closed");
  }

  #ownWindow() {
    return { min: 0, max: this.options.backoffBaseMs };
  }

  #setState(state, detail = {}) {
    this.state = state;
    this._emit("state", state, detail);
  }
}

/** Connect; the Client comes back at once and reconnects until `close()`.
 *  @param {string} url @param {ConstructorParameters<typeof Client>[1]} [options] */
export function connect(url, options) {
  return new Client(url, options);
}

/** @param {string|null|(() => string|Promise<string>)} token */
async function fetched(token) {
  return typeof token === "function" ? token() : token;
}

function placeOf({ offset, epoch, duplicate }) {
  return epoch === undefined ? null : { offset, epoch, duplicate: duplicate === true };
}

function now() {
  return performance.now();
}

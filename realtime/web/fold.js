/**
 * The messages of a chat room as they stand, folded from what its log says: edits, deletions, reactions,
 * pins. No network and no page: `chat.js` feeds it, and whoever shows a conversation reads it.
 *
 * @typedef {{ key: string, id: string|null, room: string, from: string, at: number, offset: number|null,
 *             epoch: string|null, text: string, entities: object[], attachments: object[], mentions: string[],
 *             here: boolean, reply_to: string|null, thread: string|null, edited_at: string|null,
 *             expires_at: string|null, deleted: boolean, hidden: boolean, pinned: boolean,
 *             reactions: Record<string, { count: number, mine: boolean }>, replies: number,
 *             content: any, rev: number }} Shown
 *   one message; `key` is its id, or its place where it has none; `rev` grows with each change
 */

/** What changes a message that is there already. */
export const CHANGES = new Set(["chat_edit", "chat_delete", "chat_react", "chat_pin", "chat_hide"]);

/** A message of the log, or of an answer, as one to show. @returns {Shown} */
export function shownOf(message) {
  const content = message.content ?? message;
  const said = content !== null && typeof content === "object" ? content : {};
  const id = typeof said.id === "string" ? said.id : null;
  return {
    key: id ?? `${message.epoch}:${message.offset}`,
    id,
    room: message.room,
    from: message.from ?? "",
    at: Date.parse(said.sent_at || message.timestamp || message.at) || 0,
    offset: message.offset ?? null,
    epoch: message.epoch ?? null,
    text: typeof said.text === "string" ? said.text : "",
    entities: listOf(said.entities),
    attachments: listOf(said.attachments),
    mentions: listOf(said.mentions),
    here: said.here === true,
    reply_to: said.reply_to || null,
    thread: said.thread || null,
    edited_at: said.edited_at || null,
    expires_at: said.expires_at || null,
    deleted: said.deleted === true,
    hidden: said.hidden === true,
    pinned: said.pinned === true,
    reactions: reactionsOf(said.reactions),
    replies: Number(said.replies) || 0,
    content,
    rev: 0,
  };
}

/** Change a message as a push says. @returns {boolean} whether it is another now */
export function change(message, push, me) {
  const { type, content } = push;
  if (message.deleted) return false;
  if (type === "chat_edit") edit(message, content, push.timestamp);
  else if (type === "chat_delete") bury(message);
  else if (type === "chat_pin") message.pinned = content.pinned !== false;
  else if (type === "chat_hide") message.hidden = content.hidden !== false;
  else if (type !== "chat_react" || !react(message, content, content.user ?? push.from, me)) return false;
  message.rev += 1;
  return true;
}

function edit(message, content, timestamp) {
  message.text = typeof content.text === "string" ? content.text : message.text;
  message.entities = listOf(content.entities);
  message.mentions = listOf(content.mentions);
  message.edited_at = content.edited_at ?? timestamp ?? message.edited_at;
}

function bury(message) {
  Object.assign(message, {
    deleted: true, text: "", entities: [], attachments: [], mentions: [], reactions: {}, pinned: false,
  });
}

function react(message, { emoji, remove }, user, me) {
  const own = user === me;
  const { count, mine } = message.reactions[emoji] ?? { count: 0, mine: false };
  if (own && mine === (remove !== true)) return false; // it was in the page that we had
  const next = Math.max(0, count + (remove === true ? -1 : 1));
  message.reactions = { ...message.reactions, [emoji]: { count: next, mine: own ? remove !== true : mine } };
  if (next === 0) delete message.reactions[emoji];
  return true;
}

/** Messages in their order, at most `limit`: a window on the conversation, which goes on before it (`more`)
 *  and, unless `live`, after it. */
export class Window {
  #byKey = new Map();
  #me;
  #limit;

  /** @param {string} me @param {number} limit */
  constructor(me, limit = 400) {
    this.#me = me;
    this.#limit = limit;
    /** @type {Shown[]} oldest first */
    this.list = [];
    /** Whether there are earlier ones that are not in it. */
    this.more = false;
    /** Whether its last message is the newest there is. */
    this.live = true;
    /** Whether somebody reads above its end: then the oldest may stay for as long again. */
    this.held = false;
  }

  get(key) {
    return this.#byKey.get(key);
  }

  get first() {
    return this.list[0] ?? null;
  }

  get last() {
    return this.list.at(-1) ?? null;
  }

  clear() {
    this.#byKey.clear();
    this.list = [];
    this.more = false;
    this.live = true;
  }

  /** Take what the room says next. @returns {Shown|null} the message that is new or another; null where
   *  nothing of this window is */
  take(push) {
    if (push.type === "chat_message") return this.live ? this.#add(shownOf(push)) : null;
    const message = this.#byKey.get(push.content?.id);
    return message && change(message, push, this.#me) ? message : null;
  }

  /** Somebody has answered a message in its thread; or (`by` -1) an answer was deleted. */
  replied(id, by) {
    const message = this.#byKey.get(id);
    if (!message) return null;
    message.replies = Math.max(0, message.replies + by);
    message.rev += 1;
    return message;
  }

  /** Put earlier messages, oldest first, before the others; the newest make room for them.
   *  @param {Shown[]} page @param {boolean} more */
  before(page, more) {
    const fresh = page.filter((message) => this.#learn(message));
    this.list = [...fresh, ...this.list];
    this.more = more;
    if (this.list.length > this.#limit) {
      this.live = false;
      for (const { key } of this.list.splice(this.#limit)) this.#byKey.delete(key);
    }
    return fresh;
  }

  /** Put later messages after the others; `more` says whether there are still later ones. */
  after(page, more) {
    const fresh = page.filter((message) => this.#learn(message));
    this.list.push(...fresh);
    this.live = !more;
    this.#trim();
    return fresh;
  }

  /** Put a page that was asked anew in place of what is shown. */
  replace(page, { more, live }) {
    this.clear();
    this.list = page.filter((message) => this.#learn(message));
    Object.assign(this, { more, live });
  }

  #learn(message) {
    if (this.#byKey.has(message.key)) return false;
    this.#byKey.set(message.key, message);
    return true;
  }

  #add(message) {
    const last = this.last;
    const early = message.id !== null && last !== null && last.id !== null && message.id < last.id;
    if (early && this.more && message.id < this.first.id) return null; // an import: it is further up
    if (!this.#learn(message)) return null;
    if (early) this.list.splice(this.list.findIndex(({ id }) => id > message.id), 0, message);
    else this.list.push(message);
    this.#trim();
    return message;
  }

  #trim() {
    while (this.list.length > (this.held ? 2 : 1) * this.#limit) {
      this.#byKey.delete(this.list.shift().key);
      this.more = true;
    }
  }
}

function listOf(value) {
  return Array.isArray(value) ? value : [];
}

function reactionsOf(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return {};
  // Without a prototype's names: an emoji is whatever its sender says.
  const entries = Object.entries(value).map(([emoji, { count, mine }]) =>
    [emoji, { count: Number(count) || 0, mine: mine === true }]);
  return Object.fromEntries(entries);
}

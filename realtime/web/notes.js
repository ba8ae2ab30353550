/** The quiet lines of a conversation: who came and went, and what was done to the room. */

import { listNames } from "./parts.js";

/** Who comes back within this time has not left: a reload, or a restart that everybody went through. */
const LEFT_GRACE_MS = 3_000;
const RESTART_GRACE_MS = 20_000;

export class Notes {
  #timeline;
  #me;
  #leaving = new Map(); // name → timer
  #joins = { note: null, names: [] };
  #resumedMs = -Infinity;

  /** @param {import("./timeline.js").Timeline} timeline @param {string} me */
  constructor(timeline, me) {
    this.#timeline = timeline;
    this.#me = me;
  }

  begin() {
    this.end();
    this.#joins = { note: null, names: [] };
  }

  end() {
    for (const timer of this.#leaving.values()) clearTimeout(timer);
    this.#leaving.clear();
  }

  /** We are connected again. */
  resumed() {
    this.#resumedMs = performance.now();
  }

  presence(joined, left, steady) {
    const came = joined.filter((name) => name !== this.#me && !this.#cancelLeaving(name));
    if (came.length) this.#noteJoined(came);
    for (const name of left) if (name !== this.#me) this.#noteLeavingLater(name, steady);
  }

  #noteJoined(names) {
    const together = [...new Set([...this.#joins.names, ...names])];
    if (this.#timeline.extend(this.#joins.note, `${listNames(together)} joined`)) this.#joins.names = together;
    else this.#joins = { names, note: this.#timeline.note(`${listNames(names)} joined`) };
  }

  #noteLeavingLater(name, steady) {
    this.#cancelLeaving(name);
    const restarted = performance.now() - this.#resumedMs < LEFT_GRACE_MS || !steady;
    this.#leaving.set(name, setTimeout(() => {
      this.#leaving.delete(name);
      this.#timeline.note(`${name} left`);
    }, restarted ? RESTART_GRACE_MS : LEFT_GRACE_MS));
  }

  #cancelLeaving(name) {
    clearTimeout(this.#leaving.get(name));
    return this.#leaving.delete(name);
  }
}

const NOTICES = {
  created: ({ by }) => `${by} created the room`,
  renamed: ({ by, title }) => `${by} named the room ${title ?? "anew"}`,
  topic: ({ by, topic }) => (topic ? `${by} set the topic: ${topic}` : `${by} took the topic away`),
  archived: ({ by }) => `${by} archived the room`,
  unarchived: ({ by }) => `${by} opened the room again`,
  joined: ({ by, user }) => `${user ?? by} is a member now`,
  left: ({ by, user }) => `${user ?? by} is a member no longer`,
  invited: ({ by, user }) => `${by} invited ${user}`,
  role: ({ by, user, role }) => `${by} made ${user} ${role}`,
  removed: ({ by, user }) => `${by} removed ${user}`,
  banned: ({ by, user }) => `${by} banned ${user}`,
  unbanned: ({ by, user }) => `${by} let ${user} in again`,
  muted: ({ by, user }) => `${by} muted ${user}`,
  unmuted: ({ by, user }) => `${by} lets ${user} speak again`,
};

/** What a `chat_notice` says, in words; null for what we do not know. */
export function noticeText(content) {
  return Object.hasOwn(NOTICES, content.event) ? NOTICES[content.event](content) : null;
}

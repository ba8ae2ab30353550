/**
 * What was written and is not kept by the server yet, over reloads of the page: each with its idempotency
 * key, so that sending it again is harmless. A browser that forbids storage forgets it with the page.
 */

const ENTRIES_MAX = 200;
const AGE_MAX_MS = 7 * 24 * 3600 * 1000;

export class Outbox {
  #name;
  #storage;

  /** @param {string} owner whose it is: server and user
   *  @param {Storage|null} storage */
  constructor(owner, storage = storageOf()) {
    this.#name = `realtime.outbox.${owner}`;
    this.#storage = storage;
  }

  /** @returns {{ key: string, room: string, content: object, at: number }[]} oldest first */
  get entries() {
    try {
      const kept = JSON.parse(this.#storage?.getItem(this.#name) ?? "[]");
      return kept.filter(({ at }) => Date.now() - at < AGE_MAX_MS);
    } catch {
      return []; // forbidden, or not ours: as if there were nothing
    }
  }

  put(entry) {
    this.#write([...this.entries.filter(({ key }) => key !== entry.key), entry].slice(-ENTRIES_MAX));
  }

  drop(key) {
    const kept = this.entries;
    const rest = kept.filter((entry) => entry.key !== key);
    if (rest.length !== kept.length) this.#write(rest);
  }

  #write(entries) {
    try {
      if (entries.length) this.#storage?.setItem(this.#name, JSON.stringify(entries));
      else this.#storage?.removeItem(this.#name);
    } catch { /* full or forbidden: it lives as long as the page */ }
  }
}

function storageOf() {
  try { return globalThis.localStorage ?? null; } catch { return null; }
}

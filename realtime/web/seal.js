/**
 * End-to-end rooms: keys that members share and the server never has, and what they seal and open.
 *
 * A content is sealed with AES-256-GCM by WebCrypto, under a random nonce of 96 bits. Tenant, room, sender,
 * type, key id and version are bound to it: the server cannot show a message as another user's, in another
 * room or as another type. It can still drop, repeat or hold back messages, and it sees who writes where,
 * when and how much. Whoever has a key can read all that was ever sealed with it, and seal in the name of any
 * member. How members come by keys is the application's business.
 *
 *   import { Key, Keyring } from "./seal.js";
 *   const keys = new Keyring([await Key.fromText("2026-11", text)]);
 *   const room = await client.join("chat:secret", { keys });
 *
 * The same bytes come from `realtime.client.seal`. Browsers have WebCrypto on https and localhost alone.
 */

import { RealtimeError } from "./room.js";

const VERSION = 1;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
/** With random nonces of 96 bits, 2^32 messages under one key keep a repeat below 2^-32 (SP 800-38D, 8.3). */
export const MESSAGES_MAX = 2 ** 32;
/** Of PBKDF2-HMAC-SHA256, as OWASP advises (2023). */
export const ITERATIONS = 600_000;
const ITERATIONS_MIN = 100_000;
const SALT_BYTES_MIN = 8;
const CONTEXT = "realtime end-to-end";
const KID = /^[A-Za-z0-9._-]{1,64}$/;

const utf8 = new TextEncoder();
// `fatal`, and a byte order mark is a character like any other: both as in Python.
const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Stands in a message for a content that could not be opened. `why`:
 *   not_sealed    it came in plain words, so it may be anybody's
 *   unknown_key   nobody gave us `kid`
 *   broken        it was changed, moved from another place, or sealed with another key of that id
 */
export class Unreadable {
  /** @param {"not_sealed"|"unknown_key"|"broken"} why @param {string|null} kid @param {any} content as it came */
  constructor(why, kid, content) {
    this.why = why;
    this.kid = kid;
    this.content = content;
  }
}

/** One key, and how often it is known to have been used. */
export class Key {
  #cipher;

  /** @private `generate`, `fromText`, `fromJwk` and `fromPassphrase` make keys. */
  constructor(kid, cipher) {
    this.kid = kid;
    this.#cipher = cipher;
    /** Sealed and opened here. */
    this.used = 0;
  }

  /** @param {string} kid 1 to 64 of A-Z a-z 0-9 . _ -, and public */
  static generate(kid) {
    return Key.#of(kid, crypto.getRandomValues(new Uint8Array(KEY_BYTES)));
  }

  /** The key that `toText` gave, here or in Python. @param {string} kid @param {string} text base64url */
  static async fromText(kid, text) {
    return Key.#of(kid, fromBase64(text));
  }

  /** @param {{ kty: string, kid: string, k: string }} jwk a JSON Web Key of type `oct` (RFC 7518, 6.4) */
  static async fromJwk({ kty, kid, k }) {
    if (kty !== "oct" || typeof kid !== "string" || typeof k !== "string") {
      throw new RangeError("a key as JWK has kty oct, kid and k");
    }
    return Key.fromText(kid, k);
  }

  /**
   * A key derived by PBKDF2-HMAC-SHA256: the same for the same words, salt and iterations. A passphrase that
   * can be guessed is a key that can be guessed, by whoever has one sealed message.
   *
   * @param {string} kid @param {string} passphrase
   * @param {{ salt: string, iterations?: number }} how `salt` is public, at least 8 bytes, this room's own
   */
  static async fromPassphrase(kid, passphrase, { salt, iterations = ITERATIONS }) {
    const salted = utf8.encode(salt);
    if (salted.length < SALT_BYTES_MIN) throw new RangeError(`a salt has at least ${SALT_BYTES_MIN} bytes`);
    if (!(iterations >= ITERATIONS_MIN)) throw new RangeError(`${iterations} iterations: at least ${ITERATIONS_MIN}`);
    const words = await subtle().importKey("raw", utf8.encode(passphrase), "PBKDF2", false, ["deriveBits"]);
    const how = { name: "PBKDF2", hash: "SHA-256", salt: salted, iterations };
    return Key.#of(kid, new Uint8Array(await subtle().deriveBits(how, words, KEY_BYTES * 8)));
  }

  /** @returns {Promise<string>} the secret as base64url without padding, to be handed on */
  async toText() {
    return toBase64(new Uint8Array(await subtle().exportKey("raw", this.#cipher)));
  }

  /** @returns {Promise<{ kty: string, kid: string, alg: string, k: string }>} the secret as a JSON Web Key */
  async toJwk() {
    return { kty: "oct", kid: this.kid, alg: "A256GCM", k: await this.toText() };
  }

  /** @param {Uint8Array} plain @param {Uint8Array} bound  @returns {Promise<[Uint8Array, Uint8Array]>} */
  async _seal(plain, bound) {
    if (this.used >= MESSAGES_MAX) {
      throw new RealtimeError("cannot_seal", `key ${this.kid} is used up: seal with a new one`);
    }
    this._count();
    const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
    const how = { name: "AES-GCM", iv: nonce, additionalData: bound };
    return [nonce, new Uint8Array(await subtle().encrypt(how, this.#cipher, plain))];
  }

  /** @returns {Promise<ArrayBuffer|null>} null where it is not what was sealed */
  async _open(nonce, ciphertext, bound) {
    try {
      const how = { name: "AES-GCM", iv: nonce, additionalData: bound };
      const plain = await subtle().decrypt(how, this.#cipher, ciphertext);
      this._count();
      return plain;
    } catch (error) {
      if (error.name !== "OperationError") console.error(error); // not the message's fault; it cannot be read either
      return null;
    }
  }

  _count() {
    this.used += 1;
    if (this.used === MESSAGES_MAX / 2) {
      console.warn(`key ${this.kid} has half of its uses behind it: time for a new one`);
    }
  }

  static async #of(kid, secret) {
    if (!KID.test(kid)) throw new RangeError(`key id ${String(kid).slice(0, 64)} has to match ${KID.source}`);
    if (secret.length !== KEY_BYTES) {
      throw new RangeError(`key ${kid}: a key has ${KEY_BYTES} bytes, this has ${secret.length}`);
    }
    return new Key(kid, await subtle().importKey("raw", secret, "AES-GCM", true, ["encrypt", "decrypt"]));
  }
}

/** The keys of a room: it opens with all of them and seals with the one that was added last. */
export class Keyring {
  #keys = new Map();
  #newest = null;

  /** @param {Iterable<Key>} [keys] */
  constructor(keys = []) {
    for (const key of keys) this.add(key);
  }

  /** The key that seals. @returns {Key|null} */
  get newest() {
    return this.#newest;
  }

  /** Seal with `key` from now on; the others go on opening what they sealed. @param {Key} key */
  add(key) {
    this.#keys.set(key.kid, key);
    this.#newest = key;
  }

  /** Open nothing with that key any more. What seals cannot be forgotten. @param {string} kid */
  forget(kid) {
    if (this.#newest?.kid === kid) throw new RangeError(`key ${kid} seals; add the next one first`);
    return this.#keys.delete(kid);
  }

  /**
   * What is sent in place of `content`.
   *
   * @param {any} content
   * @param {{ tenant: string, room: string, sender: string|null, type: string }} place where the message
   *        stands, and whose it is; the server's own has no sender
   */
  async seal(content, place) {
    const key = this.#newest;
    if (!key) throw new RealtimeError("cannot_seal", "there is no key to seal with");
    const text = JSON.stringify(content ?? null);
    if (text === undefined) throw new RealtimeError("cannot_seal", "the content is nothing that JSON can say");
    const [nonce, ciphertext] = await key._seal(utf8.encode(text), bound(place, key.kid));
    return { sealed: { v: VERSION, kid: key.kid, nonce: toBase64(nonce), ct: toBase64(ciphertext) } };
  }

  /** What was sealed, or an `Unreadable`. It rejects over nothing that came. */
  async open(content, place) {
    const isAlone = content !== null && typeof content === "object" && Object.keys(content).length === 1;
    const { v, kid, nonce, ct } = (isAlone && content.sealed) || {};
    if (v !== VERSION || typeof kid !== "string") return new Unreadable("not_sealed", null, content);
    const key = this.#keys.get(kid);
    if (!key) return new Unreadable("unknown_key", kid, content);
    const [iv, ciphertext] = [nonce, ct].map((text) => (isBase64(text) ? fromBase64(text) : null));
    if (iv?.length === NONCE_BYTES && ciphertext) {
      const plain = await key._open(iv, ciphertext, bound(place, kid));
      try {
        if (plain) return JSON.parse(fromUtf8.decode(plain));
      } catch (error) {
        // Of somebody who has the key and seals no JSON: as broken as anything else that cannot be read.
        if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
      }
    }
    return new Unreadable("broken", kid, content);
  }
}

/** The associated data: each part as UTF-8 behind its length (four bytes, big-endian). */
function bound({ tenant, room, sender, type }, kid) {
  const parts = [CONTEXT, String(VERSION), tenant, room, sender ?? "", type, kid].map((text) => utf8.encode(text));
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + 4 + part.length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.length);
    bytes.set(part, at + 4);
    at += 4 + part.length;
  }
  return bytes;
}

function subtle() {
  if (!globalThis.crypto?.subtle) {
    throw new RealtimeError("cannot_seal", "browsers have WebCrypto on https and localhost alone");
  }
  return crypto.subtle;
}

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function isBase64(text) {
  return typeof text === "string" && /^[A-Za-z0-9_-]*$/.test(text) && text.length % 4 !== 1;
}

function fromBase64(text) {
  if (!isBase64(text)) throw new RangeError("this is no base64url");
  return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (sign) => sign.charCodeAt(0));
}

/**
 * Files on their way to a room: asked for by `chat_upload`, sent by tus 1.0 in chunks, and gone on with where
 * they stopped when the connection comes back.
 */

import { backoffMs } from "./reconnect.js";
import { Emitter, RealtimeError } from "./room.js";

const CHUNK_BYTES = 4 * 1024 * 1024;
const TRIES_MAX = 8;
const BACKOFF = { min: 300, max: 1_000 };
const BACKOFF_CAP_MS = 15_000;
const TUS = { "Tus-Resumable": "1.0.0" };

/** One file. `state`: "starting", "sending", "waiting" (it goes on by itself), "done", "failed".
 *  Event: change (). */
export class Upload extends Emitter {
  #room;
  #url = null;
  #request = null;
  #ended = false;

  /** @param {import("./chat.js").ChatRoom} room @param {File} file */
  constructor(room, file) {
    super();
    this.#room = room;
    this.file = file;
    this.state = "starting";
    this.sentBytes = 0;
    /** @type {Error|null} */
    this.error = null;
    /** What a message refers to it by. */
    this.attachment = null;
    /** Resolves when it is done; rejects where it failed or was cancelled. */
    this.finished = this.#run();
    this.finished.catch(() => {}); // shown by its state
  }

  /** Give it up, also at the server. */
  cancel() {
    this.#ended = true;
    this.#request?.abort();
    if (this.#url && this.state !== "done") {
      fetch(this.#url, { method: "DELETE", headers: TUS }).catch(() => {}); // it is collected anyway
    }
  }

  async #run() {
    try {
      await this.#begin();
      await this.#send();
      this.#become("done");
      return this.attachment;
    } catch (error) {
      this.error = error;
      this.#become("failed");
      throw error;
    }
  }

  async #begin() {
    const { name, size, type } = this.file;
    for (let tries = 0; ; tries++) {
      try {
        const content = { name, bytes: size, ...(type ? { type } : {}) };
        const { id, url } = await this.#room.ask("chat_upload", content);
        this.#url = new URL(url, location.href).href;
        this.attachment = { id, name, type, bytes: size };
        return;
      } catch (error) {
        if (!error.temporary || tries >= TRIES_MAX || this.#ended) throw error;
        await this.#pause(tries, error.retryAfterS);
      }
    }
  }

  async #send() {
    let tries = 0;
    while (this.sentBytes < this.file.size) {
      if (this.#ended) throw new RealtimeError("closed", "cancelled");
      this.#become("sending");
      try {
        await this.#chunk();
        tries = 0;
      } catch (error) {
        if (!error.temporary || ++tries > TRIES_MAX || this.#ended) throw error;
        await this.#pause(tries, error.retryAfterS);
        await this.#resume();
      }
    }
  }

  /** Send the next part. fetch does not tell how far it is. */
  #chunk() {
    const from = this.sentBytes;
    const part = this.file.slice(from, from + CHUNK_BYTES);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request = request;
      request.open("PATCH", this.#url);
      const headers = { ...TUS, "Upload-Offset": String(from), "Content-Type": "application/offset+octet-stream" };
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded }) => this.#progress(from + Math.min(loaded, part.size));
      request.onload = () => {
        const offset = Number(request.getResponseHeader("Upload-Offset"));
        if (request.status >= 300 || !(offset > from)) reject(refusal(request.status, request.responseText));
        else resolve(this.#progress(offset));
      };
      request.onerror = () => reject(lost("the connection is lost"));
      request.onabort = () => reject(new RealtimeError("closed", "cancelled"));
      request.send(part);
    });
  }

  /** Ask how much the server has. */
  async #resume() {
    let answer;
    try {
      answer = await fetch(this.#url, { method: "HEAD", headers: TUS });
    } catch {
      return; // not back yet: the next chunk fails, and waits longer
    }
    const offset = Number(answer.headers.get("Upload-Offset"));
    if (answer.ok && Number.isInteger(offset)) this.#progress(offset);
    else if (answer.status === 404 || answer.status === 410) throw refusal(answer.status, "the upload is gone");
  }

  async #pause(tries, afterS) {
    this.#become("waiting");
    const waitMs = afterS ? afterS * 1000 : backoffMs(tries, BACKOFF, BACKOFF_CAP_MS, Math.random);
    await new Promise((resolve) => {
      setTimeout(resolve, waitMs);
      addEventListener("online", resolve, { once: true });
    });
  }

  #progress(bytes) {
    this.sentBytes = bytes;
    this._emit("change");
  }

  #become(state) {
    this.state = state;
    this._emit("change");
  }
}

function refusal(status, text) {
  // 409: the offsets differ, so ask again; 423: locked by the request that was lost.
  const temporary = status >= 500 || [0, 408, 409, 423, 425, 429].includes(status);
  return new RealtimeError("upload", wordsOf(text) || `the server refuses the file (${status})`, { temporary });
}

function wordsOf(text) {
  try { return JSON.parse(text).message ?? ""; } catch { return String(text ?? "").slice(0, 200).trim(); }
}

function lost(text) {
  return new RealtimeError("disconnected", text, { temporary: true });
}

/** Files of messages: thumbnails that are fetched when they come into view, a large view, downloads. */

import { attempt } from "./dialogs.js";
import { bytesText } from "./format.js";
import { icon } from "./icons.js";
import { el } from "./parts.js";

const LINKS_MAX = 500;
const EARLY_MS = 30_000;
const THUMBNAIL_PX = { width: 280, height: 210 };
/** What is shown as an image; SVG is a document, and never is. */
const IMAGES = /^image\/(png|jpeg|gif|webp|avif)$/u;

export class Files {
  #links = new Map(); // id → { promise, untilMs }
  #seen = new IntersectionObserver((entries) => this.#onSeen(entries), { rootMargin: "200px" });
  #waiting = new WeakMap(); // node → how to load it

  /** The nodes of a message's files. @param {import("./chat.js").ChatRoom} room */
  nodes(room, attachments) {
    return attachments.map((file) => (IMAGES.test(file.type ?? "") ? this.#image(room, file) : this.#file(room, file)));
  }

  /** Signed addresses of a file; they end, so they are asked for again. */
  link(room, id) {
    const known = this.#links.get(id);
    if (known && known.untilMs > Date.now()) return known.promise;
    const entry = { untilMs: Date.now() + EARLY_MS, promise: null };
    entry.promise = room.ask("chat_attachment", { id }).then((found) => {
      const untilMs = Date.parse(found.expires_at);
      if (untilMs) entry.untilMs = untilMs - EARLY_MS;
      return found;
    });
    entry.promise.catch(() => this.#links.delete(id));
    this.#links.set(id, entry);
    if (this.#links.size > LINKS_MAX) this.#links.delete(this.#links.keys().next().value);
    return entry.promise;
  }

  #image(room, file) {
    const { width, height } = fitted(file);
    const image = el("img", { alt: file.name ?? "image", width, height, decoding: "async" });
    const node = el("button", { type: "button", class: "picture", "aria-label": `Open ${file.name ?? "image"}` }, image);
    node.addEventListener("click", () => attempt(() => this.#enlarge(room, file)));
    this.#waiting.set(node, async () => {
      const { thumbnail, url } = await this.link(room, file.id);
      image.src = new URL(thumbnail ?? url, location.href).href;
    });
    this.#seen.observe(node);
    return node;
  }

  #file(room, file) {
    const node = el("button", { type: "button", class: "file" }, icon("file", 22),
      el("span", { class: "file-words" },
        el("span", { class: "file-name" }, file.name ?? "file"),
        el("span", { class: "file-size" }, bytesText(file.bytes))),
      el("span", { class: "visually-hidden" }, "Download"));
    node.addEventListener("click", () => attempt(() => this.#download(room, file)));
    return node;
  }

  #onSeen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      this.#seen.unobserve(target);
      this.#waiting.get(target)?.().catch((error) => {
        target.classList.add("lost");
        target.title = error.message;
      });
    }
  }

  async #download(room, file) {
    const { url } = await this.link(room, file.id);
    const link = el("a", { href: new URL(url, location.href).href, download: file.name ?? "", rel: "noopener" });
    document.body.append(link);
    link.click();
    link.remove();
  }

  async #enlarge(room, file) {
    const { url } = await this.link(room, file.id);
    const dialog = el("dialog", { class: "lightbox", "aria-label": file.name ?? "image" });
    const close = el("button", { type: "button", class: "icon-button", "aria-label": "Close" }, icon("close", 22));
    const save = el("button", { type: "button", class: "ghost" }, "Download");
    dialog.append(
      el("div", { class: "lightbox-bar" }, el("span", { class: "lightbox-name" }, file.name ?? ""), save, close),
      el("img", { src: new URL(url, location.href).href, alt: file.name ?? "image" }));
    close.addEventListener("click", () => dialog.close());
    save.addEventListener("click", () => attempt(() => this.#download(room, file)));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }
}

/** How large a thumbnail is shown: known before it is here, so that nothing jumps. */
function fitted({ width, height }) {
  if (!(width > 0 && height > 0)) return THUMBNAIL_PX;
  const scale = Math.min(1, THUMBNAIL_PX.width / width, THUMBNAIL_PX.height / height);
  return { width: Math.max(40, Math.round(width * scale)), height: Math.max(40, Math.round(height * scale)) };
}

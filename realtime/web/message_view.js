/** One message as an element, made anew where it has changed. */

import { isSealed } from "./chat_room.js";
import { formatted, plainText } from "./format.js";
import { icon } from "./icons.js";
import { avatar, count, el, hueOf, isEmoji, timeElement } from "./parts.js";
import { Unreadable } from "./seal.js";

const UNREADABLE = {
  not_sealed: (said) => `⚠️ not sealed, so it may be anybody's: ${said?.text ?? ""}`,
  unknown_key: () => "🔒 sealed with a key that is not ours",
  broken: () => "🔒 cannot be read: sealed with another secret, or changed on the way",
};

export class MessageView {
  /** @param {{ me: string, files: import("./attachments.js").Files,
   *            act: (what: string, message: any, value?: any) => void }} context */
  constructor(context) {
    this.context = context;
  }

  /** @param {import("./chat.js").ChatRoom} room */
  make(room, message) {
    const own = message.from === this.context.me;
    const at = new Date(message.at);
    const node = el("li", { class: "message first last", tabindex: "-1" },
      avatar(message.from),
      el("div", { class: "byline" }, el("span", { class: "who" }, own ? "You" : message.from), timeElement(at, "")),
      el("div", { class: "stack" }),
      timeElement(at, "side-time"));
    node.classList.toggle("own", own);
    node.style.setProperty("--hue", hueOf(message.from));
    Object.assign(node.dataset, { from: message.from, at: message.at, key: message.key });
    this.fill(node, room, message);
    return node;
  }

  /** Show a message as it stands now in the node that `make` made for it. */
  fill(node, room, message) {
    const parts = message.deleted ? [el("div", { class: "bubble gone" }, "This message was deleted.")]
      : message.hidden && !message.text ? [el("div", { class: "bubble gone" }, "A moderator has hidden this message.")]
      : this.#parts(room, message);
    node.querySelector(".stack").replaceChildren(...parts.filter(Boolean));
    node.classList.toggle("emoji", !message.deleted && isEmoji(message.text));
    node.classList.toggle("for-me", room.isForMe?.(message) ?? false);
    node.classList.toggle("is-hidden", message.hidden);
  }

  #parts(room, message) {
    const text = textOf(message);
    const body = text || !message.attachments.length
      ? el("div", { class: "bubble", dir: "auto" }, ...formatted(text, entitiesOf(message), this.context.me)) : null;
    return [
      message.reply_to ? this.#quote(room, message, message.reply_to) : null,
      message.thread && !message.reply_to ? this.#quote(room, message, message.thread) : null,
      body,
      message.attachments.length
        ? el("div", { class: "files" }, ...this.context.files.nodes(room, message.attachments)) : null,
      this.#marks(room, message),
      this.#reactions(room, message),
      message.replies ? this.#threadLink(message) : null,
    ];
  }

  #quote(room, message, id) {
    const origin = room.window.get(id) ?? null;
    const words = origin === null ? "an earlier message"
      : origin.deleted ? "a message that was deleted" : plainText(origin) || "a file";
    const ofThread = id === message.thread;
    const node = el("button", { type: "button", class: ofThread ? "quote of-thread" : "quote", tabindex: "-1" },
      icon(ofThread ? "thread" : "reply", 14),
      origin ? el("span", { class: "quote-who" }, origin.from) : null, el("span", { class: "quote-text" }, words));
    node.addEventListener("click", () => this.context.act(ofThread ? "open-thread" : "jump", message, id));
    return node;
  }

  #marks(room, message) {
    const marks = [];
    if (message.edited_at) {
      const node = el("button", { type: "button", class: "mark-button", tabindex: "-1" }, "edited");
      node.addEventListener("click", () => this.context.act("edits", message));
      marks.push(node);
    }
    if (message.pinned) marks.push(el("span", {}, icon("pin", 13), "pinned"));
    if (message.hidden) marks.push(el("span", {}, icon("eye", 13), "hidden from others"));
    if (message.expires_at) marks.push(el("span", {}, `until ${timeElement(new Date(message.expires_at)).textContent}`));
    return marks.length ? el("p", { class: "marks", "aria-live": "off" }, ...marks) : null;
  }

  #reactions(room, message) {
    const nodes = Object.entries(message.reactions).map(([emoji, { count: times, mine }]) => {
      const label = `${emoji} ${times}${mine ? ", yours" : ""}`;
      const node = el("button", {
        type: "button", class: "reaction", tabindex: "-1", "aria-pressed": String(mine), "aria-label": label,
      }, el("span", { class: "glyph" }, emoji), el("span", { class: "count" }, times.toLocaleString()));
      node.addEventListener("click", () => this.context.act("react", message, emoji));
      return node;
    });
    return nodes.length ? el("div", { class: "reactions", "aria-live": "off" }, ...nodes) : null;
  }

  #threadLink(message) {
    const node = el("button", { type: "button", class: "thread-link", tabindex: "-1", "aria-live": "off" },
      icon("thread", 15), count(message.replies, "reply", "replies"));
    node.addEventListener("click", () => this.context.act("thread", message));
    return node;
  }

  /** What is on its way, with its state under it. */
  pending(room, pending, online) {
    const message = {
      ...BLANK, key: pending.key, from: pending.from, at: pending.at, text: pending.text, room: room.name,
      reply_to: pending.content.reply_to ?? null, content: pending.content,
    };
    const node = this.make(room, message);
    const state = el("span", { class: "state" });
    for (const { name } of pending.attachments ?? []) {
      node.querySelector(".stack").append(el("div", { class: "file still" }, icon("file", 18), name));
    }
    if (pending.state === "failed") {
      node.classList.add("failed");
      state.append(`Not sent: ${pending.error.message}. `,
        this.#button("Try again", () => room.resend(pending)), this.#button("Discard", () => room.discard(pending)));
    } else {
      state.textContent = online ? "" : "Waiting for the connection";
    }
    node.append(state);
    return node;
  }

  #button(text, act) {
    const node = el("button", { type: "button", class: "link" }, text);
    node.addEventListener("click", act);
    return node;
  }
}

const BLANK = {
  id: null, attachments: [], entities: [], mentions: [], here: false, reactions: {}, replies: 0, pinned: false,
  deleted: false, hidden: false, edited_at: null, expires_at: null, thread: null, rev: 0,
};

/** What is shown of a message, with words in place of what cannot be read. */
export function textOf(message) {
  const { content } = message;
  if (content instanceof Unreadable) return UNREADABLE[content.why](content.content);
  if (isSealed(message)) return "🔒 sealed: come in with the secret to read it";
  return message.text;
}

function entitiesOf(message) {
  return message.content instanceof Unreadable ? [] : message.entities;
}

/**
 * Where messages are written: text that grows, files with their progress, completion of @names,
 * and a line above it that says what is being answered or edited.
 */

import { showEmoji, toast } from "./dialogs.js";
import { bytesText, plainText } from "./format.js";
import { icon } from "./icons.js";
import { avatar, el } from "./parts.js";
import { Upload } from "./uploads.js";

const TYPING_SEND_MS = 2_500;
const FILES_MAX = 10;
const NAMES_SHOWN = 6;
const CALL = /(?:^|[^\w@./])@([\p{L}\p{N}._:-]*)$/u;

export class Composer {
  #uploads = [];
  #typedMs = -Infinity;
  #mode = null; // { kind: "reply" | "edit", message }
  #names = []; // offered now
  #chosen = 0;
  #draft = "";

  /** @param {{ ids?: boolean, label: string, room(): any, names(): string[],
   *            send(text: string, attachments: any[], mode: any): boolean, editLast?(): void,
   *            files?: boolean }} options  `ids`: it is the page's main one */
  constructor({ ids = false, label, room, names, send, editLast = () => {}, files = true }) {
    this.options = { room, names, send, editLast };
    const prefix = ids ? "" : "thread-";
    this.text = el("textarea", {
      id: `${prefix}text`, rows: "1", placeholder: label, enterkeyhint: "send", autocomplete: "off",
      role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": `${prefix}names`,
    });
    this.button = el("button", { id: `${prefix}send`, class: "send", type: "submit", disabled: "" },
      icon("send", 20), el("span", { class: "visually-hidden" }, "Send"));
    this.chips = el("ul", { class: "chips", "aria-label": "Files to send", hidden: "" });
    this.about = el("div", { class: "about-draft", hidden: "" });
    this.list = el("ul", { id: `${prefix}names`, class: "names", role: "listbox", "aria-label": "Names", hidden: "" });
    this.picker = el("input", { type: "file", multiple: "", hidden: "", tabindex: "-1", "aria-label": "Files" });
    this.attach = tool("attach", "Attach files", () => this.picker.click());
    this.attach.hidden = !files;
    const smile = tool("smile", "Emoji", () => showEmoji(smile, (emoji) => this.insert(emoji)));
    this.form = el("form", { id: ids ? "composer" : "thread-composer", class: "composer" },
      this.about, this.chips, this.list,
      el("div", { class: "composer-row" }, this.attach, smile,
        el("label", { class: "visually-hidden", for: `${prefix}text` }, label), this.text, this.button, this.picker));
    this.#listen();
  }

  #listen() {
    const { form, text, picker } = this;
    form.addEventListener("submit", (event) => { event.preventDefault(); this.#submit(); });
    text.addEventListener("input", () => this.#onInput());
    text.addEventListener("keydown", (event) => this.#onKey(event));
    text.addEventListener("blur", () => this.#offer([]));
    text.addEventListener("paste", (event) => {
      const { files } = event.clipboardData;
      if (!files.length || this.attach.hidden) return;
      event.preventDefault();
      this.addFiles(files);
    });
    picker.addEventListener("change", () => {
      this.addFiles(picker.files);
      picker.value = "";
    });
  }

  focus() {
    this.text.focus();
  }

  /** Forget what was being written: another room. */
  clear() {
    for (const { upload } of this.#uploads) upload.cancel();
    this.#uploads = [];
    this.#setMode(null);
    this.text.value = "";
    this.#drawFiles();
    this.#onInput({ quiet: true });
  }

  insert(words) {
    this.text.focus();
    const { selectionStart, selectionEnd } = this.text;
    this.text.setRangeText(words, selectionStart, selectionEnd, "end");
    this.#onInput();
  }

  answer(message) {
    this.#setMode({ kind: "reply", message });
    this.focus();
  }

  edit(message) {
    this.#draft = this.text.value;
    this.#setMode({ kind: "edit", message });
    this.text.value = message.text;
    this.#onInput({ quiet: true });
    this.focus();
    this.text.setSelectionRange(this.text.value.length, this.text.value.length);
  }

  #setMode(mode) {
    if (this.#mode?.kind === "edit" && mode === null) {
      this.text.value = this.#draft;
      this.#draft = "";
    }
    this.#mode = mode;
    this.about.hidden = mode === null;
    if (mode === null) return;
    const { kind, message } = mode;
    const cancel = el("button", { type: "button", class: "icon-button", "aria-label": "Cancel" }, icon("close", 16));
    cancel.addEventListener("click", () => this.#cancel());
    this.about.replaceChildren(icon(kind, 16),
      el("span", { class: "about-words" }, kind === "edit" ? "Editing your message" : `Answering ${message.from}: `,
        kind === "edit" ? null : el("span", { class: "quote-text" }, plainText(message) || "a file")),
      cancel);
  }

  #cancel() {
    this.#setMode(null);
    this.#onInput({ quiet: true });
    this.focus();
  }

  #submit() {
    const text = this.text.value.trim();
    const waiting = this.#uploads.find(({ upload }) => upload.state !== "done");
    if (waiting) {
      toast(waiting.upload.state === "failed" ? "Remove the file that failed first" : "The files are still on their way");
      return;
    }
    const attachments = this.#uploads.map(({ upload }) => upload.attachment);
    if (!text && !attachments.length) return;
    if (!this.options.send(text, attachments, this.#mode)) return;
    this.#draft = "";
    this.#uploads = [];
    this.#setMode(null);
    this.text.value = "";
    this.#drawFiles();
    this.#onInput({ quiet: true });
    if (this.#typedMs > 0) this.options.room()?.type(false);
    this.#typedMs = -Infinity;
  }

  #onInput({ quiet = false } = {}) {
    const { text } = this;
    this.#drawButton();
    if (!CSS.supports("field-sizing", "content")) {
      text.style.height = "auto";
      text.style.height = `${text.scrollHeight + 2}px`;
    }
    this.#complete();
    const nowMs = performance.now();
    if (quiet || !text.value || nowMs - this.#typedMs <= TYPING_SEND_MS) return;
    this.#typedMs = nowMs;
    this.options.room()?.type();
  }

  #drawButton() {
    const ready = this.#uploads.every(({ upload }) => upload.state === "done");
    this.button.disabled = (this.text.value.trim() === "" && this.#uploads.length === 0) || !ready;
  }

  #onKey(event) {
    // isComposing: Enter also ends the input of Chinese, Japanese and Korean words.
    if (event.isComposing) return;
    if (this.#names.length && this.#onNamesKey(event)) return;
    if (event.key === "Escape" && this.#mode) {
      event.stopPropagation();
      this.#cancel();
    } else if (event.key === "ArrowUp" && this.text.value === "" && !this.#mode) {
      event.preventDefault();
      this.options.editLast();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    }
  }

  // --- completion of names ------------------------------------------------------------------------

  #complete() {
    const { text } = this;
    const before = text.value.slice(0, text.selectionStart);
    const call = CALL.exec(before)?.[1];
    if (call === undefined || document.activeElement !== text) {
      this.#offer([]);
      return;
    }
    const wanted = call.toLowerCase();
    const names = ["here", ...this.options.names()].filter((name) => name.toLowerCase().startsWith(wanted));
    this.#offer(names.slice(0, NAMES_SHOWN), call.length);
  }

  #offer(names, typed = 0) {
    this.#names = names.map((name) => ({ name, typed }));
    this.#chosen = 0;
    this.list.hidden = names.length === 0;
    this.text.setAttribute("aria-expanded", String(names.length > 0));
    this.list.replaceChildren(...names.map((name, index) => {
      const node = el("li", { id: `${this.list.id}-${index}`, role: "option" },
        name === "here" ? el("span", { class: "avatar here", "aria-hidden": "true" }, "@") : avatar(name), name);
      node.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        this.#take(index);
      });
      return node;
    }));
    this.#showChosen();
  }

  #showChosen() {
    for (const [index, node] of [...this.list.children].entries()) {
      node.setAttribute("aria-selected", String(index === this.#chosen));
    }
    if (this.#names.length) this.text.setAttribute("aria-activedescendant", `${this.list.id}-${this.#chosen}`);
    else this.text.removeAttribute("aria-activedescendant");
  }

  #onNamesKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      this.#chosen = (this.#chosen + step + this.#names.length) % this.#names.length;
      this.#showChosen();
    } else if (event.key === "Enter" || event.key === "Tab") {
      this.#take(this.#chosen);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this.#offer([]);
    } else {
      return false;
    }
    event.preventDefault();
    return true;
  }

  #take(index) {
    const { name, typed } = this.#names[index];
    const end = this.text.selectionStart;
    const words = /^\w[\w.:-]*$/u.test(name) ? name : `{${name}}`; // so that a name with blanks is one
    this.text.setRangeText(`${words} `, end - typed, end, "end");
    this.#offer([]);
    this.#onInput();
  }

  // --- files --------------------------------------------------------------------------------------

  /** Begin to send files at once; the message that refers to them follows. */
  addFiles(files) {
    const room = this.options.room();
    if (!room || this.attach.hidden) return;
    for (const file of files) {
      if (this.#uploads.length >= FILES_MAX) {
        toast(`A message takes ${FILES_MAX} files at most`, { tone: "bad" });
        break;
      }
      const upload = new Upload(room, file);
      this.#uploads.push({ upload, ...this.#chip(upload) });
      upload.on("change", () => this.#drawFile(upload));
    }
    this.#drawFiles();
    this.focus();
  }

  #chip(upload) {
    const progress = el("progress", { max: "1", value: "0", "aria-label": `Sending ${upload.file.name}` });
    const state = el("span", { class: "chip-state" }, bytesText(upload.file.size));
    const drop = el("button", { type: "button", class: "icon-button", "aria-label": `Remove ${upload.file.name}` },
      icon("close", 14));
    const node = el("li", { class: "chip" }, icon("file", 18),
      el("span", { class: "chip-words" }, el("span", { class: "file-name" }, upload.file.name), state), progress, drop);
    drop.addEventListener("click", () => {
      upload.cancel();
      this.#uploads = this.#uploads.filter((one) => one.upload !== upload);
      this.#drawFiles();
      this.focus();
    });
    return { node, progress, state };
  }

  #drawFile(upload) {
    const entry = this.#uploads.find((one) => one.upload === upload);
    if (!entry) return;
    const { node, progress, state } = entry;
    const { size } = upload.file;
    node.dataset.state = upload.state;
    progress.value = upload.state === "done" ? 1 : size ? upload.sentBytes / size : 0;
    state.textContent = {
      starting: "Preparing…",
      sending: `${Math.floor(progress.value * 100)} % of ${bytesText(size)}`,
      waiting: "Goes on when the connection is back",
      done: bytesText(size),
      failed: upload.error?.message ?? "failed",
    }[upload.state];
    this.#drawButton();
  }

  #drawFiles() {
    this.chips.hidden = this.#uploads.length === 0;
    this.chips.replaceChildren(...this.#uploads.map(({ node }) => node));
    this.#drawButton();
  }
}

function tool(name, label, act) {
  const node = el("button", { type: "button", class: "icon-button composer-tool", "aria-label": label }, icon(name, 20));
  node.addEventListener("click", act);
  return node;
}

/** What drops onto a node goes to a composer. @param {() => Composer|null} composer */
export function takeDrops(node, composer, signal) {
  let inside = 0;
  const show = (on) => node.classList.toggle("dropping", on);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files") && composer() !== null;
  const on = (name, listener) => node.addEventListener(name, (event) => hasFiles(event) && listener(event), { signal });
  on("dragenter", () => { inside += 1; show(true); });
  on("dragleave", () => { inside -= 1; show(inside > 0); });
  on("dragover", (event) => event.preventDefault());
  on("drop", (event) => {
    event.preventDefault();
    inside = 0;
    show(false);
    composer()?.addFiles(event.dataTransfer.files);
  });
}


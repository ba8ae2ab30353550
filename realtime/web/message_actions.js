/** What people do with a message, and with themselves: the menus and what they lead to. */

import { attempt, confirmed, field, openDialog, showEmoji, showMenu, toast } from "./dialogs.js";
import { avatar, el, timeElement } from "./parts.js";

const STATUSES = [["online", "Online"], ["away", "Away"], ["busy", "Busy"], ["invisible", "Invisible"]];

export class MessageActions {
  /** @param {import("./visit.js").Visit} visit */
  constructor(visit) {
    this.visit = visit;
  }

  act(what, message, value) {
    const { visit } = this;
    if (what === "react") this.react(message, value);
    else if (what === "thread") visit.openThread(message);
    else if (what === "open-thread") visit.openThread(visit.room.window.get(value) ?? { ...message, id: value, key: value });
    else if (what === "jump") visit.jump({ id: value });
    else if (what === "edits") attempt(() => this.#showEdits(message));
  }

  react(message, emoji) {
    const mine = message.reactions[emoji]?.mine ?? false;
    return attempt(() => this.visit.room.react(message.id, emoji, !mine));
  }

  /** From the tools beside a message. */
  quick(what, message, node) {
    if (what === "reply") this.visit.composer.answer(message);
    else showEmoji(node, (emoji) => this.react(message, emoji));
  }

  /** What can be done with a message. */
  menu(message, node, at = null) {
    if (!message) return;
    const { room } = this.visit;
    const items = room.plain || !message.id ? [this.#copy(message)] : this.#items(message, room);
    const reactions = room.plain || !message.id || message.deleted ? null : (emoji) => this.react(message, emoji);
    showMenu(node, items, { label: "Message actions", reactions, at });
  }

  #items(message, room) {
    const { visit } = this;
    if (message.deleted) return [{ label: "Open thread", icon: "thread", act: () => visit.openThread(message) }];
    const own = message.from === visit.me;
    const items = [
      { label: "Reply", icon: "reply", act: () => visit.composer.answer(message) },
      message.thread ? null : { label: "Reply in thread", icon: "thread", act: () => visit.openThread(message) },
      own ? { label: "Edit", icon: "edit", act: () => visit.composer.edit(message) } : null,
      this.#copy(message),
      room.moderates || room.about.visibility === "direct" ? { label: message.pinned ? "Unpin" : "Pin", icon: "pin",
        act: () => attempt(() => room.pin(message.id, !message.pinned)) } : null,
    ].filter(Boolean);
    const rest = [
      own ? null : { label: "Report", icon: "flag", act: () => this.#report(message) },
      room.moderates ? { label: message.hidden ? "Show to all again" : "Hide from others", icon: "eye",
        act: () => attempt(() => room.hide(message.id, !message.hidden)) } : null,
      own || room.moderates ? { label: "Delete", icon: "trash", danger: true, act: () => this.#delete(message) } : null,
      room.moderates ? { label: "Reports…", icon: "flag", act: () => visit.showReports() } : null,
    ].filter(Boolean);
    return rest.length ? [...items, null, ...rest] : items;
  }

  #copy(message) {
    return { label: "Copy text", icon: "copy", act: async () => {
      try {
        await navigator.clipboard.writeText(message.text);
        toast("Copied");
      } catch {
        prompt("The text of this message:", message.text); // the clipboard exists on https and localhost only
      }
    } };
  }

  #delete(message) {
    const { room } = this.visit;
    return confirmed("Delete this message?", "Others see that there was one.", "Delete", () => room.remove(message.id));
  }

  async #report(message) {
    const reason = field("What is wrong with it", { required: "", maxlength: "500", autofocus: "" }, "textarea");
    const { room } = this.visit;
    const done = await openDialog({
      title: "Report this message", action: "Report", fill: (form) => form.append(reason.node),
      submit: () => room.report(message.id, reason.input.value.trim()),
    });
    if (done) toast("Reported to the moderators");
  }

  async #showEdits(message) {
    const edits = await this.visit.room.edits(message.id);
    const rows = edits.map(({ text, at }) =>
      el("li", {}, el("p", { class: "edit-text" }, text), timeElement(new Date(at), "edit-time")));
    await openDialog({
      title: "What it said before", wide: true,
      fill: (form) => form.append(el("ul", { class: "edits" }, ...rows)),
    });
  }

  async sureToQuit(room) {
    const { chat } = this.visit;
    return confirmed(`Leave ${room.title}?`, room.about.visibility === "public"
      ? "You can come back at any time." : "You come back only where somebody invites you again.",
    "Leave", () => chat.quit(room.name));
  }

  // --- ourselves ----------------------------------------------------------------------------------

  showMe() {
    const { visit } = this;
    const { status = "online", text = "" } = visit.chat.statuses.get(visit.me) ?? {};
    const face = avatar(visit.me);
    face.dataset.status = status;
    document.getElementById("me-avatar").replaceChildren(face);
    document.getElementById("me-name").textContent = visit.me;
    document.getElementById("me-status").textContent = text || STATUSES.find(([name]) => name === status)?.[1] || status;
  }

  ownMenu(anchor) {
    const { visit } = this;
    const { status = "online", text = "" } = visit.chat.statuses.get(visit.me) ?? {};
    showMenu(anchor, [
      ...STATUSES.map(([name, label]) => ({ label, checked: name === status, act: () => this.#setStatus(name, text) })),
      { label: "Status text…", icon: "edit", act: () => this.#askStatusText(status, text) },
      null,
      { label: "Notify me of mentions", icon: "bell", act: () => askToNotify() },
      { label: "Sign out", icon: "close", act: () => visit.signOut() },
    ], { label: "You" });
  }

  #setStatus(status, text) {
    return attempt(async () => {
      await this.visit.chat.setStatus(status, text);
      this.showMe();
    });
  }

  async #askStatusText(status, text) {
    const words = field("Status text", { maxlength: "80", value: text, autofocus: "" });
    await openDialog({
      title: "What are you doing?", action: "Save", fill: (form) => form.append(words.node),
      submit: async () => {
        await this.visit.chat.setStatus(status, words.input.value.trim());
        this.showMe();
      },
    });
  }

  /** Somebody has named us. */
  called(room, message) {
    const { visit } = this;
    if (room === visit.room && !document.hidden && visit.timeline.atEnd) return;
    const title = `${message.from} in ${visit.nav.titleOf(room.about)}`;
    const go = () => visit.jump(message);
    if (document.hidden && globalThis.Notification?.permission === "granted") {
      const note = new Notification(title, { body: message.text.slice(0, 200), tag: message.key });
      note.addEventListener("click", () => { focus(); note.close(); go(); });
    } else {
      toast(`${title}: ${message.text.slice(0, 120)}`, { act: go });
    }
  }
}

async function askToNotify() {
  if (!globalThis.Notification) toast("This browser has no notifications here.");
  else if (await Notification.requestPermission() === "granted") toast("You will be notified of mentions.");
  else toast("The browser does not allow notifications.");
}

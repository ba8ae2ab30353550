/** Who is in a room and what they may do there, what the room is, and what may be changed about it. */

import { attempt, choice, confirmed, field, openDialog, showMenu, toast } from "./dialogs.js";
import { icon } from "./icons.js";
import { avatar, count, el } from "./parts.js";

const SHOWN_MAX = 200;
const ROLES = [["owner", "Owner"], ["moderator", "Moderator"], ["member", "Member"], ["reader", "May only read"]];
const RANK = { owner: 0, moderator: 1, member: 2, reader: 3 };
const WORDS = { online: "online", away: "away", busy: "busy", offline: "offline", invisible: "offline" };
const BAN_S = 24 * 3600;
const MUTE_S = 3600;

export class PeoplePane {
  #chat;
  #room = null;
  #members = []; // of the tables; empty where there are none
  #here = [];
  #asked = null;

  /** @param {import("./chat.js").Chat} chat @param {{ go(room: string): void }} handlers */
  constructor(chat, handlers, signal) {
    this.#chat = chat;
    this.handlers = handlers;
    const end = chat.on("presence", () => this.draw());
    signal.addEventListener("abort", end);
  }

  show(room) {
    this.#room = room;
    this.#members = [];
    this.#here = room?.room.members ?? [];
    this.#asked = null;
    this.draw();
    this.refresh();
  }

  /** Who is connected now. */
  setHere(users) {
    this.#here = users;
    this.draw();
  }

  /** Ask who the members are, and what they are doing. */
  async refresh() {
    const room = this.#room;
    if (!room || room.plain) return;
    try {
      const members = await room.members();
      if (room !== this.#room) return;
      this.#members = members;
      for (const { user, read_id: read } of members) if (read) room.reads.set(user, read);
      this.draw();
      const users = this.names.filter((user) => user !== this.#chat.me);
      const asked = JSON.stringify(users);
      if (users.length && asked !== this.#asked) await this.#chat.statusesOf(users.slice(0, SHOWN_MAX));
      this.#asked = asked;
    } catch {
      this.draw(); // a public room that nobody has created has none
    }
  }

  /** All whose names can be completed: members, and who is here. */
  get names() {
    return [...new Set([...this.#here, ...this.#members.map(({ user }) => user)])];
  }

  draw() {
    const room = this.#room;
    const me = this.#chat.me;
    const known = new Map(this.#members.map((member) => [member.user, member]));
    const names = this.names;
    const here = new Set(this.#here);
    names.sort((a, b) => (b === me) - (a === me) || (RANK[known.get(a)?.role] ?? 4) - (RANK[known.get(b)?.role] ?? 4)
      || a.localeCompare(b));
    const rows = names.slice(0, SHOWN_MAX).map((name) => this.#row(name, known.get(name), here.has(name)));
    const total = Math.max(room?.room.memberCount ?? 0, names.length);
    if (total > rows.length) {
      rows.push(el("li", { class: "more" }, `and ${count(total - rows.length, "other", "others")}`));
    }
    document.getElementById("members").replaceChildren(...rows);
    document.getElementById("members-title").textContent = this.#members.length ? "Members" : "Here now";
    document.getElementById("member-count").textContent = total.toLocaleString();
    this.#drawAbout();
  }

  #row(name, member, here) {
    const me = this.#chat.me;
    const status = this.#statusOf(name, here);
    const face = avatar(name);
    if (this.#members.length) face.dataset.status = status;
    const text = this.#chat.statuses.get(name)?.text;
    const words = el("span", { class: "member-words" }, el("span", { class: "who" }, name),
      text ? el("span", { class: "member-text" }, text) : null,
      this.#members.length ? el("span", { class: "visually-hidden" }, WORDS[status] ?? status) : null);
    const tags = [
      member && member.role !== "member" ? el("span", { class: "you" }, member.role) : null,
      name === me ? el("span", { class: "you" }, "you") : null,
    ];
    const node = el("li", {}, face, words, ...tags);
    if (name !== me && this.#room && !this.#room.plain) node.append(this.#moreButton(name, member));
    return node;
  }

  #statusOf(name, here) {
    return this.#chat.statuses.get(name)?.status ?? (here ? "online" : "offline");
  }

  #moreButton(name, member) {
    const node = el("button", { type: "button", class: "icon-button", "aria-label": `Actions for ${name}`,
      "aria-haspopup": "menu" }, icon("more"));
    node.addEventListener("click", () => showMenu(node, this.#actions(name, member), { label: `Actions for ${name}` }));
    return node;
  }

  #actions(name, member) {
    const room = this.#room;
    const items = [{ label: `Write to ${name}`, icon: "reply", act: () => attempt(async () => {
      const direct = await this.#chat.direct([name]);
      await this.#chat.refresh();
      this.handlers.go(direct);
    }) }];
    if (!room.moderates || room.about.visibility === "direct") return items;
    items.push(null);
    for (const [role, label] of ROLES) {
      items.push({ label, checked: member?.role === role, act: () => this.#do(() => room.setRole(name, role)) });
    }
    items.push(null,
      { label: "Mute for an hour", icon: "bell", act: () => this.#do(() => room.put(name, "mute", { for_s: MUTE_S })) },
      { label: "Unmute", icon: "bell", act: () => this.#do(() => room.put(name, "unmute")) },
      { label: "Remove", icon: "close", act: () => this.#sure("Remove", name, "remove"), danger: true },
      { label: "Ban for a day", icon: "flag", act: () => this.#sure("Ban", name, "ban", { for_s: BAN_S }), danger: true });
    return items;
  }

  #sure(word, name, how, detail) {
    return confirmed(`${word} ${name}?`, `${name} will not see what is said here any longer.`, word, async () => {
      await this.#room.put(name, how, detail);
      await this.refresh();
    });
  }

  #do(act) {
    return attempt(async () => {
      await act();
      await this.refresh();
    });
  }

  // --- the room -----------------------------------------------------------------------------------

  #drawAbout() {
    const room = this.#room;
    const box = document.getElementById("about");
    const tools = document.getElementById("member-tools");
    const created = room && !room.plain && Boolean(room.about.created);
    box.hidden = !created;
    tools.replaceChildren();
    if (!created) return;
    const { topic, visibility, archived, slow_s: slowS } = room.about;
    const facts = [
      { public: "Public", private: "Private", direct: "Direct" }[visibility] ?? visibility,
      archived ? "archived" : null, slowS ? `one message in ${slowS} s` : null,
    ].filter(Boolean).join(" · ");
    box.replaceChildren(el("h2", {}, "About"), el("p", { class: "about-facts" }, facts),
      ...(topic ? [el("p", { class: "about-topic" }, topic)] : []));
    if (room.moderates && visibility !== "direct") {
      const settings = el("button", { type: "button", class: "ghost small" }, icon("settings"), "Room settings");
      settings.addEventListener("click", () => this.#settings());
      box.append(settings);
    }
    if (room.role === "none") box.append(this.#joinButton());
    else if (visibility !== "direct" && room.role !== "reader") tools.append(this.#inviteForm());
  }

  #joinButton() {
    const node = el("button", { type: "button", class: "primary small" }, "Become a member");
    node.addEventListener("click", () => this.#do(async () => {
      await this.#chat.enter(this.#room.name);
      await this.#room.describe();
    }));
    return node;
  }

  #inviteForm() {
    const input = el("input", { "aria-label": "Add somebody", placeholder: "Add somebody", autocomplete: "off" });
    const form = el("form", { class: "invite-form" }, input,
      el("button", { type: "submit", class: "ghost small" }, "Add"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const user = input.value.trim().replace(/^@/u, "");
      if (!user) return;
      attempt(async () => {
        await this.#room.invite(user);
        input.value = "";
        toast(`${user} is invited`);
        await this.refresh();
      });
    });
    return form;
  }

  async #settings() {
    const room = this.#room;
    const { about } = room;
    const title = field("Title", { required: "", maxlength: "80", value: room.title });
    const topic = field("Topic", { maxlength: "250", value: about.topic ?? "" });
    const slow = field("Seconds between two messages of one member",
      { type: "number", min: "0", max: "3600", value: String(about.slow_s ?? 0) });
    const visibility = choice("Who may come in", [["public", "Everybody"], ["private", "Whom we invite"]], about.visibility);
    const owner = room.role === "owner";
    await openDialog({
      title: "Room settings", action: "Save",
      fill: (form, close) => {
        form.append(title.node, topic.node, slow.node, ...(owner ? [visibility.node] : []));
        form.append(el("div", { class: "dialog-more" }, ...this.#lastWays(room, close)));
      },
      submit: () => room.update(changed(about, {
        title: title.input.value.trim(), topic: topic.input.value.trim(), slow_s: Number(slow.input.value) || 0,
        ...(owner ? { visibility: visibility.input.value } : {}),
      })),
    });
    this.draw();
  }

  #lastWays(room, close) {
    const button = (label, act, danger = false) => {
      const node = el("button", { type: "button", class: danger ? "ghost small danger" : "ghost small" }, label);
      node.addEventListener("click", () => { close(); act(); });
      return node;
    };
    const archived = Boolean(room.about.archived);
    const ways = [button(archived ? "Open it again" : "Archive",
      () => attempt(async () => { await room.archive(!archived); await room.describe(); }))];
    if (room.role === "owner") {
      ways.push(button("Delete the room", () => confirmed("Delete the room?",
        "It is gone for all its members, with all that was said in it.", "Delete", () => room.delete()), true));
    }
    return ways;
  }
}

/** What of `next` is not as it was. */
function changed(about, next) {
  return Object.fromEntries(Object.entries(next).filter(([name, value]) => value !== (about[name] ?? defaultOf(value))));
}

function defaultOf(value) {
  return typeof value === "number" ? 0 : "";
}

/** The list of conversations: ours with their badges, invitations, the directory, and how to make new ones. */

import { attempt, choice, field, openDialog, showMenu } from "./dialogs.js";
import { icon } from "./icons.js";
import { avatar, count, el } from "./parts.js";

const FOUND_MAX = 50;
const ASK_AFTER_MS = 200;

export class Nav {
  #chat;
  #go;
  #selected = null;
  #stop;

  /** @param {import("./chat.js").Chat} chat @param {(room: string) => void} go  to a room
   *  @param {AbortSignal} signal */
  constructor(chat, go, signal) {
    this.#chat = chat;
    this.#go = go;
    this.lists = document.getElementById("nav-lists");
    this.filter = document.getElementById("nav-filter");
    this.filter.value = "";
    const fresh = document.getElementById("nav-new");
    this.filter.addEventListener("input", () => this.draw(), { signal });
    fresh.addEventListener("click", () => this.#showNew(fresh), { signal });
    this.lists.addEventListener("keydown", (event) => this.#onKey(event), { signal });
    const ends = [chat.on("rooms", () => this.draw()), chat.on("invites", () => this.draw()),
      chat.on("presence", () => this.draw())];
    signal.addEventListener("abort", () => { for (const end of ends) end(); });
    this.#stop = signal;
  }

  select(name) {
    this.#selected = name;
    this.draw();
  }

  /** All that we know of: our rooms, and those that are open. */
  get #known() {
    const known = new Map(this.#chat.mine);
    for (const [name, room] of this.#chat.rooms) known.set(name, room.about);
    return [...known.values()];
  }

  draw() {
    if (this.#stop.aborted) return;
    const had = document.activeElement?.closest?.("#nav-lists button")?.dataset.room;
    const wanted = this.filter.value.trim().toLowerCase();
    const rooms = this.#known.filter((about) => this.titleOf(about).toLowerCase().includes(wanted));
    rooms.sort((a, b) => this.titleOf(a).localeCompare(this.titleOf(b)));
    const direct = rooms.filter(({ visibility }) => visibility === "direct");
    const others = rooms.filter((about) => about.visibility !== "direct" && !about.archived);
    const archived = rooms.filter((about) => about.visibility !== "direct" && about.archived);
    this.lists.replaceChildren(
      ...this.#section("Invitations", this.#chat.invited.map((invite) => this.#inviteNode(invite))),
      ...this.#section("Rooms", others.map((about) => this.#roomNode(about))),
      ...this.#section("Direct", direct.map((about) => this.#roomNode(about))),
      ...this.#section("Archived", archived.map((about) => this.#roomNode(about))));
    if (!this.lists.children.length) {
      this.lists.append(el("p", { class: "nav-none" }, wanted ? "Nothing of that name." : "No conversations yet."));
    }
    const stop = this.lists.querySelector(`button[aria-current]`) ?? this.lists.querySelector("button");
    if (stop) stop.tabIndex = 0;
    if (had) [...this.lists.querySelectorAll("button")].find((node) => node.dataset.room === had)?.focus();
    this.#drawTotal();
  }

  /** What a room is called here; a direct one by who else is in it. */
  titleOf(about) {
    if (about.visibility !== "direct") return about.title || about.room.replace(/^chat:/u, "");
    const others = (about.users ?? about.with ?? []).filter((user) => user !== this.#chat.me);
    return others.join(", ") || about.title || "Direct conversation";
  }

  get unread() {
    return this.#known.reduce((sum, about) => sum + (about.room === this.#selected ? 0 : about.unread ?? 0), 0);
  }

  #section(title, nodes) {
    if (!nodes.length) return [];
    const id = `nav-${title.toLowerCase()}`;
    return [el("h2", { id }, title), el("ul", { "aria-labelledby": id }, ...nodes)];
  }

  #roomNode(about) {
    const { room, unread = 0, mentions = 0, visibility } = about;
    const title = this.titleOf(about);
    const other = visibility === "direct" ? title.split(", ")[0] : null;
    const face = other ? avatar(other)
      : el("span", { class: "nav-sign", "aria-hidden": "true" }, visibility === "private" ? icon("lock", 15) : "#");
    if (other) face.dataset.status = this.#chat.statuses.get(other)?.status ?? "";
    const badge = unread ? el("span", { class: mentions ? "badge loud" : "badge" },
      el("span", { "aria-hidden": "true" }, mentions ? `@${mentions}` : unread > 99 ? "99+" : String(unread)),
      el("span", { class: "visually-hidden" }, badgeWords(unread, mentions))) : null;
    const node = el("button", { type: "button", class: unread ? "nav-room news" : "nav-room", tabindex: "-1" },
      face, el("span", { class: "nav-title" }, title), badge);
    node.dataset.room = room;
    if (room === this.#selected) node.setAttribute("aria-current", "page");
    node.addEventListener("click", () => this.#go(room));
    return el("li", {}, node);
  }

  #inviteNode({ room, title, by }) {
    const yes = el("button", { type: "button", class: "primary small" }, "Join");
    const no = el("button", { type: "button", class: "ghost small" }, "Decline");
    yes.addEventListener("click", () => attempt(async () => {
      await this.#chat.accept(room);
      this.#go(room);
    }));
    no.addEventListener("click", () => attempt(() => this.#chat.decline(room)));
    return el("li", { class: "invite" },
      el("p", {}, el("strong", {}, title || room), by ? ` · ${by} invites you` : ""),
      el("div", { class: "invite-tools" }, yes, no));
  }

  #drawTotal() {
    const total = this.unread + this.#chat.invited.length;
    const badge = document.getElementById("nav-count");
    badge.hidden = total === 0;
    badge.textContent = total > 99 ? "99+" : String(total);
  }

  #onKey(event) {
    const nodes = [...this.lists.querySelectorAll("button")];
    const here = nodes.indexOf(document.activeElement);
    const next = {
      ArrowDown: nodes[here + 1], ArrowUp: nodes[here - 1], Home: nodes[0], End: nodes.at(-1),
    }[event.key];
    if (!next || here < 0) return;
    event.preventDefault();
    next.focus();
  }

  // --- new ones -----------------------------------------------------------------------------------

  #showNew(anchor) {
    showMenu(anchor, [
      { label: "Create a room", icon: "plus", act: () => this.#create() },
      { label: "Write to somebody", icon: "people", act: () => this.#direct() },
      { label: "Browse public rooms", icon: "search", act: () => this.#browse() },
    ], { label: "New conversation" });
  }

  async #create() {
    const title = field("Title", { required: "", maxlength: "80", autofocus: "" });
    const topic = field("Topic", { maxlength: "250" });
    const visibility = choice("Who may come in",
      [["public", "Everybody (public)"], ["private", "Whom you invite (private)"]], "public");
    const members = field("Members", { placeholder: "ada, ben", "aria-describedby": "members-help" });
    members.node.append(el("p", { id: "members-help", class: "help" }, "User names with commas between them."));
    const made = await openDialog({
      title: "Create a room", action: "Create",
      fill: (form) => form.append(title.node, topic.node, visibility.node, members.node),
      submit: () => this.#chat.create({
        title: title.input.value.trim(), topic: topic.input.value.trim() || undefined,
        visibility: visibility.input.value, members: namesIn(members.input.value),
      }),
    });
    if (!made) return;
    await attempt(() => this.#chat.refresh());
    this.#go(made.room);
  }

  async #direct() {
    const people = field("To", { required: "", placeholder: "ada, ben", autofocus: "" });
    const room = await openDialog({
      title: "Write to somebody", action: "Open",
      fill: (form) => form.append(people.node),
      submit: () => this.#chat.direct(namesIn(people.input.value)),
    });
    if (!room) return;
    await attempt(() => this.#chat.refresh());
    this.#go(room);
  }

  async #browse() {
    const query = field("Find", { type: "search", autofocus: "" });
    const list = el("ul", { class: "found", "aria-label": "Public rooms", "aria-live": "polite" });
    let timer = null;
    const load = (close) => attempt(async () => {
      const wanted = query.input.value.trim() || undefined;
      const found = await this.#chat.list({ query: wanted, max: FOUND_MAX });
      if ((query.input.value.trim() || undefined) !== wanted) return;
      list.replaceChildren(...found.slice(0, FOUND_MAX).map((about) => this.#foundNode(about, close)));
      if (!found.length) list.append(el("li", { class: "nav-none" }, "Nothing of that name."));
    });
    const room = await openDialog({
      title: "Public rooms", wide: true,
      fill: (form, close) => {
        form.append(query.node, list);
        query.input.addEventListener("input", () => {
          clearTimeout(timer);
          timer = setTimeout(() => load(close), ASK_AFTER_MS);
        });
        load(close);
      },
    });
    if (typeof room !== "string") return;
    if (!this.#chat.mine.has(room)) await attempt(() => this.#chat.enter(room));
    this.#go(room);
  }

  #foundNode(about, close) {
    const members = about.members === undefined ? "" : count(about.members, "member", "members");
    const node = el("button", { type: "button", class: "found-room" },
      el("span", { class: "nav-sign", "aria-hidden": "true" }, "#"),
      el("span", { class: "found-words" }, el("span", { class: "nav-title" }, this.titleOf(about)),
        el("span", { class: "found-topic" }, [members, about.topic].filter(Boolean).join(" · "))),
      this.#chat.mine.has(about.room) ? el("span", { class: "you" }, "joined") : null);
    node.addEventListener("click", () => close(about.room));
    return el("li", {}, node);
  }
}

function badgeWords(unread, mentions) {
  return mentions ? `${count(unread, "unread message", "unread messages")}, ${mentions} for you`
    : count(unread, "unread message", "unread messages");
}

/** "ada, ben" → ["ada", "ben"] */
export function namesIn(text) {
  return [...new Set(text.split(/[,;\n]/u).map((name) => name.trim().replace(/^@/u, "")).filter(Boolean))];
}


/** One stay, from "Enter" to leaving: the connection, the chat, and the room that is shown. */

import { Files } from "./attachments.js";
import { Chat, Outbox } from "./chat.js";
import { Composer, takeDrops } from "./composer.js";
import { ConnectionView } from "./connection_view.js";
import { attempt, toast } from "./dialogs.js";
import { shownOf } from "./fold.js";
import { MessageActions } from "./message_actions.js";
import { MessageView } from "./message_view.js";
import { Nav } from "./nav.js";
import { Notes, noticeText } from "./notes.js";
import { openPins, openReports, openSearch, Panel, ThreadPane } from "./panels.js";
import { count, listNames } from "./parts.js";
import { PeoplePane } from "./people_pane.js";
import { connect } from "./realtime.js";
import { showDrawer } from "./drawers.js";
import { Key, Keyring } from "./seal.js";
import { Timeline } from "./timeline.js";

const ROOMS_OPEN_MAX = 40;
const REFRESH_MS = 20_000;

const $ = (id) => document.getElementById(id);

export class Visit {
  /** @type {import("./chat.js").ChatRoom|null} */
  #room = null;
  #ends = []; // of what listens to the room that is shown
  #caughtUp = 0;
  #backOnline = false; // the next "resumed" is after a reconnect, not because somebody looks again
  #stopped = new AbortController();
  #timer = null;
  #unread = 0;
  #opening = false;
  #refused = new Set(); // names of rooms that did not let us in just now
  #secret;
  #first;
  #leave;

  /** @param {string} name @param {string} room @param {string} secret @param {() => void} leave  the page's */
  constructor(name, room, secret, leave) {
    this.#secret = secret;
    this.#first = `chat:${room}`;
    this.#leave = leave;
    this.client = connect(endpoint(), { user: name, token: token(), pingIntervalMs: 1_000, backoffCapMs: 5_000 });
    this.chat = new Chat(this.client, { outbox: new Outbox(`${location.host}.${name}`) });
    this.files = new Files();
    const { signal } = this.#stopped;
    const act = (what, message, value) => this.actions.act(what, message, value);
    this.view = new MessageView({ me: name, files: this.files, act });
    this.timeline = new Timeline(partsOfPage(), this.view, {
      unread: (unread) => { this.#unread = unread; this.#showTitle(); },
      watched: (atEnd) => this.#watch(atEnd),
      menu: (message, node, at) => this.actions.menu(message, node, at),
      quick: (what, message, node) => this.actions.quick(what, message, node),
      failed: (error) => this.timeline.note(`Earlier messages are not to be had: ${error.message}`, "warn"),
    });
    this.panel = new Panel((open) => showDrawer("side", open && isNarrow()));
    this.people = new PeoplePane(this.chat, { go: (to) => this.go(to) }, signal);
    this.nav = new Nav(this.chat, (to) => this.go(to), signal);
    this.notes = new Notes(this.timeline, name);
    this.connection = new ConnectionView(this.client, () => this.#room?.room.position);
    this.composer = new Composer({
      ids: true, label: "Message", room: () => this.#room, names: () => this.people.names.filter((one) => one !== name),
      send: (text, attachments, mode) => this.#send(text, attachments, mode), editLast: () => this.#editLast(),
    });
    this.actions = new MessageActions(this);
    $("composer-place").replaceChildren(this.composer.form);
    this.#listen(signal);
    this.#showFrame(this.#first.slice("chat:".length));
    this.connection.showState("connecting", {});
    this.actions.showMe();
    this.#start();
  }

  /** The room that is shown. */
  get room() {
    return this.#room;
  }

  get me() {
    return this.client.user;
  }

  end() {
    this.#stopped.abort();
    clearInterval(this.#timer);
    this.panel.close({ refocus: false });
    this.#detach();
    this.timeline.end();
    this.notes.end();
    this.connection.end();
    this.composer.clear();
    this.client.close();
  }

  #listen(signal) {
    const on = (target, name, listener) => target.addEventListener(name, listener, { signal });
    const { client, chat } = this;
    client.on("state", (state, detail) => this.#showState(state, detail));
    client.on("error", (error) => this.timeline.note(`The server says: ${error.message}`, "warn"));
    client.on("connected", () => this.chat.kept !== null && this.#refresh());
    chat.on("rooms", () => { this.#showTitle(); this.#openOthers(); });
    chat.on("mention", (room, message) => this.actions.called(room, message));
    chat.on("called", ({ room, id, from, text }) =>
      this.actions.called({ name: room, about: chat.mine.get(room) ?? { room } }, { id, key: id, room, from, text }));
    on(window, "online", () => client.probe());
    on(window, "offline", () => client.probe());
    on(document, "visibilitychange", () => this.#onVisibility());
    on($("retry"), "click", () => client.reconnectNow());
    on($("open-search"), "click", () => this.search());
    on($("open-pins"), "click", () => this.showPins());
    on($("leave"), "click", () => this.#leaveRoom());
    on($("me"), "click", () => this.actions.ownMenu($("me")));
    on(document, "keydown", (event) => this.#onKey(event));
    takeDrops($("talk"), () => (this.#room && !this.#room.plain ? this.composer : null), signal);
  }

  #onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && this.chat.kept) {
      event.preventDefault();
      this.search();
    } else if (event.key === "Escape" && this.panel.name !== null && !document.querySelector("dialog, .menu")) {
      this.panel.close();
    }
  }

  // --- rooms --------------------------------------------------------------------------------------

  /** Find out what the server has, come into the first room, then hear of the others. */
  async #start() {
    try {
      await this.client.ready;
      await this.#known();
    } catch {
      return; // closed, which the state has told
    }
    if (this.#stopped.signal.aborted) return;
    $("chat").classList.toggle("plain", !this.chat.kept);
    this.#onVisibility();
    await this.go(this.#first, { first: true });
    if (!this.chat.kept || this.#stopped.signal.aborted) return;
    this.#timer = setInterval(() => document.hidden || this.#refresh(), REFRESH_MS);
    this.actions.showMe();
    await this.#openOthers();
  }

  /** Ask until there is an answer; each lost connection begins it anew. */
  async #known() {
    while (this.chat.kept === null && this.client.state !== "closed") {
      try {
        await this.chat.refresh();
      } catch {
        await new Promise((resolve) => {
          const ends = ["connected", "state"].map((name) => this.client.on(name, () => {
            if (!["online", "closed"].includes(this.client.state)) return;
            for (const end of ends) end();
            resolve();
          }));
        });
      }
    }
  }

  async #refresh() {
    this.#refused.clear();
    try {
      await this.chat.refresh();
      await this.#openOthers();
    } catch { /* the connection went again: the next one asks again */ }
  }

  /** Be in our other rooms too, so that news of them come; of more than these the badges come later. */
  async #openOthers() {
    if (this.#opening || this.#room === null) return;
    this.#opening = true;
    for (let name; (name = this.#nextToOpen()) !== undefined && !this.#stopped.signal.aborted;) {
      // One that will not have us tells so when somebody goes there.
      await this.chat.open(name, { load: false }).catch(() => this.#refused.add(name));
    }
    this.#opening = false;
  }

  #nextToOpen() {
    if (this.chat.rooms.size >= ROOMS_OPEN_MAX) return undefined;
    const waiting = this.chat.outbox.entries.map(({ room }) => room);
    return [...waiting, ...this.chat.mine.keys()].find((name) =>
      !this.chat.rooms.has(name) && !this.#refused.has(name));
  }

  /** Show a room. */
  async go(name, { first = false } = {}) {
    showDrawer("nav", false);
    if (this.#room?.name === name) return;
    if (!first) this.panel.close({ refocus: false });
    let room;
    try {
      const keys = this.#secret && name === this.#first ? await keysOf(this.#secret, name) : null;
      room = await this.chat.open(name, { keys });
      if (!room.loaded) await room.load();
    } catch (error) {
      if (this.client.state === "closed" || this.#stopped.signal.aborted) return;
      if (first && this.#room === null) await this.#notLetIn(error);
      else toast(error.message, { tone: "bad" });
      return;
    }
    if (this.#stopped.signal.aborted) return;
    this.#attach(room);
    if (!first) this.composer.clear();
    if (!isNarrow() || first) this.composer.focus();
    if (!first || this.chat.kept) remember(room.name, this.#secret && name === this.#first ? null : this.me);
  }

  /** The room of the address is closed to us: there may be others. */
  async #notLetIn(error) {
    const other = [...this.chat.mine.keys()][0];
    if (!other) {
      this.connection.refuse(error);
      return;
    }
    toast(error.message, { tone: "bad" });
    await this.go(other);
  }

  #attach(room) {
    this.#detach();
    this.#room = room;
    this.notes.begin(room);
    const joined = room.room;
    this.#ends = [
      room.on("change", () => { this.timeline.changed(); this.#showAbout(); this.connection.showFacts(); }),
      room.on("news", (message) => { this.#caughtUp += 1; this.timeline.heard(message); }),
      room.on("notice", (content) => {
        const text = noticeText(content);
        if (text) this.timeline.note(text);
        this.people.refresh();
      }),
      room.on("typing", () => this.#showTyping()),
      room.on("read", () => this.timeline.changed()),
      room.on("presence", (change) => this.#onPresence(change)),
      room.on("gap", (gap) => this.#onGap(gap)),
      room.on("resumed", (how) => this.#onResumed(how)),
      room.on("unread", () => this.#showTitle()),
      room.on("closed", (error) => this.#onClosed(room, error)),
    ];
    $("chat").classList.toggle("plain-room", room.plain);
    this.composer.attach.hidden = room.plain;
    this.timeline.show(room);
    this.nav.select(room.name);
    this.people.show(room);
    this.#showAbout();
    this.#showTyping();
    this.#showTitle();
    this.connection.showFacts();
    if (joined.keys) this.timeline.note("Sealed end to end: the server cannot read what is said here.", "good");
    else if (joined.endToEnd) this.timeline.note("This room is sealed end to end. Come in with its secret.", "warn");
  }

  #detach() {
    for (const end of this.#ends.splice(0)) end();
    if (this.#room) this.#room.watched = false;
    this.#room = null;
  }

  async #leaveRoom() {
    const room = this.#room;
    const others = [...this.chat.mine.keys()].filter((name) => name !== room?.name);
    if (!room || room.plain || !this.chat.kept) {
      this.#leave();
      return;
    }
    const member = room.role !== "none";
    if (member && !await this.actions.sureToQuit(room)) return;
    if (!member) await attempt(() => this.chat.close(room.name));
    if (others.length) await this.go(others[0]);
    else this.#leave();
  }

  async #onClosed(room, error) {
    if (!error || this.client.state === "closed") return;
    this.chat.rooms.delete(room.name);
    this.chat.mine.delete(room.name);
    this.chat._emit("rooms");
    if (room === this.#room) this.timeline.note(`You are out of it: ${error.message}`, "warn");
  }

  signOut() {
    this.#leave();
  }

  // --- saying things ------------------------------------------------------------------------------

  /** @returns {boolean} whether it is on its way, so that the field may be emptied */
  #send(text, attachments, mode) {
    const room = this.#room;
    if (!room) {
      $("announce").textContent = "Not in the room yet";
      return false;
    }
    if (mode?.kind === "edit") {
      if (text !== mode.message.text) attempt(() => room.edit(mode.message.id, text));
      return true;
    }
    room.send(text, { attachments, replyTo: mode?.message.id });
    if (!room.window.live) this.timeline.toNewest();
    else this.timeline.toBottom();
    return true;
  }

  #editLast() {
    const own = this.timeline.messages.findLast(({ from, id, deleted }) => from === this.me && id && !deleted);
    if (own && !this.#room.plain) this.composer.edit(own);
  }

  openThread(message) {
    const room = this.#room;
    const pane = new ThreadPane({
      panel: this.panel, room, view: this.view, message, names: () => this.people.names,
      menu: (one, node, at) => one && this.actions.menu(one, node, at), online: () => this.client.state === "online",
    });
    pane.open();
  }

  search() {
    openSearch({
      panel: this.panel, chat: this.chat, room: () => this.#room, shownOf,
      titleOf: (name) => this.nav.titleOf(this.chat.mine.get(name) ?? { room: name }), go: (message) => this.jump(message),
    });
  }

  showPins() {
    openPins({ panel: this.panel, room: this.#room, me: this.me, go: (message) => this.jump(message) });
  }

  showReports() {
    openReports({ panel: this.panel, room: this.#room, shownOf, go: (message) => this.jump(message) });
  }

  /** Show a message where it stands, in whichever room. */
  async jump({ id, room }) {
    if (room && room !== this.#room?.name) {
      await this.go(room);
      if (this.#room?.name !== room) return;
    }
    if (isNarrow()) this.panel.close({ refocus: false });
    const found = await attempt(() => this.timeline.toMessage(id));
    if (found === false) toast("That message is not there any longer.");
  }

  // --- what the room says of itself ---------------------------------------------------------------

  #onPresence({ joined, left, members }) {
    this.people.setHere(members);
    if (this.#room.plain) this.notes.presence(joined, left, this.#room.room.joined);
    this.#showAbout();
  }

  #onGap({ from, to, reason }) {
    if (!this.#room.plain) return; // loaded anew
    if (reason === "epoch_changed") {
      this.timeline.note("The room began anew: messages may be missing here. From here on nothing is.", "warn");
    } else if (from !== null) {
      this.timeline.note(`${count(to - from + 1, "message is", "messages are")} missing here.`, "warn");
    }
  }

  #onResumed({ recovered }) {
    const backOnline = this.#backOnline;
    this.#backOnline = false;
    if (!backOnline || !recovered || this.#caughtUp === 0) return;
    this.connection.flash(`Back online with ${count(this.#caughtUp, "message", "messages")} that you missed.`);
  }

  #watch(atEnd) {
    const room = this.#room;
    if (!room) return;
    room.watched = atEnd;
    if (atEnd && room.window.last?.id) room.read(room.window.last.id);
  }

  #onVisibility() {
    if (!document.hidden) this.client.probe();
    // With a store, mentions are to be told of while nobody looks; without, counting is all there is to do.
    if (this.chat.kept === null || this.chat.kept) return;
    for (const { room } of this.chat.rooms.values()) {
      if (!room || room.isPassive === document.hidden) continue;
      (document.hidden ? room.passive() : room.active()).catch((error) => this.client._emit("error", error));
    }
  }

  // --- the frame ----------------------------------------------------------------------------------

  #showState(state, detail) {
    this.connection.showState(state, detail);
    this.timeline.setOnline(state === "online");
    if (state !== "online") return;
    this.#backOnline = this.client.reconnects > 0;
    if (this.#backOnline) this.notes.resumed();
    this.#caughtUp = 0;
  }

  #showFrame(title) {
    $("room-name").textContent = title;
    $("room-sub").textContent = "";
    document.title = `#${title}`;
  }

  #showAbout() {
    const room = this.#room;
    const direct = room.about.visibility === "direct";
    $("room-name").textContent = this.nav.titleOf(room.about);
    $("room-hash").hidden = direct;
    const others = room.room.members.filter((name) => name !== this.me);
    const here = others.length ? `You, ${listNames(others)}` : "Only you, for now";
    $("room-sub").textContent = room.about.topic || here;
    this.#showTitle();
  }

  #showTyping() {
    const names = this.#room?.typists ?? [];
    $("typing").textContent = names.length
      ? `${listNames(names)} ${names.length === 1 ? "is" : "are"} typing…` : "";
  }

  /** What came and was not looked at, and what is only counted while the tab is hidden. */
  #showTitle() {
    const room = this.#room;
    if (!room) return;
    const unread = this.#unread + room.room.unread + (this.chat.kept ? this.nav.unread : 0);
    document.title = `${unread ? `(${unread}) ` : ""}#${this.nav.titleOf(room.about)}`;
  }
}

function partsOfPage() {
  return {
    scroller: $("scroller"), log: $("log"), pending: $("pending"), pill: $("pill"), empty: $("empty"),
    older: $("older"), seen: $("seen"),
  };
}

function endpoint() {
  const url = new URL("ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

function token() {
  return new URLSearchParams(location.hash.slice(1)).get("token");
}

function isNarrow() {
  return matchMedia("(width <= 860px)").matches;
}

/** A reload comes in again by the address; without the secret it would say openly what is to be sealed. */
function remember(name, user) {
  const room = name.replace(/^chat:/u, "");
  const query = new URLSearchParams(user ? { room, name: user } : { room });
  history.replaceState(null, "", `?${query}${location.hash}`);
}

/** The keys of a room by words that its members share. */
async function keysOf(secret, room) {
  return new Keyring([await Key.fromPassphrase("shared", secret, { salt: `realtime demo ${room}` })]);
}

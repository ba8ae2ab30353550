/**
 * The demo page: enter, talk, see who is there and how fast the line is. All of the network is in
 * realtime.js, the conversation's drawing in thread.js; this file joins the two.
 */

import { avatar, count, drawSpark, el, listNames } from "./parts.js";
import { connect, randomKey } from "./realtime.js";
import { Key, Keyring, Unreadable } from "./seal.js";
import { Thread } from "./thread.js";

const HISTORY_PAGE = 100;
const HISTORY_PAGES = 5;
const HISTORY_SHOWN = 50;
const NO_HISTORY = { messages: [], more: false };
const RTT_SAMPLES = 40;
const MEMBERS_SHOWN = 200;
const TYPING_SEND_MS = 2_500;
const TYPING_SHOW_MS = 4_000;
/** Who comes back within this time has not left: a reload, or a restart that everybody went through. */
const LEFT_GRACE_MS = 3_000;
const RESTART_GRACE_MS = 20_000;

/** Close codes after which there is no way back, in words for people. */
const REFUSALS = {
  4500: "The server does not accept your token.",
  4502: "The server asks for a token, and there is none.",
  4503: "The server has ended this connection.",
  4504: "This name has as many connections open as it may have.",
  4507: "You may not be here.",
  4508: "You are here in another window, which has taken over.",
};

const $ = (id) => document.getElementById(id);

/** Remembered name; a browser may forbid storage altogether, and then nothing is remembered. */
const memory = {
  get name() {
    try { return localStorage.getItem("realtime.name") ?? ""; } catch { return ""; }
  },
  set name(value) {
    try { localStorage.setItem("realtime.name", value); } catch { /* forbidden: enter it again */ }
  },
};

/** One stay in one room, from "Enter" to "Leave room". */
class Visit {
  #me;
  #title;
  #room = null;
  #rtts = [];
  #typing = new Map(); // name → timer
  #typedMs = -Infinity;
  #countdown = null;
  #leaving = new Map(); // name → timer
  #joins = { node: null, names: [] };
  #resumedMs = -Infinity;
  #caughtUp = 0;
  #backOnline = false; // the next "resumed" is after a reconnect, not because somebody looks again
  #unread = 0; // shown in the conversation below
  #oldest = null; // lowest offset fetched of the present epoch; 1: there is nothing below
  #stopped = new AbortController();
  #secret;

  constructor(name, title, secret) {
    this.#me = name;
    this.#title = title;
    this.#secret = secret;
    this.thread = new Thread(
      { scroller: $("scroller"), log: $("log"), pending: $("pending"), pill: $("pill"), empty: $("empty") },
      name, (unread) => { this.#unread = unread; this.#showTitle(); });
    const url = new URL("ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.search = url.hash = "";
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    this.client = connect(url.href, {
      user: name, token, pingIntervalMs: 1_000, backoffCapMs: 5_000, passiveWhenHidden: true,
    });
    this.#listen();
    this.#showTitle();
    $("room-name").textContent = title;
    this.#showMembers([]);
    this.#showState("connecting", {});
    this.#join();
  }

  end() {
    this.#stopped.abort();
    this.thread.stopped.abort();
    clearInterval(this.#countdown);
    for (const timer of [...this.#typing.values(), ...this.#leaving.values()]) clearTimeout(timer);
    this.client.close();
  }

  #listen() {
    const { signal } = this.#stopped;
    const on = (target, name, listener) => target.addEventListener(name, listener, { signal });
    const { client } = this;
    client.on("state", (state, detail) => this.#showState(state, detail));
    client.on("rtt", (ms) => this.#showRtt(ms));
    client.on("error", (error) => this.thread.note(`The server says: ${error.message}`, "warn"));
    on(window, "online", () => client.probe());
    on(window, "offline", () => client.probe());
    on(document, "visibilitychange", () => document.hidden || client.probe());
    on($("retry"), "click", () => client.reconnectNow());
    on($("composer"), "submit", (event) => { event.preventDefault(); this.#submit(); });
    on($("text"), "input", () => this.#onInput());
    on($("text"), "keydown", (event) => {
      // isComposing: Enter also ends the input of Chinese, Japanese and Korean words.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    on($("older"), "click", () => this.#loadOlder());
  }

  async #join() {
    let room;
    try {
      const name = `chat:${this.#title}`;
      room = await this.client.join(name, { keys: this.#secret ? await keysOf(this.#secret, name) : null });
    } catch (error) {
      if (this.client.state !== "closed") this.#showRefusal(error);
      return;
    }
    this.#room = room;
    room.on("presence", (change) => this.#onPresence(change));
    room.on("message", (message) => this.#onMessage(message));
    room.on("event", (message) => this.#onMessage(message));
    room.on("gap", (gap) => this.#onGap(gap));
    room.on("resumed", (how) => this.#onResumed(how));
    room.on("unread", () => this.#showTitle());
    room.on("closed", (error) => {
      if (error && this.client.state !== "closed") this.thread.note(`You are out of it: ${error.message}`, "warn");
    });
    this.#showMembers(room.members);
    this.#showFacts();
    await this.#loadOlder();
    if (room.keys) this.thread.note("Sealed end to end: the server cannot read what is said here.", "good");
    else if (room.endToEnd) this.thread.note("This room is sealed end to end. Come in with its secret.", "warn");
  }

  // --- messages ---------------------------------------------------------------------------------

  #onMessage(message) {
    if (message.type === "chat_typing") {
      this.#someoneTypes(message.from);
    } else if (message.type === "chat_message") {
      this.#stopTyping(message.from);
      if (this.thread.add(readable(message))) this.#caughtUp += 1;
    }
    this.#showFacts();
  }

  /** Fetch earlier messages and show them above the rest. */
  async #loadOlder() {
    const { epoch } = this.#room.position;
    $("older").hidden = true;
    const found = [];
    try {
      let more = true;
      // The room's history has other events, too: go on until there is something to read.
      for (let page = 0; more && found.length < HISTORY_SHOWN && page < HISTORY_PAGES; page++) {
        const before = this.#oldest ?? this.#room.position.offset + 1;
        const answer = before > 1 ? await this.#room.history({ before, limit: HISTORY_PAGE }) : NO_HISTORY;
        if (this.#room.position.epoch !== epoch) return; // restarted meanwhile: these offsets mean nothing now
        this.#oldest = answer.messages[0]?.offset ?? 1;
        found.unshift(...answer.messages.filter(({ type }) => type === "chat_message").map(readable));
        more = answer.more;
      }
      this.thread.addOlder(found);
      $("older").hidden = !more;
    } catch (error) {
      // Without a connection the reader asks again once it is back; anything else is worth a line.
      this.thread.addOlder(found);
      $("older").hidden = false;
      if (!error.temporary) this.thread.note(`Earlier messages are not to be had: ${error.message}`, "warn");
    }
  }

  #submit() {
    const field = $("text");
    const text = field.value.trim();
    if (!text) return;
    if (!this.#room) {
      $("announce").textContent = "Not in the room yet";
      return;
    }
    field.value = "";
    this.#onInput();
    const handle = this.thread.addPending(text, this.client.state !== "online");
    this.#publish(handle, text, randomKey());
  }

  /** Publish under `key`, which a later try takes again: after a lost answer it must not double. */
  async #publish(handle, text, key) {
    try {
      this.thread.acknowledged(handle, await this.#room.publish("chat_message", { text }, { key }));
    } catch (error) {
      if (this.client.state === "closed" && !error.closeCode) return;
      this.thread.failed(handle, `${error.message}.`, () => this.#publish(handle, text, key));
    }
    this.#showFacts();
  }

  #onInput() {
    const field = $("text");
    $("send").disabled = field.value.trim() === "";
    if (!CSS.supports("field-sizing", "content")) {
      field.style.height = "auto";
      field.style.height = `${field.scrollHeight + 2}px`;
    }
    const nowMs = performance.now();
    if (field.value && nowMs - this.#typedMs > TYPING_SEND_MS) {
      this.#typedMs = nowMs;
      this.#room?.signal("chat_typing", {});
    }
  }

  #someoneTypes(name) {
    if (!name || name === this.#me) return;
    clearTimeout(this.#typing.get(name));
    this.#typing.set(name, setTimeout(() => this.#stopTyping(name), TYPING_SHOW_MS));
    this.#showTyping();
  }

  #stopTyping(name) {
    clearTimeout(this.#typing.get(name));
    if (this.#typing.delete(name)) this.#showTyping();
  }

  #showTyping() {
    const names = [...this.#typing.keys()];
    $("typing").textContent = names.length
      ? `${listNames(names)} ${names.length === 1 ? "is" : "are"} typing…` : "";
  }

  // --- who is here ------------------------------------------------------------------------------

  #onPresence({ joined, left, members }) {
    this.#showMembers(members);
    const came = joined.filter((name) => name !== this.#me && !this.#cancelLeaving(name));
    if (came.length) this.#noteJoined(came);
    for (const name of left) {
      this.#stopTyping(name);
      if (name !== this.#me) this.#noteLeavingLater(name);
    }
  }

  #noteJoined(names) {
    const together = this.#joins.node !== null && this.#joins.node === $("log").lastElementChild;
    if (together) {
      this.#joins.names = [...new Set([...this.#joins.names, ...names])];
      this.#joins.node.textContent = `${listNames(this.#joins.names)} joined`;
    } else {
      this.#joins = { names, node: this.thread.note(`${listNames(names)} joined`) };
    }
  }

  #noteLeavingLater(name) {
    this.#cancelLeaving(name);
    const restarted = performance.now() - this.#resumedMs < LEFT_GRACE_MS || !this.#room.joined;
    this.#leaving.set(name, setTimeout(() => {
      this.#leaving.delete(name);
      this.thread.note(`${name} left`);
    }, restarted ? RESTART_GRACE_MS : LEFT_GRACE_MS));
  }

  #cancelLeaving(name) {
    clearTimeout(this.#leaving.get(name));
    return this.#leaving.delete(name);
  }

  #showMembers(members) {
    const names = [...members].sort((a, b) => (b === this.#me) - (a === this.#me) || a.localeCompare(b));
    const rows = names.slice(0, MEMBERS_SHOWN).map((name) => el("li", {},
      avatar(name), el("span", { class: "who" }, name),
      name === this.#me ? el("span", { class: "you" }, "you") : null));
    const total = Math.max(this.#room?.memberCount ?? 0, names.length);
    if (total > rows.length) {
      const more = count(total - rows.length, "other", "others");
      rows.push(el("li", { class: "more" }, `and ${more}`));
    }
    $("members").replaceChildren(...rows);
    $("member-count").textContent = total.toLocaleString();
    const others = names.filter((name) => name !== this.#me);
    $("room-sub").textContent = others.length ? `You, ${listNames(others)}` : "Only you, for now";
  }

  // --- the connection ---------------------------------------------------------------------------

  #showState(state, { delayMs = 0, error = null }) {
    clearInterval(this.#countdown);
    const words = { connecting: "Connecting…", online: "Online", waiting: "Offline", closed: "Disconnected" };
    $("status").dataset.state = state;
    $("status-text").textContent = words[state];
    this.thread.setWaiting(state !== "online");
    this.#showFacts();
    if (state === "online") {
      this.#backOnline = this.client.reconnects > 0;
      if (this.#backOnline) this.#resumedMs = performance.now();
      this.#caughtUp = 0;
      if (!$("banner").hidden) this.#flash("Back online.");
    } else if (state === "waiting") {
      this.#showWaiting(delayMs);
    } else if (state === "closed" && error) {
      this.#showRefusal(error);
    }
  }

  #showWaiting(delayMs) {
    const due = performance.now() + delayMs;
    const seconds = el("span", { "aria-hidden": "true" });
    const text = navigator.onLine
      ? "The connection is lost. What you write is sent when it is back. "
      : "You are offline. What you write is sent when you are back. ";
    const tell = () => {
      const left = Math.ceil((due - performance.now()) / 1000);
      seconds.textContent = left > 0 ? `Next try in ${left} s.` : "";
    };
    // The seconds are hidden from screen readers: a live region that counts is no help.
    tell();
    this.#countdown = setInterval(tell, 250);
    showBanner("warn", [text, seconds], { retry: true });
  }

  #showRefusal(error) {
    const why = REFUSALS[error.closeCode] ?? `The server does not let you in: ${error.message}.`;
    showBanner("bad", [why], { back: true });
  }

  #flash(text) {
    showBanner("good", [text], {});
    this.#countdown = setTimeout(() => { $("banner").hidden = true; }, 2_500);
  }

  #onResumed({ recovered }) {
    const backOnline = this.#backOnline;
    this.#backOnline = false;
    if (!backOnline || !recovered || this.#caughtUp === 0) return;
    this.#flash(`Back online with ${count(this.#caughtUp, "message", "messages")} that you missed.`);
  }

  #onGap({ from, to, reason }) {
    if (reason === "epoch_changed") {
      $("older").hidden = true; // its offsets may begin anew, too
      this.#oldest = 1;
      const text = "The room began anew: messages may be missing here. From here on nothing is.";
      this.thread.note(text, "warn");
    } else if (from !== null) {
      this.thread.note(`${count(to - from + 1, "message is", "messages are")} missing here.`, "warn");
    }
  }

  #showRtt(ms) {
    this.#rtts = [...this.#rtts, ms].slice(-RTT_SAMPLES);
    const shown = ms < 10 ? ms.toFixed(1) : Math.round(ms).toString();
    $("rtt").textContent = shown;
    if (this.client.state === "online") $("status-text").textContent = `${shown} ms`;
    drawSpark($("spark-small"), this.#rtts, RTT_SAMPLES);
    drawSpark($("spark-large"), this.#rtts, RTT_SAMPLES);
    this.#showFacts();
  }

  #showFacts() {
    const { client } = this;
    const sorted = [...this.#rtts].sort((a, b) => a - b);
    const position = this.#room?.position;
    const facts = {
      "Median trip": sorted.length ? `${sorted[sorted.length >> 1].toFixed(1)} ms` : "–",
      "Clock difference": `${Math.round(client.clockOffsetMs)} ms`,
      "Position": position ? `${position.offset} in ${position.epoch}` : "–",
      "Reconnects": client.reconnects.toLocaleString(),
      "Waiting to be sent": client.pending.toLocaleString(),
      "Server": client.greeting?.node ?? "–",
    };
    $("facts").replaceChildren(...Object.entries(facts).flatMap(([term, value]) =>
      [el("dt", {}, term), el("dd", { title: value }, value)]));
  }

  /** What came and was not looked at, and what is only counted while the tab is hidden. */
  #showTitle() {
    const unread = this.#unread + (this.#room?.unread ?? 0);
    document.title = `${unread ? `(${unread}) ` : ""}#${this.#title}`;
  }
}

function showBanner(tone, content, { retry = false, back = false }) {
  $("banner").dataset.tone = tone;
  $("banner-text").replaceChildren(...content);
  $("retry").hidden = !retry;
  $("back").hidden = !back;
  $("banner").hidden = false;
}

// --- sealed rooms ---------------------------------------------------------------------------------

/** The keys of a room by words that its members share. */
async function keysOf(secret, room) {
  return new Keyring([await Key.fromPassphrase("shared", secret, { salt: `realtime demo ${room}` })]);
}

/** A message with something to show in place of what cannot be read. */
function readable(message) {
  const { content } = message;
  if (content?.sealed) return { ...message, content: { text: "🔒 sealed: come in with the secret to read it" } };
  if (!(content instanceof Unreadable)) return message;
  const why = {
    not_sealed: `⚠️ not sealed, so it may be anybody's: ${content.content?.text ?? ""}`,
    unknown_key: "🔒 sealed with a key that is not ours",
    broken: "🔒 cannot be read: sealed with another secret, or changed on the way",
  }[content.why];
  return { ...message, content: { text: why } };
}

// --- the page's two views ------------------------------------------------------------------------

/** @type {Visit|null} */
let visit = null;

function enter(name, room, secret) {
  memory.name = name;
  // A reload comes in again by the address alone; without the secret it would say openly what is to be sealed.
  const query = new URLSearchParams(secret ? { room } : { room, name });
  history.replaceState(null, "", `?${query}${location.hash}`);
  $("lobby").hidden = true;
  $("chat").hidden = false;
  $("banner").hidden = true;
  visit = new Visit(name, room, secret);
  $("text").focus();
}

function leave() {
  visit?.end();
  visit = null;
  showSide(false);
  document.title = "realtime";
  history.replaceState(null, "", location.pathname + location.hash);
  $("chat").hidden = true;
  $("lobby").hidden = false;
  $("name").focus();
}

/** What is wrong with a name or a room, or null. The server holds the same rules. */
function complaint(name, room) {
  const unprintable = /[\p{C}\p{Zl}\p{Zp}]/u;
  if (!name) return "Please pick a name.";
  if (!room) return "Please pick a room.";
  if (unprintable.test(name) || unprintable.test(room)) return "Letters, digits and signs only, please.";
  return null;
}

function readForm() {
  const name = $("name").value.trim();
  const room = $("room").value.trim().replace(/^#+/, "");
  const wrong = complaint(name, room);
  $("enter-error").hidden = !wrong;
  $("enter-error").textContent = wrong ?? "";
  if (!wrong) enter(name, room, $("secret").value);
}

async function share() {
  const link = new URL(location.href);
  link.search = new URLSearchParams({ room: new URLSearchParams(location.search).get("room") ?? "lobby" });
  link.hash = "";
  const label = $("share").querySelector(".label");
  try {
    // The clipboard exists on https and localhost only.
    await navigator.clipboard.writeText(link.href);
    label.textContent = "Link copied";
    $("announce").textContent = "Link copied";
    setTimeout(() => { label.textContent = "Invite"; }, 2_000);
  } catch {
    prompt("The link to this room:", link.href);
  }
}

function showSide(open) {
  $("side").classList.toggle("open", open);
  $("scrim").hidden = !open;
  $("toggle-side").setAttribute("aria-expanded", String(open));
  $("talk").inert = open; // what the drawer covers cannot be reached by keyboard either
  if (open) $("side").focus();
}

$("enter").addEventListener("submit", (event) => { event.preventDefault(); readForm(); });
$("leave").addEventListener("click", leave);
$("back").addEventListener("click", leave);
$("share").addEventListener("click", share);
$("toggle-side").addEventListener("click", () => showSide(!$("side").classList.contains("open")));
$("scrim").addEventListener("click", () => showSide(false));
// Wide enough, and the drawer is a column of its own again.
matchMedia("(width > 860px)").addEventListener("change", ({ matches }) => matches && showSide(false));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !$("side").classList.contains("open")) return;
  showSide(false);
  $("toggle-side").focus();
});

const query = new URLSearchParams(location.search);
$("room").value = query.get("room") ?? "lobby";
$("name").value = query.get("name") ?? memory.name;
if (query.get("room") && query.get("name")) readForm();
else ($("name").value ? $("room") : $("name")).focus();

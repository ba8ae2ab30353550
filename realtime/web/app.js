/**
 * The demo page: enter by a name and a room, and talk. The network is in realtime.js, the conversation as it
 * stands in chat.js; visit.js joins them with what is drawn, and this file has the way in.
 */

import { bindDrawers, showDrawer } from "./drawers.js";
import { fillIcons } from "./icons.js";
import { Visit } from "./visit.js";

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
  $("chat").className = "chat plain"; // until the server says that it has more
  visit = new Visit(name, room, secret, leave);
  $("text").focus();
}

function leave() {
  visit?.end();
  visit = null;
  for (const name of ["side", "nav"]) showDrawer(name, false);
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

fillIcons(document);
bindDrawers();
$("enter").addEventListener("submit", (event) => { event.preventDefault(); readForm(); });
$("back").addEventListener("click", leave);
$("share").addEventListener("click", share);

const query = new URLSearchParams(location.search);
$("room").value = query.get("room") ?? "lobby";
$("name").value = query.get("name") ?? memory.name;
if (query.get("room") && query.get("name")) readForm();
else ($("name").value ? $("room") : $("name")).focus();

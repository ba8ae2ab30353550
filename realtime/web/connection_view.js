/** How the connection is: the state in the bar, the banner, the round trip, the facts at the side. */

import { drawSpark, el } from "./parts.js";

const RTT_SAMPLES = 40;

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

export class ConnectionView {
  #client;
  #rtts = [];
  #countdown = null;
  #position = () => null;

  /** @param {import("./realtime.js").Client} client
   *  @param {() => (import("./room.js").Position|null|undefined)} position  in the room that is shown */
  constructor(client, position) {
    this.#client = client;
    this.#position = position;
    client.on("rtt", (ms) => this.#showRtt(ms));
  }

  end() {
    clearTimeout(this.#countdown);
  }

  showState(state, { delayMs = 0, error = null }) {
    clearInterval(this.#countdown);
    const words = { connecting: "Connecting…", online: "Online", waiting: "Offline", closed: "Disconnected" };
    $("status").dataset.state = state;
    $("status-text").textContent = words[state];
    this.showFacts();
    if (state === "online" && !$("banner").hidden) this.flash("Back online.");
    else if (state === "waiting") this.#showWaiting(delayMs);
    else if (state === "closed" && error) this.refuse(error);
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

  refuse(error) {
    const why = REFUSALS[error.closeCode] ?? `The server does not let you in: ${error.message}.`;
    showBanner("bad", [why], { back: true });
  }

  flash(text) {
    clearInterval(this.#countdown);
    showBanner("good", [text], {});
    this.#countdown = setTimeout(() => { $("banner").hidden = true; }, 2_500);
  }

  #showRtt(ms) {
    this.#rtts = [...this.#rtts, ms].slice(-RTT_SAMPLES);
    const shown = ms < 10 ? ms.toFixed(1) : Math.round(ms).toString();
    $("rtt").textContent = shown;
    if (this.#client.state === "online") $("status-text").textContent = `${shown} ms`;
    drawSpark($("spark-small"), this.#rtts, RTT_SAMPLES);
    drawSpark($("spark-large"), this.#rtts, RTT_SAMPLES);
    this.showFacts();
  }

  showFacts() {
    const client = this.#client;
    const sorted = [...this.#rtts].sort((a, b) => a - b);
    const position = this.#position();
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
}

export function showBanner(tone, content, { retry = false, back = false }) {
  $("banner").dataset.tone = tone;
  $("banner-text").replaceChildren(...content);
  $("retry").hidden = !retry;
  $("back").hidden = !back;
  $("banner").hidden = false;
}

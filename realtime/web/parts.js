/**
 * Small pieces of the demo page: elements, avatars, times, links. No state, no network.
 * User data goes into the page as text nodes only, never as markup.
 */

/** Make an element: `el("p", { class: "note" }, "text", child)`. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A hue in degrees, always the same for the same name (FNV-1a, spread by the golden angle). */
export function hueOf(name) {
  let hash = 0x811c9dc5;
  for (const unit of name.toLowerCase()) {
    hash = Math.imul(hash ^ unit.codePointAt(0), 0x01000193) >>> 0;
  }
  return Math.round(((hash % 997) * 137.508) % 360);
}

/** "Ada Lovelace" → "AL", "bob_42" → "B4", "李雷" → "李". */
export function initials(name) {
  const words = name.split(/[\s._\-|]+/u).filter(Boolean);
  const first = [...(words[0] ?? name)][0] ?? "?";
  const second = words.length > 1 ? [...words[1]][0] : "";
  return (first + second).toLocaleUpperCase();
}

export function avatar(name) {
  const node = el("span", { class: "avatar", "aria-hidden": "true" }, initials(name));
  node.style.setProperty("--hue", hueOf(name));
  return node;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "long" });

export function timeElement(date, className) {
  return el("time", { class: className, datetime: date.toISOString(), title: FULL.format(date) },
    TIME.format(date));
}

/** "Today", "Yesterday", "Monday, 3 March", "3 March 2024". */
export function dayName(date, today = new Date()) {
  const midnight = (day) => new Date(day.getFullYear(), day.getMonth(), day.getDate());
  const days = Math.round((midnight(today) - midnight(date)) / 86_400_000);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return days < 300 ? WEEKDAY.format(date) : DATE.format(date);
}

const LINK = /https?:\/\/[^\s<>"']+/giu;

/** The text as nodes, with web addresses as links. What follows a full stop stays outside the link. */
export function withLinks(text) {
  const nodes = [];
  let end = 0;
  for (const { 0: match, index } of text.matchAll(LINK)) {
    const address = match.replace(/[.,;:!?)\]}]+$/u, "");
    if (!URL.canParse(address)) continue;
    nodes.push(text.slice(end, index));
    nodes.push(el("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, address));
    end = index + address.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

/** One to three emoji and nothing else: shown large. */
export function isEmoji(text) {
  return /^(?:\p{Extended_Pictographic}(?:\p{Emoji_Modifier}|\uFE0F|\u200D\p{Extended_Pictographic})*\s?){1,3}$/u
    .test(text.trim());
}

/** "Ada", "Ada and Ben", "Ada, Ben and 3 others". */
export function listNames(names, shown = 3) {
  if (names.length <= 1) return names[0] ?? "";
  if (names.length <= shown) return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  const rest = names.length - shown + 1;
  return `${names.slice(0, shown - 1).join(", ")} and ${rest} others`;
}

export function count(number, one, many) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

/** Draw the samples into an <svg> with a <polyline> and, where there is one, a <polygon> under it. */
export function drawSpark(svg, samples, capacity) {
  const { width, height } = svg.viewBox.baseVal;
  // The floor of 4 ms keeps the noise of a fast network from looking like a mountain range.
  const top = Math.max(4, ...samples) * 1.15;
  const left = capacity - samples.length;
  const points = samples.map((value, index) => {
    const x = ((left + index) / (capacity - 1)) * width;
    return `${x.toFixed(1)},${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`;
  });
  svg.querySelector("polyline").setAttribute("points", points.join(" "));
  const area = svg.querySelector("polygon");
  if (!area || !points.length) return;
  const start = points[0].split(",")[0];
  area.setAttribute("points", `${start},${height} ${points.join(" ")} ${width},${height}`);
}

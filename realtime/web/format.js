/**
 * A message's text as nodes, by the entities that the server found in it; never as markup. Entities name
 * ranges `from` to `to` of the text in characters (code points), with the signs that made them; they may
 * nest, and what is out of the text or of an unknown kind is shown as it was written.
 */

import { el, withLinks } from "./parts.js";

const SAFE = new Set(["http:", "https:", "mailto:"]);
/** By kind: the element, and how many signs of the writer's it takes along at either end. */
const FORMS = {
  bold: ["strong", 2], italic: ["em", 1], strike: ["s", 2], code: ["code", 1], code_block: ["pre", 3],
};

const BLOCKS = new Set(["quote", "code_block"]);

/** The text without the signs that form it, in one line: for where there is little room. */
export function plainText({ text, entities }) {
  return el("span", {}, ...formatted(text, entities, "")).textContent.replace(/\s+/gu, " ");
}

/** @param {string} text @param {object[]} entities @param {string} me  whose mentions stand out */
export function formatted(text, entities, me) {
  const chars = [...text];
  const ranges = entities.filter(({ from, to }) =>
    Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= chars.length);
  if (!ranges.length) return withMentions(text, me);
  // Outer before inner.
  ranges.sort((a, b) => a.from - b.from || b.to - a.to);
  return nodesOf(chars, 0, chars.length, ranges, me);
}

function nodesOf(chars, from, to, ranges, me) {
  const nodes = [];
  let at = from;
  for (const range of ranges) {
    if (range.from < at || range.to > to) continue; // it crosses another: the first one counts
    if (range.from > at) nodes.push(chars.slice(at, range.from).join(""));
    nodes.push(entityNode(range, chars, ranges, me));
    // A block ends its line by itself.
    at = BLOCKS.has(range.kind) && chars[range.to] === "\n" ? range.to + 1 : range.to;
  }
  if (at < to) nodes.push(chars.slice(at, to).join(""));
  return nodes;
}

function entityNode(range, chars, ranges, me) {
  const { kind, from, to } = range;
  const whole = chars.slice(from, to).join("");
  if (kind === "mention" || kind === "here") {
    const user = kind === "here" ? "here" : String(range.user ?? whole.replace(/^@/u, ""));
    return mention(`@${user}`, user, me);
  }
  if (kind === "url") return linked(String(range.url ?? whole), whole) ?? whole;
  if (kind === "quote") return el("blockquote", {}, ...quoted(range, chars, ranges, me));
  const [tag, marks] = FORMS[kind] ?? [null, 0];
  if (tag === null || to - from <= 2 * marks) return whole;
  const inner = ranges.filter((one) => one !== range && one.from >= from + marks && one.to <= to - marks);
  if (kind === "code") return el(tag, {}, whole.slice(1, -1));
  if (kind === "code_block") return el(tag, { tabindex: "0" }, whole.slice(3, -3).replace(/^\w*\n|\n$/gu, ""));
  return el(tag, {}, ...nodesOf(chars, from + marks, to - marks, inner, me));
}

/** The lines of a quote without their signs. */
function quoted({ from, to }, chars, ranges, me) {
  const nodes = [];
  let at = from;
  while (at < to) {
    let end = chars.indexOf("\n", at);
    if (end < 0 || end > to) end = to;
    if (chars[at] === ">") at += chars[at + 1] === " " ? 2 : 1;
    const start = Math.min(at, end);
    const inner = ranges.filter((one) => one.kind !== "quote" && one.from >= start && one.to <= end);
    nodes.push(...nodesOf(chars, start, end, inner, me));
    if (end < to) nodes.push("\n");
    at = end + 1;
  }
  return nodes;
}

/** A link, or null where the address is none that may be followed. */
export function linked(address, text) {
  const whole = /^www\./iu.test(address) ? `https://${address}` : address;
  if (!URL.canParse(whole) || !SAFE.has(new URL(whole).protocol)) return null;
  return el("a", { href: whole, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

function mention(text, user, me) {
  return el("span", { class: user === me || user === "here" ? "mention mine" : "mention" }, text);
}

/** Text without entities, as from a server that finds none: links, and our own name where it is called. */
function withMentions(text, me) {
  const nodes = [];
  for (const node of withLinks(text)) {
    if (typeof node !== "string") nodes.push(node);
    else nodes.push(...calledOut(node, me));
  }
  return nodes;
}

function calledOut(text, me) {
  const call = `@${me}`;
  const parts = me ? text.split(call) : [text];
  const nodes = [parts[0]];
  for (const rest of parts.slice(1)) {
    const whole = !/^[\p{L}\p{N}_]/u.test(rest);
    nodes.push(whole ? mention(call, me, me) : call, rest);
  }
  return nodes.filter((node) => node !== "");
}

/** The snippet of a hit: its marked parts as <mark>. @param {{ text: string, mark?: boolean }[]} parts */
export function snippet(parts) {
  return (Array.isArray(parts) ? parts : []).map(({ text, mark }) =>
    (mark ? el("mark", {}, String(text ?? "")) : String(text ?? "")));
}

const UNITS = ["bytes", "KB", "MB", "GB"];

/** 1234567 → "1.2 MB" */
export function bytesText(bytes) {
  let amount = Number(bytes) || 0;
  let unit = 0;
  while (amount >= 1000 && unit < UNITS.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${unit && amount < 100 ? amount.toFixed(1) : Math.round(amount)} ${UNITS[unit]}`;
}

/**
 * A message's text as nodes, by the entities that the server found in it; never as markup. Entities name
 * ranges `from` to `to` of the text in characters (code points); they may nest, and what is out of the
 * text or of an unknown kind is shown as plain text.
 */

import { el, withLinks } from "./parts.js";

const SAFE = new Set(["http:", "https:", "mailto:"]);
const TAGS = {
  bold: "strong", italic: "em", strike: "s", code: "code", quote: "q", spoiler: "span", underline: "u",
};
const BLOCKS = { pre: "pre", code_block: "pre", blockquote: "blockquote", block_quote: "blockquote" };

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
  for (let index = 0; index < ranges.length; index++) {
    const range = ranges[index];
    if (range.from < at || range.to > to) continue; // it crosses another: the first one counts
    if (range.from > at) nodes.push(...plain(chars.slice(at, range.from).join(""), me));
    const inside = ranges.slice(index + 1).filter((one) => one.from >= range.from && one.to <= range.to);
    nodes.push(entityNode(range, chars, inside, me));
    at = range.to;
  }
  if (at < to) nodes.push(...plain(chars.slice(at, to).join(""), me));
  return nodes;
}

function entityNode(range, chars, inside, me) {
  const { kind, from, to } = range;
  // A leading or trailing sign of the writer's, such as the asterisks of bold, may be named apart.
  const whole = chars.slice(from, to).join("");
  if (kind === "mention" || kind === "here") return mention(whole, range.user ?? whole.replace(/^@/u, ""), me);
  if (kind === "url" || kind === "link" || kind === "email") {
    return linked(range.url ?? (kind === "email" ? `mailto:${whole}` : whole), whole) ?? whole;
  }
  const tag = TAGS[kind] ?? BLOCKS[kind];
  if (!tag) return whole;
  const literal = tag === "code" || tag === "pre";
  return el(tag, tag === "span" ? { class: "spoiler", tabindex: "0" } : {},
    ...(literal ? [bare(whole, kind)] : nodesOf(chars, from, to, inside, me)));
}

function bare(text, kind) {
  return kind === "code" ? text.replace(/^`+|`+$/gu, "") : text.replace(/^```[^\n]*\n?|\n?```$/gu, "");
}

function plain(text, me) {
  return withMentions(text, me);
}

/** A link, or null where the address is none that may be followed. */
export function linked(address, text) {
  const whole = /^www\./iu.test(address) ? `https://${address}` : address;
  if (!URL.canParse(whole) || !SAFE.has(new URL(whole).protocol)) return null;
  return el("a", { href: whole, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

function mention(text, user, me) {
  return el("span", { class: user === me || text === "@here" ? "mention mine" : "mention" }, text);
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

// Small charts: one SVG each, drawn anew with every point. No library, no style attributes (CSP).

import { draw } from "./parts.js";

const WIDTH = 300;
const HEIGHT = 74;
const POINTS = 120; // seconds shown

// A round number at least `value`, so that the scale does not jump with every point.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

function path(values, top) {
  const step = WIDTH / (POINTS - 1);
  const start = POINTS - values.length;
  return values
    .map((value, at) => {
      const x = ((start + at) * step).toFixed(1);
      const y = (HEIGHT - 2 - (Math.min(value, top) / top) * (HEIGHT - 6)).toFixed(1);
      return `${at ? "L" : "M"}${x} ${y}`;
    })
    .join("");
}

// A chart of up to two series; `show` takes lists of numbers, oldest first.
export class Chart {
  constructor(label) {
    this.label = label;
    this.title = draw("title");
    this.area = draw("path", { class: "area" });
    this.lines = [draw("path", { class: "line" }), draw("path", { class: "line second" })];
    const rules = [0.5, 1].map((share) => {
      const y = HEIGHT - 2 - share * (HEIGHT - 6);
      return draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y });
    });
    this.element = draw(
      "svg",
      { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      this.title, ...rules, this.area, ...this.lines,
    );
  }

  show(series, format) {
    const shown = series.map((values) => values.slice(-POINTS));
    const top = ceiling(Math.max(...shown.flat(), 0));
    shown.forEach((values, at) => this.lines[at].setAttribute("d", values.length ? path(values, top) : ""));
    const first = shown[0];
    if (first.length > 1) {
      const left = ((POINTS - first.length) * WIDTH) / (POINTS - 1);
      this.area.setAttribute("d", `${path(first, top)}L${WIDTH} ${HEIGHT}L${left.toFixed(1)} ${HEIGHT}Z`);
    }
    this.title.textContent = `${this.label}, last ${first.length} s; scale up to ${format(top)}`;
  }
}

// A bar of a share of the whole.
export function meter(share) {
  const bar = draw("rect", { x: 0, y: 0, height: 5, width: Math.max(0, Math.min(1, share)) * 100 });
  return draw("svg", { class: "meter", viewBox: "0 0 100 5", preserveAspectRatio: "none", "aria-hidden": "true" }, bar);
}

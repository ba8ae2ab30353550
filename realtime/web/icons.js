/** The page's icons: strokes on a grid of 20 by 20. */

const PATHS = {
  attach: "M15.5 9.2 9.8 14.9a3.5 3.5 0 0 1-5-5l6-6a2.4 2.4 0 0 1 3.4 3.4l-5.9 5.9a1.2 1.2 0 0 1-1.7-1.7l5.2-5.2",
  bell: "M5 8.5a5 5 0 0 1 10 0c0 4 1.5 5 1.5 5h-13s1.5-1 1.5-5M8.5 16.5a1.7 1.7 0 0 0 3 0",
  close: "M5 5l10 10M15 5 5 15",
  copy: "M7.5 7.5h8v8h-8zM4.5 12.5v-8h8",
  down: "M10 4v11M5 10.2l5 5 5-5",
  edit: "M4 16l.8-3.4L13.2 4.2l2.6 2.6-8.4 8.4zM11.5 6l2.6 2.6",
  eye: "M2.5 10S5.2 5 10 5s7.5 5 7.5 5-2.7 5-7.5 5-7.5-5-7.5-5M10 12.2a2.2 2.2 0 1 0 0-4.4 2.2 2.2 0 0 0 0 4.4",
  file: "M5.5 3h6l3.5 3.5V17h-9.5zM11.2 3v3.8H15",
  flag: "M5 17V3.5h9.5l-2 3.2 2 3.3H5",
  link: "M8.2 11.8a3 3 0 0 0 4.3 0l2.9-2.9a3 3 0 0 0-4.3-4.3l-1 1M11.8 8.2a3 3 0 0 0-4.3 0l-2.9 2.9a3 3 0 0 0 4.3 4.3l1-1",
  lock: "M5.5 9h9v7.5h-9zM7 9V6.5a3 3 0 0 1 6 0V9",
  menu: "M3.5 5.5h13M3.5 10h13M3.5 14.5h13",
  more: "M5 10h.01M10 10h.01M15 10h.01",
  people: "M7.5 9.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6M2.5 16c.4-3 2.3-4.6 5-4.6s4.6 1.6 5 4.6M13.2 4.5a2.6 2.6 0 0 1 0 5M14.6 11.7c1.7.5 2.7 2 2.9 4.3",
  pin: "M7 3.5h6l-.7 5 2.2 2.5h-9L7.7 8.5zM10 11v5.5",
  plus: "M10 4v12M4 10h12",
  reply: "M8 5 3.5 9.5 8 14M3.8 9.5h7.2c3.5 0 5.5 2 5.5 5.5",
  search: "M9 14.5a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11M13 13l4 4",
  send: "M10 16V4.5M4.8 9.4 10 4.2l5.2 5.2",
  settings: "M3.5 6h7M14 6h2.5M12.2 7.8a1.8 1.8 0 1 0 0-3.6 1.8 1.8 0 0 0 0 3.6M3.5 14h2.5M9.5 14h7M7.8 15.8a1.8 1.8 0 1 0 0-3.6 1.8 1.8 0 0 0 0 3.6",
  smile: "M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14M7.2 11.8a3.5 3.5 0 0 0 5.6 0M7.6 8.2h.01M12.4 8.2h.01",
  thread: "M4 4h12v8.5H9L5.5 16v-3.5H4zM7 7.2h6M7 9.5h4",
  trash: "M4 5.5h12M8 5.5V3.5h4v2M5.5 5.5l.7 11h7.6l.7-11",
};

const SVG = "http://www.w3.org/2000/svg";

/** @param {keyof typeof PATHS} name */
export function icon(name, size = 18) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({
    viewBox: "0 0 20 20", width: size, height: size, "aria-hidden": "true", focusable: "false", class: `icon icon-${name}`,
  })) svg.setAttribute(key, String(value));
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Give the buttons of the page's own markup their icons. */
export function fillIcons(root) {
  for (const node of root.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
}

// The dashboard: overviews of all workers, once a second, and what one may do about what one sees.

import { Chart, meter } from "./charts.js";
import { Live } from "./live.js";
import { KEY, ask, make } from "./parts.js";

const find = (selector) => document.querySelector(selector);
const KEPT = 180;
const EVENTS = 50;

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const plain = new Intl.NumberFormat("en");
const count = (value) => (value < 10000 ? plain.format(Math.round(value)) : compact.format(value));
const bytes = (value) => {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = value < 1 ? 0 : Math.min(4, Math.floor(Math.log(value) / Math.log(1024)));
  return `${(value / 1024 ** power).toFixed(power && value / 1024 ** power < 10 ? 1 : 0)} ${units[power]}`;
};
const millis = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const cores = (value) => `${Math.round(value * 100)} %`;
const span = (seconds) => {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
};

// What each tile shows: one or two fields of a point, the last of them as a number.
const TILES = [
  { id: "connections", title: "Connections", fields: ["connections"], format: count },
  { id: "deliveries", title: "Deliveries", unit: "/s", fields: ["deliveries"], format: count },
  { id: "messages", title: "Messages in", unit: "/s", fields: ["messages_in", "errors"], names: ["messages", "errors"], format: count },
  { id: "latency", title: "Delivery latency p99", fields: ["latency_p99_ms", "latency_p50_ms"], names: ["p99", "p50"], format: millis },
  { id: "bytes", title: "Sent", unit: "/s", fields: ["bytes_out", "bytes_in"], names: ["sent", "received"], format: bytes },
  { id: "lag", title: "Event loop late p99", fields: ["lag_p99_ms"], format: millis },
  { id: "cpu", title: "CPU", unit: "of a core", fields: ["cpu"], format: cores },
  { id: "rooms-now", title: "Rooms", fields: ["rooms"], format: count },
];

const board = { points: [], events: [], powers: new Set(), live: null };

function makeTiles() {
  for (const tile of TILES) {
    tile.chart = new Chart(tile.title);
    tile.value = make("p", { class: "value", id: `value-${tile.id}` }, "–");
    const legend = make("p", { class: "legend" });
    (tile.names ?? []).forEach((name, at) => legend.append(make("span", {}, make("i", { class: at ? "second" : "" }), name)));
    find("#tiles").append(
      make("article", { class: "card tile", "aria-labelledby": `tile-${tile.id}` },
        make("h2", { id: `tile-${tile.id}` }, tile.title), tile.value, tile.chart.element, legend),
    );
  }
}

function showPoints() {
  const last = board.points.at(-1);
  if (!last) return;
  for (const { chart, value, fields, format, unit } of TILES) {
    value.replaceChildren(format(last[fields[0]] ?? 0), ...(unit ? [" ", make("small", {}, unit)] : []));
    chart.show(fields.map((field) => board.points.map((point) => point[field] ?? 0)), format);
  }
}

function stateOf(worker) {
  if (worker.draining) return make("span", { class: "pill warn" }, "draining");
  const troubles = Object.entries(worker.troubles ?? {});
  if (!troubles.length) return make("span", { class: "pill" }, "ok");
  return make("span", { class: "pill bad" }, troubles.map(([name, said]) => `${name}: ${said}`).join(", "));
}

function orderButton(worker, order) {
  const label = order === "drain" ? "Drain" : "Shed";
  return make("button", {
    type: "button", class: order === "drain" ? "danger" : "", "aria-label": `${label} ${worker.node}`,
    disabled: worker.draining,
    onclick: () => give(order, worker),
  }, label);
}

// Rows are kept from one overview to the next, so that the keyboard's focus stays where it is.
function showWorkers(workers, silent) {
  const body = find("#workers");
  const rows = new Map([...body.children].map((row) => [row.dataset.worker, row]));
  const wanted = [];
  for (const worker of workers) {
    const row = rows.get(worker.worker) ?? make("tr", { "data-worker": worker.worker });
    const cells = [
      make("th", { scope: "row" }, worker.node, make("span", { class: "quiet" }, ` ${worker.version}`)),
      make("td", {}, stateOf(worker)),
      ...[count(worker.connections), count(worker.rooms), count(worker.messages_in), count(worker.deliveries),
        cores(worker.cpu), bytes(worker.memory_bytes), millis(worker.lag_p99_ms), span(worker.uptime_s)]
        .map((text) => make("td", { class: "number" }, text)),
    ];
    const orders = row.querySelector(".orders") ?? make("td", { class: "orders" });
    const shown = `${(worker.orders ?? []).join()} ${Boolean(worker.draining)} ${board.powers.has("admin:operate")}`;
    if (orders.dataset.shown !== shown) {
      orders.dataset.shown = shown;
      const may = board.powers.has("admin:operate") ? (worker.orders ?? []) : [];
      orders.replaceChildren(make("div", { class: "row" }, ...may.map((order) => orderButton(worker, order))));
    }
    if (!orders.isConnected) row.append(...cells, orders);
    else {
      [...row.children].filter((cell) => cell !== orders).forEach((cell) => cell.remove());
      orders.before(...cells);
    }
    wanted.push(row);
  }
  for (const worker of silent) {
    wanted.push(make("tr", { "data-worker": `silent ${worker}` },
      make("th", { scope: "row" }, worker),
      make("td", { colspan: "10" }, make("span", { class: "pill bad" }, "gives no answer"))));
  }
  for (const [name, row] of rows) if (!wanted.some((each) => each.dataset.worker === name && each === row)) row.remove();
  wanted.forEach((row, at) => { if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null); });
}

function showBusy(where, list, what) {
  if (!list.length) {
    find(where).replaceChildren(make("p", { class: "quiet" }, "None."));
    return;
  }
  const most = list[0].connections || 1;
  const rows = list.map(({ name, tenant, connections }) =>
    make("tr", {},
      make("th", { scope: "row" }, name, tenant && tenant !== "default" ? make("span", { class: "quiet" }, ` ${tenant}`) : null, meter(connections / most)),
      make("td", { class: "number" }, count(connections))));
  find(where).replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, what), make("th", { scope: "col", class: "number" }, "Connections"))),
    make("tbody", {}, ...rows)));
}

function eventLine(each) {
  const time = new Date(each.at);
  const by = each.detail?.by ? ` by ${each.detail.by}` : "";
  const more = Object.entries(each.detail ?? {}).filter(([name]) => name !== "by").map(([name, said]) => `${name} ${said}`).join(", ");
  return make("li", {},
    make("time", { datetime: each.at }, time.toLocaleTimeString("en-GB")),
    make("p", {},
      make("span", { class: `pill ${{ denied: "warn", failed: "bad" }[each.outcome] ?? ""}` }, each.action), " ",
      make("strong", {}, each.target || each.actor), each.count > 1 ? ` ×${each.count}` : "",
      make("span", { class: "quiet" }, ` ${each.actor}${by}${more ? ` · ${more}` : ""}`)));
}

function showEvents(fresh) {
  if (!fresh.length) return;
  board.events = [...board.events, ...fresh].slice(-EVENTS);
  find("#events").replaceChildren(...board.events.toReversed().map(eventLine));
  find("#no-events").hidden = true;
}

function showOverview(overview) {
  if (overview.trouble) {
    setState("waiting", overview.trouble);
    return;
  }
  setState("live", "live");
  board.points = [...board.points, overview.point].slice(-KEPT);
  showPoints();
  showWorkers(overview.workers ?? [], overview.silent ?? []);
  showBusy("#rooms", overview.rooms ?? [], "Room");
  showBusy("#tenants", overview.tenants ?? [], "Tenant");
  showEvents(overview.events ?? []);
  document.body.dataset.overviews = Number(document.body.dataset.overviews ?? 0) + 1;
}

// ---------------------------------------------------------------- acting

function tell(kind, text) {
  const said = find("#said");
  said.dataset.kind = kind;
  said.textContent = text;
}

async function act(path, body, told) {
  try {
    const { status, body: answer } = await ask(`/v1/${path}`, { method: "POST", key: sessionStorage.getItem(KEY), body });
    if (status === 200) tell("good", told(answer));
    else tell("bad", `${answer.detail ?? answer} (${status})`);
  } catch (error) {
    tell("bad", `no answer: ${error.message}`);
  }
}

// Ask before what cannot be undone; resolves to whether to go on.
function sure(title, text, button) {
  const dialog = find("#sure");
  find("#sure-title").textContent = title;
  find("#sure-text").textContent = text;
  find("#sure-yes").textContent = button;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function give(order, worker) {
  const text = order === "drain"
    ? `It closes its ${plain.format(worker.connections)} connections in slices, which come back elsewhere, and ends. Its supervisor starts it anew.`
    : "It closes as many connections as it has too many; they come back elsewhere.";
  const name = order === "drain" ? "Drain" : "Shed";
  if (await sure(`${name} ${worker.node}?`, text, name)) {
    await act(order, { worker: worker.worker }, () => `${worker.node} is told to ${order}`);
  }
}

const filled = (form) => Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));

function onSubmit(selector, handle) {
  const form = find(selector);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    handle(filled(form));
  });
}

onSubmit("#publish", async ({ content = "null", ...body }) => {
  try {
    body.content = JSON.parse(content);
  } catch (error) {
    tell("bad", `the content is no JSON: ${error.message}`);
    return;
  }
  await act("publish", body, (receipt) => `published in ${body.room} at offset ${receipt.offset}`);
});
onSubmit("#kick", async (body) => {
  if (await sure(`Kick ${body.user}?`, "All their connections are closed. They may come back with the token they have.", "Kick")) {
    await act("disconnect", body, ({ connections }) => `${connections} connections of ${body.user} closed`);
  }
});
onSubmit("#revoke", async (body) => {
  const whose = body.token_id ? `the token ${body.token_id}` : `all tokens of ${body.user}`;
  if (await sure("Revoke?", `From now on ${whose} will be refused, and what they opened is closed.`, "Revoke")) {
    await act("revoke", body, ({ until }) => `refused until ${new Date(until * 1000).toLocaleString("en-GB")}`);
  }
});

// ---------------------------------------------------------------- signing in

function setState(state, text) {
  const element = find("#state");
  if (element.dataset.state !== state || element.textContent !== text) {
    element.dataset.state = state;
    element.textContent = text;
  }
}

function enter(key) {
  sessionStorage.setItem(KEY, key);
  board.live = new Live(key, {
    state: setState,
    connected: ({ powers }) => {
      board.powers = new Set(powers);
      for (const [form, power] of [["#publish", "admin:publish"], ["#kick", "admin:disconnect"], ["#revoke", "admin:revoke"]]) {
        find(form).hidden = !board.powers.has(power);
      }
      find("#login").hidden = true;
      find("#board").hidden = find("#session").hidden = false;
    },
    past: ({ points, events }) => {
      board.points = points;
      board.events = [];
      showPoints();
      showEvents(events);
    },
    overview: showOverview,
    refused: (message) => signOut(message),
  });
}

function signOut(message = "") {
  board.live?.close();
  board.live = null;
  sessionStorage.removeItem(KEY);
  find("#board").hidden = find("#session").hidden = true;
  find("#login").hidden = false;
  find("#login-said").dataset.kind = "bad";
  find("#login-said").textContent = message;
  find("#key").value = "";
  find("#key").focus();
}

find("#login").addEventListener("submit", (event) => {
  event.preventDefault();
  find("#login-said").textContent = "";
  enter(find("#key").value.trim());
});
find("#leave").addEventListener("click", () => signOut());

makeTiles();
const known = sessionStorage.getItem(KEY);
if (known) enter(known);

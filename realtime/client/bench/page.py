"""A result as one HTML file that stands alone: no script, nothing from elsewhere, light and dark.

Its policy (CSP) lets nothing in but its own style.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from html import escape
from typing import Final

from realtime.client.bench.plot import Line, Tick, plot
from realtime.client.bench.result import Latency, Result

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ink: #1c2430; --dim: #667085; --ground: #fff; --card: #f5f7fa; --rule: #dfe3ea;
  --c0: #2563eb; --c1: #d9480f; --c2: #0f8a5f; --c3: #9333ea; --bad: #b42318; --good: #0f8a5f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6eaf0; --dim: #98a2b3; --ground: #12161c; --card: #1a2029; --rule: #2c3440;
    --c0: #6ea8fe; --c1: #ff9f68; --c2: #4fd1a1; --c3: #c79bff; --bad: #ff8a80; --good: #4fd1a1;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 60rem; padding: 1.5rem;
  color: var(--ink); background: var(--ground); font: 15px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.4rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.dim { color: var(--dim); }
.bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; padding: .75rem; background: var(--card); border-radius: .5rem; }
figcaption { font-weight: 600; margin-bottom: .25rem; }
svg { width: 100%; height: auto; }
.axis { font-size: 11px; fill: var(--dim); }
.grid { stroke: var(--rule); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.fill { stroke: none; }
.c0.fill { fill: var(--c0); } .c1.fill { fill: var(--c1); }
.c2.fill { fill: var(--c2); } .c3.fill { fill: var(--c3); }
"""
NINES: Final = (50.0, 90.0, 99.0, 99.9, 99.99)


def page(result: Result) -> str:
    """Return the report."""
    plan = result.plan
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"{plan.connections} connections, {plan.rooms} rooms, {plan.rate:g} messages/s"
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>realtime bench: {escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="dim">{escape(plan.url)} · {plan.duration_s:g} s after {plan.warmup_s:g} s of warming '
            f"up · {plan.payload_bytes} bytes · {escape(result.when)}</p>",
            _verdict(result),
            _latencies(result),
            "<h2>Latency</h2>",
            _percentiles(result),
            _over_time(result),
            "<h2>Counts</h2>",
            _table(("", ""), _counts(result)),
            *_server(result),
            "<h2>The generator</h2>",
            _table(("", ""), _generator(result)),
            "<h2>Where the load came from</h2>",
            _table(("", ""), [(name, escape(value)) for name, value in result.machine.items()]),
            "</main></body></html>",
        ]
    )


def _verdict(result: Result) -> str:
    lines = []
    if result.ok:
        lines.append('<p class="good">Everything arrived once and in order, and everybody stayed.</p>')
    else:
        lines.append('<p class="bad">Not everything came out: see the counts.</p>')
    found = result.generator.limits
    lines.append(f'<p class="{"bad" if found else "good"}">{escape(result.generator.verdict)}</p>')
    lines += [f'<p class="bad">Limited by the generator: {escape(why)}.</p>' for why in found]
    return "".join(lines)


def _latencies(result: Result) -> str:
    def row(name: str, latency: Latency) -> tuple[str, ...]:
        spans = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        return (name, str(latency.count), *(f"{span:.3f}" for span in spans))

    return _table(
        ("ms", "count", "p50", "p90", "p99", "p99.9", "max"),
        [
            row("handshake", result.connect),
            row("join", result.join),
            row("ack", result.ack),
            row("delivery", result.delivery),
            row("sent late by", result.late),
            row("generator's loop late by", result.generator.loop_lag),
        ],
    )


def _percentiles(result: Result) -> str:
    """Each nine takes the same width: what is rare is seen as well as what is common."""

    def line(name: str, latency: Latency, colour: int) -> Line:
        enough = [each for each in latency.curve if latency.count * (100 - each[0]) / 100 >= 1]
        return Line(name, [(_nines(percent), span) for percent, span in enough], colour)

    most = max((latency.count for latency in (result.delivery, result.ack, result.connect)), default=0)
    return plot(
        "Percentiles",
        [
            line("delivery", result.delivery, 0),
            line("ack", result.ack, 1),
            line("handshake", result.connect, 2),
        ],
        x_name="percent of all",
        y_name="ms",
        x_ticks=[Tick(_nines(nine), f"{nine:g}") for nine in NINES if most * (100 - nine) / 100 >= 1],
        logarithmic=True,
    )


def _nines(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def _over_time(result: Result) -> str:
    rows = result.seconds

    def line(name: str, field: str, colour: int) -> Line:
        return Line(name, [(row.second, getattr(row, field)) for row in rows], colour)

    return "".join(
        [
            plot(
                "Delivery, each second",
                [
                    line("p50", "p50", 2),
                    line("p99", "p99", 0),
                    line("max", "max", 1),
                    line("sent late, p99", "late_p99", 3),
                ],
                x_name="second",
                y_name="ms",
                logarithmic=True,
            ),
            plot(
                "Sent and acked",
                [line("sent", "sent", 0), line("acked", "acked", 2)],
                x_name="second",
                y_name="a second",
            ),
            plot("Delivered", [line("delivered", "delivered", 0)], x_name="second", y_name="a second"),
            plot(
                "How late the generator's loop was",
                [line("p99", "lag_p99", 3)],
                x_name="second",
                y_name="ms",
            ),
            plot(
                "The busiest generator process",
                [line("share of a core", "generator_cpu_share", 1)],
                x_name="second",
                y_name="",
            ),
        ]
    )


def _counts(result: Result) -> list[tuple[str, str]]:
    rows = [
        ("connected", f"{result.connections} in {result.connect_s:g} s"),
        ("sent", f"{result.sent} ({result.sent_per_s:g}/s)"),
        ("acked", str(result.acked)),
        ("delivered", f"{result.delivered} of {result.expected} ({result.delivered_per_s:g}/s)"),
        ("lost", str(result.lost)),
        ("twice or out of order", str(result.duplicated)),
        ("missing between two", str(result.gaps)),
        ("not sent: the socket took no more", str(result.unsent)),
        ("received", f"{result.received_bytes} bytes"),
    ]
    for what, counts in (
        ("not connected", result.connect_failures),
        ("closed", result.closed),
        ("error", result.errors),
    ):
        rows += [(f"{what}: {escape(why)}", str(count)) for why, count in counts.items()]
    return rows


def _server(result: Result) -> Iterable[str]:
    server = result.server
    if server is None:
        return
    yield "<h2>The server</h2>"
    yield _table(
        ("", ""),
        [
            ("processes", str(server.processes)),
            ("processor", f"{server.cpu_share:.0%} of a core"),
            ("a delivery", f"{server.cpu_us_per_delivery:g} µs"),
            ("letting one in", f"{server.cpu_us_per_connect:g} µs"),
            ("a connection in a second", f"{server.cpu_us_per_connection_s:g} µs"),
            ("memory before", f"{server.memory_before_bytes / 1e6:.1f} MB"),
            ("memory with all connected", f"{server.memory_connected_bytes / 1e6:.1f} MB"),
            ("memory after", f"{server.memory_after_bytes / 1e6:.1f} MB"),
            ("memory a connection", f"{server.memory_per_connection_bytes:g} bytes"),
        ],
    )


def _generator(result: Result) -> list[tuple[str, str]]:
    made, plan = result.generator, result.plan
    rows = [
        ("processes", str(plan.processes)),
        ("busy, of a core each", ", ".join(f"{share:.0%}" for share in made.cpu_share)),
        ("waited for a core that others had", ", ".join(f"{share:.0%}" for share in made.waited_share)),
    ]
    if made.messages_per_s:
        each = made.calibrated[0]
        rows += [
            ("by itself: a message sent", f"{each.send_us:g} µs"),
            ("by itself: a delivery read", f"{each.read_us:g} µs"),
            ("so it can make at least", f"{made.messages_per_s:g} messages/s of this load"),
            ("and was asked for", f"{plan.rate:g} messages/s"),
        ]
    return rows


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

"""`realtime bench`: load against any address; one JSON, one HTML report, and what is seen meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

CONNECTIONS_MAX: Final = 1_000_000
RATE_MAX: Final = 10_000_000.0
SECRET_VARIABLE: Final = "REALTIME_JWT_SECRET"


def add_command(commands: Any) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "bench",
        help="put load on a server, and say how it took it",
        description="Connect, join rooms, publish on schedule, and check that everything arrives once and "
        "in order. Latency counts from when a message was due. Writes a JSON file and an HTML report. Exit "
        "code 1: something was lost, closed or refused.",
        epilog=f"Where the server asks for tokens, {SECRET_VARIABLE} in the environment signs one for each "
        "connection; else --token or --tokens.",
    )
    parser.add_argument("url", metavar="URL", type=_url, help="endpoint, such as ws://127.0.0.1:8000/ws")
    _add_load(parser)
    _add_server(parser)
    parser.set_defaults(run=_run)


def _add_load(parser: argparse.ArgumentParser) -> None:
    number, real = _bounded(int, 1, CONNECTIONS_MAX), _bounded(float, 0, RATE_MAX)
    parser.add_argument("--connections", type=number, default=100, help="in all (%(default)s)")
    parser.add_argument("--rooms", type=number, default=1, help="dealt out evenly (%(default)s)")
    parser.add_argument("--rate", type=real, default=100.0, help="messages/s in all; 0: none (%(default)s)")
    parser.add_argument("--publishers", type=number, help="connections that send (default: all of them)")
    parser.add_argument(
        "--duration", type=_bounded(float, 0.1, 86_400), default=10.0, help="seconds (%(default)s)"
    )
    parser.add_argument(
        "--warmup",
        type=_bounded(float, 0, 3600),
        default=1.0,
        help="seconds before that, not measured (%(default)s)",
    )
    parser.add_argument(
        "--size",
        type=_bounded(int, 26, 16_000_000),
        default=128,
        help="bytes of a message's content (%(default)s)",
    )
    parser.add_argument(
        "--processes", type=_bounded(int, 1, 64), default=1, help="to make load with (%(default)s)"
    )
    parser.add_argument(
        "--arrivals",
        type=_bounded(float, 1, 1_000_000),
        default=1000.0,
        help="connections opened a second (%(default)s)",
    )
    parser.add_argument("--kind", default="events", help="kind of the rooms (%(default)s)")
    parser.add_argument(
        "--type", default="publish", help="message type, whose content is a text (%(default)s)"
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--token", default="", help="of all connections: they are one user")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="one a line, dealt out in turn")
    parser.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        help="a server process to watch (default: who listens there)",
    )
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="URL",
        help="a worker's /metrics, where it is elsewhere",
    )
    parser.add_argument("--ca", default="", metavar="FILE", help="authority to trust, for wss://")
    parser.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument(
        "--patience", type=_bounded(float, 1, 3600), default=30.0, help="seconds to get in (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="PATH.json and PATH.html (default: realtime-bench-TIME)"
    )
    parser.add_argument(
        "--no-calibration", action="store_true", help="do not measure first what the generator can do alone"
    )
    parser.add_argument("--quiet", action="store_true", help="show nothing while it runs")


def _run(parsed: argparse.Namespace) -> int:
    # Here, so that the other commands do not wait for them.
    from rich.console import Console

    from realtime.client.bench.coordinator import run
    from realtime.client.bench.page import page
    from realtime.client.bench.plan import Plan
    from realtime.client.bench.screen import Screen, summary
    from realtime.client.bench.subject import Subject, find

    plan = _plan(parsed, Plan)
    parts = urlsplit(plan.url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    pids = parsed.pid or ([] if parsed.metrics else find(parts.hostname or "", port))
    subject = Subject(pids, parsed.metrics)
    console = Console(stderr=True, highlight=False, quiet=parsed.quiet)
    with Screen(plan, console) as screen:
        tokens = _tokens(parsed, plan.connections, plan.user)
        result = asyncio.run(run(plan, tokens, subject, screen.heed, screen.calibrated))
    base = parsed.out or Path(f"realtime-bench-{time.strftime('%Y%m%d-%H%M%S')}")
    written = base.with_name(base.name + ".json"), base.with_name(base.name + ".html")
    written[0].write_bytes(
        msgspec.json.format(msgspec.json.encode({"ok": result.ok, **msgspec.to_builtins(result)}), indent=1)
    )
    written[1].write_text(page(result), encoding="utf-8")
    for line in summary(result):
        print(line)
    print(f"wrote {written[0]} and {written[1]}")
    return 0 if result.ok else 1


def _plan(parsed: argparse.Namespace, plan: type[Any]) -> Any:
    connections = parsed.connections
    return plan(
        url=parsed.url,
        connections=connections,
        rooms=min(parsed.rooms, connections),
        rate=parsed.rate,
        publishers=min(parsed.publishers or connections, connections),
        duration_s=parsed.duration,
        warmup_s=parsed.warmup,
        payload_bytes=parsed.size,
        kind=parsed.kind,
        type=parsed.type,
        processes=min(parsed.processes, connections),
        arrivals_per_second=parsed.arrivals,
        patience_s=parsed.patience,
        run=secrets.token_hex(4),
        ca_file=parsed.ca,
        insecure=parsed.insecure,
        calibrate=not parsed.no_calibration,
    )


def _tokens(parsed: argparse.Namespace, connections: int, user: Callable[[int], str]) -> list[str]:
    if parsed.tokens is not None:
        lines = parsed.tokens.read_text(encoding="utf-8").split()
        return [line.strip() for line in lines]
    if parsed.token:
        return [parsed.token]
    secret = os.environ.get(SECRET_VARIABLE, "")
    if not secret:
        return []
    from realtime.client.replay import signer

    sign = signer(secret)
    return [sign(user(number)) or "" for number in range(connections)]


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        usable = parts.scheme in ("ws", "wss") and parts.hostname and (parts.port or 1)
    except ValueError:  # a port that is none
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"{text!r} is not ws://host[:port]/path or wss://…")
    return text


def _bounded(kind: type[Any], least: float, most: float) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return convert

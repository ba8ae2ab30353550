"""`realtime replay`: play a recorded chat into a server, and check that every member got all of it.

One room a day, all days at once, over real connections; joins and parts of the log are joins and leaves here.
The exit code is 0 when nothing is missing, out of order, twice or altered, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hmac
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from realtime.client.player import Due, Player, ReplayFailed, Tally
from realtime.client.transcript import Action, BadTranscript, Day, Line, plan, read

_TOKEN_TTL_S = 24 * 3600
_URL = "ws://127.0.0.1:8000/ws"


@dataclass(frozen=True, slots=True)
class Findings:
    """What the books say. All counts from `missing` on should be 0."""

    deliveries: int
    expected: int
    missing: int
    out_of_order: int
    twice: int
    strays: int
    unacked: int
    faults: Counter[str]
    failure: str | None

    @property
    def ok(self) -> bool:
        """Whether every member got every message of its time, in order, once, as it was sent."""
        wrong = self.missing + self.out_of_order + self.twice + self.strays + self.unacked
        return wrong == 0 and self.deliveries == self.expected and not self.faults and self.failure is None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `realtime replay`; return its exit code: 1 when a delivery is wrong, 2 for unusable arguments."""
    options = _parser().parse_args(argv)
    # stderr, so that the report on stdout can be piped.
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        days = plan(_chosen(read(options.file), options.days), options.connections)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            tally, findings, connections = runner.run(_replay(options, days, errors))
    except BadTranscript as error:
        errors.print(f"realtime replay: {error.message}", markup=False, soft_wrap=True)
        return 2
    except ReplayFailed as error:
        errors.print(f"realtime replay: {error.message}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(_report(days, tally, findings, connections))
    for fault, count in findings.faults.most_common(10):
        console.print(f"{count} x {fault}", markup=False, soft_wrap=True)
    if findings.failure:
        console.print(findings.failure, markup=False, soft_wrap=True)
    console.print("ok" if findings.ok else "FAILED")
    return 0 if findings.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="realtime replay",
        description=__doc__.partition("\n")[0],
        epilog="Where the server asks for tokens, REALTIME_JWT_SECRET in the environment signs them.",
    )
    parser.add_argument("file", type=Path, help="TSV: day, hh:mm, kind (msg, act, sys), nick, text")
    parser.add_argument(
        "--url",
        action="append",
        dest="urls",
        help=f"endpoint ({_URL}); several, of one cluster, share each room's connections",
    )
    parser.add_argument("--connections", type=_positive, default=200, help="connections (%(default)s)")
    parser.add_argument("--days", type=_positive, default=None, help="play only the first DAYS days")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--rate", type=float, default=0.0, help="messages/s over all rooms; 0: as fast as it goes"
    )
    pace.add_argument("--speedup", type=float, default=None, help="times faster than the log's own clock")
    parser.add_argument(
        "--window", type=_positive, default=2000, help="most messages without an ack (%(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        help="seconds without a delivery that mean the end (%(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _chosen(days: dict[str, list[Line]], count: int | None) -> dict[str, list[Line]]:
    return {date: days[date] for date in sorted(days)[:count]}


async def _replay(
    options: argparse.Namespace, days: list[Day], errors: Console
) -> tuple[Tally, Findings, int]:
    schedule = list(_schedule(days, options.rate, options.speedup))
    player = Player(options.urls or [_URL], days, signer(os.environ.get("REALTIME_JWT_SECRET", "")))
    total = sum(due.step.action is Action.SAY for due in schedule)
    try:
        await player.open()
        shown = asyncio.create_task(_show(player.tally, total, errors))
        try:
            await player.play(schedule, options.window, options.patience)
            await player.settle(options.patience)
        except ReplayFailed as lost:
            player.failure = lost.message
        finally:
            shown.cancel()
            await asyncio.wait([shown])
    finally:
        await player.close()
    return player.tally, _judge(player), player.connections


def _schedule(days: Sequence[Day], rate: float, speedup: float | None) -> Iterator[Due]:
    """All steps of all days in the order they are due; a day's own steps keep their order."""
    merged = sorted(
        (place, room, index)
        for room, day in enumerate(days)
        for index, place in enumerate(_places(day, speedup))
    )
    said = 0
    for place, room, index in merged:
        step = days[room].steps[index]
        said += step.action is Action.SAY
        at_s = place if speedup else (said / rate if rate > 0 else 0.0)
        yield Due(at_s, room, step)


def _places(day: Day, speedup: float | None) -> list[float]:
    """Where each step of a day stands: in seconds after the speed-up, or else as a share of the day."""
    count = len(day.steps)
    if not speedup:
        return [index / count for index in range(count)]
    minutes: list[int] = []
    for step in day.steps:
        now = step.line.minute if step.line else (minutes[-1] if minutes else None)
        first = next(one.line.minute for one in day.steps if one.line) if not minutes else minutes[-1]
        minutes.append(max(first, now if now is not None else first))
    in_minute = Counter(minutes)
    seen: Counter[int] = Counter()
    places = []
    for minute in minutes:
        # The log says hh:mm only: its lines of one minute are spread over it.
        share = seen[minute] / in_minute[minute]
        seen[minute] += 1
        places.append((minute - minutes[0] + share) * 60 / speedup)
    return places


def signer(secret: str) -> Callable[[str], str | None]:
    """Return what makes a token for a user; one that makes none where there is no secret."""
    if not secret:
        return lambda user: None
    expires = int(time.time()) + _TOKEN_TTL_S
    return lambda user: sign({"sub": user, "exp": expires}, secret)


def sign(claims: dict[str, object], secret: str) -> str:
    """A JWT signed with HS256 (RFC 7515, A.1): two lines here, or a library the SDK has no other use for."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(secret.encode(), signed, "sha256")
    return b".".join([signed, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def _show(tally: Tally, total: int, errors: Console) -> None:
    """A progress bar on a terminal, nothing elsewhere; until cancelled."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s  {task.fields[deliveries]:,} deliveries"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("replay", total=total, rate=0.0, deliveries=0)
        try:
            while True:
                rate = tally.acked / tally.published_s if tally.published_s else 0.0
                progress.update(bar, completed=tally.acked, rate=rate, deliveries=tally.deliveries)
                await asyncio.sleep(0.1)
        finally:
            progress.update(bar, completed=tally.acked, deliveries=tally.deliveries)


def _judge(player: Player) -> Findings:
    tally = player.tally
    stays = [stay for stage in player.stages for stay in stage.books.stays]
    faults = Counter(tally.errors)
    for stage in player.stages:
        faults.update(stage.books.faults)
    return Findings(
        deliveries=tally.deliveries,
        expected=sum(stage.day.deliveries() for stage in player.stages),
        missing=sum(stay.missing() for stay in stays),
        out_of_order=sum(stay.out_of_order for stay in stays),
        twice=sum(stay.twice for stay in stays),
        strays=tally.strays,
        unacked=tally.published - tally.acked,
        faults=faults,
        failure=player.failure,
    )


def _report(days: Sequence[Day], tally: Tally, findings: Findings, connections: int) -> Table:
    span_s = tally.published_s or 1.0
    late = sorted(tally.latencies_s) or [0.0]
    table = Table(title="replay", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    rows: list[tuple[str, str]] = [
        ("rooms", f"{len(days):,}"),
        ("connections", f"{connections:,}"),
        ("joins, leaves", f"{tally.joins:,}, {tally.leaves:,}"),
        ("published", f"{tally.published:,}"),
        ("deliveries", f"{findings.deliveries:,} of {findings.expected:,}"),
        ("seconds", f"{span_s:.2f}"),
        ("published/s", f"{tally.acked / span_s:,.0f}"),
        ("deliveries/s", f"{findings.deliveries / (tally.finished_s or span_s):,.0f}"),
        ("ack p50, p99, max", " / ".join(f"{_quantile(late, q) * 1e3:.1f} ms" for q in (0.5, 0.99, 1.0))),
        ("missing", f"{findings.missing:,}"),
        ("out of order", f"{findings.out_of_order:,}"),
        ("twice", f"{findings.twice:,}"),
        ("outside a stay", f"{findings.strays:,}"),
        ("not acked", f"{findings.unacked:,}"),
        ("other faults", f"{sum(findings.faults.values()):,}"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    sys.exit(main())

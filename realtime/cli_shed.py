"""`realtime shed`: share connections out between running workers, and watch it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from realtime.cli_control import AddConfig, Read, runner, say
from realtime.core.cluster import WorkerId
from realtime.errors import Unavailable

if TYPE_CHECKING:
    from realtime.edge.outsider import Outsider

LOOK_EVERY_S: Final = 0.5


def add_command(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "shed",
        help="share connections out between running workers",
        description="Let each worker that has more connections than RATIO times the mean close what it has "
        "beyond the mean (4006, with a reconnect window), those that have been silent longest first, and "
        "wait until none has more. Prints a line of JSON as it goes. Exit code 1: not within --patience.",
    )
    parser.add_argument("--ratio", type=_ratio, default=1.1, help="most times the mean (default: 1.1)")
    parser.add_argument(
        "--patience", type=float, default=120.0, metavar="SECONDS", help="wait so long (default: 120)"
    )
    parser.add_argument("--look", action="store_true", help="only say how many each has")
    add_config(parser)
    parser.set_defaults(run=runner(_shed, read))


async def _shed(publisher: Outsider, parsed: argparse.Namespace) -> None:
    from realtime.edge.shed import balanced

    shares = await publisher.shed(0.0 if parsed.look else parsed.ratio)
    until, before = time.monotonic() + parsed.patience, None
    while True:
        if shares != before:
            say(connections=shares.connections, away=shares.away, ratio=ratio_of(shares.connections))
            before = shares
        if parsed.look or (not shares.away and balanced(shares.connections, parsed.ratio)):
            return
        if time.monotonic() >= until:
            most = ratio_of(shares.connections)
            raise Unavailable(f"after {parsed.patience:g} s one worker has {most:g} times the mean")
        await asyncio.sleep(LOOK_EVERY_S)
        with contextlib.suppress(Unavailable):  # one may just have ended: the next look knows
            shares = await publisher.shed(0.0)


def ratio_of(connections: Mapping[WorkerId, int]) -> float:
    """How many times the mean the worker with the most connections has."""
    whole = sum(connections.values())
    return round(max(connections.values()) * len(connections) / whole, 3) if whole else 1.0


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.01 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1.01 to 10")
    return value

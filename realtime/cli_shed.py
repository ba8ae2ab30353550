"""`realtime shed`: share connections out between running workers, and watch it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from realtime.cli_control import AddConfig, Read, runner, say

if TYPE_CHECKING:
    from realtime.edge.outsider import Outsider, Shares


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
    from realtime.edge.sharing import ratio_of, share_out

    def tell(shares: Shares) -> None:
        say(connections=shares.connections, away=shares.away, ratio=ratio_of(shares.connections.values()))

    if parsed.look:
        tell(await publisher.shed())
    else:
        await share_out(publisher, parsed.ratio, patience_s=parsed.patience, tell=tell)


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.01 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1.01 to 10")
    return value

"""The commands about addresses that are kept out: look at them, and pardon one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from realtime.cli_control import AddConfig, Read, runner, say

if TYPE_CHECKING:
    from realtime.edge.outsider import Outsider


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add them to the parser's `commands`."""
    parser = commands.add_parser(
        "penalties",
        help="show which addresses are kept out for what they did, or pardon one",
        description="Print a line for each address that the workers keep out, such as "
        '{"address":"192.0.2.7","seconds":36.2,"times":3}, longest first; or with --free let one in again, '
        "and print how many workers knew of it.",
    )
    parser.add_argument("--free", metavar="ADDRESS", help="let it in, and forget what it did")
    add_config(parser)
    parser.set_defaults(run=runner(_penalties, read))


async def _penalties(publisher: Outsider, parsed: argparse.Namespace) -> None:
    if parsed.free is not None:
        say(workers=await publisher.pardon(parsed.free))
        return
    for each in await publisher.penalties():
        say(address=each.address, seconds=round(each.seconds, 1), times=each.times)

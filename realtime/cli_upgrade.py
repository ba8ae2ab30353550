"""`realtime upgrade`: have the running service replaced by what is on the disk now, without a disconnect."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from realtime.settings import Settings

Read = Callable[[argparse.Namespace], Settings]
"""Returns the settings that a command line, a file and the environment say."""
AddKnobs = Callable[[argparse.ArgumentParser], None]


def add_command(commands: Any, add_knobs: AddKnobs, read: Read) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "upgrade",
        help="replace the running service by what is installed now, without a disconnect",
        description="Have the service that runs on this machine start its own command anew and hand over to "
        "it: listening sockets, connections, rooms. What cannot move is drained. Exit code 1 where nothing "
        "came of it: then the old one serves on.",
    )
    parser.add_argument("--pid", type=int, help="the service's process, where several run")
    add_knobs(parser)
    parser.set_defaults(run=lambda parsed: _upgrade(read(parsed), parsed.pid))


def _upgrade(settings: Settings, pid: int | None) -> int:
    from realtime.edge import handover_door

    answered = handover_door.ask(handover_door.find(settings, pid))
    for report in answered.reports:
        print(_said(report))
    if answered.failed:
        print(f"realtime: process {answered.pid} serves on: {answered.failed}", file=sys.stderr)
    return 1 if answered.failed else 0


def _said(report: dict[str, Any]) -> str:
    stayed = report["stayed"]
    rest = f"; {stayed} could not move and come back by themselves" if stayed else ""
    return (
        f"process {report['pid']} (version {report['version']}) serves: {report['connections']} connections, "
        f"{report['rooms']} rooms, nobody was served for {report['pause_ms']:g} ms{rest}"
    )

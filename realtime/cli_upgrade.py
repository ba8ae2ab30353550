"""`realtime upgrade`: have the running service replaced by what is on the disk now, without a disconnect."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.edge.handover_door import Shared

Read = Callable[[argparse.Namespace], Settings]
"""Returns the settings that a command line, a file and the environment say."""
AddKnobs = Callable[[argparse.ArgumentParser], None]


def add_command(commands: Any, add_knobs: AddKnobs, read: Read) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "upgrade",
        help="replace the running service by what is installed now, without a disconnect",
        description="Have the service that runs on this machine start its own command anew and hand over to "
        "it: listening sockets, connections, rooms. What cannot move is drained. Several workers are "
        "replaced one after the other; where one of them then has more than 1.1 times the mean of their "
        "connections (or `shed_ratio` times), it sheds some, as by `realtime shed`. Exit code 1 where "
        "nothing came of it: then the old one serves on.",
    )
    parser.add_argument("--pid", type=int, help="the service's process, where several run")
    parser.add_argument("--no-shed", action="store_true", help="leave connections where they are")
    add_knobs(parser)
    parser.set_defaults(run=lambda parsed: _upgrade(read(parsed), parsed.pid, shed=not parsed.no_shed))


def _upgrade(settings: Settings, pid: int | None, *, shed: bool) -> int:
    from realtime.edge import handover_door

    asked = handover_door.Asked(shed=shed)
    answered = handover_door.ask(handover_door.find(settings, pid), asked)
    for report in answered.reports:
        print(_said(report))
    if answered.shared is not None:
        print(_even(answered.shared))
    if answered.failed:
        print(f"realtime: process {answered.pid} serves on: {answered.failed}", file=sys.stderr)
    return 1 if answered.failed else 0


def _even(shared: Shared) -> str:
    """How even connections are, and what was done about it."""
    from realtime.edge.sharing import ratio_of

    if shared.failed:
        had = f" ({_counts(shared.before)})" if shared.before else ""
        return f"connections of the workers{had} are perhaps not even: {shared.failed}; see `realtime shed`"
    most = f"at most {ratio_of(shared.after):g} times the mean"
    if shared.after == shared.before:
        return f"connections of the workers: {_counts(shared.after)}, {most}"
    return (
        f"connections of the workers: {_counts(shared.before)}; shared out (closed with 4006, and back "
        f"elsewhere): {_counts(shared.after)}, {most}"
    )


def _counts(connections: Sequence[int]) -> str:
    return ", ".join(map(str, connections))


def _said(report: dict[str, Any]) -> str:
    stayed = report["stayed"]
    rest = f"; {stayed} could not move and come back by themselves" if stayed else ""
    return (
        f"process {report['pid']} (version {report['version']}) serves: {report['connections']} connections, "
        f"{report['rooms']} rooms, nobody was served for {report['pause_ms']:g} ms{rest}"
    )

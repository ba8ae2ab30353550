"""`realtime doctor`: what stands well here, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from realtime import __version__
from realtime.errors import SettingsError
from realtime.loading import Loaded


def add_command(
    commands: Any,
    add_knobs: Callable[[argparse.ArgumentParser], None],
    read: Callable[[argparse.Namespace], Loaded],
) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "doctor",
        help="look at settings, machine, Redis, store and certificates, and say what to do",
        description="Look at the settings and what contradicts itself in them, this machine's limits and "
        "clock, ports, certificates, Redis and the store; say what to do about each finding. Nothing has to "
        "run, and nothing is changed. Exit code 0: all well; 1: something may hurt under load; 2: it would "
        "not do what the settings say.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--quiet", action="store_true", help="leave out what stands well")
    add_knobs(parser)

    def run(parsed: argparse.Namespace) -> int:
        from realtime.edge.doctor import examine
        from realtime.edge.doctor.diagnosis import fault

        try:
            found = list(examine(read(parsed)))
        except SettingsError as error:
            found = [fault("settings", error.message, "correct it: nothing else was looked at")]
        return _report(found, as_json=parsed.json, quiet=parsed.quiet)

    parser.set_defaults(run=run)


def _report(diagnoses: list[Any], *, as_json: bool, quiet: bool) -> int:
    from realtime.edge.doctor import worst

    state = worst(diagnoses)
    shown = [each for each in diagnoses if each.state or not quiet]
    if as_json:
        findings = [
            {"area": each.area, "state": each.state.mark, "text": each.text, "todo": each.todo}
            for each in shown
        ]
        print(json.dumps({"version": __version__, "state": state.mark, "findings": findings}, indent=2))
        return int(state)
    for each in shown:
        print(f"{each.state.mark:5} {each.area}: {each.text}")
        if each.todo:
            print(f"        -> {each.todo}")
    return int(state)

"""`realtime install-units` and `uninstall-units`: systemd's files for this host, and what to do with them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.edge.unit_files import Plan


def add_commands(commands: Any) -> None:
    """Add them to the parser's `commands`."""
    install = commands.add_parser(
        "install-units",
        help="write systemd's units for this host",
        description="Write the units for one worker a core, with sockets, API and Redis watcher, what is "
        "this host's in drop-ins, and the snippets for sysctl, tmpfiles and journald; then say what to do "
        "next. Settings are read from /etc/realtime/realtime.env, which is begun where it is not there. Run "
        "it again after each change of the settings: what is as it should be stays.",
    )
    install.add_argument(
        "--cores",
        default="auto",
        metavar="COUNT",
        help="workers, each pinned to a core; auto: one a core, one alone without REDIS_URL (default: auto)",
    )
    install.add_argument("--dry-run", action="store_true", help="print the files, and write none")
    _add_root(install)
    install.add_argument(
        "--prefix",
        default=sys.prefix,
        metavar="DIRECTORY",
        help="the environment that has realtime, as the units see it (default: the one that runs this)",
    )
    install.add_argument(
        "--user",
        default="",
        metavar="NAME",
        help="an existing user to run as; by default systemd makes one up while they run",
    )
    install.add_argument(
        "--no-tuning", action="store_true", help="no snippets for sysctl, tmpfiles and journald"
    )
    install.set_defaults(run=_install)
    uninstall = commands.add_parser(
        "uninstall-units",
        help="remove what install-units has written",
        description="Remove the units, their drop-ins by install-units, the snippets, and the links that "
        "enable them. Settings in /etc/realtime, your own drop-ins and /var/lib/realtime stay.",
    )
    _add_root(uninstall)
    uninstall.set_defaults(run=_uninstall)


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIRECTORY",
        help="the root of the system that is meant, such as an image's (default: /)",
    )


def _install(parsed: argparse.Namespace) -> int:
    from realtime.edge import unit_files

    options = unit_files.Options(
        cores=sorted(os.sched_getaffinity(0)),
        wanted=parsed.cores,
        root=parsed.root,
        prefix=parsed.prefix,
        user=parsed.user,
        tuning=not parsed.no_tuning,
    )
    plan = unit_files.make_plan(options)
    if parsed.dry_run:
        for name, file in plan.files.items():
            print(f"# ---- /{name} (mode {file.mode:04o})\n{file.shown or file.text}")
        return 0
    for line in unit_files.write(plan):
        print(line)
    print("\nWhat to do next:")
    for line in _next(plan):
        print(f"  {line}")
    return 0


def _uninstall(parsed: argparse.Namespace) -> int:
    from realtime.edge import unit_files

    removed = 0
    for line in unit_files.remove(parsed.root):
        print(line)
        removed += 1
    if removed:
        print("\nWhat to do next:\n  systemctl daemon-reload    # what runs goes on until it is stopped:")
        print("  systemctl stop 'realtime*'")
    else:
        print("nothing to remove")
    return 0


def _next(plan: Plan) -> Iterator[str]:
    """What is left to the operator, in order."""
    if plan.environment_is_new:
        yield "$EDITOR /etc/realtime/realtime.env    # it has a new key; REDIS_URL makes more than one worker"
    executable = plan.options.root / plan.options.prefix.lstrip("/") / "bin" / "python"
    if not executable.exists():
        yield f"python3 -m venv {plan.options.prefix}    # and install realtime there: it is not yet"
    if plan.options.tuning:
        yield "systemd-tmpfiles --create && systemctl restart systemd-sysctl systemd-journald"
    yield "systemctl daemon-reload"
    for number in plan.gone:
        yield f"systemctl disable --now realtime@{number}.socket realtime@{number}.service    # one too many"
    yield f"systemctl enable --now realtime.target {' '.join(_enable(plan))}"
    if plan.settings.chat_url_secret:
        yield "systemctl enable --now realtime-api.service"
    if plan.settings.redis_url:
        yield "systemctl enable --now realtime-failover@main.service    # where Redis has replicas"
    yield "systemctl reload 'realtime@*.service'    # later, for a new version: nobody is disconnected"


def _enable(plan: Plan) -> list[str]:
    kinds = ["realtime@{}.socket", *(["realtime-tls@{}.socket"] if plan.settings.tls_port else [])]
    return [kind.format(_span(plan.numbers)) for kind in [*kinds, "realtime@{}.service"]]


def _span(numbers: Sequence[int]) -> str:
    """`0`, `{0..3}`, or `{0,2,4}`, as a shell takes it."""
    if len(numbers) == 1:
        return str(numbers[0])
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"

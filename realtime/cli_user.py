"""The command `user`: hand out what is kept of one user, or erase it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from realtime.cli_control import AddConfig, Read
from realtime.ids import DEFAULT_TENANT, parse_tenant, parse_user
from realtime.settings import Settings

Run = Callable[[Settings, argparse.Namespace], Coroutine[Any, Any, int]]


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add it to the parser's `commands`."""
    user = commands.add_parser(
        "user",
        help="what is kept of a user: hand it out, or erase it",
        description="Personal data of one user: in the store, in Redis and in the audit log.",
    )
    verbs = user.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, help, description, run in (
        (
            "export",
            "write all that is kept of a user as JSON lines",
            "Write what is kept of a user to stdout, a JSON object a line: publications, audit entries, what "
            "Redis knows. Servers may be running. That it was done is on record.",
            _export,
        ),
        (
            "erase",
            "erase what is kept of a user, and say how much it was",
            "Put tombstones where a user's publications are, a pseudonym where the name stands, and take out "
            "of the audit log what names the user; its chains still verify. Revoke the user's tokens first. "
            "Workers of a cluster may be running: rooms that the user was heard in begin a new epoch. A "
            "server alone has to be stopped.",
            _erase,
        ),
    ):
        parser = verbs.add_parser(name, help=help, description=description)
        parser.add_argument("user", metavar="USER", help="user id")
        parser.add_argument(
            "--tenant", default=DEFAULT_TENANT, help=f"tenant of the user (default: {DEFAULT_TENANT})"
        )
        add_config(parser)
        parser.set_defaults(run=_runner(run, read))


def _runner(run: Run, read: Read) -> Callable[[argparse.Namespace], int]:
    def command(parsed: argparse.Namespace) -> int:
        return asyncio.run(run(read(parsed), parsed))

    return command


async def _export(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.edge import personal

    tenant, user = parse_tenant(parsed.tenant), parse_user(parsed.user)
    async for line in personal.exported(settings, tenant, user):
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
    return 0


async def _erase(settings: Settings, parsed: argparse.Namespace) -> int:
    import msgspec

    from realtime.edge import personal

    done = await personal.erase(settings, parse_tenant(parsed.tenant), parse_user(parsed.user))
    print(msgspec.json.encode(done).decode())
    return 0

"""The commands that reach running workers: publish, notify, kick, revoke.

They do so through Redis, or of a server without one through its control socket. Each is one call of
`realtime.edge.outsider.Outsider`, which `realtime.Publisher` is. What they print is one line of JSON each, to
be piped on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from realtime.errors import BadMessage, CloseCode, RealtimeError
from realtime.ids import DEFAULT_TENANT
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.edge.outsider import Outsider

Read = Callable[[argparse.Namespace], Settings]
"""Returns the settings that a command line, a file and the environment say."""
AddConfig = Callable[[argparse.ArgumentParser], None]


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add them to the parser's `commands`."""
    for add in (_add_publish, _add_notify, _add_kick, _add_revoke):
        parser, run = add(commands)
        parser.add_argument(
            "--tenant", default=DEFAULT_TENANT, help=f"tenant of the room or user (default: {DEFAULT_TENANT})"
        )
        add_config(parser)
        parser.set_defaults(run=runner(run, read))


Run = Callable[["Outsider", argparse.Namespace], Awaitable[None]]


def runner(run: Run, read: Read) -> Callable[[argparse.Namespace], int]:
    """Return what runs a command with a connected `Outsider`."""

    def command(parsed: argparse.Namespace) -> int:
        settings = read(parsed)
        from realtime.edge.lone import outsider_of

        async def connected() -> None:
            async with outsider_of(settings) as publisher:
                await run(publisher, parsed)

        asyncio.run(connected())
        return 0

    return command


# ---------------------------------------------------------------- publish


def _add_publish(commands: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = commands.add_parser(
        "publish",
        help="publish to a room of running workers",
        description="Publish to a room of the workers that share REDIS_URL, and print its place in the room: "
        'a line such as {"offset":7,"epoch":"mg2x1k3s","duplicate":false}.',
    )
    parser.add_argument("room", metavar="ROOM", help="the room, such as chat:lobby")
    parser.add_argument(
        "content",
        metavar="CONTENT",
        nargs="?",
        default="null",
        help='JSON, such as \'{"text":"hello"}\'; - publishes each line of stdin (default: null)',
    )
    parser.add_argument("--type", help="message type (default: the one that rooms of this kind take)")
    parser.add_argument(
        "--from", dest="user", metavar="USER", help="publish for this user (default: the server)"
    )
    parser.add_argument("--key", help="a repeat with the same key is not published again")
    return parser, _publish


async def _publish(publisher: Outsider, parsed: argparse.Namespace) -> None:
    type = parsed.type or publisher.only_type(parsed.room)
    if parsed.content != "-":
        await _publish_one(publisher, parsed, type, _json("CONTENT", parsed.content), parsed.key)
        return
    if parsed.key is not None:
        raise BadMessage("--key names one publication, and stdin may have many")
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        number += 1
        if line.strip():
            try:
                await _publish_one(publisher, parsed, type, _json("it", line), None)
            except RealtimeError as error:
                raise BadMessage(f"line {number}: {error.message}") from error


async def _publish_one(
    publisher: Outsider, parsed: argparse.Namespace, type: str, content: Any, key: str | None
) -> None:
    receipt = await publisher.publish(
        parsed.room, type, content, tenant=parsed.tenant, user=parsed.user, key=key
    )
    say(**receipt._asdict())


# ---------------------------------------------------------------- notify


def _add_notify(commands: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = commands.add_parser(
        "notify",
        help="push a notification to a user, wherever they are connected",
        description="Push a notification to all connections of a user, and print how many there were: "
        'a line such as {"id":"5f0c…","connections":2}.',
    )
    parser.add_argument("user", metavar="USER", help="user id")
    parser.add_argument("title", metavar="TITLE", help="1 to 1024 bytes")
    parser.add_argument("content", metavar="CONTENT", nargs="?", default="", help="text (default: empty)")
    parser.add_argument("--priority", type=int, default=1, metavar="0..3", help="3 overtakes (default: 1)")
    parser.add_argument(
        "--data", default="{}", metavar="JSON", help="an object that goes with it (default: {})"
    )
    parser.add_argument("--id", help="its name, 1 to 64 bytes (default: one is made)")
    return parser, _notify


async def _notify(publisher: Outsider, parsed: argparse.Namespace) -> None:
    sent = await publisher.notify(
        parsed.user,
        parsed.title,
        parsed.content,
        priority=parsed.priority,
        data=_json("--data", parsed.data),
        tenant=parsed.tenant,
        id=parsed.id,
    )
    say(**sent._asdict())


# ---------------------------------------------------------------- kick, revoke


def _add_kick(commands: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = commands.add_parser(
        "kick",
        help="close all connections of a user, or of a tenant",
        description="Close all connections of a user on all workers, and print how many there were. Clients "
        "do not come back by themselves after a code from 4500 on; `realtime revoke` keeps them out.",
    )
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("user", metavar="USER", nargs="?", help="user id")
    whom.add_argument("--everybody", action="store_true", help="all users of the tenant")
    parser.add_argument("--reason", default="kicked", help="told to the client (default: kicked)")
    parser.add_argument(
        "--code",
        type=int,
        default=int(CloseCode.DISCONNECTED_BY_SERVER),
        help=f"close code (default: {int(CloseCode.DISCONNECTED_BY_SERVER)})",
    )
    return parser, _kick


async def _kick(publisher: Outsider, parsed: argparse.Namespace) -> None:
    order = {"reason": parsed.reason, "code": parsed.code}
    if parsed.everybody:
        closed = await publisher.kick_tenant(parsed.tenant, **order)
    else:
        closed = await publisher.kick(parsed.user, tenant=parsed.tenant, **order)
    say(connections=closed)


def _add_revoke(commands: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = commands.add_parser(
        "revoke",
        help="refuse tokens, and close the connections that they opened",
        description="Refuse one token, or all those of a user or of a tenant that were issued before now, on "
        "all workers, and print until when (Unix seconds).",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--user", help="all tokens of this user so far")
    which.add_argument("--jti", metavar="ID", help="the one token of this id")
    which.add_argument("--everybody", action="store_true", help="all tokens of the tenant so far")
    parser.add_argument(
        "--issued-before", type=float, metavar="UNIX", help="not with --jti: only older ones (default: now)"
    )
    parser.add_argument(
        "--keep",
        type=float,
        metavar="SECONDS",
        help="as long as the longest of these tokens may live (default: 30 days)",
    )
    return parser, _revoke


async def _revoke(publisher: Outsider, parsed: argparse.Namespace) -> None:
    keep = {} if parsed.keep is None else {"keep_s": parsed.keep}
    until = await publisher.revoke(
        tenant=parsed.tenant,
        user=parsed.user,
        token_id=parsed.jti,
        everybody=parsed.everybody,
        issued_before=parsed.issued_before,
        **keep,
    )
    say(until=until)


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadMessage(f"{what} is no JSON: {error}; text stands in quotes: '\"hello\"'") from error


def say(**what: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(what, separators=(",", ":"), ensure_ascii=False), flush=True)

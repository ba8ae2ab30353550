"""The command `chat`: export what was said, legal holds, and what the policy's rules say of a text."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realtime.cli_control import AddConfig, Read
from realtime.errors import SettingsError, StartupError, Unavailable
from realtime.ids import (
    DEFAULT_TENANT,
    RoomId,
    RoomName,
    TenantId,
    UserId,
    parse_room,
    parse_tenant,
    parse_user,
)
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.core.blobs import Blobs
    from realtime.features.chat.order.exporting import Attached

Run = Callable[[Settings, argparse.Namespace], Coroutine[Any, Any, int]]

FOUND = 3
"""The exit code of `filters` where a rule refuses, masks or flags the text."""
PROGRESS_EVERY = 10_000


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add it to the parser's `commands`."""
    chat = commands.add_parser(
        "chat",
        help="chat rooms: export, legal holds, filters",
        description="What chat rooms keep: handed out, held, and what may be said.",
    )
    verbs = chat.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_export(verbs, add_config, read)
    _add_holds(verbs, add_config, read)
    _add_filters(verbs, add_config, read)


def _add_export(verbs: Any, add_config: AddConfig, read: Read) -> None:
    export = verbs.add_parser(
        "export",
        help="write a room, or what one user said, into a folder",
        description="Write messages with edits and reactions, members, reports and what is held, a "
        "JSON object a line (export.jsonl), and the attachments beside it. Servers may be running. The "
        "folder is there when it is whole; until then it is FOLDER.part; attachments in that are used again.",
    )
    export.add_argument("folder", metavar="FOLDER", type=Path, help="made by this; may not be there")
    of = export.add_mutually_exclusive_group(required=True)
    of.add_argument("--room", help="such as chat:lobby")
    of.add_argument("--user", help="user id: what they said, in all rooms")
    _finish(export, _export, add_config, read)


def _add_holds(verbs: Any, add_config: AddConfig, read: Read) -> None:
    for name, help, description, run in (
        (
            "hold",
            "let nothing of a room or of a user be deleted",
            "Put a legal hold on a room or on a user: retention and erasure stop, and what is edited or "
            "deleted is kept as it was. Servers may be running.",
            _hold,
        ),
        ("release", "end a legal hold", "End a hold; what it alone kept is deleted.", _release),
    ):
        parser = verbs.add_parser(name, help=help, description=description)
        of = parser.add_mutually_exclusive_group(required=True)
        of.add_argument("--room", help="such as chat:lobby")
        of.add_argument("--user", help="user id")
        if name == "hold":
            parser.add_argument("--reason", required=True, help="why; it is in the list of holds")
        _finish(parser, run, add_config, read)
    listed = verbs.add_parser("holds", help="list the legal holds", description="List them, a JSON a line.")
    _finish(listed, _holds, add_config, read)


def _add_filters(verbs: Any, add_config: AddConfig, read: Read) -> None:
    filters = verbs.add_parser(
        "filters",
        help="say what the policy's rules say of texts",
        description="Say of each line of stdin which rule finds what in it, as a server would; what counts "
        f"(floods, repeats) is left out. The exit code is 0 where all pass and {FOUND} where not.",
    )
    filters.add_argument("--policy", type=Path, help="the policy (default: policy_path of the settings)")
    filters.add_argument("--room", default="chat:lobby", help="(default: chat:lobby)")
    _finish(filters, _filters, add_config, read)


def _finish(parser: Any, run: Run, add_config: AddConfig, read: Read) -> None:
    parser.add_argument("--tenant", default=DEFAULT_TENANT, help=f"(default: {DEFAULT_TENANT})")
    add_config(parser)
    parser.set_defaults(run=lambda parsed: asyncio.run(run(read(parsed), parsed)))


def _of(parsed: argparse.Namespace) -> tuple[TenantId, RoomId | None, UserId | None]:
    tenant = parse_tenant(parsed.tenant)
    room = None if parsed.room is None else RoomId(tenant, RoomName(parse_room(parsed.room)))
    return tenant, room, None if parsed.user is None else parse_user(parsed.user)


# -- export -------------------------------------------------------------------------------------------------


async def _export(settings: Settings, parsed: argparse.Namespace) -> int:
    import msgspec

    from realtime.edge.files import open_blobs
    from realtime.edge.personal import put_on_record
    from realtime.edge.tables import tables
    from realtime.features.chat.order.exporting import exported, rooms_of

    tenant, room, user = _of(parsed)
    folder: Path = parsed.folder
    part = _part_of(folder)
    blobs = open_blobs(settings)
    lines = 0
    async with tables(settings) as database:
        rooms = await rooms_of(database, tenant, room)
        if room is not None and not rooms:
            raise SettingsError(f"nothing is kept of {room.room} in tenant {tenant}")
        with (part / "export.jsonl").open("wb") as file:
            for row in rooms:
                async for line, attached in exported(database, tenant, row, user):
                    if attached is not None:
                        line |= await _copied(blobs, tenant, attached, part)
                    file.write(msgspec.json.encode(line) + b"\n")
                    lines += 1
                    if lines % PROGRESS_EVERY == 0:
                        print(f"{lines} lines, in {row[1]}", file=sys.stderr)
            file.flush()
            os.fsync(file.fileno())
    if blobs is not None:
        await blobs.close()
    target = str(user) if room is None else room.room
    await put_on_record(settings, tenant, target, lines=lines)
    part.rename(folder)
    print(msgspec.json.encode({"folder": str(folder), "lines": lines, "rooms": len(rooms)}).decode())
    return 0


def _part_of(folder: Path) -> Path:
    """Return the folder that is written to until all is there."""
    if folder.exists():
        raise SettingsError(f"{folder} is there already: name another folder")
    part = folder.with_name(folder.name + ".part")
    (part / "attachments").mkdir(parents=True, exist_ok=True)
    return part


async def _copied(blobs: Blobs | None, tenant: TenantId, attached: Attached, folder: Path) -> dict[str, str]:
    """Copy an attachment, unless it is there from a run that was ended; say where it is."""
    from realtime.features.chat.files.keys import file_key

    name = f"attachments/{attached.id}"
    path = folder / name
    if blobs is None:
        return {"missing": "the settings name no place of files"}
    if path.exists() and path.stat().st_size == attached.bytes:
        return {"file": name}
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            async for piece in blobs.read(file_key(tenant, attached.sha256)):
                file.write(piece)
    except (KeyError, Unavailable) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, Unavailable):
            raise
        return {"missing": "it is gone"}
    shutil.move(temporary, path)
    return {"file": name}


# -- holds --------------------------------------------------------------------------------------------------


async def _hold(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.core.clock import SystemClock
    from realtime.edge.audit_relay import operator
    from realtime.edge.personal import put_on_record
    from realtime.edge.tables import tables
    from realtime.features.chat.ids import Ids
    from realtime.features.chat.order import holds

    tenant, room, user = _of(parsed)
    now_ms = int(SystemClock().time() * 1000)
    said = (Ids().new(now_ms), parsed.reason[:500], operator(), now_ms)
    async with tables(settings, writes=True) as database:
        if user is not None:
            await holds.hold_user(database, tenant, user, said)
        elif room is not None and not await holds.hold_room(database, room, said):
            raise StartupError(f"nothing is kept of {room.room} in tenant {tenant}")
    await put_on_record(settings, tenant, parsed.user or parsed.room, act="chat_hold")
    print("held")
    return 0


async def _release(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.edge.personal import put_on_record
    from realtime.edge.tables import tables
    from realtime.features.chat.order import holds

    tenant, room, user = _of(parsed)
    async with tables(settings, writes=True) as database:
        ended = await holds.release(database, tenant, user=user, room=None if room is None else room.room)
    if not ended:
        raise StartupError("there is no such hold")
    await put_on_record(settings, tenant, parsed.user or parsed.room, act="chat_release")
    print("released")
    return 0


async def _holds(settings: Settings, parsed: argparse.Namespace) -> int:
    import msgspec

    from realtime.core.personal import stamp
    from realtime.edge.tables import tables
    from realtime.features.chat.order import holds

    async with tables(settings) as database:
        for hold in await holds.all_of(database, parse_tenant(parsed.tenant)):
            what = {"room": hold.room} if hold.room else {"user": hold.user}
            told = {**what, "reason": hold.reason, "by": hold.by, "at": stamp(hold.at_ms)}
            print(msgspec.json.encode(told).decode())
    return 0


# -- filters ------------------------------------------------------------------------------------------------


async def _filters(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.features.chat.order.filters import Filters
    from realtime.features.chat.order.folding import Reading
    from realtime.features.chat.order.wordlist import masked
    from realtime.policy import load_policy

    path = parsed.policy or (Path(settings.policy_path) if settings.policy_path else None)
    if path is None:
        raise SettingsError("which policy? Name it by --policy, or set policy_path (REALTIME_POLICY_PATH)")
    filters = Filters(load_policy(path).chat)
    room = RoomId(parse_tenant(parsed.tenant), RoomName(parse_room(parsed.room)))
    lines = found = 0
    for line in sys.stdin:
        text = line.rstrip("\n")
        reading = Reading(text)
        lines += 1
        for filter in filters.of(room):
            finding = filter.find(reading, float("inf"))
            if finding is not None:
                found += 1
                print(f"{filter.rule.name}: {filter.rule.then}: {masked(text, finding.spans)}: {finding.why}")
    print(f"{lines} lines, {len(filters.of(room))} rules, {found} findings")
    return FOUND if found else 0

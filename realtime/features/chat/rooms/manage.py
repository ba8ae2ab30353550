"""Rooms come, change and go: created, opened between users, renamed, archived, deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from realtime.core.access import JOIN
from realtime.core.auth import Identity
from realtime.core.command import Command
from realtime.core.contents import decode
from realtime.core.core import Core
from realtime.core.session import Session
from realtime.errors import BadMessage, Conflict, Forbidden, RealtimeError, RoomLimit
from realtime.features.chat.acts import record
from realtime.features.chat.asking import Answer, chat_of, identity_of
from realtime.features.chat.rooms import contents, powers
from realtime.features.chat.rooms.changes import Change
from realtime.features.chat.rooms.changing import MAKE
from realtime.features.chat.rooms.contents import (
    Archive,
    Create,
    Direct,
    Make,
    Nothing,
    Update,
    check_text,
    folded,
)
from realtime.features.chat.rooms.state import DELETED, DIRECT, PRIVATE, PUBLIC, Role, Standing
from realtime.features.chat.rooms.tables import is_implicit
from realtime.features.chat.rules import HIDDEN, KIND, direct_name, keyed_name, new_private_name
from realtime.ids import RoomId, RoomName, UserId, parse_room

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat
    from realtime.features.chat.rooms.rooms import Owned

log: Final = logging.getLogger("realtime.chat")

_CREATED: Final = (
    "SELECT count(*) AS created FROM chat_rooms c JOIN rooms r ON r.id = c.room "
    "WHERE c.created_by = $2 AND r.tenant = $1 AND c.visibility IN ('public', 'private')"
)
_makes = msgspec.json.Decoder(Make)


# -- where it is asked --------------------------------------------------------------------------------


async def create(
    chat: Chat, session: Session, room: RoomId | None, asked: Create, key: str | None = None
) -> Answer:
    """Create a room, and return it: the question `chat_room_create`. One of the server's naming is the same
    for a repeat with the `key`.

    Raises:
        BadMessage: a name or text that will not do.
        Forbidden: the policy does not let the asker.
        Conflict: there is such a room.
        RoomLimit: the asker has created as many as one may.
    """
    identity = identity_of(session)
    check_text("title", asked.title)
    check_text("topic", asked.topic, lines=True)
    _users(asked.members)
    name = _name(asked, identity, key)
    if room is not None and room.room != name:
        raise BadMessage("the room is named by `name` in the content, without a `room` beside it")
    _check_allowed(chat, identity, powers.CREATE, "chat_room_create", name)
    ((created,),) = await chat.rooms.database.read(_CREATED, identity.tenant, identity.user)
    most = chat.rooms.settings.chat_rooms_per_user
    if created >= most:
        raise RoomLimit(
            f"you have created {created} rooms; {most} are allowed", limit="chat_rooms_per_user", allowed=most
        )
    keyed = key is not None and asked.name is None
    return await _have_made(chat, identity, name, Make(create=asked, keyed=keyed))


async def direct(chat: Chat, session: Session, room: RoomId | None, asked: Direct) -> Answer:
    """Return the room of just these users and the asker, made where there is none: the question
    `chat_direct`.

    Raises:
        BadMessage: nobody else is in it, or too many are.
        Forbidden: the policy does not let the asker.
    """
    identity = identity_of(session)
    users = sorted({identity.user, *_users(asked.users)})
    most = chat.rooms.settings.chat_direct_users
    if not 1 < len(users) <= most:
        raise BadMessage(f"a direct room is of 2 to {most} users, the asker included; these are {len(users)}")
    name = direct_name(users)
    _check_allowed(chat, identity, powers.DIRECT, "chat_direct", name)
    return await _have_made(chat, identity, name, Make(direct=tuple(users)))


def _name(asked: Create, identity: Identity, key: str | None) -> RoomName:
    if asked.name is None:
        return new_private_name() if key is None else keyed_name(identity.user, key)
    if asked.visibility != PUBLIC:
        raise BadMessage("only public rooms have a `name` of one's choice; others are given one")
    if asked.name.startswith(HIDDEN):
        raise BadMessage(f"names that begin with {HIDDEN!r} are given by the server")
    return parse_room(f"{KIND}:{asked.name}")


def _check_allowed(chat: Chat, identity: Identity, permission: str, act: str, name: RoomName) -> None:
    access = chat.core.access
    if not (access.allows(identity, permission, name) and access.allows(identity, JOIN, name)):
        record(chat.core, identity, act, name, denied=True)
        raise Forbidden(f"you may not send {act!r} here")


def _users(names: Iterable[str]) -> list[UserId]:
    return [contents.user_of(name) for name in names]


async def _have_made(chat: Chat, identity: Identity, name: RoomName, make: Make) -> Answer:
    room = RoomId(identity.tenant, name)
    outcome = chat.core.order(room, MAKE, msgspec.json.encode(make), identity)
    answer: Answer = msgspec.json.decode(outcome if isinstance(outcome, bytes) else await outcome)
    return answer


# -- at the owner -------------------------------------------------------------------------------------


async def on_make(core: Core, command: Command) -> bytes:
    """Take what only the server asks of a room's owner: to make the room, or to look at the tables again."""
    chat, asked = chat_of(core), decode(_makes, command.content)
    answer: Answer
    if asked.create is not None:
        answer = await _made(chat, command, asked.create, keyed=asked.keyed)
    elif asked.direct:
        answer = await _opened(chat, command, [UserId(user) for user in asked.direct])
    else:
        answer = {"left": await chat.rooms.changes.look_again(command)}
    return msgspec.json.encode(answer)


async def _made(chat: Chat, command: Command, asked: Create, *, keyed: bool) -> Answer:
    repeated = False
    now_ms, identity = chat.rooms.now_ms, command.identity
    others = [UserId(user) for user in dict.fromkeys(asked.members) if user != identity.user]

    async def decide(owned: Owned) -> Change | None:
        nonlocal repeated
        if keyed and owned.room.created_by == identity.user and owned.room.visibility != DELETED:
            repeated = True
            return None
        if not is_implicit(owned.room):
            raise Conflict("there is a room of this name, or was one")
        if owned.room.number and not chat.core.access.grants(identity, powers.CLAIM, command.room.room):
            record(chat.core, identity, "chat_room_create", command.room.room, denied=True)
            raise Forbidden(f"the room is in use: to take it over takes {powers.CLAIM!r}")
        standings = {user: Standing(role=Role.MEMBER, since_ms=now_ms) for user in others}
        standings[identity.user] = Standing(role=Role.OWNER, since_ms=now_ms)
        return Change(
            columns={
                "visibility": asked.visibility,
                "title": asked.title,
                "topic": asked.topic,
                "found": folded(asked.title, asked.topic),
                "created_ms": now_ms,
                "created_by": identity.user,
            },
            standings=standings,
            notices=[{"event": "created", "by": identity.user, "title": asked.title}],
        )

    await chat.rooms.changes.make(command, decide, stranger=True)
    answer: Answer = {
        "room": command.room.room,
        "title": asked.title,
        "visibility": asked.visibility,
        "role": Role.OWNER.word,
    }
    if repeated:
        return answer | {"duplicate": True}
    tell_users(chat, command, others, asked.title)
    return answer


async def _opened(chat: Chat, command: Command, users: list[UserId]) -> Answer:
    now_ms, identity = chat.rooms.now_ms, command.identity
    missing: list[UserId] = []
    created = False

    async def decide(owned: Owned) -> Change | None:
        nonlocal missing, created
        created = not owned.room.created_ms
        standings = {user: await chat.rooms.standing(command.room, user) for user in users}
        missing = [user for user, it in standings.items() if not it.role]
        if not missing:
            return None
        become = {user: Standing(role=Role.MEMBER, since_ms=now_ms) for user in missing}
        for user, standing in become.items():
            standing.banned_until_ms = standings[user].banned_until_ms
            standing.muted_until_ms = standings[user].muted_until_ms
        columns = {"visibility": DIRECT, "created_ms": now_ms, "created_by": identity.user} if created else {}
        notices = [
            {"event": "created", "by": identity.user}
            if created
            else {"event": "joined", "by": identity.user, "users": missing}
        ]
        return Change(columns=columns, standings=become, notices=notices)

    await chat.rooms.changes.make(command, decide, stranger=True)
    tell_users(chat, command, [user for user in missing if user != identity.user], "")
    return {"room": command.room.room, "created": created}


async def update(chat: Chat, command: Command, asked: Update) -> Answer:
    """Change what a room is called, and how it is kept: the owner's handler of `chat_room_update`."""
    check_text("title", asked.title)
    check_text("topic", asked.topic, lines=True)
    given = {
        name: value
        for name in asked.__struct_fields__
        if (value := getattr(asked, name)) is not msgspec.UNSET
    }
    for_owners = given.keys() & {"retention_s", "visibility"}
    least = Role.OWNER if for_owners else powers.LEAST[command.type]
    role = Role.NONE

    async def decide(owned: Owned) -> Change | None:
        nonlocal role
        role = await chat.rooms.require(command, least)
        if owned.room.visibility == DIRECT and for_owners:
            raise Forbidden("a direct room is its users' alone: it stays as it is")
        columns = {name: value for name, value in given.items() if getattr(owned.room, name) != value}
        if not columns:
            return None
        notices = [_told(name, value, command.identity.user) for name, value in columns.items()]
        if columns.keys() & {"title", "topic"}:
            title, topic = columns.get("title", owned.room.title), columns.get("topic", owned.room.topic)
            columns["found"] = folded(title, topic)
        review: list[UserId | None] = [None] if columns.get("visibility") == PRIVATE else []
        return Change(columns=columns, notices=notices, review=review)

    await chat.rooms.changes.make(command, decide)
    record(chat.core, command.identity, command.type, command.room.room, what=" ".join(given))
    found, _ = await chat.rooms.read(command.room, command.identity.user)
    return chat.rooms.lists.described(command.room.room, found, role, None)


def _told(name: str, value: Any, by: UserId) -> dict[str, Any]:
    event = {"title": "renamed", "slow_s": "slow", "retention_s": "retention"}.get(name, name)
    return {"event": event, "by": by, name: value}


async def archive(chat: Chat, command: Command, asked: Archive) -> Answer:
    """Let a room take no messages, or again: the owner's handler of `chat_room_archive`."""

    async def decide(owned: Owned) -> Change | None:
        await chat.rooms.require(command, powers.LEAST[command.type])
        if bool(owned.room.archived_ms) == asked.archived:
            return None
        event = "archived" if asked.archived else "unarchived"
        return Change(
            columns={"archived_ms": chat.rooms.now_ms if asked.archived else 0},
            notices=[{"event": event, "by": command.identity.user}],
        )

    await chat.rooms.changes.make(command, decide)
    record(chat.core, command.identity, command.type, command.room.room, archived=int(asked.archived))
    return {}


async def delete(chat: Chat, command: Command, asked: Nothing) -> Answer:
    """Delete a room: nobody may be in it from now on, and what it has goes. The owner's handler of
    `chat_room_delete`.
    """

    async def decide(owned: Owned) -> Change:
        await chat.rooms.require(command, powers.LEAST[command.type])
        return Change(
            columns={"visibility": DELETED},
            notices=[{"event": "deleted", "by": command.identity.user}],
            review=[None],
        )

    await chat.rooms.changes.make(command, decide)
    record(chat.core, command.identity, command.type, command.room.room)
    chat.rooms.erasing.soon()
    return {}


def tell_users(
    chat: Chat, command: Command, users: Iterable[UserId], title: str, what: str = "added"
) -> None:
    """Let users who are connected know of a room that they may be in now."""
    chat.services.spawn(_notify(chat, command, list(users), title, what))


async def _notify(chat: Chat, command: Command, users: list[UserId], title: str, what: str) -> None:
    by, room = command.identity.user, command.room
    said = f"{by} has asked you in" if what == "invited" else f"{by} has made you a member"
    for user in users:
        try:
            await chat.core.notifications.send_notification(
                user_id=user,
                tenant=room.tenant,
                title=title or by or "chat",
                content=said,
                data={"chat": what, "room": room.room, "by": by},
            )
        except RealtimeError as error:
            log.warning("a notification was not sent: %s", error.message, extra={"room": room.room})

"""Members come and go, and what they may do: invites, roles, bans, mutes. All of it at the room's owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from realtime.core.access import JOIN
from realtime.core.command import Command
from realtime.core.personal import stamp
from realtime.errors import Forbidden, RoomLimit
from realtime.features.chat.acts import record
from realtime.features.chat.asking import Answer
from realtime.features.chat.rooms import changes, powers
from realtime.features.chat.rooms.changes import Change
from realtime.features.chat.rooms.contents import Ban, Give, Invite, Mute, Nothing, Whom, user_of
from realtime.features.chat.rooms.manage import tell_users
from realtime.features.chat.rooms.state import DELETED, DIRECT, GONE, Role, Standing
from realtime.ids import UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat
    from realtime.features.chat.rooms.changing import Decide
    from realtime.features.chat.rooms.rooms import Owned

FOREVER_MS: Final = 253_402_300_799_000
"""The end of the year 9999: of a ban without an end."""

_INVITE: Final = (
    "SELECT i.role AS role, i.by_user AS by_user FROM chat_invites i JOIN rooms r ON r.id = i.room "
    "WHERE i.user_id = $3 AND r.tenant = $1 AND r.name = $2"
)
_INVITES: Final = (
    "SELECT (SELECT count(*) FROM chat_invites WHERE user_id = $1) AS theirs, "
    "(SELECT count(*) FROM chat_invites WHERE room = $2) AS ours"
)
_MEMBERS: Final = "SELECT members FROM chat_rooms WHERE room = $1"
_OWNERS: Final = f"SELECT count(*) AS owners FROM chat_members WHERE room = $1 AND role = {int(Role.OWNER)}"


# -- in and out ---------------------------------------------------------------------------------------


async def invite(chat: Chat, command: Command, asked: Invite) -> Answer:
    """Ask somebody in: `chat_invite`. Members may ask in members; nobody comes in without accepting."""
    user, wanted = user_of(asked.user), Role[asked.role.upper()]
    title = ""
    invited = False

    async def decide(owned: Owned) -> Change | None:
        nonlocal title, invited
        await chat.rooms.require(command, powers.LEAST[command.type])
        # By what they are here: who may moderate by the policy alone is not to let themselves in by this.
        own = await chat.rooms.standing(command.room, command.identity.user)
        if owned.room.visibility == DIRECT:
            raise Forbidden("a direct room is its users' alone: open another one with chat_direct")
        if own.role < Role.MEMBER:
            raise Forbidden(f"{command.type!r} takes member of this room; you are {own.role.word}")
        powers.check_given(own.role, wanted)
        standing = await chat.rooms.standing(command.room, user)
        if standing.role:
            return None
        if standing.banned(chat.rooms.now_ms):
            raise Forbidden("they are banned from this room")
        await _check_invites(chat, owned, user)
        title, invited = owned.room.title, True
        return Change(
            invites={user: changes.Invite(command.identity.user, wanted)},
            notices=[_notice("invited", command, user=user, role=wanted.word)],
        )

    await chat.rooms.changes.make(command, decide)
    if invited:
        tell_users(chat, command, [user], title, "invited")
    return {}


async def accept(chat: Chat, command: Command, asked: Nothing) -> Answer:
    """Come in where one was asked: `chat_accept`."""
    user = command.identity.user
    await _invited(chat, command)

    async def decide(owned: Owned) -> Change | None:
        role, by = await _invited(chat, command)
        standing = await chat.rooms.standing(command.room, user)
        if owned.room.visibility == DELETED or standing.banned(chat.rooms.now_ms):
            raise Forbidden(GONE)
        if standing.role:
            return Change(uninvited=(user,))
        await _check_members(chat, owned)
        return Change(
            standings={user: replace(standing, role=role, since_ms=chat.rooms.now_ms)},
            uninvited=(user,),
            notices=[{"event": "joined", "by": user, "invited_by": by, "role": role.word}],
        )

    await chat.rooms.changes.make(command, decide, stranger=True)
    return {}


async def decline(chat: Chat, command: Command, asked: Nothing) -> Answer:
    """Do not come in where one was asked: `chat_decline`. Nobody is told."""
    await _invited(chat, command)

    async def decide(owned: Owned) -> Change:
        await _invited(chat, command)
        return Change(uninvited=(command.identity.user,))

    await chat.rooms.changes.make(command, decide, stranger=True)
    return {}


async def enter(chat: Chat, command: Command, asked: Nothing) -> Answer:
    """Become a member of a public room: `chat_enter`."""
    user = command.identity.user

    async def decide(owned: Owned) -> Change | None:
        await chat.rooms.require(command, powers.LEAST[command.type])
        standing = await chat.rooms.standing(command.room, user)
        if standing.role:
            return None
        if owned.room.hidden or standing.banned(chat.rooms.now_ms):  # a moderator by the policy alone
            raise Forbidden(GONE)
        await _check_members(chat, owned)
        return Change(
            standings={user: replace(standing, role=Role.MEMBER, since_ms=chat.rooms.now_ms)},
            uninvited=(user,),
            notices=[{"event": "joined", "by": user, "role": Role.MEMBER.word}],
        )

    await chat.rooms.changes.make(command, decide)
    return {}


async def leave(chat: Chat, command: Command, asked: Nothing) -> Answer:
    """Be a member no longer: `chat_quit`. Of a room that hides one is out then."""
    user = command.identity.user

    async def decide(owned: Owned) -> Change:
        await chat.rooms.require(command)
        standing = await chat.rooms.standing(command.room, user)
        if not standing.role:
            raise Forbidden("you are no member of this room")
        await _check_owners(chat, owned, standing)
        return Change(
            standings={user: replace(standing, role=Role.NONE, since_ms=0)},
            notices=[{"event": "left", "by": user}],
            review=[user] if owned.room.hidden else [],
        )

    await chat.rooms.changes.make(command, decide)
    return {}


# -- over others --------------------------------------------------------------------------------------


async def give(chat: Chat, command: Command, asked: Give) -> Answer:
    """Make something else of a member: `chat_role`."""
    user, wanted = user_of(asked.user), Role[asked.role.upper()]

    async def decide(owned: Owned) -> Change | None:
        role = await chat.rooms.require(command, powers.LEAST[command.type])
        standing = await chat.rooms.standing(command.room, user)
        if owned.room.visibility == DIRECT:
            raise Forbidden("all users of a direct room are alike")
        _check_power(chat, command, lambda: _check_role(command, role, user, standing, wanted))
        if not standing.role:
            raise Forbidden("they are no member of this room")
        if wanted is standing.role:
            return None
        await _check_owners(chat, owned, standing)
        return Change(
            standings={user: replace(standing, role=wanted)},
            notices=[_notice("role", command, user=user, role=wanted.word)],
        )

    await chat.rooms.changes.make(command, decide)
    record(chat.core, command.identity, command.type, command.room.room, user=user, role=wanted.word)
    return {}


async def remove(chat: Chat, command: Command, asked: Whom) -> Answer:
    """Let somebody be a member no longer, or not be asked in: `chat_remove`."""
    user = user_of(asked.user)

    async def decide(owned: Owned) -> Change:
        standing = await _below(chat, command, user)
        if not standing.role:
            return Change(uninvited=(user,))
        return Change(
            standings={user: replace(standing, role=Role.NONE, since_ms=0)},
            uninvited=(user,),
            notices=[_notice("removed", command, user=user)],
            review=[user] if owned.room.hidden else [],
        )

    return await _over(chat, command, decide, user)


async def ban(chat: Chat, command: Command, asked: Ban) -> Answer:
    """Let somebody not be in the room: `chat_ban`. They are put out, wherever they are."""
    user = user_of(asked.user)

    async def decide(owned: Owned) -> Change:
        standing = await _below(chat, command, user)
        until_ms = FOREVER_MS if asked.for_s is None else chat.rooms.now_ms + asked.for_s * 1000
        told: dict[str, str] = {} if asked.for_s is None else {"until": stamp(until_ms)}
        if asked.reason:
            told["reason"] = asked.reason
        return Change(
            standings={user: replace(standing, role=Role.NONE, since_ms=0, banned_until_ms=until_ms)},
            uninvited=(user,),
            notices=[_notice("banned", command, user=user, **told)],
            review=[user],
        )

    return await _over(chat, command, decide, user)


async def unban(chat: Chat, command: Command, asked: Whom) -> Answer:
    """Let somebody be in the room again: `chat_unban`. They are no member by that."""
    user = user_of(asked.user)

    async def decide(owned: Owned) -> Change | None:
        standing = await _below(chat, command, user)
        if not standing.banned_until_ms:
            return None
        return Change(
            standings={user: replace(standing, banned_until_ms=0)},
            notices=[_notice("unbanned", command, user=user)],
        )

    return await _over(chat, command, decide, user)


async def mute(chat: Chat, command: Command, asked: Mute) -> Answer:
    """Let somebody send nothing for a while: `chat_mute`."""
    user = user_of(asked.user)

    async def decide(owned: Owned) -> Change:
        standing = await _below(chat, command, user)
        until_ms = chat.rooms.now_ms + asked.for_s * 1000
        return Change(
            standings={user: replace(standing, muted_until_ms=until_ms)},
            notices=[_notice("muted", command, user=user, until=stamp(min(until_ms, FOREVER_MS)))],
        )

    return await _over(chat, command, decide, user)


async def unmute(chat: Chat, command: Command, asked: Whom) -> Answer:
    """Let somebody send again: `chat_unmute`."""
    user = user_of(asked.user)

    async def decide(owned: Owned) -> Change | None:
        standing = await _below(chat, command, user)
        if not standing.muted_until_ms:
            return None
        return Change(
            standings={user: replace(standing, muted_until_ms=0)},
            notices=[_notice("unmuted", command, user=user)],
        )

    return await _over(chat, command, decide, user)


# -- what they have in common -------------------------------------------------------------------------


async def _over(chat: Chat, command: Command, decide: Decide, user: UserId) -> Answer:
    await chat.rooms.changes.make(command, decide)
    record(chat.core, command.identity, command.type, command.room.room, user=user)
    return {}


async def _below(chat: Chat, command: Command, user: UserId) -> Standing:
    """Return what `user` is in the command's room, whose sender may act on them."""
    role = await chat.rooms.require(command, powers.LEAST[command.type])
    standing = await chat.rooms.standing(command.room, user)
    if not command.trusted:
        _check_power(chat, command, lambda: powers.check_rank(role, standing.role))
    return standing


def _check_power(chat: Chat, command: Command, check: Callable[[], None]) -> None:
    try:
        check()
    except Forbidden:
        record(chat.core, command.identity, command.type, command.room.room, denied=True)
        raise


def _check_role(command: Command, role: Role, user: UserId, standing: Standing, wanted: Role) -> None:
    oneself = user == command.identity.user
    powers.check_role(standing.role if oneself else role, standing.role, wanted, oneself=oneself)


async def _check_owners(chat: Chat, owned: Owned, standing: Standing) -> None:
    """Raise Forbidden where an owner is the last one."""
    if standing.role is not Role.OWNER:
        return
    ((owners,),) = await chat.rooms.database.read(_OWNERS, owned.room.number)
    if owners < 2:
        raise Forbidden("you are the last owner: make somebody else owner first, or delete the room")


async def _check_members(chat: Chat, owned: Owned) -> None:
    """Raise RoomLimit where the room is full."""
    most = chat.rooms.settings.chat_room_members
    for (members,) in await chat.rooms.database.read(_MEMBERS, owned.room.number):
        if members >= most:
            raise RoomLimit(
                f"the room has {members} members; {most} are allowed", limit="chat_room_members", allowed=most
            )


async def _check_invites(chat: Chat, owned: Owned, user: UserId) -> None:
    """Raise RoomLimit where too many invites wait, of the room or of the user."""
    most = chat.rooms.settings.chat_invites_waiting
    ((theirs, ours),) = await chat.rooms.database.read(_INVITES, user, owned.room.number)
    if max(theirs, ours) >= most:
        whose = "of theirs" if theirs >= most else "of this room"
        raise RoomLimit(
            f"{most} invites {whose} wait for an answer; no more are allowed",
            limit="chat_invites_waiting",
            allowed=most,
        )


async def _invited(chat: Chat, command: Command) -> tuple[Role, str]:
    """Return as what the sender of a command is asked in, and by whom.

    Raises:
        Forbidden: they are not; the same where there is no such room.
    """
    identity, room = command.identity, command.room
    rows = await chat.rooms.database.read(_INVITE, room.tenant, room.room, identity.user)
    if not rows or not chat.core.access.allows(identity, JOIN, room.room):
        record(chat.core, identity, command.type, room.room, denied=True)
        raise Forbidden(GONE)
    return Role(rows[0][0]), rows[0][1]


def _notice(event: str, command: Command, **more: str) -> dict[str, str]:
    return {"event": event, "by": command.identity.user, **more}

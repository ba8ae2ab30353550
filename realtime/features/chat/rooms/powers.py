"""Who may do what to whom: a table, and the rule that nobody acts on who is above or equal."""

from __future__ import annotations

from typing import Final

from realtime.errors import Forbidden
from realtime.features.chat.rooms.state import Role

CREATE: Final = "chat_room_create"
CLAIM: Final = "chat_room_claim"
DIRECT: Final = "chat_direct"
MODERATE: Final = "chat_moderate"
PERMISSIONS: Final = (CREATE, CLAIM, DIRECT, MODERATE)

LEAST: Final[dict[str, Role]] = {
    "chat_room_update": Role.MODERATOR,  # of retention and visibility: OWNERS
    "chat_room_archive": Role.MODERATOR,
    "chat_room_delete": Role.OWNER,
    "chat_invite": Role.MEMBER,
    "chat_role": Role.READER,  # of others: as `check_role`
    "chat_remove": Role.MODERATOR,
    "chat_ban": Role.MODERATOR,
    "chat_unban": Role.MODERATOR,
    "chat_mute": Role.MODERATOR,
    "chat_unmute": Role.MODERATOR,
    "chat_enter": Role.NONE,
    "chat_quit": Role.READER,
}
"""What somebody has to be in a room to send a command there."""


def check_rank(actor: Role, target: Role) -> None:
    """Raise Forbidden where `target` is above or equal."""
    if target >= actor:
        raise Forbidden(f"they are {target.word}, you are {actor.word}: nobody acts on who is above or equal")


def check_role(actor: Role, target: Role, wanted: Role, *, oneself: bool) -> None:
    """Let `actor` make `wanted` of a member.

    Raises:
        Forbidden: only moderators change others, below them and to less than themselves; owners make owners
            too. Of oneself one may make less.
    """
    if oneself:
        if wanted > actor:
            raise Forbidden(f"you are {actor.word}: you may not make yourself {wanted.word}")
        return
    if actor < Role.MODERATOR:
        raise Forbidden(f"'chat_role' takes moderator of this room; you are {actor.word}")
    check_rank(actor, target)
    check_given(actor, wanted)


def check_given(actor: Role, wanted: Role) -> None:
    """Let `actor` make somebody a `wanted`. Raises Forbidden: it is too much of one to give."""
    highest = Role.OWNER if actor >= Role.OWNER else Role.MEMBER
    if wanted > highest:
        raise Forbidden(f"as {actor.word} you may make others {highest.word} at most, not {wanted.word}")

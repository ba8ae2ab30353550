"""What the audit log is told of the chat: acts of those who have a say over others, and what was denied."""

from __future__ import annotations

from realtime.core.audit import Action, Event, Outcome
from realtime.core.auth import Identity
from realtime.core.core import Core
from realtime.ids import RoomName


def record(
    core: Core,
    identity: Identity,
    act: str,
    room: RoomName | str,
    *,
    denied: bool = False,
    action: Action = Action.MANAGE,
    **detail: str | int,
) -> None:
    """Put on record that somebody did, or was `denied`, `act` (the type of a message, such as `chat_ban`) in
    a room. No content of messages may be in the detail.
    """
    core.audit.record(
        Event(
            tenant=identity.tenant,
            action=action,
            outcome=Outcome.DENIED if denied else Outcome.ALLOWED,
            actor=identity.user or "server",
            target=room,
            detail={"act": act, **detail},
        )
    )

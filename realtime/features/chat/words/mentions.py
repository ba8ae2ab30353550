"""Whom a message calls is told, wherever they are connected: a notification to those who are not in its room.

Only who may be in the room hears of it. At most `chat_notified_max` of a message are told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from realtime.core.auth import Identity
from realtime.core.command import Command
from realtime.errors import RealtimeError
from realtime.features.chat.words.said import Said
from realtime.ids import UserId, parse_user
from realtime.native.encode import json_string

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

log: Final = logging.getLogger("realtime.chat")

EXCERPT_CHARS: Final = 200
UNDER_WAY_MAX: Final = 1_000


class Mentions:
    """Tells them. Nothing waits for it, and what cannot be told is lost: the message is there."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._under_way = 0
        self.told = 0

    def notify(self, command: Command, said: Said, users: Collection[str] | None = None) -> None:
        """Tell those that a message calls; of these `users` alone where they are given."""
        if self._under_way >= UNDER_WAY_MAX or not self._chat.services.settings.chat_notified_max:
            return
        self._under_way += 1
        self._chat.services.spawn(self._notify(command, said, users))

    async def _notify(self, command: Command, said: Said, users: Collection[str] | None) -> None:
        try:
            called = list((said.mentions or ()) if users is None else users)
            if said.here:
                called += [user for user in await self._members(command) if user not in called]
            for user in called[: self._chat.services.settings.chat_notified_max]:
                await self._tell(command, said, user)
        except RealtimeError as error:
            log.debug("who is called in %s was not told: %s", command.room.room, error.message)
        except Exception:
            log.exception("who is called in %s was not told", command.room.room)
        finally:
            self._under_way -= 1

    async def _tell(self, command: Command, said: Said, user: str) -> None:
        tenant, room = command.room
        if user == command.identity.user or self._is_there(command, user):
            return
        try:
            parse_user(user)
        except RealtimeError:
            return
        if not await self._chat.rooms.admits(Identity(UserId(user), tenant), command.room):
            return
        sender = command.identity.user
        sent = await self._chat.core.notifications.send_notification(
            user_id=user,
            title=f"{sender or 'The server'} mentioned you",
            content=said.text[:EXCERPT_CHARS],
            data={"type": "chat_mention", "room": room, "id": said.id, "from": sender},
            tenant=tenant,
            id=f"mention-{said.id}",
        )
        self.told += sent.connections

    def _is_there(self, command: Command, user: str) -> bool:
        """Whether somebody is in the room, as this worker knows: they get the message itself."""
        live = self._chat.core.membership.find(command.room)
        return live is not None and json_string(user) in live.roster.users

    async def _members(self, command: Command) -> list[str]:
        """Those who may be called by @here: members of the room."""
        found = await self._chat.services.database.read(
            "SELECT m.user_id AS user_id FROM rooms r JOIN chat_members m ON m.room = r.id "
            "WHERE r.tenant = $1 AND r.name = $2 AND m.role > 0 ORDER BY m.since_ms, m.user_id LIMIT $3",
            *command.room,
            self._chat.services.settings.chat_notified_max,
        )
        return [user for (user,) in found]

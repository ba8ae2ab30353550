"""The message types of this part."""

from __future__ import annotations

from typing import Final

import msgspec

from realtime.core.command import Command
from realtime.core.core import Core
from realtime.core.feature import MessageType
from realtime.features.chat.asking import chat_of
from realtime.features.chat.words.draft import Draft
from realtime.features.chat.words.words import MESSAGE

# Chat may go on beside what others do: in listening sessions and over playlists it is an event like others.
EVERYWHERE: Final = frozenset({"chat", "events", "playlist", "session", "user"})


async def _send(core: Core, command: Command) -> bytes:
    return msgspec.json.encode(await chat_of(core).words.send(command))


MESSAGES: Final[tuple[MessageType, ...]] = (
    MessageType(name=MESSAGE, kinds=EVERYWHERE, content=Draft, owner=_send, plain=True),
)
PERMISSIONS: Final[tuple[str, ...]] = ()

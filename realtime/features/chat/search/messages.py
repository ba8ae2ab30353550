"""The message types of this part."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from realtime.core.feature import MessageType
from realtime.core.session import Session
from realtime.features.chat.asking import question
from realtime.features.chat.search.draft import Search
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat


def _search(chat: Chat, session: Session, room: RoomId | None, content: Search) -> Awaitable[object]:
    return chat.search.ask(session, room, content)


MESSAGES: Final[tuple[MessageType, ...]] = (question("chat_search", Search, _search),)
PERMISSIONS: Final[tuple[str, ...]] = ()

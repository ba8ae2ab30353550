"""The message types of all parts, and the actions that the policy's rules can speak of beside them."""

from __future__ import annotations

from typing import Final

from realtime.core.feature import MessageType
from realtime.features.chat.files import messages as files
from realtime.features.chat.order import messages as order
from realtime.features.chat.rooms import messages as rooms
from realtime.features.chat.search import messages as search
from realtime.features.chat.signs import messages as signs
from realtime.features.chat.words import messages as words

MESSAGES: Final[tuple[MessageType, ...]] = (
    *rooms.MESSAGES,
    *words.MESSAGES,
    *signs.MESSAGES,
    *search.MESSAGES,
    *files.MESSAGES,
    *order.MESSAGES,
)
PERMISSIONS: Final[tuple[str, ...]] = (
    *rooms.PERMISSIONS,
    *words.PERMISSIONS,
    *search.PERMISSIONS,
    *files.PERMISSIONS,
    *order.PERMISSIONS,
)
ROOM_KEYS: Final = {"chat_room_id": "chat"}

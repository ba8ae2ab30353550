"""The message types of this part."""

from __future__ import annotations

from typing import Final

from realtime.core.feature import MessageType
from realtime.features.chat.rooms import powers

MESSAGES: Final[tuple[MessageType, ...]] = ()
PERMISSIONS: Final[tuple[str, ...]] = powers.PERMISSIONS

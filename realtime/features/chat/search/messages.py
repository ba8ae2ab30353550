"""The message types of this part."""

from __future__ import annotations

from typing import Final

from realtime.core.feature import MessageType

MESSAGES: Final[tuple[MessageType, ...]] = ()
PERMISSIONS: Final[tuple[str, ...]] = ()

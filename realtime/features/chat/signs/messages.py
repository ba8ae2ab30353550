"""The message types of this part."""

from __future__ import annotations

from typing import Final

from realtime.core.feature import MessageType
from realtime.features.chat.words.messages import EVERYWHERE

# That somebody types is of use to who is there, and untrue to whoever reads it later. Kept, each would cost a
# durable room a row on the disk, and its history would be full of them.
MESSAGES: Final[tuple[MessageType, ...]] = (
    MessageType(name="chat_typing", kinds=EVERYWHERE, ephemeral=True, plain=True),
    MessageType(name="chat_read_receipt", kinds=EVERYWHERE, plain=True),
    MessageType(name="chat_presence", kinds=EVERYWHERE, plain=True),
)

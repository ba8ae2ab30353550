"""A content for each message type of the chat, as whoever may do it would send it.

Tests that try every type take theirs from here, so that a new one which nobody tries fails them.
"""

from typing import Any

from realtime.features.chat import FEATURE

UNKNOWN_ID = "1784000000000000000"


def sample(type: str, text: str = "words", id: str = UNKNOWN_ID) -> Any:
    """Return a content for `type` that says `text` where it says anything, and speaks of message `id`."""
    return SAMPLES[type](text, id)


SAMPLES = {
    "chat_message": lambda text, id: {"text": text},
    "chat_typing": lambda text, id: {"typing": True},
    "chat_read_receipt": lambda text, id: {"id": id},
    "chat_presence": lambda text, id: {"status": "online", "text": text},
}


def missing() -> set[str]:
    """Return the types that have none."""
    return {message.name for message in FEATURE.messages} - SAMPLES.keys()

"""The events by their types: `<domain>_<event>`, and the plain `publish`."""

from realtime.core.feature import MessageType

EVENTS_BY_DOMAIN = {
    "music": ("play", "pause", "skip", "seek", "volume_change"),
    "chat": ("message", "typing", "read_receipt", "presence"),
    "collaboration": ("edit", "add", "remove", "reorder", "share"),
    "system": ("connect", "disconnect", "error", "maintenance"),
}

EVENT_ROOMS = frozenset({"events", "chat", "session", "playlist", "user"})

MESSAGES = (
    MessageType(name="publish", kinds=frozenset({"events"})),
    *(
        MessageType(name=f"{domain}_{event}", kinds=EVENT_ROOMS)
        for domain, events in EVENTS_BY_DOMAIN.items()
        for event in events
    ),
)

# Where a message names no room and its content has several of these, the first one here decides: a chat
# message may say who wrote it, and is not for that user's own room.
ROOM_KEYS = {
    "chat_room_id": "chat",
    "session_id": "session",
    "playlist_id": "playlist",
    "topic": "events",
    "user_id": "user",
}

"""The events by their types: `<domain>_<event>`, and the plain `publish`."""

from realtime.core.feature import MessageType

EVENTS_BY_DOMAIN = {
    "music": ("play", "pause", "skip", "seek", "volume_change"),
    "chat": ("message", "typing", "read_receipt", "presence"),
    "collaboration": ("edit", "add", "remove", "reorder", "share"),
    "system": ("connect", "disconnect", "error", "maintenance"),
}

# That somebody types is of use to who is there, and untrue to whoever reads it later. Kept, each would cost
# a durable room a row on the disk, and its history would be full of them. The others are not like it: whoever
# was away has to learn the last `music_seek`, and what `chat_presence` or `chat_read_receipt` said.
EPHEMERAL = frozenset({"chat_typing"})

EVENT_ROOMS = frozenset({"events", "chat", "session", "playlist", "user"})

MESSAGES = (
    MessageType(name="publish", kinds=frozenset({"events"})),
    *(
        MessageType(name=name, kinds=EVENT_ROOMS, ephemeral=name in EPHEMERAL)
        for domain, events in EVENTS_BY_DOMAIN.items()
        for name in (f"{domain}_{event}" for event in events)
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

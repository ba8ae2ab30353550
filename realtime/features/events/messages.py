"""The events by their types: `<domain>_<event>`, and the plain `publish`."""

from realtime.core.feature import MessageType

EVENTS_BY_DOMAIN = {
    "music": ("play", "pause", "skip", "seek", "volume_change"),
    "collaboration": ("edit", "add", "remove", "reorder", "share"),
    "system": ("connect", "disconnect", "error", "maintenance"),
}

# Not in chat rooms: what is said there is the chat's, with its roles, mutes and filters.
EVENT_ROOMS = frozenset({"events", "session", "playlist", "user"})

MESSAGES = (
    MessageType(name="publish", kinds=frozenset({"events"})),
    *(
        MessageType(name=name, kinds=EVENT_ROOMS)
        for domain, events in EVENTS_BY_DOMAIN.items()
        for name in (f"{domain}_{event}" for event in events)
    ),
)

# Where a message names no room and its content has several of these, the first one here decides: an event may
# say who is behind it, and is not for that user's own room.
ROOM_KEYS = {
    "session_id": "session",
    "playlist_id": "playlist",
    "topic": "events",
    "user_id": "user",
}

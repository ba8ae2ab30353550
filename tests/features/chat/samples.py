"""A content for each message type of the chat, as whoever may do it would send it.

Tests that try every type take theirs from here, so that a new one which nobody tries fails them.
"""

import time
from typing import Any

import msgspec

from realtime.features.chat import FEATURE

TOMORROW = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
UNKNOWN_ID = "1784000000000000000"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What contents speak of, where they speak of anything."""

    text: str = "words"
    room: str = "chat:~000000000000000000000000"
    user: str = "bob"
    id: str = UNKNOWN_ID  # of a message
    report: str = "1784000000000000001"
    file: str = "1784000000000000002"
    upload: str = "1784000000000000003"
    scheduled: str = "1784000000000000004"


def sample(type: str, about: About) -> list[Any]:
    """Return contents for `type`, those with the least first."""
    found = SAMPLES[type](about)
    return found if isinstance(found, list) else [found]


SAMPLES = {
    # rooms
    "chat_room_create": lambda of: [
        {"title": of.text, "visibility": "private"},
        {"title": of.text, "name": of.room.removeprefix("chat:")},
    ],
    "chat_direct": lambda of: {"users": [of.user]},
    "chat_room_make": lambda of: [{}, {"create": {"title": of.text}}],
    "chat_room": lambda of: {},
    "chat_rooms": lambda of: [{}, {"mine": True}, {"query": of.text}, {"query": of.room[6:]}],
    "chat_members": lambda of: [{}, {"banned": True}, {"after": of.user}],
    "chat_invites": lambda of: {},
    "chat_room_update": lambda of: [
        {"title": of.text},
        {"topic": of.text, "slow_s": 1},
        {"visibility": "public"},
    ],
    "chat_room_archive": lambda of: [{"archived": True}, {"archived": False}],
    "chat_room_delete": lambda of: {},
    "chat_invite": lambda of: {"user": of.user, "role": "owner"},
    "chat_accept": lambda of: {},
    "chat_decline": lambda of: {},
    "chat_enter": lambda of: {},
    "chat_quit": lambda of: {},
    "chat_role": lambda of: {"user": of.user, "role": "reader"},
    "chat_remove": lambda of: {"user": of.user},
    "chat_ban": lambda of: {"user": of.user, "for_s": 60, "reason": of.text},
    "chat_unban": lambda of: {"user": of.user},
    "chat_mute": lambda of: {"user": of.user, "for_s": 60},
    "chat_unmute": lambda of: {"user": of.user},
    # words
    "chat_message": lambda of: [
        {"text": of.text},
        {"text": of.text, "reply_to": of.id},
        {"text": of.text, "thread": of.id, "attachments": [of.file]},
    ],
    "chat_edit": lambda of: {"id": of.id, "text": of.text},
    "chat_delete": lambda of: {"id": of.id},
    "chat_react": lambda of: [{"id": of.id, "emoji": "👍"}, {"id": of.id, "emoji": "👍", "remove": True}],
    "chat_pin": lambda of: [{"id": of.id}, {"id": of.id, "pinned": False}],
    "chat_history": lambda of: [{}, {"before": of.id}, {"after": of.id, "limit": 1}, {"thread": of.id}],
    "chat_edits": lambda of: {"id": of.id},
    "chat_pins": lambda of: {},
    "chat_schedule": lambda of: {"at": TOMORROW, "text": of.text, "reply_to": of.id},
    "chat_scheduled": lambda of: {},
    "chat_unschedule": lambda of: {"id": of.scheduled},
    "chat_import": lambda of: {
        "messages": [{"from": of.user, "at": "2020-01-01T00:00:00Z", "text": of.text, "key": "k"}]
    },
    # signs
    "chat_typing": lambda of: [{"typing": True}, {"typing": False}],
    "chat_read_receipt": lambda of: [{"id": of.id}, {"offset": 1}],
    "chat_presence": lambda of: {"status": "online", "text": of.text},
    "chat_presence_of": lambda of: {"users": [of.user]},
    "chat_unread": lambda of: {},
    # search
    "chat_search": lambda of: [
        {"query": of.text},
        {"query": f"from:{of.user}"},
        {"query": f"in:{of.room} {of.text}"},
        {"query": f"in:{of.room[5:]}"},
        {"from": of.user, "order": "rank"},
        {"query": of.text, "has": ["attachment"]},
    ],
    # files
    "chat_upload": lambda of: [{"name": f"{of.text}.bin", "bytes": 5}, {"id": of.upload}],
    "chat_attachment": lambda of: [{"id": of.file}, {"id": of.upload}],
    # order
    "chat_report": lambda of: {"id": of.id, "reason": of.text},
    "chat_reports": lambda of: [{}, {"state": ""}, {"after": of.report}],
    "chat_resolve": lambda of: [
        {"report": of.report, "verdict": "delete"},
        {"report": of.report, "verdict": "restore"},
    ],
    "chat_hide": lambda of: [{"id": of.id}, {"id": of.id, "hidden": False}],
    "chat_appeal": lambda of: {"id": of.id, "text": of.text},
    "chat_appeals": lambda of: [{}, {"state": ""}],
}


def missing() -> set[str]:
    """Return the types that have none."""
    return {message.name for message in FEATURE.messages} - SAMPLES.keys()

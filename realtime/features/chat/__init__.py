"""Chat: rooms with members and roles, messages that can be edited and found again, and who is reading them.

What is said is the room's own log: messages, edits and reactions are publications, in its one order, and the
tables that are searched and paged follow them by triggers, in the transaction that keeps them. Rooms and
members are tables of the chat's own. Every command runs at the owner of its room (`core.owners`), which has
the room in memory.
"""

from pathlib import Path

from realtime.core.feature import Feature
from realtime.features.chat.chat import Chat
from realtime.features.chat.files.mount import WEB
from realtime.features.chat.messages import MESSAGES, PERMISSIONS, ROOM_KEYS
from realtime.features.chat.metrics import METRICS
from realtime.features.chat.order.filters import Filters
from realtime.features.chat.order.personal import ChatPersonal
from realtime.features.chat.rules import KINDS

FEATURE = Feature(
    name="chat",
    kinds=KINDS,
    messages=MESSAGES,
    room_keys=ROOM_KEYS,
    permissions=PERMISSIONS,
    migrations=Path(__file__).with_name("migrations"),
    disown=Chat.on_disown,
    open=Chat,
    personal=ChatPersonal(),
    check_policy=lambda policy: Filters(policy.chat),
    web=WEB,
    metrics=METRICS,
)

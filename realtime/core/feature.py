"""What a feature is: plain data that its folder exports as `FEATURE`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from realtime.core.kinds import RoomKind
from realtime.policy import Policy

if TYPE_CHECKING:
    from realtime.core.command import Command
    from realtime.core.core import Core
    from realtime.core.personal_data import PersonalData
    from realtime.core.services import Open, Web
    from realtime.core.session import Session
    from realtime.native.message import Envelope

Handler = Callable[["Core", "Session", "Envelope"], Awaitable[None] | None]
"""Takes one message of its type; answers through the session. Raises RealtimeError to answer with an error.

What has to wait is returned as an awaitable, which the edge runs; a session's later messages do not wait
for it.
"""

OwnerHandler = Callable[["Core", "Command"], "bytes | Awaitable[bytes]"]
"""Takes one message of its type, on the worker that owns the message's room, and gives the content of its
`ack` as JSON, now or later (a `core.pending.Pending` costs no task). Raises RealtimeError to answer with an
error.

Commands of one room may overlap where a handler waits; what they must not both do, `expect` decides.
"""

OnSlots = Callable[["Core", Collection[int]], None]
"""Takes the slots (`core.cluster.room_slot`) that are this worker's from now on, or are no longer."""


class MessageType(msgspec.Struct, frozen=True, kw_only=True):
    """One `type` that clients send.

    `kinds` are the room kinds that it may be published to. `content` is what the body must be, an
    msgspec.Struct or any type msgspec decodes; None takes any JSON. Without a `handler` the message is
    published to its room as it stands; one that is `ephemeral` only to the members who are there now, outside
    of the room's order, and never kept. One with an `owner` goes to the worker that owns the room, wherever
    its sender is; who may publish the type there may send it, and where it is `from_outside` whoever may not
    be in the room too: then its owner decides.

    A `plain` type is its feature's in rooms of the feature's own kinds alone, and only where the feature runs
    (`Feature.open`; it needs a store). Elsewhere it is published as if it had neither handler nor owner. An
    owner answers it with a JSON object that has `offset`, `epoch` and, for a repeat, `duplicate`. Other types
    of a feature that does not run are refused.
    """

    name: str
    kinds: frozenset[str] = frozenset()
    content: Any = None
    handler: Handler | None = None
    ephemeral: bool = False
    owner: OwnerHandler | None = None
    plain: bool = False
    from_outside: bool = False


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: its rooms, its messages, and what it needs from the server.

    `room_keys` says which key of a content names the room where the envelope does not, and the kind of
    that room: {"chat_room_id": "chat"}. `permissions` are actions of
    its own that the policy's rules can speak of (it asks `core.access.allows`); `migrations` is the
    folder of its numbered SQL files.

    What keeps a room's state in memory does so at the room's owner: `own` says what came to this worker
    (nothing of it is known here yet), `disown` what went: its state is to be dropped, others write there now.

    `metrics` says what its numbers mean (`Running.stats`), by name. What keeps tables of its own is given
    `open`, which makes what is `Core.running` under the feature's name, on workers that have a store. What it
    keeps of users there it hands out and erases by `personal`. `check_policy` raises SettingsError for a
    policy that it could not follow. What takes or gives files over HTTP says so by `web`.
    """

    name: str
    kinds: tuple[RoomKind, ...] = ()
    messages: tuple[MessageType, ...] = ()
    room_keys: Mapping[str, str] = {}
    permissions: tuple[str, ...] = ()
    migrations: Path | None = None
    own: OnSlots | None = None
    disown: OnSlots | None = None
    open: Open | None = None
    metrics: Mapping[str, str] = {}
    web: Web | None = None
    personal: PersonalData | None = None
    check_policy: Callable[[Policy], object] | None = None

"""Notifications: something for one user, wherever they are connected.

A way to deliver one is a channel. There is the live one here, all of the user's connections on this worker;
others (mail, push services) take the same `Notification` and come beside it in `send_notification`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from realtime.core.contracts import Stamp
from realtime.core.limits import Limits
from realtime.core.users import Users
from realtime.errors import BadMessage, TooLarge
from realtime.ids import DEFAULT_TENANT, TenantId, UserId, parse_tenant, parse_user
from realtime.protocol.codecs import to_msgpack
from realtime.protocol.messages import Notification
from realtime.protocol.priority import Priority

ID_BYTES_MAX: Final = 64
TITLE_BYTES_MAX: Final = 1024


class Sent(NamedTuple):
    """What became of a notification: its id, and how many connections it was queued for."""

    id: str
    connections: int


class NotificationManager:
    """Sends notifications. Nothing is kept: who is not connected does not get it."""

    def __init__(self, users: Users, stamp: Stamp, limits: Limits) -> None:
        self._users = users
        self._stamp = stamp
        self._bytes_max = limits.content_bytes

    async def send_notification(
        self,
        *,
        user_id: str,
        title: str,
        content: str,
        priority: Priority | int = Priority.NORMAL,
        data: Mapping[str, Any] | None = None,
        tenant: str = DEFAULT_TENANT,
        id: str | None = None,
    ) -> Sent:
        """Push a `notification` to all connections of `user_id`, each in its own encoding.

        A CRITICAL one overtakes what waits for a connection that is behind.

        `id` names it where the caller has a name for it already, in 1 to 64 bytes; else one is made. `title`
        has 1 to 1,024 bytes; all of it as JSON has at most `max_message_bytes`.

        Raises:
            BadMessage: a name that is none, an empty or too long title, `data` that JSON cannot say, or a
                priority that there is not.
            TooLarge: it is over `max_message_bytes`.
        """
        user, within = parse_user(user_id), parse_tenant(tenant)
        notification = _notification(id, title, content, priority, data)
        return Sent(notification.id, self._push(within, user, notification))

    def _push(self, tenant: TenantId, user: UserId, notification: Notification) -> int:
        """Send it to the user's connections; return how many took it."""
        body = _encode(notification)
        if len(body) > self._bytes_max:
            raise TooLarge(f"the notification has {len(body)} bytes; at most {self._bytes_max} are taken")
        push = b'{"type":"notification","content":%b,"timestamp":"%b"}' % (body, self._stamp.timestamp)
        urgent = notification.priority is Priority.CRITICAL
        packed: bytes | None = None
        taken = 0
        for connection in self._users.connections(tenant, user):
            if connection.binary and packed is None:
                packed = to_msgpack(push)
            payload = packed if connection.binary and packed is not None else push
            taken += connection.send(payload, urgent)
        return taken


def _notification(
    id: str | None, title: str, content: str, priority: Priority | int, data: Mapping[str, Any] | None
) -> Notification:
    """Return it, checked in everything but its size as a whole."""
    if id is None:
        id = secrets.token_hex(12)
    _check_text("id", id, ID_BYTES_MAX)
    _check_text("title", title, TITLE_BYTES_MAX)
    if not isinstance(content, str):
        raise BadMessage(f"notification: content is {type(content).__name__}, not text")
    if data is not None and not isinstance(data, Mapping):
        raise BadMessage(f"notification: data is {type(data).__name__}, not an object")
    try:
        urgency = Priority(priority)
    except ValueError:
        allowed = ", ".join(f"{each.value} {each.name}" for each in Priority)
        raise BadMessage(f"notification: priority is {priority!r}; there are {allowed}") from None
    return Notification(id=id, title=title, content=content, priority=urgency, data=dict(data or {}))


def _check_text(what: str, text: str, bytes_max: int) -> None:
    if not isinstance(text, str):
        raise BadMessage(f"notification: {what} is {type(text).__name__}, not text")
    # A lone surrogate is counted here and refused by the encoder, which cannot write it.
    if not text or len(text.encode("utf-8", "surrogatepass")) > bytes_max:
        raise BadMessage(f"notification: {what} has to have 1 to {bytes_max} bytes")


def _encode(notification: Notification) -> bytes:
    try:
        return msgspec.json.encode(notification)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise BadMessage(f"notification: JSON cannot say it: {error}") from error

"""Notifications: something for one user, wherever they are connected.

A way to deliver one is a channel. There is the live one here, all of the user's connections on all workers;
others (mail, push services) take the same `Notification` and come beside it in `send_notification`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from realtime.core.cluster import BODY_BYTES_MAX, Cluster, Whereabouts, WorkerId
from realtime.core.contracts import Stamp
from realtime.core.limits import Limits
from realtime.core.users import Users
from realtime.errors import BadMessage, TooLarge, Unavailable
from realtime.ids import DEFAULT_TENANT, TenantId, UserId, parse_tenant, parse_user
from realtime.protocol.codecs import to_msgpack
from realtime.protocol.messages import Notification
from realtime.protocol.priority import Priority

ID_BYTES_MAX: Final = 64
TITLE_BYTES_MAX: Final = 1024


NOTIFY: Final = "notify"


class Sent(NamedTuple):
    """What became of a notification: its id, and how many connections it was queued for."""

    id: str
    connections: int


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A notification on its way to the worker that a user is connected to: `push` is the message as JSON."""

    tenant: TenantId
    user: UserId
    urgent: bool
    push: bytes


class NotificationManager:
    """Sends notifications. Nothing is kept: who is not connected does not get it.

    `whereabouts` says which other workers the user is connected to; without, it is this one alone.
    """

    def __init__(
        self,
        users: Users,
        stamp: Stamp,
        limits: Limits,
        cluster: Cluster,
        whereabouts: Whereabouts | None = None,
    ) -> None:
        self._users = users
        self._stamp = stamp
        self._bytes_max = limits.content_bytes
        self._cluster = cluster
        self._whereabouts = whereabouts
        cluster.answer(NOTIFY, self._on_letter)

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

        Connections on other workers are counted as they were known to be there; while that cannot be asked,
        all workers are told, and only those here are counted.

        A CRITICAL one overtakes what waits for a connection that is behind.

        `id` names it where the caller has a name for it already, in 1 to 64 bytes; else one is made. `title`
        has 1 to 1,024 bytes; all of it as JSON has at most `max_message_bytes`.

        Raises:
            BadMessage: a name that is none, an empty or too long title, `data` that JSON cannot say, or a
                priority that there is not.
            TooLarge: it is over `max_message_bytes`, or over what workers hand to each other.
        """
        user, within = parse_user(user_id), parse_tenant(tenant)
        notification = make_notification(id, title, content, priority, data)
        letter = pack(within, user, notification, self._stamp.timestamp, self._bytes_max)
        body = b"" if self._whereabouts is None else encode_letter(letter)
        taken = self._push(letter)
        if self._whereabouts is not None:
            taken += await self._send_on(self._whereabouts, letter, body)
        return Sent(notification.id, taken)

    async def push(self, tenant: TenantId, user: UserId, push: bytes) -> int:
        """Send one message (JSON) to all connections of a user, on all workers, as `send_notification`.

        Raises:
            TooLarge: it is over what workers hand to each other.
        """
        letter = Letter(tenant, user, False, push)
        body = b"" if self._whereabouts is None else encode_letter(letter)
        taken = self._push(letter)
        if self._whereabouts is not None:
            taken += await self._send_on(self._whereabouts, letter, body)
        return taken

    async def _send_on(self, whereabouts: Whereabouts, letter: Letter, body: bytes) -> int:
        """Hand it to the other workers that the user is on; return how many connections that are."""
        try:
            found = await whereabouts.find(letter.tenant, letter.user)
        except Unavailable:
            found = dict.fromkeys(self._cluster.workers, 0)
        found.pop(self._cluster.worker, None)
        for worker in found:
            self._cluster.tell(NOTIFY, body, worker)
        return sum(found.values())

    def _on_letter(self, sender: WorkerId, body: bytes) -> bytes:
        return b"%d" % self._push(decode_letter(body))

    def _push(self, letter: Letter) -> int:
        """Send it to the user's connections here; return how many took it."""
        packed: bytes | None = None
        taken = 0
        for connection in self._users.connections(letter.tenant, letter.user):
            if connection.binary and packed is None:
                packed = to_msgpack(letter.push)
            payload = packed if connection.binary and packed is not None else letter.push
            taken += connection.send(payload, letter.urgent)
        return taken


def pack(
    tenant: TenantId, user: UserId, notification: Notification, timestamp: bytes, bytes_max: int
) -> Letter:
    """Return the notification as it goes to the user's connections.

    Raises:
        BadMessage: JSON cannot say it.
        TooLarge: it has over `bytes_max`.
    """
    body = _encode(notification)
    if len(body) > bytes_max:
        raise TooLarge(f"the notification has {len(body)} bytes; at most {bytes_max} are taken")
    push = b'{"type":"notification","content":%b,"timestamp":"%b"}' % (body, timestamp)
    return Letter(tenant, user, notification.priority is Priority.CRITICAL, push)


def encode_letter(letter: Letter) -> bytes:
    """Return it as it goes to other workers.

    Raises:
        TooLarge: it is more than they take.
    """
    body = msgspec.msgpack.encode(letter)
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge(f"the notification has {len(body)} bytes; workers hand on at most {BODY_BYTES_MAX}")
    return body


def decode_letter(body: bytes) -> Letter:
    """Return what another worker has encoded.

    Raises:
        BadMessage: it is none.
    """
    try:
        return msgspec.msgpack.decode(body, type=Letter)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"{NOTIFY}: {error}") from error


def make_notification(
    id: str | None, title: str, content: str, priority: Priority | int, data: Mapping[str, Any] | None
) -> Notification:
    """Return it, checked in everything but its size as a whole. On None a name is made for it.

    Raises:
        BadMessage: as `NotificationManager.send_notification`.
    """
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

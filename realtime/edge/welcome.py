"""`connected`, the first message of every connection: who the server takes it for, and what it may do.

All but four values are the same for everybody, so it is spliced from prepared bytes: 0.8 us, where encoding
it each time takes 3 us with msgspec, more than all else that a handshake costs in Python.
"""

from __future__ import annotations

import json

from realtime.core.contracts import Stamp
from realtime.ids import DEFAULT_TENANT, TenantId
from realtime.native.encode import json_string
from realtime.protocol.codecs import to_msgpack
from realtime.settings import Settings


class Welcome:
    """Makes the greetings of one worker, called `node`, and in a ring `worker`.

    Connections are numbered by the process: where a node's name outlives one, its id in the ring goes before.
    """

    def __init__(self, settings: Settings, node: str, stamp: Stamp, worker: str = "") -> None:
        self._stamp = stamp
        self._head = b'{"type":"connected","content":{"connection_id":"%b-' % (worker or node).encode()
        # The last part of a worker's id is what no other run of any worker has.
        self._guest = f"guest-{worker.rpartition('-')[2]}" if worker else "guest"
        self._default_tenant = b',"tenant":%b' % json_string(DEFAULT_TENANT)
        self._node = b',"node":%b,"server_time":"' % json_string(node)
        self._terms = b'",' + _terms(settings)[1:] + b"}"
        self._stamped = b""
        self._tail = b""

    def json(self, number: int, user_json: bytes, tenant: TenantId = DEFAULT_TENANT) -> bytes:
        """Greet connection `number`; `user_json` is the user id as a JSON string."""
        told = self._default_tenant if tenant == DEFAULT_TENANT else b',"tenant":%b' % json_string(tenant)
        stamp = self._stamp.timestamp
        if stamp is not self._stamped:  # the hub gives the same object for a whole millisecond
            self._stamped = stamp
            self._tail = self._node + stamp + self._terms
        return b'%b%d","user_id":%b%b%b' % (self._head, number, user_json, told, self._tail)

    def guest(self, number: int) -> bytes:
        """Greet a connection of open mode that names no user."""
        return self.json(number, json_string(self.guest_name(number)))

    def guest_name(self, number: int) -> str:
        """Return the user id of a guest on connection `number`: unique among all workers."""
        return f"{self._guest}-{number}"

    packed = staticmethod(to_msgpack)
    """A greeting in MessagePack, from the one in JSON."""


def _terms(settings: Settings) -> bytes:
    """What is the same for every connection, as a JSON object."""
    limits = {
        "message_bytes": settings.max_message_bytes,
        "messages_per_second": settings.messages_per_second,
        "rooms": settings.max_rooms_per_connection,
    }
    if settings.bytes_per_second:
        limits["bytes_per_second"] = settings.bytes_per_second
    terms = {
        "heartbeat_s": settings.heartbeat_interval_s,
        "limits": limits,
        "reconnect": {"min_ms": settings.reconnect_min_ms, "max_ms": settings.reconnect_max_ms},
    }
    return json.dumps(terms, separators=(",", ":")).encode()

"""Events from outside of the ring: an operator's command tells a worker, whose audit log has them then.

One worker is told, and each event is on record once. Whoever reaches the workers may do so: what is said
there of who gave a command is that process's word.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from realtime.core.audit import Auditor, Event
from realtime.core.cluster import Cluster, WorkerId
from realtime.errors import BadMessage

TELL: Final = "audit"
EVENTS_MAX: Final = 1000
"""Events in one message."""

TELLERS_MAX: Final = 1000
"""Processes whose last batch is remembered; above it the one that told longest ago is forgotten."""


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one process tells at once; its numbers rise. One that is told again is not taken again."""

    number: int
    events: list[Event]


_decode = msgspec.msgpack.Decoder(Batch).decode
encode_batch = msgspec.msgpack.Encoder().encode


class AuditInbox:
    """Takes them, and answers once they are with the worker's auditor."""

    def __init__(self, cluster: Cluster, audit: Auditor) -> None:
        self._audit = audit
        self._last: OrderedDict[WorkerId, int] = OrderedDict()
        cluster.answer(TELL, self._on_batch)

    def _on_batch(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            batch = _decode(body)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{TELL}: {error}") from error
        if len(batch.events) > EVENTS_MAX:
            raise BadMessage(f"{TELL}: {len(batch.events)} events; at most {EVENTS_MAX} are taken at once")
        if batch.number > self._last.pop(asker, 0):
            for event in batch.events:
                self._audit.record(event)
        self._last[asker] = batch.number
        if len(self._last) > TELLERS_MAX:
            self._last.popitem(last=False)
        return b"%d" % len(batch.events)

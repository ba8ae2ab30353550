"""A message's way, traced: what comes in, what the broker takes, what goes out on each worker.

A message is traced where its content has a `traceparent` (W3C Trace Context) that says so. On its way each
span puts its own id in the place of the one before: the content carries the context to the broker, to the
other workers and to the members, as a header does from one service to the next. Nothing else of the content
is touched, and what has no `traceparent` is looked at no further.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, NamedTuple, Protocol

from realtime.core.contracts import (
    Broker,
    Clock,
    Deliver,
    Lost,
    Others,
    Page,
    Position,
    Receipt,
    Recovery,
    Stream,
    Terms,
)
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.ids import RoomId
from realtime.native.sequence import Sequence

MARK: Final = b"traceparent"
# As a key of JSON with its value: within a text the quotes would be escaped. Or the same in MessagePack,
# whose bytes cannot stand in a text either.
_CONTEXT: Final = re.compile(
    rb'(?:"traceparent"[ \t\r\n]*:[ \t\r\n]*"|\xabtraceparent\xd9\x37)'
    rb"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f](?P<sampled>[13579bdf])"
)
_NOBODY: Final = b"0"


class Context(NamedTuple):
    """Which trace, and which span of it is above: hexadecimal, 32 and 16 digits."""

    trace_id: str
    span_id: str


class Span(Protocol):
    """One part of the way, begun."""

    @property
    def context(self) -> Context:
        """What those below it begin from."""
        ...

    def end(self, error: Exception | None = None) -> None:
        """End it; with an error it has failed."""
        ...


class Spans(Protocol):
    """Takes spans to wherever they are looked at."""

    def begin(self, name: str, parent: Context, attributes: Mapping[str, str | int]) -> Span:
        """Begin a span. It never raises and never waits."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...

    def close(self) -> None:
        """Hand on what is still here; may block."""
        ...


def find(text: bytes) -> tuple[Context, slice] | None:
    """Return the context that a message has, and where its span's id stands; None where it has none."""
    if MARK not in text:
        return None
    found = _CONTEXT.search(text)
    if found is None or not found["trace"].strip(_NOBODY) or not found["span"].strip(_NOBODY):
        return None
    return Context(found["trace"].decode(), found["span"].decode()), slice(*found.span("span"))


def follow(text: bytes, place: slice, span: Span) -> bytes:
    """Return `text` with the span's id in its place: what comes later is below it."""
    return b"%b%b%b" % (text[: place.start], span.context.span_id.encode(), text[place.stop :])


class Tracer:
    """Traces what passes one worker, at most `per_second` spans: a peer may ask for any number.

    `soon` calls something when the event loop has gone on: by then the hub has flushed what was published.
    """

    def __init__(
        self, spans: Spans, clock: Clock, soon: Callable[[Callable[[], object]], object], per_second: float
    ) -> None:
        self._spans = spans
        self._clock = clock
        self._soon = soon
        self._per_second = per_second
        self._left = per_second
        self._since = clock.monotonic()
        self.left_out = 0

    def receive(self, receive: Callable[[object, bytes], object], state: object, payload: bytes) -> None:
        """Hand a frame on, in a span where it has a context."""
        begun = self.begin("realtime.ingest", payload, {"messaging.message.body.size": len(payload)})
        if begun is None:
            receive(state, payload)
            return
        span, payload = begun
        try:
            receive(state, payload)
        except Exception as error:
            span.end(error)
            raise
        span.end()

    def ingest(self, receive: Callable[[object, bytes], object]) -> Callable[[object, bytes], None]:
        """Return what takes frames in the place of `receive`."""
        return partial(self.receive, receive)

    def broker(self, broker: Broker) -> Broker:
        """Return a broker that does the same and is traced."""
        return TracedBroker(broker, self)

    def begin(self, name: str, text: bytes, attributes: Mapping[str, str | int]) -> tuple[Span, bytes] | None:
        """Begin a span below the one that `text` names; return it, and the text that names it instead."""
        if MARK not in text:
            return None
        found = find(text)
        if found is None or not self._may():
            return None
        context, place = found
        span = self._spans.begin(name, context, attributes)
        return span, follow(text, place, span)

    def deliver(self, room: RoomId, deliver: Deliver, push: bytes, offset: int) -> None:
        """Give a push to the members here, in a span that ends when the hub has flushed it."""
        begun = self.begin("realtime.fan_out", push, {**_where(room), "realtime.offset": offset})
        if begun is None:
            deliver(push, offset)
            return
        span, push = begun
        deliver(push, offset)
        self._soon(span.end)

    def publish(
        self, room: RoomId, content: bytes, publish: Callable[[bytes], Receipt | Awaitable[Receipt]]
    ) -> Receipt | Awaitable[Receipt]:
        """Publish, in a span that ends with the broker's receipt."""
        begun = self.begin("realtime.publish", content, _where(room))
        if begun is None:
            return publish(content)
        span, content = begun
        try:
            receipt = publish(content)
        except Exception as error:
            span.end(error)
            raise
        if isinstance(receipt, Pending):
            receipt.then(lambda outcome: span.end(outcome if isinstance(outcome, Exception) else None))
        else:
            span.end()
        return receipt

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {"spans_left_out_total": self.left_out, **self._spans.stats()}

    def close(self) -> None:
        """Hand on what is still here; may block."""
        self._spans.close()

    def _may(self) -> bool:
        now = self._clock.monotonic()
        self._left = min(self._per_second, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            self.left_out += 1
            return False
        self._left -= 1
        return True


def _where(room: RoomId) -> dict[str, str | int]:
    return {"messaging.destination.name": room.room, "realtime.tenant": room.tenant}


class TracedBroker:
    """A `Broker` whose publications and deliveries are traced."""

    def __init__(self, broker: Broker, tracer: Tracer) -> None:
        self._broker = broker
        self._tracer = tracer
        self.signal = broker.signal
        self.expunge = broker.expunge
        self.drop_history = broker.drop_history
        self.tick = broker.tick
        self.export = broker.export
        self.adopt = broker.adopt
        self.keep_only = broker.keep_only

    def open(
        self,
        room: RoomId,
        kind: RoomKind,
        deliver: Deliver,
        lost: Lost | None = None,
        others: Others | None = None,
    ) -> Stream:
        """See `Broker`."""
        traced = partial(self._tracer.deliver, room, deliver)
        return TracedStream(room, self._broker.open(room, kind, traced, lost, others), self._tracer)

    def publish(
        self,
        room: RoomId,
        kind: RoomKind,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
    ) -> Receipt | Awaitable[Receipt]:
        """See `Broker`."""
        return self._tracer.publish(
            room, content, lambda text: self._broker.publish(room, kind, type, sender, text, terms)
        )

    def stats(self) -> dict[str, int]:
        """See `Broker`."""
        return self._broker.stats()

    @property
    def busy(self) -> int:
        """See `Broker`."""
        return self._broker.busy

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """See `Broker`."""
        return self._broker.kept_rooms


class TracedStream:
    """A `Stream` whose publications are traced."""

    def __init__(self, room: RoomId, stream: Stream, tracer: Tracer) -> None:
        self._room = room
        self._stream = stream
        self._tracer = tracer
        self.signal = stream.signal
        self.share = stream.share
        self.close = stream.close

    @property
    def sequence(self) -> Sequence | None:
        """See `Stream`."""
        return self._stream.sequence

    def publish(
        self, type: str, sender: bytes | None, content: bytes, terms: Terms | None = None
    ) -> Receipt | Awaitable[Receipt]:
        """See `Stream`."""
        return self._tracer.publish(
            self._room, content, lambda text: self._stream.publish(type, sender, text, terms)
        )

    def recover(self, since: Position | None) -> Recovery | Awaitable[Recovery]:
        """See `Stream`."""
        return self._stream.recover(since)

    def history(self, before: int | None, after: int | None, limit: int) -> Page | Awaitable[Page]:
        """See `Stream`."""
        return self._stream.history(before, after, limit)

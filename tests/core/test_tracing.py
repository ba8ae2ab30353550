"""Tracing: which messages carry a context, how it goes on with them, and how many spans a peer may cause."""

import threading

import msgspec
import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from realtime.backends.broker_memory import MemoryBroker
from realtime.backends.otel import OtelSpans
from realtime.core.pending import Pending
from realtime.core.tracing import Context, Tracer, find
from realtime.features.events import FEATURE
from realtime.ids import RoomId, RoomName, TenantId
from tests.oracles.hub import FakeClock, FakeHub

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
CONTENT = b'{"a":1,"traceparent":"%b"}' % PARENT.encode()
ROOM = RoomId(TenantId("default"), RoomName("events:x"))


class Desk:
    """A tracer whose spans are kept in memory; the clock stands still."""

    def __init__(self, per_second=100):
        self.exporter = InMemorySpanExporter()
        self.now = 0.0
        self.soon = []
        spans = OtelSpans(self.exporter, {"service.name": "test"}, at_once=True)
        self.tracer = Tracer(spans, self, self.soon.append, per_second)

    def monotonic(self):
        return self.now

    def spans(self):
        """(name, trace, above, own id) of all that have ended."""
        return [
            (
                span.name,
                f"{span.context.trace_id:032x}",
                f"{span.parent.span_id:016x}",
                f"{span.context.span_id:016x}",
            )
            for span in self.exporter.get_finished_spans()
        ]


@pytest.fixture
def desk():
    return Desk()


# ---------------------------------------------------------------- which messages have one


@pytest.mark.parametrize(
    "text",
    [
        CONTENT,
        b'{"traceparent" :\n "%b"}' % PARENT.encode(),
        msgspec.msgpack.encode({"content": {"traceparent": PARENT}}),
    ],
)
def test_a_context_is_found_where_it_is_a_key_of_the_content(text):
    context, place = find(text)
    assert context == Context(TRACE, SPAN)
    assert text[place] == SPAN.encode()


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"traceparent":null}',
        b'{"traceparent":"00-%b-%b-00"}' % (TRACE.encode(), SPAN.encode()),  # not sampled
        b'{"traceparent":"00-%b-%b-01"}' % (b"0" * 32, SPAN.encode()),
        b'{"traceparent":"00-%b-%b-01"}' % (TRACE.encode(), b"0" * 16),
        b'{"traceparent":"00-%b-%b-01"}' % (TRACE.upper().encode(), SPAN.encode()),
        b'{"traceparent":"00-%b"}' % TRACE.encode(),
        msgspec.json.encode({"text": f'"traceparent":"{PARENT}"'}),  # somebody writes about it
        msgspec.msgpack.encode({"text": f'traceparent"{PARENT}'}),
    ],
)
def test_what_is_none_is_none(text):
    assert find(text) is None


# ---------------------------------------------------------------- the way


def test_a_frame_goes_on_with_the_span_in_the_place_of_the_one_above(desk):
    seen = []
    take = desk.tracer.ingest(lambda state, payload: seen.append((state, payload)))
    take("session", CONTENT)
    take("session", b'{"no":"context"}')
    ((name, trace, above, own),) = desk.spans()
    assert (name, trace, above) == ("realtime.ingest", TRACE, SPAN)
    assert seen == [
        ("session", CONTENT.replace(SPAN.encode(), own.encode())),
        ("session", b'{"no":"context"}'),
    ]


def test_a_frame_that_fails_ends_its_span_as_failed(desk):
    def fail(state, payload):
        raise KeyError("x")

    with pytest.raises(KeyError):
        desk.tracer.ingest(fail)(None, CONTENT)
    (span,) = desk.exporter.get_finished_spans()
    assert span.status.description == "KeyError"


def test_a_publication_and_its_deliveries_are_below_it(desk):
    heard = []
    broker = desk.tracer.broker(MemoryBroker(clock := FakeClock(), FakeHub(clock)))
    kind = next(kind for kind in FEATURE.kinds if kind.name == "events")
    stream = broker.open(ROOM, kind, lambda push, offset: heard.append((push, offset)))
    receipt = stream.publish("publish", b'"alice"', CONTENT)
    assert receipt[0] == 1
    published = desk.spans()[0]
    assert published[:3] == ("realtime.publish", TRACE, SPAN)
    for end in desk.soon:  # the event loop goes on
        end()
    fanned = desk.spans()[1]
    assert fanned[:3] == ("realtime.fan_out", TRACE, published[3])
    ((push, offset),) = heard
    assert offset == 1
    assert f"00-{TRACE}-{fanned[3]}-01".encode() in push
    assert broker.publish(ROOM, kind, "publish", None, b"{}")[0] == 2
    assert len(desk.spans()) == 2
    assert broker.stats()
    stream.close()


def test_a_receipt_that_comes_later_ends_its_span(desk):
    for outcome, description in (((1, b"e", False), None), (OSError("x"), "OSError")):
        pending = Pending()
        receipt = desk.tracer.publish(ROOM, CONTENT, lambda content, pending=pending: pending)
        assert receipt is pending
        before = len(desk.spans())
        pending.settle(outcome)
        assert len(desk.spans()) == before + 1
        assert desk.exporter.get_finished_spans()[-1].status.description == description


def test_a_peer_gets_no_more_spans_than_there_may_be():
    desk = Desk(per_second=10)
    take = desk.tracer.ingest(lambda state, payload: None)
    for _ in range(1000):
        take(None, CONTENT)
    assert len(desk.spans()) == 10
    assert desk.tracer.left_out == desk.tracer.stats()["spans_left_out_total"] == 990
    desk.now += 0.5
    for _ in range(1000):
        take(None, CONTENT)
    assert len(desk.spans()) == 15


def test_spans_are_handed_on_at_the_end(desk):
    desk.tracer.ingest(lambda state, payload: None)(None, CONTENT)
    desk.tracer.close()


# ---------------------------------------------------------------- what becomes of spans


class Gated:
    """An exporter that takes nothing until it is let, and then says what it is told to say."""

    def __init__(self, result):
        self.open = threading.Event()
        self.result = result
        self.took = 0

    def export(self, spans):
        assert self.open.wait(60)
        self.took += len(spans)
        return self.result

    def shutdown(self):
        """Nothing is left."""

    def force_flush(self, timeout_millis=0):
        return True


@pytest.mark.parametrize("taken", [SpanExportResult.SUCCESS, SpanExportResult.FAILURE])
def test_spans_are_counted_by_what_became_of_them(taken, monkeypatch):
    monkeypatch.setattr("realtime.backends.otel.QUEUE_SPANS", 600)
    exporter = Gated(taken)
    spans = OtelSpans(exporter, {"service.name": "test"})
    for _ in range(2000):
        spans.begin("realtime.ingest", Context(TRACE, SPAN), {}).end()
    counts = spans.stats()
    assert counts["spans_total"] == 2000
    assert counts["spans_queued"] <= 600
    exporter.open.set()
    spans.close()
    counts = spans.stats()
    assert counts["spans_queued"] == 0
    sent, failed = (exporter.took, 0) if taken is SpanExportResult.SUCCESS else (0, exporter.took)
    assert (counts["spans_sent_total"], counts["spans_failed_total"]) == (sent, failed)
    assert counts["spans_dropped_total"] == 2000 - exporter.took > 0
    assert exporter.took >= 600


def test_a_span_says_what_kind_it_is_and_whose_room():
    exporter = InMemorySpanExporter()
    spans = OtelSpans(exporter, {"service.name": "test"}, at_once=True)
    for name in ("realtime.ingest", "realtime.publish", "realtime.fan_out", "else"):
        spans.begin(name, Context(TRACE, SPAN), {"realtime.tenant": "acme"}).end()
    ended = exporter.get_finished_spans()
    assert [span.kind.name for span in ended] == ["SERVER", "PRODUCER", "CONSUMER", "INTERNAL"]
    told = {"messaging.system": "realtime", "realtime.tenant": "acme"}
    assert all(dict(span.attributes) == told for span in ended)

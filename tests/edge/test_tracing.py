"""Traces of real servers, as a collector hears them over its socket."""

import asyncio
import gzip
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from websockets.asyncio.client import connect

from tests.edge.peer import PATIENCE_S, ask, metric, receive
from tests.edge.workers import deployment, enter, hear, on_each
from tests.tree import ROOT

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def say(ws, content):
    """Publish, and wait until it is kept."""
    answer = await ask(ws, type="publish", id="say", room="events:x", content=content)
    assert answer["type"] == "ack", answer


class Collector:
    """Takes spans by OTLP over HTTP, as a real one does."""

    def __init__(self):
        self.spans = []
        self.authorizations = []
        self.status = 200
        self._came = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.authorizations.append(self.headers["Authorization"])
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, request):
        with self._came:
            for resource in request.resource_spans:
                about = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [(about, span) for span in scope.spans]
            self._came.notify_all()

    def wait_for(self, count):
        """Return `count` spans or more."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.spans) >= count, 30), self.spans
            return list(self.spans)

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector():
    running = Collector()
    yield running
    running.close()


async def test_a_messages_way_over_two_workers_is_one_trace(serve, redis_cluster, collector):
    server = serve(workers=2, node="t", otlp_url=collector.url, **deployment(redis_cluster.url))
    found = await on_each(server)
    (here, sender), (there, reader) = found.items()
    for ws in (sender, reader):
        await enter(ws, "events:x")
    await say(sender, {"traceparent": f"00-{TRACE}-{SPAN}-01", "a": 1})
    ((_, content),) = await hear(reader, "events:x", 1)
    spans = await asyncio.to_thread(collector.wait_for, 4)
    by_name = {}
    for about, span in spans:
        assert span.trace_id.hex() == TRACE
        by_name.setdefault(span.name, []).append((about["host.name"], span))
    ((host, ingest),) = by_name["realtime.ingest"]
    assert (host, ingest.parent_span_id.hex()) == (here, SPAN)
    ((host, published),) = by_name["realtime.publish"]
    assert (host, published.parent_span_id) == (here, ingest.span_id)
    fanned = dict(by_name["realtime.fan_out"])
    assert set(fanned) == {here, there}
    assert {span.parent_span_id for span in fanned.values()} == {published.span_id}
    assert content == {"traceparent": f"00-{TRACE}-{fanned[there].span_id.hex()}-01", "a": 1}
    kinds = {name: {span.kind for _, span in found} for name, found in by_name.items()}
    assert kinds == {
        "realtime.ingest": {Span.SPAN_KIND_SERVER},
        "realtime.publish": {Span.SPAN_KIND_PRODUCER},
        "realtime.fan_out": {Span.SPAN_KIND_CONSUMER},
    }
    told = {each.key: each.value for each in fanned[there].attributes}
    assert told["messaging.destination.name"].string_value == "events:x"
    assert told["realtime.tenant"].string_value == "default"
    assert ingest.start_time_unix_nano <= published.start_time_unix_nano <= published.end_time_unix_nano
    assert published.start_time_unix_nano <= fanned[there].start_time_unix_nano


async def test_what_is_queued_is_handed_on_when_a_server_ends(serve, collector):
    server = serve(otlp_url=collector.url)
    async with connect(f"{server.ws_url}/alice") as alice:
        await receive(alice)
        await enter(alice, "events:x")
        for number in range(5):
            await say(alice, {"traceparent": f"00-{TRACE}-{SPAN}-01", "n": number})
        await say(alice, {"traceparent": f"00-{TRACE}-{SPAN}-00"})  # its maker does not trace it
    assert await asyncio.to_thread(server.stop) == 0
    assert [span.name for _, span in collector.wait_for(5)] == ["realtime.ingest"] * 5


@pytest.mark.parametrize(("status", "taken"), [(200, "sent"), (400, "failed")])
async def test_metrics_say_what_the_collector_took(serve, collector, status, taken, monkeypatch):
    """The exporter takes OpenTelemetry's own variables, such as what a collector knows us by."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20ours")
    collector.status = status
    server = serve(otlp_url=collector.url, traced_spans_per_second=1)
    async with connect(f"{server.ws_url}/alice") as alice:
        await receive(alice)
        await enter(alice, "events:x")
        assert await asyncio.to_thread(metric, server, "spans_total") == 0
        for number in range(50):
            await say(alice, {"traceparent": f"00-{TRACE}-{SPAN}-01", "n": number})
        recorded = await asyncio.to_thread(metric, server, "spans_total")
        assert await asyncio.to_thread(metric, server, "spans_left_out_total") == 50 - recorded > 0
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(metric, server, f"spans_{taken}_total") != recorded:
                continue
    other = {"sent": "failed", "failed": "sent"}[taken]
    for name in (f"spans_{other}_total", "spans_dropped_total", "spans_queued"):
        assert await asyncio.to_thread(metric, server, name) == 0
    assert len(collector.wait_for(recorded)) == recorded
    assert set(collector.authorizations) == {"Bearer ours"}


async def test_a_collector_that_is_not_there_keeps_nobody_waiting(serve, collector):
    url = collector.url
    server = serve(otlp_url=url.replace("127.0.0.1", "127.0.0.2"), log_level="error")
    server.may_log_tracebacks = True
    async with connect(f"{server.ws_url}/alice") as alice:
        await receive(alice)
        await enter(alice, "events:x")
        await say(alice, {"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert await asyncio.to_thread(server.stop) == 0


def test_without_tracing_nothing_of_it_is_even_imported():
    code = (
        "import sys, realtime.edge.server, realtime.edge.tracing\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0

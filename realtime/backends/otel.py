"""Spans handed to OpenTelemetry's SDK, which exports them by OTLP over HTTP from a thread of its own.

The SDK is an extra (`realtime[otel]`) and is imported when it is asked for, so that a server without tracing
neither has it nor waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from realtime.core.tracing import Context
from realtime.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

QUEUE_SPANS: Final = 8192
EXPORT_TIMEOUT_MS: Final = 5000
EXPORT_EVERY_MS: Final = 1000
SAMPLED: Final = 1
# OpenTelemetry's kinds: by these a tracing system draws who speaks to whom. All else is INTERNAL.
KINDS: Final = {"realtime.ingest": "SERVER", "realtime.publish": "PRODUCER", "realtime.fan_out": "CONSUMER"}
INSTALL: Final = "tracing needs OpenTelemetry: pip install 'realtime[otel]', or empty otlp_url"


class CountedExporter:
    """An exporter that counts what becomes of spans. `ended` is counted by those who make them, on the
    loop's thread; all else on the SDK's. A number of one thread is never written by the other.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.ended = self.dropped = 0
        self.taken = self.sent = self.failed = 0

    @property
    def queued(self) -> int:
        """How many wait."""
        return max(0, self.ended - self.dropped - self.taken)

    def has_room(self) -> bool:
        """Count one that has ended; False where the queue is full and it is dropped.

        Ours is never shorter than the SDK's, which has the same bound: that one drops nothing unseen.
        """
        room = self.queued < QUEUE_SPANS
        self.ended += 1
        self.dropped += not room
        return room

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See the SDK."""
        self.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception:
            self.failed += len(spans)
            raise
        if result.name == "SUCCESS":
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        """See the SDK."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See the SDK."""
        return self._exporter.force_flush(timeout_millis)


class OtelSpans:
    """A `Spans` over the SDK: what is recorded is queued, and dropped where the queue is full."""

    def __init__(self, exporter: SpanExporter, about: Mapping[str, str], *, at_once: bool = False) -> None:
        """`at_once` exports each span as it ends: for an exporter that keeps them in memory."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        self._counts = CountedExporter(exporter)
        counted = cast("SpanExporter", self._counts)
        self._provider = TracerProvider(resource=Resource.create(dict(about)), shutdown_on_exit=False)
        processor = (
            SimpleSpanProcessor(counted)
            if at_once
            else BatchSpanProcessor(
                counted,
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=EXPORT_EVERY_MS,
                export_timeout_millis=EXPORT_TIMEOUT_MS,
            )
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("realtime")

    def begin(self, name: str, parent: Context, attributes: Mapping[str, str | int]) -> OtelSpan:
        """Begin a span below `parent`, which another process may have made."""
        from opentelemetry.trace import (
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            TraceFlags,
            set_span_in_context,
        )

        above = SpanContext(
            int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(SAMPLED)
        )
        within = set_span_in_context(NonRecordingSpan(above))
        kind = SpanKind[KINDS.get(name, "INTERNAL")]
        told = {"messaging.system": "realtime", **attributes}
        span = self._tracer.start_span(name, within, kind, told)
        return OtelSpan(span, parent.trace_id, self._counts)

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        counts = self._counts
        return {
            "spans_total": counts.ended,
            "spans_dropped_total": counts.dropped,
            "spans_sent_total": counts.sent,
            "spans_failed_total": counts.failed,
            "spans_queued": counts.queued,
        }

    def close(self) -> None:
        """Export what is queued, within `EXPORT_TIMEOUT_MS`; blocks."""
        self._provider.force_flush(EXPORT_TIMEOUT_MS)
        self._provider.shutdown()


class OtelSpan:
    """A `Span` of the SDK's."""

    __slots__ = ("_counts", "_span", "context")

    def __init__(self, span: Any, trace_id: str, counts: CountedExporter) -> None:
        self._span = span
        self._counts = counts
        self.context = Context(trace_id, f"{span.get_span_context().span_id:016x}")

    def end(self, error: Exception | None = None) -> None:
        """End it now; with an error it has failed."""
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        if self._counts.has_room():
            self._span.end(time.time_ns())


def otlp_spans(url: str, about: Mapping[str, str]) -> OtelSpans:
    """Return spans that go to the collector at `url`, such as http://127.0.0.1:4318/v1/traces.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OtelSpans(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_MS / 1000), about)
    except ImportError as error:
        raise StartupError(INSTALL) from error

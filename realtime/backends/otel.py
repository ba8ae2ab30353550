"""Spans handed to OpenTelemetry's SDK, which exports them by OTLP over HTTP from a thread of its own.

The SDK is an extra (`realtime[otel]`) and is imported when it is asked for, so that a server without tracing
neither has it nor waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from realtime.core.tracing import Context
from realtime.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

QUEUE_SPANS: Final = 8192
EXPORT_TIMEOUT_MS: Final = 5000
EXPORT_EVERY_MS: Final = 1000
SAMPLED: Final = 1
INSTALL: Final = "tracing needs OpenTelemetry: pip install 'realtime[otel]', or empty otlp_url"


class OtelSpans:
    """A `Spans` over the SDK: what is recorded is queued, and dropped where the queue is full."""

    def __init__(self, exporter: SpanExporter, about: Mapping[str, str], *, at_once: bool = False) -> None:
        """`at_once` exports each span as it ends: for an exporter that keeps them in memory."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        self._provider = TracerProvider(resource=Resource.create(dict(about)), shutdown_on_exit=False)
        processor = (
            SimpleSpanProcessor(exporter)
            if at_once
            else BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=EXPORT_EVERY_MS,
                export_timeout_millis=EXPORT_TIMEOUT_MS,
            )
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("realtime")

    def begin(self, name: str, parent: Context, attributes: Mapping[str, str | int]) -> OtelSpan:
        """Begin a span below `parent`, which another process may have made."""
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        above = SpanContext(
            int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(SAMPLED)
        )
        within = set_span_in_context(NonRecordingSpan(above))
        return OtelSpan(self._tracer.start_span(name, within, attributes=dict(attributes)), parent.trace_id)

    def close(self) -> None:
        """Export what is queued, within `EXPORT_TIMEOUT_MS`; blocks."""
        self._provider.force_flush(EXPORT_TIMEOUT_MS)
        self._provider.shutdown()


class OtelSpan:
    """A `Span` of the SDK's."""

    __slots__ = ("_span", "context")

    def __init__(self, span: Any, trace_id: str) -> None:
        self._span = span
        self.context = Context(trace_id, f"{span.get_span_context().span_id:016x}")

    def end(self, error: Exception | None = None) -> None:
        """End it now; with an error it has failed."""
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
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

"""The tracer that the settings ask for."""

from __future__ import annotations

import asyncio

from realtime import __version__
from realtime.backends.otel import otlp_spans
from realtime.core.contracts import Clock
from realtime.core.tracing import Tracer
from realtime.edge.foundation import Foundation
from realtime.settings import Settings


def open_tracer(
    settings: Settings, clock: Clock, foundation: Foundation, loop: asyncio.AbstractEventLoop
) -> Tracer | None:
    """Return what traces this worker's messages; None where nothing is to be traced.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """
    if not settings.otlp_url:
        return None
    about = {
        "service.name": "realtime",
        "service.version": __version__,
        "service.instance.id": foundation.worker or foundation.node,
        "host.name": foundation.node,
    }
    spans = otlp_spans(settings.otlp_url, about)
    return Tracer(spans, clock, loop.call_soon, settings.traced_spans_per_second)

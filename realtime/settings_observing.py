"""The knobs of what the server tells about itself as it goes: how much it logs, what it traces."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_chat import ChatSettings
from realtime.units import Count, Rate


class ObservingSettings(ChatSettings, frozen=True, kw_only=True):
    """What `Settings` says of logs and traces."""

    # -- logs, traces -------------------------------------------------------------------------------------
    log_lines_per_second: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            description="Lines a second that one place in the code may log; what is beyond is counted, and "
            "told of in the next one. 0: no limit.",
            extra=Rate,
        ),
    ] = 1.0
    log_lines_burst: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Lines that one place may log at once before that rate holds.",
            extra=Count,
        ),
    ] = 20
    otlp_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://.+)?$",
            description="Send traces of messages that carry a traceparent to the collector there, such as "
            "http://127.0.0.1:4318/v1/traces; empty traces nothing. Needs realtime[otel].",
            extra={"unit": "url"},
        ),
    ] = ""
    traced_spans_per_second: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Spans a second that one worker records; what is beyond goes untraced.",
            extra=Rate,
        ),
    ] = 500

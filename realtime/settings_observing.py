"""The knobs of operating: how much is logged, what is traced, how connections are shared out."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_chat import ChatSettings
from realtime.units import Count, Rate, Seconds


class ObservingSettings(ChatSettings, frozen=True, kw_only=True):
    """What `Settings` says of logs, traces and sharing out."""

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

    # -- sharing out --------------------------------------------------------------------------------------
    shed_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="After another worker has come, close connections here (4006) as long as this worker "
            "has more than so many times the mean of all; 1.1 is a good one, below 1.01 never ends. "
            "0: only by `realtime shed`.",
            extra={"unit": "ratio"},
        ),
    ] = 0.0
    shed_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Wait so long after the last worker has come, so that a rolling restart is over.",
            extra=Seconds,
        ),
    ] = 15.0

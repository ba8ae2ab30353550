"""The knobs of operating: how much is logged, what is traced, how connections are shared out."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_chat import ChatSettings
from realtime.units import Bytes, Count, Days, Flag, Rate, Seconds, Text


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

    # -- flight recorder ----------------------------------------------------------------------------------
    recorder_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1_048_576,
            description="Record the last frames of connections from their beginning, each in a ring that "
            "grows up to so much. 0: only those that `realtime record` names.",
            extra=Bytes,
        ),
    ] = 0
    recorder_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="So many of all connections are recorded from their beginning.",
            extra={"unit": "ratio"},
        ),
    ] = 1.0
    recorder_payload_bytes: Annotated[
        int,
        Meta(ge=16, le=65_536, description="Most that is recorded of one frame's payload.", extra=Bytes),
    ] = 512
    recorder_memory_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=17_179_869_184,
            description="Most memory of one worker's rings; beyond it they grow no more, and further "
            "connections are not recorded.",
            extra=Bytes,
        ),
    ] = 33_554_432
    recorder_contents: Annotated[
        bool,
        Meta(
            description="Write what messages say into recordings; off: types, rooms, sizes and times alone.",
            extra=Flag,
        ),
    ] = True
    recorder_dir: Annotated[
        str,
        Meta(
            description="Folder for the recordings of connections that ended over a mistake, theirs or ours; "
            "empty writes none.",
            extra=Text,
        ),
    ] = ""
    recorder_files: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Recordings kept in it; the oldest go first.", extra=Count),
    ] = 200
    recorder_dir_bytes: Annotated[
        int,
        Meta(
            ge=1_048_576,
            le=1_099_511_627_776,
            description="Bytes of recordings kept in it; the oldest go first.",
            extra=Bytes,
        ),
    ] = 67_108_864
    recorder_days: Annotated[
        int, Meta(ge=1, le=3650, description="Recordings kept in it are deleted after so long.", extra=Days)
    ] = 7
    recorder_files_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Recordings that one worker writes over time, and at once; what is beyond is "
            "counted.",
            extra={"unit": "count/minute"},
        ),
    ] = 60

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

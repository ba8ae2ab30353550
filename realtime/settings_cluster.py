"""The knobs of many workers serving as one: Redis between them, the ring, presence over workers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from realtime.units import Bytes, Flag, Millis, Rate, Seconds, Text


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `Settings` says of the cluster."""

    # -- the cluster --------------------------------------------------------------------------------------
    workers: Annotated[
        str,
        Meta(
            pattern=r"^(auto|[1-9][0-9]{0,2})$",
            description="Worker processes on the port; auto: one a core. More than one need redis_url.",
            extra=Text,
        ),
    ] = "1"
    share_port: Annotated[
        bool,
        Meta(
            description="Listen though other processes of this user listen on the port, such as workers "
            "that systemd runs one a unit: connections are dealt out between them. Needs redis_url.",
            extra=Flag,
        ),
    ] = False
    instance: Annotated[
        int,
        Meta(
            ge=-1,
            le=999,
            description="Number of this worker where systemd runs one a unit, realtime@N: it is called by "
            "it. -1: none.",
            extra={"unit": "number"},
        ),
    ] = -1
    admin_port: Annotated[
        int,
        Meta(
            ge=0,
            le=64_535,
            description="Answer /health, /ready and /metrics on this port too, a supervisor's worker N on "
            "the port N-1 above, instance N of systemd's on the port N above: all share `port`, and a probe "
            "of that reaches any of them. 0: none.",
            extra={"unit": "port"},
        ),
    ] = 0
    metrics_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="A supervisor answers /metrics of all its workers together on this port of `host`, "
            "and /health and /ready of itself. 0: nowhere.",
            extra={"unit": "port"},
        ),
    ] = 0
    autoscale_up_ratio: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="More workers are asked for while realtime_utilization_ratio is as much or above.",
            extra={"unit": "ratio"},
        ),
    ] = 0.75
    autoscale_down_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Fewer workers would do while it is as little or below; 0: never.",
            extra={"unit": "ratio"},
        ),
    ] = 0.25
    autoscale_lag_ms: Annotated[
        float,
        Meta(
            gt=0,
            le=60_000,
            description="More workers are asked for while the loop runs so late, too.",
            extra=Millis,
        ),
    ] = 100.0
    autoscale_after_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400,
            description="So long it has to be like that without a break; five times that to ask for fewer.",
            extra=Seconds,
        ),
    ] = 60.0
    autoscale_webhook_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s]+)?$",
            description="Told by POST when the scaling signal changes (docs/autoscaling.md). Empty: nobody.",
            extra={"unit": "url", "secret": True},
        ),
    ] = ""
    autoscale_webhook_secret: Annotated[
        str,
        Meta(
            description="Key of the HMAC that signs what it is told; 32 bytes or more.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ""
    control_path: Annotated[
        str,
        Meta(
            description="Unix socket by which `realtime api` and commands reach a server without redis_url, "
            "on this machine and as this user. auto: the SQLite file's path and `.control`. Empty: none.",
            extra=Text,
        ),
    ] = "auto"
    runtime_path: Annotated[
        str,
        Meta(
            description="Folder of the socket by which `realtime upgrade` finds the running service; empty "
            "takes systemd's RUNTIME_DIRECTORY, or a folder of this user's.",
            extra=Text,
        ),
    ] = ""
    redis_url: Annotated[
        str,
        Meta(
            pattern=r"^(rediss?://.+)?$",
            description="Redis (Cluster) between workers; empty runs embedded. Several seeds: "
            "redis://user:password@host1:7000,host2:7000; rediss:// with ?ssl_ca_certs=… &ssl_certfile=… "
            "&ssl_keyfile=… for TLS.",
            extra={"unit": "url", "secret": True, "env": "REDIS_URL"},
        ),
    ] = ""
    redis_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._-]{1,32}$",
            description="Begins every key and channel in Redis: one for each deployment that shares it.",
            extra=Text,
        ),
    ] = "rt"
    redis_timeout_s: Annotated[
        float,
        Meta(gt=0, le=60, description="Wait so long for an answer of Redis.", extra=Seconds),
    ] = 2.0
    redis_ping_interval_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=60,
            description="Ask a silent Redis node so often whether it lives; it is given up after two times "
            "that without an answer.",
            extra=Seconds,
        ),
    ] = 0.5
    redis_queue_bytes: Annotated[
        int,
        Meta(
            ge=65536,
            le=1024 * 1024 * 1024,
            description="What may wait for one Redis node; above it publications are refused.",
            extra=Bytes,
        ),
    ] = 16 * 1024 * 1024
    ring_beat_s: Annotated[
        float,
        Meta(ge=0.05, le=10, description="A worker says so often that it lives.", extra=Seconds),
    ] = 0.5
    ring_ttl_s: Annotated[
        float,
        Meta(
            ge=0.15,
            le=60,
            description="A worker that was not heard for so long is taken for dead; three beats or more.",
            extra=Seconds,
        ),
    ] = 1.5
    presence_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Who lost the connection counts as present for so long; "
            "who says leave is gone at once.",
            extra=Seconds,
        ),
    ] = 10.0
    failover_interval_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=10_000,
            description="`realtime failover-watch` asks each Redis master so often whether it lives.",
            extra=Millis,
        ),
    ] = 50
    failover_silence_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=60_000,
            description="`realtime failover-watch` takes a Redis master that gave no answer for so long for "
            "dead, if most masters say so too; above the longest that a command of yours holds a master up.",
            extra=Millis,
        ),
    ] = 500

    # -- the REST API ---------------------------------------------------------------------------------------
    api_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=64 * 1024 * 1024,
            description="Largest request that the REST API takes.",
            extra=Bytes,
        ),
    ] = 1024 * 1024
    api_requests_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=1_000_000,
            description="Requests a second of one key, or of one user's tokens, twice that at once; each "
            "command of a batch and each room of a broadcast counts. A key may have a rate of its own.",
            extra=Rate,
        ),
    ] = 1_000.0

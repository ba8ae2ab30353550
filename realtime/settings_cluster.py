"""The knobs of many workers serving as one: Redis between them, the ring, presence over workers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from realtime.units import Bytes, Flag, Seconds, Text


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
    admin_port: Annotated[
        int,
        Meta(
            ge=0,
            le=64_535,
            description="Answer /health, /ready and /metrics on this port too, a supervisor's worker N on "
            "the port N-1 above: all share `port`, and a probe of that reaches any of them. 0: none.",
            extra={"unit": "port"},
        ),
    ] = 0
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

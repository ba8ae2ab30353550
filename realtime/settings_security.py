"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Bytes, Count, Text


class SecuritySettings(ClusterSettings, frozen=True, kw_only=True):
    """See `Settings`. What a running server is to take anew stands in the policy file instead."""

    # -- policy ---------------------------------------------------------------------------------------------
    policy_path: Annotated[
        str,
        Meta(
            description="TOML file of issuers, roles, rooms, tenants and networks; read again on SIGHUP. "
            "Empty: there are no such rules.",
            extra=Text,
        ),
    ] = ""

    # -- tokens ---------------------------------------------------------------------------------------------

    # -- addresses and abuse --------------------------------------------------------------------------------

    # -- tenants --------------------------------------------------------------------------------------------
    connections_per_tenant: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Connections of a tenant over all workers; 0: no limit. Here and below the policy's "
            "[tenants] say otherwise.",
            extra=Count,
        ),
    ] = 0
    rooms_per_tenant: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Rooms of a tenant that have members, on each worker; 0: no limit.",
            extra=Count,
        ),
    ] = 0
    storage_bytes_per_tenant: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 50,
            description="Bytes of durable publications that are kept of a tenant; 0: no limit, "
            "and not counted.",
            extra=Bytes,
        ),
    ] = 0
    tenant_metrics: Annotated[
        tuple[Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], ...],
        Meta(
            max_length=100,
            description="Tenants that /metrics has series of their own for, separated by commas.",
            extra=Text,
        ),
    ] = ()

    # -- encryption at rest ---------------------------------------------------------------------------------

    # -- audit ----------------------------------------------------------------------------------------------

    # -- TLS ------------------------------------------------------------------------------------------------

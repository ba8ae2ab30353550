"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Bytes, Count, Rate, Seconds, Text


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
    exempt_addresses: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses and networks that no limit per address or subnet holds for, and no "
            "penalty; trusted proxies never have any.",
            extra=Text,
        ),
    ] = ("127.0.0.0/8", "::1/128")
    ipv6_prefix_bits: Annotated[
        int,
        Meta(
            ge=32,
            le=128,
            description="Leading bits that are one address in IPv6: who has one of a /64 has all of them.",
            extra=Count,
        ),
    ] = 64
    subnet_bits_v4: Annotated[
        int, Meta(ge=8, le=32, description="Leading bits of a subnet in IPv4.", extra=Count)
    ] = 24
    subnet_bits_v6: Annotated[
        int, Meta(ge=16, le=128, description="Leading bits of a subnet in IPv6.", extra=Count)
    ] = 48
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="Connections one address may have to one process; more are refused as they arrive. "
            "The default is a fuse: offices and mobile networks share addresses. 0: no limit.",
            extra=Count,
        ),
    ] = 10_000
    max_connections_per_subnet: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="Connections one subnet may have to one process. 0: no limit.",
            extra=Count,
        ),
    ] = 0
    connections_per_second_per_address: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="New connections a second of one address; more are refused as they arrive. The "
            "default is a fuse. 0: no limit.",
            extra=Rate,
        ),
    ] = 1_000
    connections_per_second_per_subnet: Annotated[
        int,
        Meta(
            ge=0, le=1_000_000, description="New connections a second of one subnet. 0: no limit.", extra=Rate
        ),
    ] = 0
    control_frames_per_second: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Ping and pong frames a second of one connection; one that sends more is closed "
            "(4509). 0: they count as other frames do.",
            extra=Rate,
        ),
    ] = 100
    penalty_threshold: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            description="Points of offences at which an address is kept out for a while. 0: nobody is.",
            extra=Count,
        ),
    ] = 100.0
    penalty_half_life_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="In so long half of the points are forgotten.", extra=Seconds),
    ] = 60.0
    penalty_base_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400,
            description="The first time out; each further one is twice as long.",
            extra=Seconds,
        ),
    ] = 10.0
    penalty_max_s: Annotated[
        float, Meta(gt=0, le=86_400 * 30, description="The longest time out.", extra=Seconds)
    ] = 3600.0
    penalty_forgiveness_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400 * 30,
            description="For so long without a penalty, one time out is forgotten.",
            extra=Seconds,
        ),
    ] = 600.0

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
    tls_port: Annotated[
        int,
        Meta(ge=0, le=65535, description="TCP port for wss: and https:; 0: none.", extra={"unit": "port"}),
    ] = 0
    tls_certificate: Annotated[
        tuple[str, ...],
        Meta(
            description="PEM files, each of one certificate and its chain; read again on SIGHUP. Of several "
            "the one that has the name asked for is shown, else the first.",
            extra=Text,
        ),
    ] = ()
    tls_key: Annotated[
        tuple[str, ...],
        Meta(
            description="PEM files of their private keys, in the same order, unreadable to others. "
            "Empty: each stands in its certificate's file.",
            extra=Text,
        ),
    ] = ()
    tls_min_version: Annotated[
        Literal["1.2", "1.3"],
        Meta(description="Oldest TLS spoken; 1.2 with ECDHE and AEAD ciphers only.", extra=Text),
    ] = "1.2"
    tls_client_ca: Annotated[
        str,
        Meta(
            description="PEM file of authorities: who brings no certificate of theirs is not let in. "
            "Empty: no client certificates are asked for.",
            extra=Text,
        ),
    ] = ""
    tls_arrivals_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Clients of tls_port in their handshake, or without a whole request yet; above that "
            "the one that has taken longest is cut.",
            extra=Count,
        ),
    ] = 1024
    tls_handshakes_per_second: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="TLS handshakes a second in one process, as each costs a signature; others wait in "
            "the backlog. 0: no limit.",
            extra=Rate,
        ),
    ] = 500
    tls_hsts_s: Annotated[
        int,
        Meta(
            ge=0,
            le=63_072_000,
            description="Tell browsers on tls_port to come by https only, for so long; never on loopback. "
            "0: do not.",
            extra=Seconds,
        ),
    ] = 31_536_000

    # -- what strangers are told ----------------------------------------------------------------------------
    public_metrics: Annotated[
        Literal["auto", "yes", "no"],
        Meta(
            description="Whether /metrics, and the version in /health, are shown on the clients' ports too. "
            "auto: only on loopback, and while there is no admin_port.",
            extra=Text,
        ),
    ] = "auto"

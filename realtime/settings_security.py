"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Count, Rate, Seconds, Text


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

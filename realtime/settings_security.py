"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from realtime.settings_files import FilesSettings
from realtime.units import Bytes, Count, Days, Flag, Rate, Seconds, Text


class SecuritySettings(FilesSettings, frozen=True, kw_only=True):
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
    jwt_previous_secrets: Annotated[
        tuple[str, ...],
        Meta(
            max_length=8,
            description="Secrets before jwt_secret: they sign no more, and their tokens are still taken.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ()
    jwt_audiences: Annotated[
        tuple[str, ...],
        Meta(
            max_length=100,
            description="A token of jwt_secret has to be for one of these (`aud`). Empty: for nobody named.",
            extra=Text,
        ),
    ] = ()
    token_warning_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Say `token_expiring` so long before a token ends; half its life at most. 0: never.",
            extra=Seconds,
        ),
    ] = 30.0
    token_cookie: Annotated[
        str,
        Meta(
            pattern=r"^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100})?$",
            description="Cookie that may carry a token, where the Origin is one of allowed_origins; "
            "empty takes none.",
            extra=Text,
        ),
    ] = ""

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
    messages_per_second_per_address: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Messages a second of all connections of one address together. 0: no limit.",
            extra=Rate,
        ),
    ] = 0
    messages_per_second_per_subnet: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Messages a second of all connections of one subnet together. 0: no limit.",
            extra=Rate,
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
    encryption_keys: Annotated[
        str,
        Meta(
            description="Master keys as name:base64 of 32 bytes, separated by commas. The first one seals "
            "the tenants' data keys, the others open what they have sealed. One is made with: "
            "openssl rand -base64 32.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ""
    encryption_key_file: Annotated[
        str,
        Meta(
            description="File of master keys, name:base64 a line, that only its owner may read; they come "
            "after those of encryption_keys.",
            extra=Text,
        ),
    ] = ""
    vault_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^/?#]+(/[^?#]*)?)?$",
            description="HashiCorp Vault whose transit engine seals the data keys, such as "
            "https://vault.example.com:8200; before all other master keys. http:// on loopback only.",
            extra={"unit": "url"},
        ),
    ] = ""
    vault_token: Annotated[
        str,
        Meta(
            description="Token for Vault: it may encrypt, decrypt and rewrap with vault_key.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ""
    vault_token_file: Annotated[
        str,
        Meta(
            description="File with the token for Vault, where vault_token is empty; it is read for each "
            "question, so that Vault Agent may renew it.",
            extra=Text,
        ),
    ] = ""
    vault_key: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,128}$",
            description="Name of the key in Vault's transit engine, of type aes256-gcm96.",
            extra=Text,
        ),
    ] = "realtime"
    vault_mount: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64})*$",
            description="Where Vault's transit engine is mounted.",
            extra=Text,
        ),
    ] = "transit"
    vault_ca_file: Annotated[
        str,
        Meta(
            description="Certificates (PEM) that Vault's is checked against; empty: the system's.", extra=Text
        ),
    ] = ""
    vault_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Wait so long for an answer of Vault.", extra=Seconds)
    ] = 5.0

    # -- audit ----------------------------------------------------------------------------------------------
    audit_path: Annotated[
        str,
        Meta(
            description="File of the audit log, made if absent; the workers of one machine share it. With a "
            "postgres_url the log is kept there instead. Empty: there is no audit log.",
            extra=Text,
        ),
    ] = "realtime-audit.sqlite"
    audit_connections: Annotated[
        bool,
        Meta(
            description="Record who is let in with a token too, not only who is refused.",
            extra=Flag,
        ),
    ] = True
    audit_window_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Repeats of an event within it become one entry with their count; 0: each is one.",
            extra=Seconds,
        ),
    ] = 10.0
    audit_entries_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=100_000,
            description="Entries of a tenant that its users can cause, over time; up to 50,000 may come at "
            "once. What is beyond is counted by action and outcome alone.",
            extra=Rate,
        ),
    ] = 200.0
    audit_retention_days: Annotated[
        int,
        Meta(ge=0, le=36_500, description="Drop entries that are older; 0: keep all for ever.", extra=Days),
    ] = 0
    audit_key: Annotated[
        str,
        Meta(
            pattern=r"^([\s\S]{32,})?$",
            description="Key that seals the ends of the audit chains; 32 characters or more, the same on all "
            "workers. Empty: whoever may write the database can write the chains anew.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ""

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

"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Days, Flag, Rate, Seconds, Text


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

    # -- tenants --------------------------------------------------------------------------------------------

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

"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Seconds, Text


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

    # -- TLS ------------------------------------------------------------------------------------------------

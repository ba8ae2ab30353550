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

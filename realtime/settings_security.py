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

    # -- TLS ------------------------------------------------------------------------------------------------

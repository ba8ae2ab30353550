"""The settings of who may come in, what is kept of it, and how what is kept is sealed. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_cluster import ClusterSettings
from realtime.units import Text


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

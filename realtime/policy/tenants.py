"""`[tenants.<id>]`: how much each tenant may take; `[tenants."*"]` is for all that have no table."""

from __future__ import annotations

from realtime.policy.section import Section


class Quotas(Section, frozen=True, kw_only=True):
    """How much one tenant may take."""

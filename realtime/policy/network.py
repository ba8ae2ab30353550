"""`[network]`: from where connections are taken."""

from __future__ import annotations

from realtime.policy.section import Section


class Network(Section, frozen=True, kw_only=True):
    """Addresses, countries, and whose word about them is taken."""

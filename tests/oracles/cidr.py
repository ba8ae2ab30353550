"""The table of networks in plain Python: every network is asked, and the longest that covers wins."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def longest_prefix(entries: Iterable[tuple[Network, int]], address: bytes) -> int:
    """Return the value of the longest network that covers `address`, of equal ones the greatest, else 0."""
    asked = ipaddress.ip_address(address)
    covering = ((each.prefixlen, value) for each, value in entries if asked in each)
    return max(covering, default=(0, 0))[1]

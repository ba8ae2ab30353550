"""What one address may take, and one subnet: connections at once, new ones a second, and messages.

An address is an IPv4 address, or what one customer has of IPv6: its first `ipv6_prefix_bits`, a /64, because
whoever has one address of it has all of them. A subnet is what a few of those have in common, /24 and /48.
Both tables are bounded: that of open connections by the connections there are, those of rates by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

import msgspec

from realtime.core.contracts import Clock
from realtime.core.limits import Buckets
from realtime.errors import SettingsError
from realtime.native.address import pack
from realtime.native.ratelimit import KeyedLimiter
from realtime.settings import Settings

IPV4_BYTES: Final = 4
METERED_ADDRESSES: Final = 65_536  # whose rates are remembered; one that was not seen for longest goes first

Prefix = Callable[[bytes], bytes]
"""Returns what stands for a packed address: its leading bits, and zeros."""


def prefix(ipv4_bits: int, ipv6_bits: int) -> Prefix:
    """Return what cuts packed addresses, of 4 bytes or of 16, to so many leading bits."""
    if ipv4_bits == 32 and ipv6_bits == 128:
        return _whole
    ipv4 = (1 << 32) - (1 << 32 - ipv4_bits)
    ipv6 = (1 << 128) - (1 << 128 - ipv6_bits)

    def cut(address: bytes) -> bytes:
        if len(address) == IPV4_BYTES:
            return address if ipv4_bits == 32 else (int.from_bytes(address) & ipv4).to_bytes(IPV4_BYTES)
        return (int.from_bytes(address) & ipv6).to_bytes(len(address))

    return cut


def _whole(address: bytes) -> bytes:
    return address


class Exemptions:
    """The addresses that no limit of this module holds for, and no penalty.

    Raises:
        SettingsError: one is no address and no network; the message says which.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._masks: dict[tuple[int, int], set[int]] = {}  # (bytes of an address, mask) -> networks
        for text in networks:
            network = _network(text)
            key = network.max_prefixlen // 8, int(network.netmask)
            self._masks.setdefault(key, set()).add(int(network.network_address))

    def __contains__(self, address: bytes) -> bool:
        number = int.from_bytes(address)
        return any(
            size == len(address) and number & mask in networks
            for (size, mask), networks in self._masks.items()
        )


class QuotaState(msgspec.Struct, array_like=True):
    """A `Quota`, handed over: how many connections of each key are open, and what keys owe."""

    open: list[tuple[bytes, int]]
    owing: Buckets


class Quota:
    """The limits of one kind of key: so many connections at once, so many new ones a second; 0: no limit."""

    def __init__(self, key: Prefix, name: str, settings: Settings, clock: Clock) -> None:
        """`name` is `address` or `subnet`, as the settings end in."""
        self.key = key
        self._open: dict[bytes, int] = {}
        self._most: int = getattr(settings, f"max_connections_per_{name}")
        self._too_many = f"max_connections_per_{name}"
        self._too_fast = f"connections_per_second_per_{name}"
        rate: int = getattr(settings, self._too_fast)
        burst = max(1.0, rate * settings.rate_burst_s)
        self._rate = KeyedLimiter(rate, burst, METERED_ADDRESSES, clock=clock.monotonic_ns) if rate else None

    @property
    def limits(self) -> bool:
        """Whether there is anything to be over."""
        return bool(self._most) or self._rate is not None

    def over(self, key: bytes) -> str | None:
        """Return the name of the limit that one more would be over; else it has used up the rate."""
        if self._most and self._open.get(key, 0) >= self._most:
            return self._too_many
        if self._rate is not None and self._rate.take(key) > 0.0:
            return self._too_fast
        return None

    def export(self) -> QuotaState:
        """Return all of it, for another process."""
        return QuotaState(list(self._open.items()), [] if self._rate is None else self._rate.export())

    def adopt(self, state: QuotaState) -> None:
        """Take over what another process counted."""
        self._open = dict(state.open)
        if self._rate is not None:
            self._rate.adopt(state.owing)

    def add(self, key: bytes) -> None:
        """Count one more."""
        self._open[key] = self._open.get(key, 0) + 1

    def remove(self, key: bytes) -> None:
        """Count one less."""
        left = self._open.get(key, 0) - 1  # of one that was handed over, subnets may not have been counted
        if left > 0:
            self._open[key] = left
        else:
            self._open.pop(key, None)

    def __len__(self) -> int:
        """How many keys have open connections."""
        return len(self._open)


class AddressLimits:
    """Counts connections by address and, where that is limited, by subnet; never refuses who is `exempt`."""

    def __init__(self, settings: Settings, clock: Clock, exempt: Callable[[bytes], bool]) -> None:
        self._exempt = exempt
        subnets = Quota(prefix(settings.subnet_bits_v4, settings.subnet_bits_v6), "subnet", settings, clock)
        self._quotas = [Quota(prefix(32, settings.ipv6_prefix_bits), "address", settings, clock)]
        if subnets.limits:
            self._quotas.append(subnets)

    def arrive(self, address: bytes) -> str | None:
        """Count one more connection of `address`; or return the limit that it is over, and count nothing."""
        for quota in self._quotas:
            limit = quota.over(quota.key(address))
            if limit is not None and not self._exempt(address):
                return limit
        for quota in self._quotas:
            quota.add(quota.key(address))
        return None

    def depart(self, address: bytes) -> None:
        """Count one less; each that has arrived departs once."""
        for quota in self._quotas:
            quota.remove(quota.key(address))

    def export(self) -> list[QuotaState]:
        """Return what is counted, for another process: of addresses, of subnets where they are limited."""
        return [quota.export() for quota in self._quotas]

    def adopt(self, states: list[QuotaState]) -> None:
        """Take over what another process counted."""
        for quota, state in zip(self._quotas, states, strict=False):  # subnets may be limited now, or no more
            quota.adopt(state)

    def __len__(self) -> int:
        """How many addresses have open connections."""
        return len(self._quotas[0])


class MessageRates:
    """A `core.limits.Crowd`: what all connections of an address, and of a subnet, may send a second together.

    It is false where neither is limited. Nobody who is `exempt` is over anything.
    """

    def __init__(self, settings: Settings, clock: Clock, exempt: Callable[[bytes], bool]) -> None:
        self._exempt = exempt
        # The address first: what it has paid in vain, where its subnet may not, is no neighbour's.
        self._rates = [
            (key, name, rate, KeyedLimiter(rate, burst, METERED_ADDRESSES, clock=clock.monotonic_ns))
            for key, name in (
                (prefix(32, settings.ipv6_prefix_bits), "messages_per_second_per_address"),
                (prefix(settings.subnet_bits_v4, settings.subnet_bits_v6), "messages_per_second_per_subnet"),
            )
            if (rate := getattr(settings, name)) and (burst := max(1.0, rate * settings.rate_burst_s))
        ]

    def __bool__(self) -> bool:
        return bool(self._rates)

    def export(self) -> dict[str, Buckets]:
        """Return what is owed, by the limit's name, for another process."""
        return {name: limiter.export() for _, name, _, limiter in self._rates}

    def adopt(self, owing: dict[str, Buckets]) -> None:
        """Take over what another process exported."""
        for _, name, _, limiter in self._rates:
            limiter.adopt(owing.get(name, ()))

    def over(self, address: str, messages: int) -> tuple[str, float, float] | None:
        """Take so many messages of an address, as `Crowd.over`."""
        packed = pack(address)
        if packed is None or self._exempt(packed):
            return None
        for key, name, rate, limiter in self._rates:
            wait_s = limiter.take(key(packed), messages)
            if wait_s > 0.0:
                return name, rate, wait_s
        return None


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        hint = "write an address or a network, such as 192.0.2.7 or 2001:db8::/32"
        raise SettingsError(f"exempt_addresses: {error}; {hint}") from None

"""What abuse costs the address that it comes from: limits on arrival, offences, and the penalty box.

A `Guard` is asked about every arrival and told of every departure and offence. Connections that are there
when their address is boxed stay: they may be a neighbour's, and whoever offends is closed by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from realtime.core.audit import NO_AUDITOR, NO_TENANT, Action, Auditor, Event, Outcome
from realtime.core.contracts import Clock
from realtime.edge.address_limits import AddressLimits, Exemptions, QuotaState, prefix
from realtime.edge.offences import ARRIVALS, Offence, Offences, offence_of
from realtime.edge.penalties import Boxing, BoxState, PenaltyBox, PenaltyRules
from realtime.native.address import unpack
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

BOXED: Final = "penalty"
"""The reason of a refusal, beside the names of the limits."""
TOO_FAST: Final = "connections_per_second"  # what the names of rates begin with

OnBoxed = Callable[[Boxing], object]
"""Is told of each boxing that was earned here."""


class GuardState(msgspec.Struct, array_like=True):
    """A `Guard`, handed over."""

    quotas: list[QuotaState]
    box: BoxState


class Guard:
    """Judges addresses, packed as the hub has them.

    Raises:
        SettingsError: `exempt_addresses` has one that is none.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        audit: Auditor = NO_AUDITOR,
    ) -> None:
        self._exemptions = Exemptions(settings.exempt_addresses)
        self._is_trusted: Callable[[bytes], bool] = _nobody
        self._audit = audit
        self._key = prefix(32, settings.ipv6_prefix_bits)
        self._bits = settings.ipv6_prefix_bits
        self._limits = AddressLimits(settings, clock, self.is_exempt)
        self._punishes = settings.penalty_threshold > 0
        self.box = PenaltyBox(
            PenaltyRules(
                threshold=settings.penalty_threshold,
                half_life_s=settings.penalty_half_life_s,
                base_s=settings.penalty_base_s,
                max_s=settings.penalty_max_s,
                forgiveness_s=settings.penalty_forgiveness_s,
            ),
            clock,
        )
        self.offences = Offences()
        self._on_boxed: list[OnBoxed] = []

    def export(self) -> GuardState:
        """Return what is counted and remembered, for another process."""
        return GuardState(self._limits.export(), self.box.export())

    def adopt(self, state: GuardState) -> None:
        """Take over what another process counted and remembered."""
        self._limits.adopt(state.quotas)
        self.box.adopt(state.box)

    def follow(self, on_boxed: OnBoxed) -> None:
        """Have one more told of each boxing that is earned here."""
        self._on_boxed.append(on_boxed)

    def trust(self, is_trusted: Callable[[bytes], bool]) -> None:
        """Ask `is_trusted` which addresses are proxies, whose clients have addresses of their own."""
        self._is_trusted = is_trusted

    def is_exempt(self, address: bytes) -> bool:
        """Whether no limit and no penalty is for `address`."""
        return address in self._exemptions or self._is_trusted(address)

    def arrive(self, address: bytes) -> str | None:
        """Count an arrival; or return why it may not come in, and count none. Who has arrived departs."""
        if self.box.boxed and self.box.wait_s(self._key(address)) > 0.0:
            return BOXED
        limit = self._limits.arrive(address)
        if limit is not None and limit.startswith(TOO_FAST):
            self._count(address, ARRIVALS)
        return limit

    def depart(self, address: bytes) -> None:
        """Count a departure."""
        self._limits.depart(address)

    def offend(self, address: bytes, code: int, is_admitted: bool) -> None:
        """Take note that a connection of `address` ends with `code`; see `offence_of`."""
        offence = offence_of(code, is_admitted)
        if offence is not None:
            self._count(address, offence)

    def free(self, address: bytes) -> bool:
        """Let an address out of the box and forget what it did; False where nothing was known of it."""
        known = self.box.free(self._key(address))
        if known:
            self._record(self._key(address), Outcome.ALLOWED, "operator", {})
        return known

    def name(self, key: bytes) -> str:
        """Return a key of the box as one writes it: an address, or in IPv6 the network of one."""
        return unpack(key) if len(key) == 4 or self._bits == 128 else f"{unpack(key)}/{self._bits}"

    def tick(self) -> None:
        """Forget what is over. About ten times a second."""
        self.box.tick()

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {
            "penalties_total": self.box.boxings,
            "penalized_addresses": self.box.boxed,
            "suspect_addresses": len(self.box),
            "connected_addresses": len(self._limits),
        }

    def _count(self, address: bytes, offence: Offence) -> None:
        if not address or self.is_exempt(address):
            return
        self.offences[offence.name] += 1
        if not self._punishes:
            return
        boxing = self.box.offend(self._key(address), offence.points)
        if boxing is not None:
            self._tell(boxing, offence)

    def _tell(self, boxing: Boxing, offence: Offence) -> None:
        seconds = round(boxing.seconds)
        name = self.name(boxing.key)
        log.info("%s is kept out for %d s, time %d, last over %s", name, seconds, boxing.times, offence.name)
        detail: dict[str, str | int] = {"offence": offence.name, "seconds": seconds, "times": boxing.times}
        self._record(boxing.key, Outcome.DENIED, "server", detail)
        for on_boxed in self._on_boxed:
            on_boxed(boxing)

    def _record(self, key: bytes, outcome: Outcome, actor: str, detail: dict[str, str | int]) -> None:
        self._audit.record(
            Event(
                tenant=NO_TENANT,
                action=Action.PENALTY,
                outcome=outcome,
                actor=actor,
                source=unpack(key) if actor == "server" else "",
                target=self.name(key),
                detail=detail,
            )
        )


def _nobody(address: bytes) -> bool:
    return False

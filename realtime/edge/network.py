"""The policy's `[network]` at work: what it says is compiled for the doorkeeper, the hub and the gate.

Compiling is all that may fail and all that takes time; letting it hold is a few assignments. Connections that
are there already are looked at again in slices, so that a long list does not hold up the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from realtime.backends.geo_maxmind import DatabaseBroken
from realtime.core.audit import NO_AUDITOR, NO_TENANT, Action, Auditor, Event, Outcome
from realtime.edge.countries import Countries
from realtime.edge.doorkeeper import Doorkeeper, Judge
from realtime.errors import CloseCode, SettingsError
from realtime.files import read_bounded
from realtime.native.cidr import CidrList, CidrTable
from realtime.policy import Network, Policy
from realtime.protocol.closing import close_reason
from realtime.protocol.forwarded import ForwardedHeader, client_of
from realtime.protocol.origins import OriginRules

log: Final = logging.getLogger("realtime.edge")

ALLOW: Final = 1
DENY: Final = 2  # the greater counts where both name the same network
DENIED: Final = "denied"
NOT_LISTED: Final = "not_listed"
LIST_BYTES_MAX: Final = 64 * 1024 * 1024
REVIEWED_A_TICK: Final = 2000  # connections that are looked at again, ten times a second
EVERYBODY: Final = (1 << 32) - 1  # the cursor that a review begins with

ADDRESS_DENIED: Final = close_reason("address_denied")


class Door(Protocol):
    """The hub, as far as addresses go."""

    def trust(
        self,
        trusted: CidrTable | None,
        *,
        proxy_protocol: str = "off",
        forwarded_header: str = "",
        on_forwarded: Callable[[bytes, str], bytes | None] | None = None,
        on_untrusted: Callable[[bytes, str], object] | None = None,
    ) -> None:
        """See `Hub.trust`."""
        ...

    def review(
        self, welcomes: Callable[[bytes], bool], *, cursor: int, count: int, code: int, reason: bytes
    ) -> int:
        """See `Hub.review`."""
        ...


class Compiled(NamedTuple):
    """What a policy says of the network, ready to hold."""

    network: Network
    judge: Judge | None
    countries: Countries | None
    trusted: CidrTable | None
    origins: OriginRules


class NetworkRules:
    """Follows the policy. `on_review(welcomes)` looks at what the hub does not hold, such as plain HTTP."""

    def __init__(
        self,
        door: Door,
        doorkeeper: Doorkeeper,
        *,
        allowed_origins: tuple[str, ...] = (),
        audit: Auditor = NO_AUDITOR,
        on_origins: Callable[[OriginRules], object] = lambda origins: None,
        on_review: Callable[[Callable[[bytes], bool]], object] = lambda welcomes: None,
    ) -> None:
        self._door = door
        self._doorkeeper = doorkeeper
        self._allowed_origins = allowed_origins
        self._audit = audit
        self._on_origins = on_origins
        self._on_review = on_review
        self._countries: Countries | None = None
        self._judge: Judge | None = None
        self._trusted: CidrTable | None = None
        self._followed = False
        self._put_out = 0  # by the review that is under way
        self._cursor = 0  # of the connections that have still to be looked at

    def prepare(self, policy: Policy) -> Callable[[], None]:
        """Compile what `policy` says and return what lets it hold.

        Raises:
            SettingsError: an entry or a file will not do. A database of countries that will not do is an
                error only once there has been one policy: then what holds is better.
        """
        compiled = compile_network(
            policy.network, self._audit, strict=self._followed, allowed_origins=self._allowed_origins
        )
        return partial(self._commit, compiled)

    @property
    def reviews(self) -> bool:
        """Whether connections have still to be looked at by rules that are new."""
        return bool(self._cursor)

    def review_all(self) -> None:
        """Look at all connections by the rules of now: those by which they came may have been others."""
        if self._judge is not None:
            self._cursor = EVERYBODY

    @property
    def restricts(self) -> bool:
        """Whether there are rules about addresses."""
        return self._judge is not None

    def tick(self) -> None:
        """Look at some of the connections again that were there when the rules changed."""
        if self._cursor:
            self._cursor = self._door.review(
                self.welcomes,
                cursor=self._cursor,
                count=REVIEWED_A_TICK,
                code=CloseCode.FORBIDDEN,
                reason=ADDRESS_DENIED,
            )
            if not self._cursor:
                self._tell_review()

    def welcomes(self, address: bytes) -> bool:
        """Whether the rules let in who is here already; who is not let in is counted for the audit log."""
        welcome = self._judge is None or self._judge(address) is None
        self._put_out += not welcome
        return welcome

    def _tell_review(self) -> None:
        """Say how many a review has put out; each of them would be a flood of events."""
        if self._put_out:
            log.info("%d connections closed: the policy does not let them in any more", self._put_out)
            self._audit.record(
                Event(
                    tenant=NO_TENANT,
                    action=Action.CLOSE,
                    outcome=Outcome.DENIED,
                    actor="server",
                    detail={"reason": "address_denied", "connections": self._put_out},
                )
            )
        self._put_out = 0

    def trusts(self, address: bytes) -> bool:
        """Whether an address is a trusted proxy's."""
        return self._trusted is not None and self._trusted.find(address) != 0

    def checks(self) -> dict[str, str]:
        """What /ready says of it."""
        return {} if self._countries is None else {"countries": self._countries.state}

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        if self._countries is None:
            return {}
        return {"geo_ok": int(self._countries.ok), "geo_failures_total": self._countries.failures}

    def _commit(self, compiled: Compiled) -> None:
        network = compiled.network
        self._judge, self._countries = compiled.judge, compiled.countries
        self._trusted = compiled.trusted
        self._doorkeeper.rule(compiled.judge)
        self._door.trust(
            compiled.trusted,
            proxy_protocol=network.proxy_protocol,
            forwarded_header=network.proxy_header,
            on_forwarded=_forwarded(network.proxy_header, compiled.trusted),
            on_untrusted=self._doorkeeper.turned_away.note,
        )
        self._on_origins(compiled.origins)
        self._cursor = EVERYBODY if self._followed and compiled.judge is not None else 0
        if self._cursor:
            self._on_review(self.welcomes)
        self._followed = True


def compile_network(
    network: Network,
    audit: Auditor = NO_AUDITOR,
    *,
    strict: bool = True,
    allowed_origins: tuple[str, ...] = (),
) -> Compiled:
    """Compile what a policy says of the network.

    Raises:
        SettingsError: an entry or a file will not do; with `strict` the database of countries too, without
            it that fails as the policy says.
    """
    networks = _networks(network)
    countries = _countries(network, audit, strict) if network.by_country else None
    judge: Judge | None = None
    if networks or countries or network.exclusive:
        judge = _judge(networks, countries, network.exclusive)
    return Compiled(network, judge, countries, _trusted(network), _origins(network, allowed_origins))


def _countries(network: Network, audit: Auditor, strict: bool) -> Countries:
    try:
        return Countries(network, audit, strict=strict)
    except DatabaseBroken as error:
        raise SettingsError(f"network.geo_database: {error}") from error


def _origins(network: Network, allowed: tuple[str, ...]) -> OriginRules:
    try:
        return OriginRules((*allowed, *network.origins), missing=network.origin_missing == "allow")
    except ValueError as error:
        raise SettingsError(f"network.origins, with allowed_origins: {error}") from error


def _networks(network: Network) -> CidrTable | None:
    """The lists as one table; None where they name nobody."""
    found = CidrList()
    for value, name, entries, paths in (
        (ALLOW, "allow", network.allow, network.allow_files),
        (DENY, "deny", network.deny, network.deny_files),
    ):
        _add(found, name, entries, value)
        for path in paths:
            try:
                found.add_lines(_lines(name, Path(path)), value)
            except ValueError as error:
                raise SettingsError(f"network.{name}_files: {path}: {error}") from error
    return found.table() if len(found) else None


def _add(found: CidrList, name: str, entries: tuple[str, ...], value: int) -> None:
    for number, entry in enumerate(entries):
        try:
            found.add(entry, value)
        except ValueError as error:
            raise SettingsError(f"network.{name}[{number}]: {error}") from error


def _lines(name: str, path: Path) -> bytes:
    try:
        return read_bounded(path, LIST_BYTES_MAX)
    except OSError as error:
        raise SettingsError(f"network.{name}_files: {path}: {error.strerror}") from error


def _trusted(network: Network) -> CidrTable | None:
    found = CidrList()
    _add(found, "trusted_proxies", network.trusted_proxies, 1)
    return found.table() if len(found) else None


def _judge(networks: CidrTable | None, countries: Countries | None, exclusive: bool) -> Judge:
    """Whom a list covers it decides about; then the country, where there are rules of countries."""
    find = CidrList().table().find if networks is None else networks.find
    reason = NOT_LISTED if exclusive else None

    def judge(address: bytes) -> str | None:
        listed = find(address)
        if listed == DENY:
            return DENIED
        if listed == ALLOW:
            return None
        return reason if countries is None else countries.judge(address)

    return judge


def _forwarded(
    header: ForwardedHeader | str, trusted: CidrTable | None
) -> Callable[[bytes, str], bytes | None] | None:
    """What reads the one header that is believed of trusted peers."""
    if not header or trusted is None:
        return None
    find = trusted.find

    def on_forwarded(proxy: bytes, value: str) -> bytes | None:
        return client_of(header, value, proxy, lambda address: find(address) != 0)  # type: ignore[arg-type]

    return on_forwarded

"""Countries at the door: who is let in by where an address is, and what holds while nobody can say.

A database that cannot be read lets everybody in or nobody, as the policy says, and says so: in the log, in
the audit log, on /ready and as a gauge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from realtime.backends.geo_maxmind import CountryOf, DatabaseBroken, open_countries
from realtime.core.audit import NO_TENANT, Action, Auditor, Event, Outcome
from realtime.policy import Network

log: Final = logging.getLogger("realtime.edge")

DENIED: Final = "country"
UNKNOWN: Final = "country_unknown"
UNAVAILABLE: Final = "country_unavailable"

Open = Callable[[Path], CountryOf]


class Countries:
    """Judges addresses by country. `ok` says whether the database answers.

    Raises:
        DatabaseBroken: there is no database, and `strict` says that there has to be one.
    """

    def __init__(
        self, network: Network, audit: Auditor, *, strict: bool = False, open: Open = open_countries
    ) -> None:
        self._allow = frozenset(network.countries_allow)
        self._deny = frozenset(network.countries_deny)
        self._exclusive = network.exclusive
        self._closed = network.geo_failure == "closed"
        self._path = Path(network.geo_database)
        self._audit = audit
        self._country_of: CountryOf | None = None
        self.ok = True
        self.failures = 0  # look-ups that found the database broken
        try:
            self._country_of = open(self._path)
        except DatabaseBroken as error:
            if strict:
                raise
            self._fail(error)

    def judge(self, address: bytes) -> str | None:
        """Return why an address that no list covers is refused, None where it is let in."""
        if self._country_of is None:
            return self._unavailable
        try:
            country = self._country_of(address)
        except DatabaseBroken as error:
            self.failures += 1
            if self.ok:  # once: a flood of log lines would help nobody
                self._fail(error)
            return self._unavailable
        if country is None:
            return UNKNOWN if self._exclusive else None
        if country in self._deny:
            return DENIED
        return None if country in self._allow or not self._exclusive else DENIED

    @property
    def state(self) -> str:
        """What /ready says: `ok` too where everybody is let in without an answer."""
        return "ok" if self.ok or not self._closed else "no database: addresses are refused"

    @property
    def _unavailable(self) -> str | None:
        return UNAVAILABLE if self._closed else None

    def _fail(self, error: DatabaseBroken) -> None:
        self.ok = False
        consequence = (
            "everybody whom no list allows is refused"
            if self._closed
            else "EVERYBODY WHOM NO LIST DENIES GETS IN"
        )
        log.error("geo_database: %s; geo_failure is %s: %s", error, self._word, consequence)
        self._audit.record(
            Event(
                tenant=NO_TENANT,
                action=Action.ADDRESS,
                outcome=Outcome.FAILED,
                actor="server",
                target=self._path.name,
                detail={"reason": UNAVAILABLE, "geo_failure": self._word},
            )
        )

    @property
    def _word(self) -> str:
        return "closed" if self._closed else "open"

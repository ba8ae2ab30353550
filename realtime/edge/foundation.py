"""What a worker stands on: alone, on this process (`edge/embedded`), or on a cluster (`edge/cluster`).

The worker makes its hub and its core; a foundation gives the core its broker, and the ring if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Protocol

from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.cluster import Cluster, Whereabouts
from realtime.core.contracts import Broker, Clock, Stamp
from realtime.core.core import Core
from realtime.core.database import Database
from realtime.core.headcount import Headcount
from realtime.core.revocations import RevocationList
from realtime.core.room_rules import RoomRules
from realtime.edge.audit import open_audit
from realtime.edge.cluster import open_clustered
from realtime.edge.embedded import STORE_LOCK, Embedded
from realtime.edge.heir import Inheritance
from realtime.edge.sealing import open_sealing
from realtime.edge.store import open_store
from realtime.features import discover
from realtime.native.histogram import Histogram
from realtime.policy import Policy
from realtime.settings import Settings


class Foundation(Protocol):
    """One worker's broker and ring, from `start` to `close`."""

    @property
    def node(self) -> str:
        """What this worker is called, in connection ids, logs and metrics."""
        ...

    @property
    def worker(self) -> str:
        """Its id in the ring; empty where there is none."""
        ...

    @property
    def cluster(self) -> Cluster | None:
        """The ring; None for a worker that is alone."""
        ...

    @property
    def whereabouts(self) -> Whereabouts | None:
        """Who is connected to which worker; None for a worker that is alone."""
        ...

    @property
    def revocations(self) -> RevocationList | None:
        """The tokens that all workers refuse; None for a worker that is alone, which keeps its own."""
        ...

    @property
    def headcount(self) -> Headcount | None:
        """How many connections tenants have over all workers; None for a worker that is alone."""
        ...

    @property
    def audit(self) -> Auditor:
        """The audit log, which takes what this worker decides."""
        ...

    @property
    def database(self) -> Database | None:
        """Where features keep tables of their own; None where there is no store."""
        ...

    def broker(self, stamp: Stamp, rules: RoomRules) -> Broker:
        """Make the broker. Once. `rules` say which rooms are encrypted."""
        ...

    def start(self, core: Core) -> None:
        """Begin to serve `core`, which was made with all of the above. It waits for nothing."""
        ...

    def check_policy(self, policy: Policy) -> None:
        """Raise SettingsError where this cannot do what a policy says of rooms."""
        ...

    def tick(self) -> None:
        """Look at the clock. About ten times a second."""
        ...

    def checks(self) -> dict[str, str]:
        """What /ready says, by dependency: `ok`, or what is wrong."""
        ...

    def stats(self) -> Mapping[str, int]:
        """Gauges and counters for /metrics, by name, beside the broker's."""
        ...

    def timings(self) -> Mapping[str, Histogram]:
        """Histograms for /metrics, by the names of `telemetry.TIMINGS`."""
        ...

    def files(self) -> dict[str, int]:
        """Descriptors that a process needs which is to take over from this one, by name."""
        ...

    @property
    def busy(self) -> int:
        """How much is under way, beside the broker's, that cannot be handed over."""
        ...

    def export(self) -> bytes:
        """Return what is in memory alone, beside the broker's, for the process that takes over."""
        ...

    def adopt(self, state: bytes) -> None:
        """Take over what another process exported, before `start`."""
        ...

    def hand_over(self) -> None:
        """Another process goes on from here: `close` is to leave all that is shared as it is."""
        ...

    def take_over(self) -> None:
        """Be the one who goes on from here, where another process did; after `start`."""
        ...

    async def leave(self) -> None:
        """Own nothing more, and let the other workers know, before the worker drains."""
        ...

    async def close(self) -> None:
        """End it, after the worker: what is queued is kept first."""
        ...


async def open_foundation(
    settings: Settings, clock: Clock, number: int = 0, heir: Inheritance | None = None
) -> Foundation:
    """Make what the settings name: a cluster with a `redis_url`. `number` is that of a supervised worker, and
    an `heir` goes on as the one that is there.

    Raises:
        SettingsError: the master keys cannot be used.
        StartupError: the store cannot be used, or Redis refuses us. Redis that is not there is waited for,
            while the worker serves what it can.
    """
    if settings.redis_url:
        return await open_clustered(settings, clock, number, heir)
    async with AsyncExitStack() as failing:
        keeper = await open_audit(settings, clock)
        if keeper is not None:
            failing.push_async_callback(keeper.close)
        lock = None if heir is None else heir.files.get(STORE_LOCK)
        store = await open_store(settings, clock, discover(), lock, beside=heir is not None)
        if store is not None:
            failing.push_async_callback(store.close)
        sealing = await open_sealing(settings, clock, store, audit=keeper or NO_AUDITOR)
        failing.pop_all()  # they are the foundation's now
    return Embedded(settings, clock, store, sealing, keeper, node=None if heir is None else heir.node)

"""A back-end's way to a worker that is alone: `Outsider` over its control socket."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

import msgspec

from realtime.backends.cluster.redis_ring import new_worker_id
from realtime.core.clock import SystemClock
from realtime.core.cluster_local import ALONE
from realtime.core.control import REVOKE, Orders, Revoke, Workers
from realtime.core.revocations import OnRevoked
from realtime.core.token_audit import TokenAudit
from realtime.edge.audit_relay import RelayedAudit
from realtime.edge.control_client import LoneWorker
from realtime.edge.control_socket import control_path
from realtime.edge.outsider import NODE, Outsider
from realtime.edge.publisher import Publisher
from realtime.errors import SettingsError
from realtime.ids import TenantId, UserId
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

TICK_S: Final = 0.1
TIMEOUT_S: Final = 10.0  # a durable publication waits for the disk


class LonePublisher(Outsider):
    """Reaches the server whose settings these are, on this machine. An async context manager.

    Raises:
        SettingsError: the settings name no control socket.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        path = control_path(settings)
        if path is None:
            raise SettingsError(
                "this needs Redis (REDIS_URL), or the control socket of a server on this machine: "
                "set control_path, the same as the server's"
            )
        self._path = path

    async def __aenter__(self) -> Self:
        clock = SystemClock()
        self._lone = self.reach = LoneWorker(self._path, new_worker_id(NODE), TIMEOUT_S)
        self._audit = self._open_audit(clock)
        self._orders = Orders(self.reach, clock, LoneRevocations(self.reach), audit=TokenAudit(self._audit))
        self._spawn(self._keep_ticking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        await self._lone.close()

    async def _keep_ticking(self) -> None:
        while True:
            try:
                if isinstance(self._audit, RelayedAudit):
                    self._audit.tick()
            except Exception:
                log.exception("a tick failed")
            await asyncio.sleep(TICK_S)


class LoneRevocations:
    """The revocations that the one worker keeps, as `core.revocations.RevocationList`."""

    def __init__(self, reach: Workers) -> None:
        self._reach = reach

    def open(self, on_revoked: OnRevoked) -> None:
        """There is nobody to tell: who asks here refuses no tokens by itself."""

    async def revoke(
        self, tenant: TenantId, user: UserId | None, token_id: str | None, before: float, keep_s: float
    ) -> float:
        """Have it refuse them; return until when."""
        order = Revoke(tenant, user, token_id, before, keep_s)
        return float(await self._reach.ask(ALONE, REVOKE, msgspec.msgpack.encode(order)))


def outsider_of(settings: Settings) -> Publisher | LonePublisher:
    """Return what reaches the workers that these settings are of: through Redis, or the one on this machine.

    Raises:
        SettingsError: they name neither a Redis nor a control socket, or a policy file that holds none.
    """
    return Publisher(settings=settings) if settings.redis_url else LonePublisher(settings)

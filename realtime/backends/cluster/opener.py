"""Where durable rooms' epochs begin: the store says how far it is, Redis is told what it has forgotten."""

from __future__ import annotations

import asyncio
from typing import Final

from realtime.backends.cluster.names import RoomNames, epoch_number
from realtime.backends.cluster.ordering import Need, Opening
from realtime.backends.postgres_rows import Used, Wish
from realtime.backends.redis_client.contract import Redis, RedisError
from realtime.backends.sealing.store import SharedStore
from realtime.core.contracts import Clock
from realtime.errors import Unavailable

KEYS_MAX: Final = 10_000  # of one room, that Redis is told of again when it has lost its tail
KEYS_AT_ONCE: Final = 500
RETRY_S: Final = 1.0


class Opener:
    """Opens epochs, as `ordering.Open`: asks the store how far it is, tells Redis which keys it has lost."""

    def __init__(
        self, redis: Redis, store: SharedStore, clock: Clock, *, prefix: str, recovery_window_s: float
    ) -> None:
        self._redis = redis
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._window_s = recovery_window_s

    async def __call__(self, need: Need) -> Opening:
        """Return where the room goes on. Until Redis is told, nothing is published in it.

        Raises:
            Unavailable: no answer of the store, or of Redis.
        """
        claim = await self._store.claim(Wish(need.room, need.epoch, need.offset, need.nonce))
        if claim.last > need.offset:
            await self._tell_keys(need)
        return Opening(claim.last, claim.number)

    async def _tell_keys(self, need: Need) -> None:
        since_ms = int((self._clock.time() - self._window_s) * 1000)
        used = await self._store.keys_above(need.room, need.offset, since_ms, KEYS_MAX)
        names = RoomNames(self._prefix, need.room)
        for at in range(0, len(used), KEYS_AT_ONCE):
            await asyncio.gather(*(self._tell_key(names, each) for each in used[at : at + KEYS_AT_ONCE]))

    async def _tell_key(self, names: RoomNames, used: Used) -> None:
        epoch = epoch_number(used.position.epoch)
        left_ms = used.at_ms + round((self._window_s - self._clock.time()) * 1000)
        if not epoch or left_ms <= 0:
            return
        key, value = names.idempotency(used.sender, used.key), b"%d %d" % (epoch, used.position.offset)
        try:
            await self._redis.ask(names.slot, b"SET", key, value, b"NX", b"PX", left_ms)
        except RedisError as error:
            raise Unavailable("Redis refuses a key", retry_after_s=RETRY_S) from error

"""Revoked tokens in Redis: one hash for the deployment, and a channel where all workers hear of each new one.

A worker reads the whole list when its subscription stands, for the first time and again: what was revoked
while it heard nothing is in there. `loaded` says whether it knows all that there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from realtime.backends.redis_client.contract import Redis, RedisError, slot_of
from realtime.core.revocations import OnRevoked, Revocation
from realtime.errors import TooLarge, Unavailable
from realtime.ids import TenantId, UserId

log: Final = logging.getLogger("realtime.backends")

PAGE: Final = 1000  # read at once
AGAIN_S: Final = 1.0  # after a page could not be read
USER, TOKEN, TENANT = "u", "t", "a"


class RedisRevocations:
    """The deployment's revocations. `spawn` runs the reading of them; who only revokes needs none."""

    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object] | None = None,
        again_s: float = AGAIN_S,
    ) -> None:
        self._redis = redis
        self._key = f"{prefix}:{{revoked}}"
        self._slot = slot_of(self._key.encode())
        self._spawn = spawn
        self._again_s = again_s
        self._on_revoked: OnRevoked | None = None
        self._readings = 0  # begun; only the last one says that all is loaded
        self.loaded = False

    def open(self, on_revoked: OnRevoked) -> None:
        """Begin: `on_revoked` is told of all that there are, and of each new one on whichever worker."""
        assert self._spawn is not None, "who listens has to say who runs the reading"
        self._on_revoked = on_revoked
        self._redis.subscribe(self._key.encode(), self)

    def close(self) -> None:
        """Listen no longer."""
        self._readings += 1
        self._redis.unsubscribe(self._key.encode())

    async def revoke(
        self, tenant: TenantId, user: UserId | None, token_id: str | None, before: float, keep_s: float
    ) -> float:
        """Keep one for `keep_s`, and have all workers told; return when it ends (Unix seconds).

        Raises:
            TooLarge: there are as many as are kept already.
            Unavailable: no answer in time; it may or may not be kept.
        """
        name = _name(tenant, user, token_id)
        command = ("FCALL", "rt1_revoke", 2, self._key, self._key + ":ends", self._key, name)
        try:
            until_ms = await self._redis.ask(self._slot, *command, round(before * 1000), round(keep_s * 1000))
        except RedisError as error:
            if error.code == "FULL":
                raise TooLarge(error.message) from error
            log.error("a token could not be revoked: %s", error)
            raise Unavailable("Redis does not keep the revocation", retry_after_s=1.0) from error
        assert isinstance(until_ms, int)
        return until_ms / 1000

    # -- what the subscription calls ------------------------------------------------------------------------

    def on_message(self, payload: bytes) -> None:
        """Hear of one: its value, a space, its name."""
        before, until, name = payload.split(b" ", 2)
        self._tell([_revocation(name, before, until)])

    def on_subscribed(self) -> None:
        """Read all of them: what comes from now on is heard."""
        self._readings += 1
        assert self._spawn is not None
        self._spawn(self._read(self._readings))

    def on_unsubscribed(self) -> None:
        """What is known goes on being refused; what comes now is read later."""

    async def _read(self, reading: int) -> None:
        """Read page by page, until the end or until the next reading began."""
        cursor = b"0"
        while reading == self._readings:
            try:
                answer = await self._redis.ask(self._slot, "HSCAN", self._key, cursor, "COUNT", PAGE)
            except (RedisError, Unavailable) as error:
                log.warning("revoked tokens could not be read, trying again: %s", error)
                await asyncio.sleep(self._again_s)
                continue
            assert isinstance(answer, list)
            cursor, entries = answer
            pairs = zip(entries[::2], entries[1::2], strict=True)
            self._tell([_revocation(name, *value.split(b" ")) for name, value in pairs])
            if cursor == b"0":
                self.loaded = True
                return

    def _tell(self, revocations: list[Revocation]) -> None:
        if self._on_revoked is not None and revocations:
            self._on_revoked(revocations)


def _name(tenant: TenantId, user: UserId | None, token_id: str | None) -> str:
    if user is not None:
        return f"{USER}/{tenant}/{user}"
    return f"{TENANT}/{tenant}/" if token_id is None else f"{TOKEN}/{tenant}/{token_id}"


def _revocation(name: bytes, before_ms: bytes, until_ms: bytes) -> Revocation:
    kind, tenant, whose = name.decode().split("/", 2)
    user = UserId(whose) if kind == USER else None
    token_id = whose if kind == TOKEN else None
    return Revocation(TenantId(tenant), user, token_id, int(before_ms) / 1000, int(until_ms) / 1000)

"""The ring of workers in Redis: beats, the news of who came and went, and the inbox beside it.

Each worker beats into one Redis function, which removes who has not beaten for its TTL and tells all of every
change. `ring` says what follows from it; `functions/20_ring.lua` is the other half.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from realtime.backends.cluster.inbox import Ear, Inbox
from realtime.backends.cluster.ring import News, Ring, RingState
from realtime.backends.redis_client.contract import Redis, Reply, slot_of
from realtime.core.cluster import Change, WorkerId
from realtime.core.contracts import Clock
from realtime.core.router import Spawn
from realtime.ids import RoomId

log: Final = logging.getLogger("realtime.cluster")

RETRY_S: Final = 0.1  # after a beat that failed


def new_worker_id(node: str) -> WorkerId:
    """Return a name for one run of a worker on `node`, which no other run has."""
    return WorkerId(f"{node}-{secrets.token_hex(6)}")


class RedisRing:
    """One worker's place among the others: `Cluster` over Redis.

    `start` begins to beat, with the next `tick`; `leave` gives all rooms up and is told to all at once;
    `close` ends the rest. With `member` False it only looks on: it knows the ring and may ask, and owns
    nothing.
    """

    def __init__(
        self,
        redis: Redis,
        worker: WorkerId,
        clock: Clock,
        spawn: Spawn,
        *,
        prefix: str = "rt",
        beat_s: float = 0.5,
        ttl_s: float = 1.5,
        timeout_s: float = 2.0,
        member: bool = True,
    ) -> None:
        self.worker = worker
        self._redis = redis
        self._clock = clock
        self._member = member
        self._beat_s = beat_s
        self._ttl_ms = int(ttl_s * 1000)
        self._prefix = prefix
        self._keys = ring_keys(prefix)
        self._slot = slot_of(self._keys[0])
        self._ring = Ring(worker, ttl_s)
        self._inbox = Inbox(redis, worker, clock, spawn, prefix=prefix, timeout_s=timeout_s)
        self._watching: list[Callable[[Change], None]] = []
        self._beat_due = 0.0
        self._beating = False
        self._failing = False
        self._changes = 0
        self._lost_leases = 0
        self.answer = self._inbox.answer
        self.ask = self._inbox.ask
        self.tell = self._inbox.tell

    def start(self) -> None:
        """Listen, and begin to beat as soon as others can reach this worker."""
        self._inbox.open()
        self._redis.subscribe(self._keys[0], Ear(self._hear))

    @property
    def busy(self) -> int:
        """How many requests of other workers are being answered."""
        return self._inbox.answering

    def export(self) -> RingState:
        """Return what is known of the ring, for another process of this worker."""
        return self._ring.export()

    def adopt(self, state: RingState) -> None:
        """Be in the ring where another process of this worker was; before `start`."""
        self._apply(self._ring.adopt(state))

    async def leave(self) -> None:
        """Own nothing any more, and have the others told; they are where Redis can be reached.

        What other workers ask is still answered.
        """
        if not self._member:
            return
        self._member = False
        self._apply(self._ring.removed())
        await bury(self._redis, self.worker, prefix=self._prefix)

    def close(self) -> None:
        """Stop at once. Who is still in the ring is taken for dead after its TTL."""
        self._member = False
        self._apply(self._ring.removed())
        self._redis.unsubscribe(self._keys[0])
        self._inbox.close()

    # -- what is known --------------------------------------------------------------------------------------

    @property
    def workers(self) -> Collection[WorkerId]:
        """All that are alive as far as is known here; this one too, unless it looks on."""
        known = self._ring.workers
        return known if self.worker in known or not self._member else (*known, self.worker)

    @property
    def ok(self) -> bool:
        """Whether the ring is known and this worker is in it, by its own monotonic clock."""
        return self._ring.leased(self._clock.monotonic())

    def fence(self, room: RoomId) -> int | None:
        """Return the version under which this worker owns the room, None where it does not."""
        return self._ring.version if self._ring.owns(room, self._clock.monotonic()) else None

    def owner(self, room: RoomId) -> WorkerId | None:
        """Return who owns the room; None while that is not known, or this worker has lost touch."""
        if self._member and not self.ok:
            return None
        return self._ring.owner(room)

    def watch(self, on_change: Callable[[Change], None]) -> None:
        """Call `on_change` after each change of the ring, as `Cluster.watch`."""
        self._watching.append(on_change)
        ring = self._ring
        if ring.version:
            _tell(on_change, Change(ring.version, ring.workers, (), ring.owned_slots(), ()))

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics."""
        return {
            "ring_ok": int(self.ok),
            "ring_version": self._ring.version,
            "ring_workers": len(self._ring.workers),
            "ring_owned_slots": len(self._ring.owned_slots()) if self.ok else 0,
            "ring_changes_total": self._changes,
            "ring_lost_leases_total": self._lost_leases,
            **self._inbox.stats(),
        }

    # -- beats ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Beat when it is time, and let go of what the lease does not cover any more."""
        now = self._clock.monotonic()
        expired = self._ring.expire(now)
        if expired is not None:
            self._lost_leases += 1
            log.warning("no beat was answered in time: this worker owns nothing until one is")
            self._apply(expired)
        if now >= self._beat_due and not self._beating and self._inbox.ready:
            self._beat(now)
        self._inbox.tick()

    def _beat(self, now: float) -> None:
        self._beating = True
        self._beat_due = now + self._beat_s
        ring, (channel, beats) = self._ring, self._keys
        if not self._member:
            look = ("FCALL", "rt1_ring", 2, channel, beats, ring.version)
            self._redis.send(self._slot, *look, then=self._looked)
            return
        placed = ring.has_place
        self._redis.send(
            self._slot,
            *("FCALL", "rt1_beat", 2, channel, beats),
            *(self.worker, self._ttl_ms, ring.version, int(placed)),
            then=partial(self._beaten, now, placed),
        )

    def _beaten(self, sent: float, placed: bool, reply: Reply | Exception) -> None:
        self._beating = False
        if not isinstance(reply, list):
            self._beat_failed(reply)
            return
        self._note(failing=False)
        if not self._member:
            return  # it has left meanwhile
        news = _answered(reply)
        if reply[0]:
            now = self._clock.monotonic()
            self._apply(self._ring.beaten(sent, now, news, placed=placed))
        else:
            log.warning("this worker was taken for dead, and takes a new place")
            self._apply(self._ring.removed())
            if news is not None:
                self._apply(self._ring.heard(news))
        if placed and not self._ring.has_place:
            self._beat(self._clock.monotonic())

    def _looked(self, reply: Reply | Exception) -> None:
        self._beating = False
        if not isinstance(reply, list):
            self._beat_failed(reply)
        elif (news := _answered(reply)) is not None:
            self._apply(self._ring.heard(news))

    def _beat_failed(self, error: object) -> None:
        self._beat_due = min(self._beat_due, self._clock.monotonic() + RETRY_S)
        self._note(failing=True, why=error)

    def _note(self, *, failing: bool, why: object = None) -> None:
        """Log the first beat that failed, and the first that was answered again."""
        if failing and not self._failing:
            log.warning("the ring does not answer: %s", why)
        elif self._failing and not failing:
            log.info("the ring answers again")
        self._failing = failing

    # -- news -----------------------------------------------------------------------------------------------

    def _hear(self, payload: bytes) -> None:
        """Take what was published of a change."""
        try:
            head, *workers = payload.decode().split("\n")
            version, before = head.split(" ")
            news = News(int(version), int(before), tuple(map(WorkerId, workers)))
        except ValueError:
            log.warning("%d bytes on the ring's channel are no news", len(payload))
            return
        had_place = self._ring.has_place
        self._apply(self._ring.heard(news))
        if had_place and not self._ring.has_place:
            log.warning("this worker was taken for dead, and takes a new place")
            self._beat_due = 0.0

    def _apply(self, change: Change | None) -> None:
        if change is None:
            return
        self._changes += 1
        for worker in change.left:
            self._inbox.gone(worker)
        for on_change in self._watching:
            _tell(on_change, change)


async def bury(redis: Redis, worker: WorkerId, *, prefix: str = "rt") -> None:
    """Remove a worker from the ring at once: one that leaves, or whose process is known to have ended.

    Raises:
        RedisError: Redis refuses.
        Unavailable: no answer; it is taken for dead after its TTL then.
    """
    channel, beats = ring_keys(prefix)
    await redis.ask(slot_of(channel), "FCALL", "rt1_bury", 2, channel, beats, worker)


def ring_keys(prefix: str) -> tuple[bytes, bytes]:
    """Return the keys of the ring; the first one is its channel too."""
    channel = f"{prefix}:{{ring}}".encode()
    return channel, channel + b":b"


def _answered(reply: list[Any]) -> News | None:
    """Return the news in an answer, None where there are none."""
    if len(reply) < 4:
        return None
    return News(reply[1], reply[2], tuple(WorkerId(each.decode()) for each in reply[3]))


def _tell(on_change: Callable[[Change], None], change: Change) -> None:
    try:
        on_change(change)
    except Exception:  # whatever it is, it is this one's alone
        log.exception("a change of the ring was not taken")

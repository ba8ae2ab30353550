"""Chaotic clients of a cluster: those of `tests.chaos`, on any host, who give up on one that is silent."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from realtime.client import Gap, Options, RealtimeError, Room
from realtime.client.connection import Socket, Target
from tests.chaos.judge import Attempt, Place, Stay
from tests.chaos.member import Member, Seat, _is_in, type_for
from tests.chaos.sdk import SdkMember
from tests.chaos.wire import Acked, Said
from tests.cluster.judge import ClusterJudge, ClusterStay
from tests.cluster.world import ClusterWorld, after

CONNECT_S = 2.0
ANSWER_S = 4.0  # without an answer for so long, a client goes elsewhere
ASK_AGAIN_S = 0.25  # what was refused for now


class AnyGap(msgspec.Struct):
    """The content of `gap`: of offsets, or, without them, of all that a new epoch has taken."""

    first: int | None = msgspec.field(name="from", default=None)
    last: int | None = msgspec.field(name="to", default=None)
    reason: str = ""


class ClusterMember(Member):
    """A bare client."""

    _world: ClusterWorld
    _judge: ClusterJudge
    patience_s = ANSWER_S

    def __init__(self, world: ClusterWorld, name: str, rooms: list[str], seed: str) -> None:
        super().__init__(world, name, rooms, seed)
        self._asked_s: dict[int, float] = {}
        self._stalls = False

    @property
    def has_all(self) -> bool:
        stays = [seat.stay for seat in self._seats.values()]
        return all(is_at_the_end(stay) for stay in stays)

    def cut_if_silent(self) -> None:
        """Give up on a worker that has not answered for too long."""
        oldest = next(iter(self._waiting), None)
        if oldest is None or self._stalls or not self.online:
            return
        if self._world.now - self._asked_s[oldest] > self.patience_s:
            assert self.wire is not None
            self._world.happened("no answer")
            self.wire.cut("rst")

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await super()._connect()
        except BaseException:
            if self.online:
                assert self.wire is not None
                self.wire.cut("rst")
            raise

    async def _stall(self, seat: Seat) -> None:
        self._stalls = True
        try:
            await super()._stall(seat)
        finally:
            self._stalls = False
            for number in self._waiting:  # it was not the server that let them wait
                self._asked_s[number] = self._world.now

    def _send_attempts(
        self, seat: Seat, attempts: list[Attempt], asks: list[bool], *, one_frame: bool = False
    ) -> None:
        for attempt in attempts:
            attempt.connection = attempt.connection or f"{self.name}/{self._connections}"
        super()._send_attempts(seat, attempts, asks, one_frame=one_frame)

    def _on_push(self, said: Said, raw: bytes) -> None:
        seat = self._seats.get(said.room or "")
        if seat is not None and said.type == "gap":
            told = self._content(said, AnyGap)
            if told.first is None or told.last is None:
                assert isinstance(seat.stay, ClusterStay)
                seat.stay.turned()
                self._world.happened(f"gap {told.reason}")
                return
        super()._on_push(said, raw)

    def _on_joined(self, seat: Seat, floor: dict[str, int], said: Said) -> None:
        if said.type == "error":
            seat.asked = False
            self._on_refused(said)
            self._later(lambda: seat.asked or seat.stay.joined_now or self._join(seat))
            return
        super()._on_joined(seat, floor, said)

    def _on_withdrawn(self, seat: Seat, how: str, said: Said) -> None:
        if said.type == "error":  # it is in the room as before
            seat.asked = False
            self._on_refused(said)
            return
        if how == "passive" and seat.stay.here is None:  # told of a new epoch, of which nothing has come
            told = self._content(said, Acked)
            if told.epoch is not None and told.offset is not None:
                seat.stay.begin(Place(told.epoch, told.offset))
        super()._on_withdrawn(seat, how, said)
        assert isinstance(seat.stay, ClusterStay)
        seat.stay.is_passive = how == "passive"

    def _on_unread(self, stay: Stay, told: Acked) -> None:
        here = stay.here
        if here is not None and told.epoch is not None and here.epoch != told.epoch:
            later = self._judge.age(told.epoch) > self._judge.age(here.epoch)
            self._judge.expect(later, f"{stay} hears of unread messages up to {told}")
            return
        super()._on_unread(stay, told)

    def _on_ack(self, seat: Seat, attempt: Attempt, said: Said) -> None:
        before = len(attempt.answers)
        super()._on_ack(seat, attempt, said)
        if len(attempt.answers) > before:
            self._world.moves.acked(attempt.room, self._world.now)
        elif said.type == "error" and attempt.key is not None:
            self._later(lambda: self._again(seat, attempt))

    def _again(self, seat: Seat, attempt: Attempt) -> None:
        if attempt in seat.unanswered and _is_in(seat):
            self._send_attempts(seat, [attempt], [True])

    def _later(self, do: Callable[[], object]) -> None:
        """Do it in a moment, over the connection that there is now."""
        wire = self.wire

        def now() -> None:
            if self.wire is wire and self.online and not self._world.is_over:
                do()
                self._news.set()

        asyncio.get_running_loop().call_later(ASK_AGAIN_S, now)

    def _expect(self, answered: Callable[[Said], None]) -> int:
        number = super()._expect(answered)
        self._asked_s[number] = self._world.now
        return number


class Prober(ClusterMember):
    """A client that only publishes, steadily, so that one sees how long a room stands still for everybody."""

    patience_s = 1.0

    async def _act(self) -> None:
        for seat in self._seats.values():
            if _is_in(seat):
                self._numbers += 1
                content = {"by": self.name, "n": self._numbers, "pad": ""}
                room = seat.stay.books.name
                attempt = Attempt(self.name, self._numbers, room, f"k{self._numbers}", content)
                self._send_attempts(seat, [attempt], [True])

    def _on_ack(self, seat: Seat, attempt: Attempt, said: Said) -> None:
        super()._on_ack(seat, attempt, said)
        if attempt.answers:
            self._world.stalls.acked(attempt.room, self._world.now)


class ClusterSdk(SdkMember):
    """Our Python SDK: every connection of it goes to any host."""

    _world: ClusterWorld

    @property
    def has_all(self) -> bool:
        return all(is_at_the_end(seat.stay) for seat in self._seats)

    def _options(self) -> Options:
        return dataclasses.replace(
            super()._options(),
            open_timeout_s=None,
            handshake_timeout_s=CONNECT_S,
            ack_timeout_s=ANSWER_S,
            ping_interval_s=ANSWER_S / 2,
            pong_timeout_s=ANSWER_S / 2,
            backoff_cap_s=0.5,
        )

    async def _open(self, target: Target) -> Socket:
        host, port = self._world.address
        path = urlsplit(target.url).path
        for seat in self._seats:
            assert isinstance(seat.stay, ClusterStay)
            seat.stay.reconnects()
        return await super()._open(dataclasses.replace(target, url=f"ws://{host}:{port}{path}"))

    async def _published(self, room: Room, attempt: Attempt) -> None:
        while True:
            try:
                at = await room.publish(type_for(attempt), attempt.content, key=attempt.key)
                break
            except RealtimeError as error:
                if not error.retryable:
                    raise
                self._world.happened(error.code)
            await after(ASK_AGAIN_S)
            self._judge.sending(attempt)
        # Each over a connection of its own: only the SDK knows over which, and in which order it repeated.
        mark = f"{self.name}/{attempt.number}"
        place = Place(at.epoch, at.offset)
        self._judge.acked(attempt, place, None, mark, duplicate=at.duplicate and attempt.sends > 1)
        self._world.moves.acked(attempt.room, self._world.now)
        self._world.happened("duplicate" if at.duplicate else "ack")

    def _turned(self, stay: Stay, gap: Gap) -> None:
        assert isinstance(stay, ClusterStay)
        stay.turned()

    def _missed(self, stay: Stay, gap: Gap) -> None:
        """What a cluster's store lacks is a gap, too; whether it may lack it is judged by the last reader."""


def is_at_the_end(stay: Stay) -> bool:
    """Whether the member has received up to the last publication that anybody knows of."""
    assert isinstance(stay, ClusterStay)
    newest = stay.books.newest
    return newest is not None and stay.here == stay.books.end(newest)

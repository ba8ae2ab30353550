"""Two tenants in one server, and each of them alone: what a tenant sees must be the same in both.

Both play the same names: rooms, users, keys, token ids, positions. A tape says who does what, in what
order; it is played three times, with both tenants and with each alone. What a tenant received, was answered
and could ask for is compared byte by byte, so a leak of any kind shows: of contents, counts, presence, of
whether something exists, in the words of an error. Only what differs by itself is taken out: epochs stand as
numbers in the order of their appearance, and never may one tenant see an epoch of the other's.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.limits import Limits
from realtime.core.outside import HISTORY, MEMBERS, PUBLISH, Look, Publication
from realtime.errors import RealtimeError
from realtime.features import discover
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.policy import Quotas
from realtime.protocol.messages import FROM_CLIENT
from tests.core.world import Member, World
from tests.features.chat import samples as chat
from tests.oracles.hub import FakeClock, FakeHub

CATALOG = Catalog(discover())
TYPES = sorted(FROM_CLIENT.keys() | CATALOG.messages.keys())
"""Every type that a client may send."""
# Contents for types that take no free one; a new type that is to be played needs its own, here or where its
# feature's tests have them.
SAMPLES: dict[str, Any] = {"connect": None, "refresh": {"token": "alice"}}
USERS = ("alice", "bob", "carol")
IDS = ("1", "alice")
KEYS = ("once", "twice")
TOKEN_IDS = ("jti-1", "jti-2")
TENANTS = ("acme", "globex")
MARKER = "marker-of-"
GATED = "session"  # the kind of rooms that have a gate here
STRICT = Limits(
    connections_per_user=2,
    rooms_per_connection=2,
    rooms_per_tenant=4,
    connections_per_tenant=4,
    messages_per_second_per_tenant=12,
    deliveries_per_second_per_tenant=1,
    rate_burst_s=1,
    errors_burst=1e6,
    presence_grace_s=2.0,
    history_page=3,
)
LENIENT = structs.replace(
    STRICT, messages_per_second_per_tenant=1000, deliveries_per_second_per_tenant=0, connections_per_user=3
)
_ROOM = re.compile(rb'"room":"[^"]*"')
_EPOCH = re.compile(rb"epoch-\d{6}")


class Act(NamedTuple):
    """One thing that a tenant does: the verb, and what it needs."""

    tenant: str
    verb: str
    values: tuple[Any, ...]


def tape(rng: random.Random, length: int) -> list[Act]:
    """Return what both tenants do, in order; every type of message is sent by both."""
    acts = [
        Act(tenant, "send", (seat, type, room_for(rng, type), rng.choice(KEYS), rng.randrange(8)))
        for tenant, type, seat in itertools.product(TENANTS, TYPES, range(2))
    ]
    while len(acts) < length:
        verb = rng.choice(VERBS)
        acts.append(Act(rng.choice(TENANTS), verb, VALUES[verb](rng)))
    rng.shuffle(acts)
    seats = [Act(tenant, "arrive", (seat, USERS[seat % 3])) for tenant in TENANTS for seat in range(3)]
    return seats + acts


def content_of(type: str, text: str) -> Any:
    """Return a content for a feature's message that says `text`."""
    if type in chat.SAMPLES:
        return chat.sample(type, chat.About(text=text))[0]
    assert CATALOG.messages[type].content is None, f"a sample for {type}"
    return {"text": text}


def room_for(rng: random.Random, type: str) -> str:
    """Return a room for a message: of a kind that takes it, or of any."""
    message = CATALOG.messages.get(type)
    kinds = sorted(message.kinds if message is not None and message.kinds else CATALOG.kinds)
    return f"{rng.choice(kinds)}:{rng.choice(IDS)}" if rng.random() < 0.97 else "nothing:1"


def any_room(rng: random.Random) -> str:
    return f"{rng.choice(sorted(CATALOG.kinds))}:{rng.choice(IDS)}"


VALUES: dict[str, Callable[[random.Random], tuple[Any, ...]]] = {
    "arrive": lambda rng: (rng.randrange(6), rng.choice(USERS)),
    "vanish": lambda rng: (rng.randrange(6), rng.random() < 0.5),
    "join": lambda rng: (rng.randrange(6), any_room(rng), rng.randrange(4)),
    "rest": lambda rng: (rng.randrange(6), any_room(rng)),
    "send": lambda rng: (
        rng.randrange(6),
        type := rng.choice(TYPES),
        room_for(rng, type),
        rng.choice(KEYS),
        rng.randrange(8),
    ),
    "kick": lambda rng: (rng.choice(USERS), rng.choice((4503, 1000))),
    "kick tenant": lambda rng: (),
    "revoke user": lambda rng: (rng.choice(USERS),),
    "revoke token": lambda rng: (rng.choice(TOKEN_IDS),),
    "notify": lambda rng: (rng.choice(USERS), rng.randrange(4)),
    "publish": lambda rng: (any_room(rng), rng.choice((None, *USERS)), rng.choice((None, *KEYS))),
    "members": lambda rng: (any_room(rng),),
    "history": lambda rng: (any_room(rng), rng.choice((None, 2)), rng.choice((None, 1))),
    "quotas": lambda rng: (rng.choice((2, 4)),),
    "forget": lambda rng: (any_room(rng), rng.randrange(4)),
    "review": lambda rng: (f"{GATED}:{rng.choice(IDS)}", rng.choice((None, *USERS)), rng.random() < 0.5),
    "wait": lambda rng: (rng.choice((0.1, 0.1, 0.1, 0.5, 1.0, 3.0)),),
}
OFTEN = {"arrive": 12, "join": 12, "rest": 4, "send": 30, "publish": 8, "wait": 6, "notify": 3, "history": 3}
VERBS = [verb for verb in VALUES for _ in range(OFTEN.get(verb, 1))]


class Stage:
    """One world, in which one tenant plays, or both."""

    def __init__(self, tenants: tuple[str, ...], limits: Limits = LENIENT) -> None:
        clock = FakeClock()
        numbers = itertools.count()
        self.broker = MemoryBroker(clock, FakeHub(clock), epochs=lambda: b"epoch-%06d" % next(numbers))
        self.world = World(limits=limits, broker=self.broker, clock=clock)
        self.members: dict[tuple[str, int], Member] = {}
        self.heard: dict[str, list[bytes]] = {tenant: [] for tenant in tenants}
        self._tables: dict[str, Quotas] = {}
        self._banned: set[tuple[RoomId, str | None]] = set()
        self.world.core.membership.gates.add(GATED, self._admits)
        self._tokens()

    def play(self, acts: list[Act]) -> None:
        """Play what those do who are here; time passes for all alike."""
        for act in acts:
            if act.verb == "wait":
                self.world.pass_time(*act.values)
            elif act.tenant in self.heard:
                self._do(act)
            self._run_waiting()
            self._listen()

    # -- what a tenant does ---------------------------------------------------------------------------------

    def _do(self, act: Act) -> None:
        method = getattr(self, "_" + act.verb.replace(" ", "_"))
        try:
            said = method(act.tenant, *act.values)
        except RealtimeError as error:
            said = (error.code, error.message, error.limit, error.allowed, error.retry_after_s)
        self._note(act.tenant, act.verb, said)

    def _arrive(self, tenant: str, seat: int, user: str) -> str:
        if (tenant, seat) in self.members:
            self._vanish(tenant, seat, for_good=True)
        self.members[tenant, seat] = self._member(tenant, seat, user)
        return "in"

    def _member(self, tenant: str, seat: int, user: str) -> Member:
        identity = Identity(
            UserId(user),
            TenantId(tenant),
            expires_at=self.world.clock.time() + 1e6,
            issued_at=self.world.clock.time() + 0.001,
            token_id=TOKEN_IDS[seat % 2] + str(seat),
        )
        if seat % 3 == 2:  # by its first frame
            member = self.world.stranger(variant=seat & 1)
            self.world.tokens["now"] = identity
            member.send("connect", id="c", content={"token": "now"})
            return member
        self.world.core.admit(identity)
        return Member(self.world, seat & 1, identity)

    def _vanish(self, tenant: str, seat: int, for_good: bool) -> str:
        member = self.members.pop((tenant, seat), None)
        if member is None:
            return "nobody"
        self._read(tenant, seat, member)
        member.leave(for_good=for_good)
        return "gone"

    def _join(self, tenant: str, seat: int, room: str, since: int) -> None:
        content = {"since": {"offset": since, "epoch": self._epoch_of_other(tenant)}} if since else {}
        self._say(tenant, seat, "join", room, content)

    def _rest(self, tenant: str, seat: int, room: str) -> None:
        """Be passive in a room in which something is published then."""
        self._say(tenant, seat, "join", room, {})
        self._say(tenant, seat, "passive", room, {})
        self._publish(tenant, room, None, None)

    def _send(self, tenant: str, seat: int, type: str, room: str, key: str, how: int) -> None:
        if type in SAMPLES:
            content = SAMPLES[type]
            if type == "refresh":
                self.world.tokens["alice"] = Identity(UserId("alice"), TenantId(tenant))
        else:
            content = {} if type in FROM_CLIENT else content_of(type, MARKER + tenant)
        fields: dict[str, Any] = {"key": key} if how & 1 and type in CATALOG.messages else {}
        self._say(tenant, seat, type, room, content, **fields)

    def _say(self, tenant: str, seat: int, type: str, room: str, content: Any, **fields: Any) -> None:
        member = self.members.get((tenant, seat))
        if member is not None and member.connection.open:
            if content is not None:
                fields["content"] = content
            member.send(type, id="q", room=room, **fields)

    def _epoch_of_other(self, tenant: str) -> str:
        """An epoch that the other tenant has seen, where it is here; else any: neither is this one's."""
        other = next(each for each in TENANTS if each != tenant)
        seen = _EPOCH.findall(b"".join(self.heard.get(other, ())))
        return seen[-1].decode() if seen else "epoch-999999"

    def _kick(self, tenant: str, user: str, code: int) -> Any:
        return self._now(self.world.core.control.kick(user, tenant=tenant, code=code))

    def _kick_tenant(self, tenant: str) -> Any:
        return self._now(self.world.core.control.kick_tenant(tenant))

    def _revoke_user(self, tenant: str, user: str) -> Any:
        return self._now(self.world.core.control.revoke(tenant=tenant, user=user, keep_s=5))

    def _revoke_token(self, tenant: str, token_id: str) -> Any:
        return self._now(self.world.core.control.revoke(tenant=tenant, token_id=token_id + "0", keep_s=5))

    def _notify(self, tenant: str, user: str, priority: int) -> Any:
        send = self.world.core.notifications.send_notification
        return self._now(
            send(user_id=user, title=MARKER + tenant, content="", priority=priority, tenant=tenant, id="n")
        )

    def _publish(self, tenant: str, room: str, user: str | None, key: str | None) -> Any:
        type = sorted(CATALOG.types_by_kind[room.partition(":")[0]] - {"chat_typing"})[0]
        content = msgspec.json.encode({"text": MARKER + tenant})
        sender = None if user is None else UserId(user)
        return self._outside(
            PUBLISH, Publication(TenantId(tenant), RoomName(room), type, sender, content, key)
        )

    def _members(self, tenant: str, room: str) -> Any:
        return self._outside(MEMBERS, Look(TenantId(tenant), RoomName(room)))

    def _history(self, tenant: str, room: str, before: int | None, after: int | None) -> Any:
        if before is not None and after is not None:
            before = None
        return self._outside(HISTORY, Look(TenantId(tenant), RoomName(room), before, after, 5))

    def _quotas(self, tenant: str, rooms: int) -> None:
        self._tables[tenant] = Quotas(rooms=rooms)
        self.world.core.quotas.replace(dict(self._tables))

    def _review(self, tenant: str, room: str, user: str | None, banned: bool) -> Any:
        """Ban a user from a room, or everybody, or let them in again; those who are there are asked anew."""
        key = RoomId(TenantId(tenant), RoomName(room))
        (self._banned.add if banned else self._banned.discard)((key, user))
        return self._now(self.world.core.admission.review(key, None if user is None else UserId(user)))

    def _forget(self, tenant: str, room: str, upto: int) -> Any:
        return self._now(self.world.core.forget_history(RoomId(TenantId(tenant), RoomName(room)), upto))

    async def _admits(self, identity: Identity, room: RoomId) -> bool:
        return not {(room, None), (room, identity.user)} & self._banned

    def _outside(self, verb: str, body: Any) -> Any:
        """Ask as a process outside of the ring does."""
        cluster = self.world.core.cluster
        answer = self._now(cluster.ask(cluster.worker, verb, msgspec.msgpack.encode(body)))
        return msgspec.msgpack.decode(answer)

    # -- what it sees ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for (tenant, seat), member in list(self.members.items()):
            self._read(tenant, seat, member)
            if member.connection.closed is not None:
                self._note(tenant, f"seat {seat}", member.connection.closed)
                del self.members[tenant, seat]
                member.leave(for_good=True)

    def _read(self, tenant: str, seat: int, member: Member) -> None:
        for message in member.read():
            self._note(tenant, f"seat {seat}", message)

    def _note(self, tenant: str, what: str, said: Any) -> None:
        if said is not None:
            self.heard[tenant].append(what.encode() + b" " + msgspec.json.encode(_plain(said)))

    def _tokens(self) -> None:
        self.world.tokens["alice"] = Identity(UserId("alice"), TenantId("nowhere"))

    def _run_waiting(self) -> None:
        if self.world.waiting:
            self.world.run_waiting()

    def _now(self, coroutine: Any) -> Any:
        return asyncio.run(coroutine)


def _plain(value: Any) -> Any:
    """The same with bytes as text, in what decoders and receipts give."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def comparable(heard: list[bytes]) -> dict[bytes, list[bytes]]:
    """What was heard, by seat and room: news of several rooms that are due at once come in any order."""
    streams: dict[bytes, list[bytes]] = {}
    for each in heard:
        room = _ROOM.search(each)
        streams.setdefault(each[:7] + (room[0] if room else b""), []).append(each)
    return {name: _with_numbers(stream) for name, stream in streams.items()}


def _with_numbers(heard: list[bytes]) -> list[bytes]:
    """The same with epochs as numbers in the order in which they appeared."""
    numbers: dict[bytes, bytes] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return b"epoch %b" % numbers.setdefault(found[0], b"%d" % len(numbers))

    return [_EPOCH.sub(number, each) for each in heard]


def limits_of(seed: int) -> Limits:
    """Every second tape is played under rates that it meets again and again."""
    return STRICT if seed % 2 else LENIENT


def differences(seed: int, length: int) -> list[str]:
    """Play a tape of `length` acts; return what tenants could tell of each other, as sentences."""
    acts = tape(random.Random(seed), length)
    limits = limits_of(seed)
    both = Stage(TENANTS, limits)
    both.play(acts)
    found = []
    for tenant in TENANTS:
        alone = Stage((tenant,), limits)
        alone.play(acts)
        found += _first_difference(tenant, comparable(both.heard[tenant]), comparable(alone.heard[tenant]))
        other = next(each for each in TENANTS if each != tenant)
        if (MARKER + other).encode() in b"".join(both.heard[tenant]):
            found.append(f"{tenant} has read what is {other}'s")
    epochs = [set(_EPOCH.findall(b"".join(both.heard[tenant]))) for tenant in TENANTS]
    if epochs[0] & epochs[1]:
        found.append("both have seen the same epoch")
    return found


def _first_difference(
    tenant: str, beside: dict[bytes, list[bytes]], alone: dict[bytes, list[bytes]]
) -> list[str]:
    for name in sorted(beside.keys() | alone.keys()):
        pairs = itertools.zip_longest(beside.get(name, []), alone.get(name, []), fillvalue=b"nothing")
        for one, other in pairs:
            if one != other:
                return [f"{tenant} sees beside the other: {one!r}, alone: {other!r}"]
    return []

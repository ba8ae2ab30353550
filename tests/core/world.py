"""A whole core in a test's hand: real features and broker, fake sockets and time, members who speak JSON."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any

import msgspec

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.auth import Grant, Identity
from realtime.core.catalog import Catalog
from realtime.core.cluster import Cluster, Whereabouts
from realtime.core.contracts import Broker
from realtime.core.core import Core
from realtime.core.database import Database
from realtime.core.feature import Feature
from realtime.core.limits import Limits
from realtime.core.revocations import RevocationList
from realtime.core.room_rules import RoomRules
from realtime.core.router import Spawn
from realtime.core.services import Services
from realtime.errors import TokenExpired, Unauthorized
from realtime.features import discover
from realtime.ids import TenantId, UserId
from realtime.policy import Access
from realtime.policy.loading import read_policy
from realtime.settings import Settings
from tests.oracles.hub import FakeClock, FakeConnection, FakeHub

Message = dict[str, Any]


class World:
    """A core and everything around it. `tokens` are the identities that tokens stand for. Features that keep
    tables of their own run where there is a `database`.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        features: Iterable[Feature] | None = None,
        broker: Broker | None = None,
        clock: FakeClock | None = None,
        cluster: Cluster | None = None,
        whereabouts: Whereabouts | None = None,
        revocations: RevocationList | None = None,
        audit: Auditor = NO_AUDITOR,
        rules: RoomRules | None = None,
        token_warning_s: float = 0.0,
        spawn: Spawn | None = None,
        database: Database | None = None,
        **broker_options: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.hub = FakeHub(self.clock)
        self.limits = limits or Limits()
        self.broker = broker or MemoryBroker(self.clock, self.hub, **broker_options)
        self.tokens: dict[str, Identity] = {}
        self.grants: dict[str, Grant] = {}
        self.judging: asyncio.Future[None] | None = None  # where it is set, room tokens are judged behind it
        self.waiting: list[Coroutine[Any, Any, None]] = []
        self.core = Core(
            Catalog(discover() if features is None else features),
            self.broker,
            self.hub,
            self.clock,
            greet=lambda number, identity: (
                b'{"type":"connected","content":{"user_id":"%b"}}' % identity.user.encode()
            ),
            spawn=spawn or self.waiting.append,
            authenticator=self,
            limits=self.limits,
            cluster=cluster,
            whereabouts=whereabouts,
            revocations=revocations,
            audit=audit,
            rules=rules,
            token_warning_s=token_warning_s,
            services=None if database is None else self._services(database),
        )

    def _services(self, database: Database) -> Services:
        """What features run with."""
        spawn = self.waiting.append
        return Services(settings=Settings(), clock=self.clock, spawn=spawn, database=database)

    def grant(self, token: str) -> Grant | Awaitable[Grant]:
        if token not in self.grants:
            raise Unauthorized("no such token")
        return self.grants[token] if self.judging is None else self._judged(self.judging, token)

    async def _judged(self, judging: asyncio.Future[None], token: str) -> Grant:
        await judging
        return self.grants[token]

    def authenticate(self, token: str) -> Identity:
        identity = self.tokens.get(token)
        if identity is None:
            raise Unauthorized
        if identity.expires_at is not None and identity.expires_at <= self.clock.time():
            raise TokenExpired
        return identity

    def member(
        self,
        user: str,
        *,
        tenant: str = "default",
        roles: Iterable[str] = (),
        variant: int = 0,
        expires_in: float | None = None,
    ) -> Member:
        """Connect a user who has authenticated."""
        expires_at = None if expires_in is None else self.clock.time() + expires_in
        identity = Identity(UserId(user), TenantId(tenant), frozenset(roles), expires_at=expires_at)
        self.core.admit(identity)
        return Member(self, variant, identity)

    def stranger(self, *, variant: int = 0, user: str | None = None) -> Member:
        """Connect somebody who has not authenticated, and is to be `user` where that is given."""
        return Member(self, variant, None, None if user is None else UserId(user))

    def rule(self, *rules: dict[str, Any], default: str = "allow") -> None:
        """Let these rules of a policy hold, for those who are in rooms too."""
        policy = read_policy({"access": {"default": default, "rules": list(rules)}}, "test")
        self.core.prepare_access(policy.access)()
        self.run_waiting()

    def rule_rooms(self, *rules: dict[str, Any]) -> None:
        """Let these rules of rooms hold, for those that are live too."""
        self.core.rules.replace(read_policy({"rooms": list(rules)}, "test").rooms)
        self.core.prepare_access(Access())()
        self.run_waiting()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a tick at its end."""
        self.clock.advance(seconds)
        self.core.tick()

    def run_waiting(self) -> None:
        """Run what has been spawned, to its end."""

        async def run() -> None:
            while self.waiting:
                await self.waiting.pop(0)

        asyncio.run(run())


class Member:
    """One client: it sends messages and reads what it gets."""

    def __init__(
        self, world: World, variant: int, identity: Identity | None, user: UserId | None = None
    ) -> None:
        self._world = world
        self._ids = itertools.count(1)
        self._unread: list[Message] = []
        self.connection = FakeConnection(variant, world.hub)
        self.session = world.core.connect(self.connection, identity, user)

    def send(self, type: str, **fields: Any) -> None:
        """Send one message; `fields` are the envelope's other keys, as given."""
        self.send_frame({"type": type, **fields})

    def send_frame(self, *messages: Message) -> None:
        """Send several messages in one frame."""
        if self.connection.binary:
            self.send_bytes(msgspec.msgpack.encode(messages))
        else:
            self.send_bytes("\n".join(map(json.dumps, messages)).encode())

    def send_bytes(self, payload: bytes) -> None:
        self._world.core.receive(self.session, payload)

    def read(self) -> list[Message]:
        """Return what has come since the last look, in order."""
        unread, self._unread = self._unread + self.connection.messages(), []
        return unread

    def pushes(self, type: str | None = None) -> list[Message]:
        """Read, and return what is numbered, or of a type."""
        wanted = (lambda each: "offset" in each) if type is None else (lambda each: each["type"] == type)
        return [each for each in self.read() if wanted(each)]

    def ask(self, type: str, **fields: Any) -> Message:
        """Send one message with an id and return its answer; everything else stays unread."""
        id = next(self._ids)
        self.send(type, id=id, **fields)
        return self.answer(id)

    def answer(self, id: int | str) -> Message:
        """Return the one answer to `id`."""
        unread = self.read()
        answers = [each for each in unread if each.get("id") == id]
        assert len(answers) == 1, f"{len(answers)} answers to {id!r} in {unread}"
        self._unread = [each for each in unread if each is not answers[0]]
        return answers[0]

    def join(self, room: str, **since: Any) -> Message:
        """Join a room and return the content of `joined`."""
        joined = self.ask("join", room=room, content={"since": since} if since else {})
        assert joined["type"] == "joined", joined
        content: Message = joined["content"]
        return content

    def publish(self, room: str, content: Any = "x", *, type: str = "chat_message", **fields: Any) -> Message:
        """Publish and return the content of the ack."""
        ack = self.ask(type, room=room, content=content, **fields)
        assert ack["type"] == "ack", ack
        receipt: Message = ack["content"]
        return receipt

    def error(self, type: str, **fields: Any) -> str:
        """Send one message and return the name of the error that it gets."""
        answer = self.ask(type, **fields)
        assert answer["type"] == "error", answer
        name: str = answer["content"]["name"]
        return name

    def leave(self, *, for_good: bool = False) -> None:
        """Be gone, as a connection that breaks."""
        self.connection.gone()
        self._world.core.disconnect(self.session, for_good=for_good)

"""The core: rooms without I/O. The edge gives it connections, frames and ticks; it answers through them.

At the handshake `admit` an identity (or refuse it), `connect` it when its first message is there (so that a
silent connection has no session), `receive` each frame, `disconnect` when it is gone, or `release` what was
admitted and never connected. A connection that is to authenticate by its first frame is connected as None.
`tick` ten times a second.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from realtime.core.access import Access
from realtime.core.admission import Admission
from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.audit_inbox import AuditInbox
from realtime.core.auth import Authenticator, Identity
from realtime.core.catalog import Catalog
from realtime.core.cluster import Cluster, Whereabouts
from realtime.core.cluster_local import LocalCluster
from realtime.core.command import Order
from realtime.core.contents import decode
from realtime.core.contracts import Broker, Clock, Connection, Sockets
from realtime.core.control import Control
from realtime.core.doors import Doors
from realtime.core.entry import ConnectionWatcher, Entry, Greet
from realtime.core.feature import MessageType
from realtime.core.forgetting import Forgetting
from realtime.core.handover import HandOver
from realtime.core.headcount import Headcount
from realtime.core.limits import Crowd, Limits, Meters
from realtime.core.membership import FORBIDDEN, Membership
from realtime.core.notifications import NotificationManager
from realtime.core.operations import Operations
from realtime.core.outside import Outside, Publication
from realtime.core.owners import Owners
from realtime.core.publishing import Publisher
from realtime.core.queries import Queries
from realtime.core.quotas import QuotaBook, QuotaRefusals
from realtime.core.reviews import Reviews
from realtime.core.revocations import RevocationList, Revoked
from realtime.core.room_rules import RoomRules
from realtime.core.router import Router, Spawn
from realtime.core.services import Running, Services
from realtime.core.session import Handle, Handlers, Session
from realtime.core.signals import Signals
from realtime.core.tenant import Tenant, Tenants
from realtime.core.token_audit import TokenAudit
from realtime.core.users import Users
from realtime.errors import Unavailable
from realtime.ids import RoomId, TenantId, UserId, room_kind
from realtime.native.message import Envelope
from realtime.native.relay import Relay
from realtime.policy import Policy

log: Final = logging.getLogger("realtime.core")


def refuse_stranger(state: object, payload: bytes) -> None:
    """Take no frames but a session's: whoever calls `receive` with something else has a bug."""
    raise TypeError(f"a frame of {type(state).__name__}, which is no session")


class Core:
    """Sessions, rooms and what goes on between them, on one worker.

    `authenticator` is None where no token is taken (open mode). `greet` makes the content of `connected` for
    a connection that authenticates by its first frame. `spawn` runs what has to wait. `on_stranger` takes
    the frames that `receive` gets with a state that is no session. `cluster` is the ring that this worker is
    in, `whereabouts` counts users' connections for all of it and `headcount` tenants', `revocations` keeps
    for all what tokens are refused; without them it serves alone. `rules` say what the policy says of rooms,
    `audit` is told what is decided. So long before a token ends its bearer is told (`token_warning_s`, 0:
    never). `services` are for features that keep tables of their own: without them those do not run, and
    `running` is empty.
    """

    def __init__(
        self,
        catalog: Catalog,
        broker: Broker,
        fanout: Sockets,
        clock: Clock,
        *,
        greet: Greet,
        spawn: Spawn,
        authenticator: Authenticator | None = None,
        limits: Limits | None = None,
        on_stranger: Callable[[Any, bytes], object] = refuse_stranger,
        cluster: Cluster | None = None,
        whereabouts: Whereabouts | None = None,
        revocations: RevocationList | None = None,
        rules: RoomRules | None = None,
        audit: Auditor = NO_AUDITOR,
        headcount: Headcount | None = None,
        token_warning_s: float = 0.0,
        services: Services | None = None,
    ) -> None:
        limits = limits or Limits()
        self.quotas = QuotaBook(limits.quota)
        self.catalog = catalog
        self.rules, self.audit = rules or RoomRules(), audit
        self.cluster = cluster = LocalCluster(clock, spawn) if cluster is None else cluster
        self._broker = broker
        refusals = self._quota_refusals = QuotaRefusals(audit, clock, limits.tenant_metrics)
        self._tenant_metrics = limits.tenant_metrics
        router = self._router = Router(Meters(limits, clock), limits, spawn, audit, refusals)
        tenants = self._tenants = Tenants(self.quotas)
        self.access = access = Access(catalog, audit)  # for features that ask for permissions of their own
        self.token_audit, revoked = TokenAudit(audit), Revoked(clock)
        doors = Doors(self.rules, authenticator, revoked, clock, audit, limits.rooms_per_connection)
        governed = access, self.rules, doors
        self._membership = Membership(catalog, tenants, broker, fanout, clock, limits, router, *governed)
        reviews = Reviews(access, self._membership, fanout, spawn)
        self.prepare_access, self.review = reviews.prepare, reviews.begin  # the policy's part; all by it anew
        publisher = Publisher(catalog, broker, fanout, limits, self._membership)
        users = Users(fanout, limits)
        self._whereabouts, self._spawn = whereabouts, spawn
        stage = router, self._membership, tenants, users, clock, limits
        tokens = authenticator, greet, revoked, whereabouts, self.token_audit, token_warning_s
        self._entry = Entry(*stage, *tokens, self.quotas, refusals, headcount)
        ways = publisher.permit, publisher.publish_to, self._membership.visit
        self._owners = Owners(self, catalog, cluster, clock, *ways, spawn)
        queries = Queries(self._membership, fanout, limits)
        # One object each, by which the relay knows them: every `publisher.publish` would be another. They
        # take (session, envelope); features publish after they have checked, and `permit` gives the room.
        self.publish = publish = self._publish = publisher.publish
        self.signal_as_sent, self.permit = publisher.signal, publisher.permit
        ping = queries.ping
        bounds = limits.messages_per_frame, limits.content_bytes
        # (state, payload), for each message of a connection
        self.receive = Relay(router, fanout, publish, ping, on_stranger, *bounds).receive
        self.fail = self._router.fail  # (session, message, error), for what the edge does not let through
        outside = catalog, self._membership, publisher.publish_to, cluster, limits
        self._outside = Outside(*outside, self._order_from_outside)
        self.notifications = NotificationManager(users, fanout, limits, cluster, whereabouts)
        self.signals = Signals(broker, fanout, catalog, self._membership, users, cluster, whereabouts)
        self.control = self._make_control(users, fanout, revoked, revocations, clock)
        here = self._membership, tenants, users, fanout, self.signals
        self._operations = Operations(catalog, *here, self.control, cluster)
        self._open_counts(users, headcount)
        self._open_features(services, users, clock)
        self._entry.open(self._handlers(queries, ping))
        cluster.watch(self._owners.on_change)

    def admit(self, identity: Identity, number: int = 0) -> int:
        """Let in one more connection of `identity`, until its session ends or `release`.

        Return the key that it is to belong to at once: until it does, the next one is not told of it. Where
        the policy is to replace, the user's oldest connection is closed for it (4508). `number` is the
        connection's; without one (0) it is counted here alone, and not over all workers.

        Raises:
            TokenExpired: the identity's time has passed.
            Unauthorized: its token is revoked.
            ConnectionLimit: the user has as many connections as allowed.
        """
        return self._entry.admit(identity, number)

    def limit_addresses(self, crowd: Crowd) -> None:
        """Hold the messages of all connections of an address together, too, to what `crowd` says."""
        self._router.meters.crowd = crowd

    def watch_failures(self, watcher: Callable[[Session], object]) -> None:
        """Let somebody know of each session over whose message a handler has failed."""
        self._router.on_failure = watcher

    def watch_connections(self, watcher: ConnectionWatcher) -> None:
        """Let a feature know of each connection that is admitted, silent ones too, and when it is gone."""
        self._entry.watch(watcher)

    def release(self, identity: Identity, number: int = 0) -> None:
        """Give back an admission that no session was made of."""
        self._entry.release(identity, number)

    def connect(
        self,
        connection: Connection,
        identity: Identity | None,
        user: UserId | None = None,
        *,
        warned: bool = False,
    ) -> Session:
        """Make the session of a connection: of an admitted identity, or nobody's until it sends a token.

        Where `user` is given, only a token of that user will do. `warned`: it knows that its token ends.
        """
        return self._entry.connect(connection, identity, user, warned=warned)

    def connect_later(
        self, connection: Connection, pending: Awaitable[Identity], user: UserId | None, carrier: str
    ) -> Session:
        """Make the session of a connection whose handshake had a token (in `carrier`) that is being judged.

        It is greeted when that is done, or closed; what it sends meanwhile waits.
        """
        session, greeting = self._entry.connect_later(connection, pending, user, carrier)
        self._spawn(greeting)
        return session

    def disconnect(self, session: Session, *, for_good: bool = False) -> None:
        """End the session of a connection that is gone. Once per session.

        Its user lingers in its rooms for the grace period, unless it is gone `for_good`.
        """
        self._entry.disconnect(session, for_good=for_good)

    def tick(self) -> None:
        """Do what is due by the clock: the ring, presence, counts, expiry, forgetting."""
        self.cluster.tick()  # first: what is not ours any more is dropped before anything is done with it
        self._owners.tick()
        self._membership.rosters.tick()
        self._membership.tell_unread()
        self._entry.expire()
        self._membership.tell_doors()
        self.control.tick()
        self.admission.tick()
        self._forgetting.tick()
        if self._whereabouts is not None:
            self._whereabouts.tick()
        if self._headcount is not None:
            self._headcount.tick()
        for name, feature in self.running.items():
            try:
                feature.tick()
            except Exception:  # whatever it is, it is this feature's alone
                log.exception("feature %r failed over the clock", name)
        self._broker.tick()

    def order(
        self,
        room: RoomId,
        type: str,
        content: bytes,
        identity: Identity,
        *,
        trusted: bool = False,
        key: str | None = None,
    ) -> bytes | Awaitable[bytes]:
        """Have the owner of a room handle a command of a feature's own making, and return what it answers.

        It is in the name of `identity`; that they may is for the feature to see to. `trusted` and `key` as in
        `Order`.

        Raises (the awaitable too):
            Unavailable: there is no owner, for a while now; or it gave no answer, and may have done it.
            RealtimeError: what the handler answers with.
        """
        version = self._owners.version
        order = Order(version, room.tenant, room.room, type, content, key, identity, trusted)
        return self._owners.perform(order)

    def prepare_features(self, policy: Policy) -> Callable[[], None]:
        """Have the features that run prepare for a policy; return what lets it hold for all of them.

        Raises:
            SettingsError: one of them cannot follow it.
        """
        commits = [feature.prepare(policy) for feature in self.running.values()]

        def commit() -> None:
            for each in commits:
                each()

        return commit

    async def close(self) -> None:
        """Let features write what they still have to, when the last connection is gone."""
        for name, feature in self.running.items():
            try:
                await feature.close()
            except Exception:  # whatever it is, the others are closed too
                log.exception("feature %r was not closed", name)

    async def paid(self) -> None:
        """Wait until the publications that are being kept now are acknowledged, or refused."""
        await self._router.paid()

    @property
    def under_way(self) -> int:
        """How many commands of owners are being done, and how much is to be done again."""
        return self._owners.busy + len(self.admission) + len(self._forgetting)

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {
            "sessions": self._entry.sessions,
            "tenants": len(self._tenants),
            "rooms": self._membership.rooms,
            "passive_members": self._membership.passive_members,
            "room_token_sessions": len(self._membership.doors),
            "lingering_users": self._membership.rosters.lingering,
            "failures": self._router.failures,
            "denied": self.access.denied,
            "acks_owed": self._router.owed,
            **self._broker.stats(),
            **self._owners.stats(),
            **self.cluster.stats(),
            **self.control.stats(),
            **({} if self._whereabouts is None else self._whereabouts.stats()),
            **({} if self._headcount is None else self._headcount.stats()),
            **{name: value for each in self.running.values() for name, value in each.stats().items()},
        }

    def tenants_here(self) -> list[Tenant]:
        """Return the tenants that have anything here."""
        return self._tenants.all()

    def tenant_stats(self) -> dict[str, dict[str, float]]:
        """Gauges and counters of the tenants that /metrics is to name, by tenant and name."""
        return {name: self._stats_of(TenantId(name)) for name in self._tenant_metrics}

    def _stats_of(self, id: TenantId) -> dict[str, float]:
        tenant, allowance = self._tenants.find(id), self._entry.allowances.of_tenant(id)
        messages, octets, deliveries = (0.0, 0.0, 0.0) if allowance is None else allowance.total
        return {
            "connections": 0 if tenant is None else tenant.connections,
            "rooms": 0 if tenant is None else len(tenant.rooms),
            "messages": messages,
            "bytes": octets,
            "deliveries": deliveries,
            **{limit: count for (whose, limit), count in self._quota_refusals.counts.items() if whose == id},
        }

    def _open_features(self, services: Services | None, users: Users, clock: Clock) -> None:
        """Make what features ask the core for, and open those that run here."""
        membership, cluster, spawn = self._membership, self.cluster, self._spawn
        self.membership = membership  # rooms that are live here, and rights in them
        self.admission = Admission(membership, users, cluster, clock, spawn, FORBIDDEN)
        self._forgetting = Forgetting(self.catalog, self._broker, cluster, clock, spawn)
        self.forget_history = self._forgetting.forget  # (room, upto), after what is stored has changed
        self.running: dict[str, Running] = {}
        self.handover = HandOver(self, self._broker, self._entry, membership, self._router)
        if services is None:
            return
        for feature in self.catalog.features:
            if feature.open is not None:
                running = self.running[feature.name] = feature.open(self, services)
                for kind, gate in running.gates.items():
                    self._membership.gates.add(kind, gate)

    def _is_idle(self, message: MessageType) -> bool:
        """Whether the feature of a message is one that is opened, and does not run here."""
        feature = self.catalog.feature_of[message.name]
        return feature.open is not None and feature.name not in self.running

    def _order_from_outside(self, asked: Publication) -> bytes | Awaitable[bytes] | None:
        """Have the room's owner do what a back-end asks, in the name of a user or of nobody; None where the
        type is published as it stands.
        """
        message = self.catalog.messages[asked.type]
        own_kinds = {kind.name for kind in self.catalog.feature_of[asked.type].kinds}
        if message.owner is None or self._is_idle(message) or room_kind(asked.room) not in own_kinds:
            return None
        whose = Identity(asked.user or UserId(""), asked.tenant)
        version, content = self._owners.version, asked.content
        order = Order(version, asked.tenant, asked.room, asked.type, content, asked.key, whose, trusted=True)
        return self._owners.perform(order)

    def _open_counts(self, users: Users, headcount: Headcount | None) -> None:
        """Begin to count connections over all workers, where there are others."""
        self._headcount = headcount

        def evict_of_tenant(tenant: TenantId, user: UserId, number: int) -> None:
            users.evict_of_tenant(tenant, user, number, self.quotas.of(tenant).connections)

        if self._whereabouts is not None:
            self._whereabouts.open(users.evict)
        if headcount is not None:
            headcount.open(self.quotas, evict_of_tenant, self._entry.allowances.adjust)

    @property
    def errors(self) -> Mapping[str, int]:
        """How many messages were answered with an error since the start, by its code."""
        return self._router.errors

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many messages were refused over which limit, and connections closed, since the start."""
        return self._router.refusals

    def _make_control(
        self,
        users: Users,
        registry: Sockets,
        revoked: Revoked,
        revocations: RevocationList | None,
        clock: Clock,
    ) -> Control:
        audit = self.token_audit
        self._audit_inbox = AuditInbox(self.cluster, self.audit)
        return Control(users, registry, self._membership, revoked, clock, self.cluster, revocations, audit)

    def _handlers(self, queries: Queries, ping: Handle) -> Handlers:
        """Return what authenticated sessions may send, and who handles it."""
        handlers: Handlers = {
            "connect": self._entry.greet_again,
            "join": self._membership.join,
            "leave": self._membership.leave,
            "passive": self._membership.passive,
            "presence": queries.presence,
            "history": queries.history,
            "ping": ping,
            "refresh": self._entry.refresh,
        }
        for message in self.catalog.messages.values():
            handlers[message.name] = self._handler(message)
        return handlers

    def _handler(self, message: MessageType) -> Handle:
        """Return what handles a feature's message: its own handler, the owner of its room, or the publisher;
        content checked.
        """
        handle: Handle = self._publish
        if self._is_idle(message) and not message.plain:
            handle = _refuse_without_store
        elif message.handler is not None and not self._is_idle(message):
            handle = partial(message.handler, self)
        elif message.owner is not None and not self._is_idle(message):
            handle = self._owners.command
        elif message.ephemeral:
            handle = self.signal_as_sent
        if message.content is not None and not (message.plain and self._is_idle(message)):
            handle = _checked(handle, message.content, self._membership.is_end_to_end)
        if message.plain and not self._is_idle(message):
            as_it_stands = self.signal_as_sent if message.ephemeral else self._publish
            own_kinds = {kind.name for kind in self.catalog.feature_of[message.name].kinds}
            return self._in_own_rooms(own_kinds, handle, as_it_stands)
        return handle

    def _in_own_rooms(self, kinds: Collection[str], handle: Handle, as_it_stands: Handle) -> Handle:
        """Return what handles a plain type: its feature in rooms of its own kinds, nobody elsewhere."""

        def choose(session: Session, message: Envelope) -> Awaitable[None] | None:
            name = message.room or self.catalog.room_in(message.content)
            # Without a room it is nothing that could be published: its feature knows whether it needs one.
            own = name is None or name.partition(":")[0] in kinds
            return (handle if own else as_it_stands)(session, message)

        return choose


def _refuse_without_store(session: Session, message: Envelope) -> None:
    raise Unavailable(f"{message.type!r} needs a store: set sqlite_path or postgres_url")


def _checked(handle: Handle, content: object, is_sealed: Callable[[Session, Envelope], bool]) -> Handle:
    """Return `handle` behind a check that the content is what its type says, where that can be seen."""
    decoder = msgspec.json.Decoder(content)

    def check(session: Session, message: Envelope) -> Awaitable[None] | None:
        if not is_sealed(session, message):
            decode(decoder, message.content)
        return handle(session, message)

    return check

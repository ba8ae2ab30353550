"""One worker: the hub's sockets, the core's rooms, and what stands between them.

A connection begins without a Python object of its own. Its state is what the gate gave it (a shared token's
identity, or a constant) until its first message makes a session of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from realtime import __version__
from realtime.backends.auth.authenticator import TokenAuthenticator, authenticator_of
from realtime.backends.http_post import post
from realtime.core.auth import Authenticator, Identity
from realtime.core.catalog import Catalog
from realtime.core.contracts import Clock, Connection
from realtime.core.core import Core
from realtime.core.limits import Limits, rate_limited
from realtime.core.room_rules import RoomRules
from realtime.core.router import error_reason, limit_exceeded
from realtime.core.services import Services
from realtime.core.session import Session
from realtime.core.users import identity_of
from realtime.edge import metrics
from realtime.edge.address_limits import MessageRates
from realtime.edge.doorkeeper import Doorkeeper
from realtime.edge.drain import drain, drain_reason, rebalance_reason
from realtime.edge.expiry import SilentTokens
from realtime.edge.files import WorkerFiles
from realtime.edge.foundation import Foundation
from realtime.edge.gate import Deferred, Gate, Guest, Pending, State
from realtime.edge.guard import Guard
from realtime.edge.handover_state import Record
from realtime.edge.http import Handler, HttpServer, Routes, upgrade_required
from realtime.edge.network import NetworkRules
from realtime.edge.pages import Report, system_routes, web_routes
from realtime.edge.policies import Commit, Policies
from realtime.edge.shared_penalties import SharedPenalties
from realtime.edge.telemetry import LoopLag, worker_metrics
from realtime.edge.welcome import Welcome
from realtime.errors import CloseCode, RealtimeError, SettingsError
from realtime.features import discover
from realtime.ids import UserId
from realtime.native.encode import json_string
from realtime.native.envelope import scan, scan_msgpack
from realtime.native.hub import Hub
from realtime.policy import Policy
from realtime.protocol.closing import is_for_good
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

TICK_S: Final = 0.1
# The hub's clock stands still during a batch and the core's does not. By so much the core's count is wider,
# or it would refuse a message whose frame the hub has just let in, and its sender would pay twice.
RATE_SLACK_S: Final = 0.1
# How long whoever leaves one worker may be on the way to another: see Limits.presence_move_s.
PRESENCE_MOVE_S: Final = 0.6


class Worker:
    """Builds everything from the settings; `start` begins to serve, `drain` and `close` end it.

    Its rooms stand on `foundation`, which whoever made it closes after the worker.
    """

    hub_type: type[Hub] = Hub

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        connections_max: int,
        clock: Clock,
        foundation: Foundation,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._clock = clock
        self.foundation = foundation
        self._node = foundation.node
        self._tasks: set[asyncio.Task[None]] = set()
        self._lag = LoopLag()
        self._ticker: asyncio.TimerHandle | None = None
        self._retired = False
        self.settings = settings
        self.node = foundation.node
        self.record = Record()
        self._listening: socket.socket | None = None
        self._audit = foundation.audit
        self._policies = Policies(settings, self._audit)
        self._rules = RoomRules()
        self._authenticator = authenticator = _authenticator(settings, self._policies.current, clock)
        self.gate = Gate(settings, authenticator, self._audit)
        self.doorkeeper = Doorkeeper(clock, self._audit)
        self.guard = Guard(settings, clock, self._audit)
        self.doorkeeper.add(self.guard.arrive, self.guard.depart)
        self.hub = self._make_hub(connections_max)
        self.doorkeeper.serve(self.hub)
        self._welcome = Welcome(settings, self._node, self.hub, foundation.worker)
        self.files = None if foundation.database is None else WorkerFiles(settings, clock, discover())
        self.core = self._make_core(authenticator)
        SharedPenalties(self.guard, self.core.cluster)
        self.rates = MessageRates(settings, clock, self.guard.is_exempt)
        if self.rates:
            self.core.limit_addresses(self.rates)
        self.hub.deliver_to(self.core.receive)  # no Python of ours between them: it is the hot path
        self.silent = SilentTokens(clock, self.core.token_audit, settings.token_warning_s)
        self.gate.open(self.core, self._welcome, self.silent, self._defer)
        self.http = self._make_http()
        self.network = NetworkRules(
            self.hub,
            self.doorkeeper,
            allowed_origins=settings.allowed_origins,
            audit=self._audit,
            on_origins=self.gate.allow_origins,
            on_review=self.http.review,
        )
        self.guard.trust(self.network.trusts)
        self._follow_policy()

    def reload(self) -> bool:
        """Read the policy file anew, and what else may change; False where it will not do and nothing has."""
        return self._policies.reload()

    def _follow_policy(self) -> None:
        self._policies.follow(self._prepare_rooms)
        self._policies.follow(lambda policy: partial(self.core.quotas.replace, policy.tenants))
        self._policies.follow(self.network.prepare)
        self._policies.follow(self._prepare_issuers)
        self._policies.follow(self.core.prepare_features)
        # Last: it looks at who is in rooms, by all that holds then.
        self._policies.follow(lambda policy: self.core.prepare_access(policy.access, policy.rooms))

    def _prepare_rooms(self, policy: Policy) -> Commit:
        self.foundation.check_policy(policy)
        return partial(self._rules.replace, policy.rooms)

    def _prepare_issuers(self, policy: Policy) -> Commit:
        if self._authenticator is not None:
            return self._authenticator.prepare(policy)
        if policy.issuers:
            raise SettingsError("policy: issuers: this server began open, and stays so until it is restarted")
        return lambda: None

    def start(self, listening: socket.socket | None, admin: socket.socket | None = None) -> None:
        """Serve on a listening socket, which is the worker's from here on; without one it accepts nobody.

        On `admin` HTTP is answered too, until the worker is closed: while it drains as well.
        """
        if admin is not None:
            self.http.listen(admin)
        if listening is not None:
            self._listening = listening
            self.hub.listen(listening.fileno())
        self._loop.add_reader(self.hub.fileno(), self.hub.on_ready)
        self.foundation.start(self.core)
        self._schedule_tick()

    @property
    def stopping(self) -> bool:
        """Whether it has begun to drain."""
        return self.gate.draining

    async def drain(self) -> int:
        """Stop taking connections, close those there are; return how many had not closed in time."""
        self.gate.draining = True
        self._stop_listening()
        await self.foundation.leave()
        acks = self._loop.create_task(self.core.paid())
        return await drain(self.hub, self._settings, pending=lambda: {acks, *self._tasks})

    def close(self) -> None:
        """Stop at once: what is still open is cut."""
        self._stop_listening()
        if self._ticker is not None:
            self._ticker.cancel()
        self._loop.remove_reader(self.hub.fileno())
        self.http.close()
        if self.files is not None:
            self.files.close()
        if self._authenticator is not None:
            self._authenticator.close()

    async def closed(self) -> None:
        """Wait for what features still write, and let go of what they keep."""
        await self.core.close()
        if self.files is not None:
            await self.files.closed()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self.hub.stop_listening()
            self._listening.close()

    # -- handing over (edge/handover) -----------------------------------------------------------------------

    @property
    def ring_id(self) -> str:
        """Its id in the ring; empty where there is none."""
        return self.foundation.worker

    @property
    def busy(self) -> int:
        """How much is under way that cannot be handed over: it ends by itself, and soon."""
        return len(self._tasks) + self.core.handover.busy + self.foundation.busy

    def pause(self) -> None:
        """Serve nobody until `resume`, without a word to anybody; what is under way ends meanwhile."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._loop.remove_reader(self.hub.fileno())  # it stays readable, and the loop would turn for nothing
        self.hub.freeze()

    def resume(self) -> None:
        """Go on after `pause`, or begin where another process has stopped."""
        self.hub.thaw()
        self._loop.add_reader(self.hub.fileno(), self.hub.on_ready)
        self._schedule_tick()
        self._on_wake(0.0)

    def review(self) -> None:
        """Look again at all that another process let in, by what the policy says now: it may be another."""
        self.network.review_all()
        if not self.core.access.open or self._rules.any:
            self.core.review()

    def sockets(self) -> dict[str, int]:
        """Return the listening sockets, by what they are for."""
        admin = self.http.listening
        found = {"clients": self._listening, "admin": admin}
        return {name: each.fileno() for name, each in found.items() if each is not None}

    def foreign(self) -> Collection[Connection]:
        """Return the connections that are not the hub's own: they cannot move."""
        return ()

    async def retire(self, moved: Collection[Connection]) -> None:
        """Let go of what another process serves now, see off who could not move, and end.

        What is published here from now on nobody gets, so those are closed at once and not in slices; their
        reconnect window spreads them.
        """
        self._retired = self.gate.draining = True
        for connection in moved:
            self._let_go(connection)
        self._stop_listening()
        self.http.close()
        self.resume()
        rest = self.hub.connections()
        reason = drain_reason(self._settings, len(rest))
        for connection in rest:
            if isinstance(connection.state, Session):
                connection.state.close(CloseCode.SERVICE_RESTART, reason)
            else:
                connection.close(CloseCode.SERVICE_RESTART, reason)
        until = self._loop.time() + self._settings.drain_timeout_s
        while self.hub.connections() or self.http.connections:
            if self._loop.time() >= until:
                break
            await asyncio.sleep(TICK_S)
        self.close()

    def _let_go(self, connection: Any) -> None:
        try:
            self.hub.release(connection)
        except ValueError as error:  # it has ended by itself: the other process finds that out
            log.debug("connection %d was not let go of: %s", connection.id, error)

    # -- what the hub calls ---------------------------------------------------------------------------------

    def _on_early_message(self, state: State, payload: bytes) -> None:
        """Take the first message of a connection: it has no session yet."""
        self.core.receive(self._session(state, self.hub.current()), payload)

    def _on_limited(self, state: State, payload: bytes, limit: str, retry_after_s: float) -> None:
        """Answer a frame that is over a rate of its connection; its messages are not handled."""
        self._refuse_frame(self.hub.current(), payload, limit, retry_after_s)

    def _refuse_frame(self, connection: Connection, payload: bytes, limit: str, retry_after_s: float) -> None:
        session = self._session(connection.state, connection)
        error = rate_limited(limit, getattr(self._settings, limit), retry_after_s)
        scan_frame = scan_msgpack if session.binary else scan
        for message in scan_frame(payload, self._settings.messages_per_frame):
            if not self.core.fail(session, message, error):
                return  # it goes on and on: it is closed (4005)

    def _session(self, state: State, connection: Connection) -> Session:
        """Return the session of a connection, made now where it has none yet."""
        if isinstance(state, Session):
            return state
        if isinstance(state, Pending):
            session = self.core.connect(connection, None, state.user)
        elif isinstance(state, Deferred):
            session = self.core.connect_later(connection, state.take(), state.user, state.carrier)
        elif isinstance(state, Guest):
            session = self._guest_session(connection)
        else:
            assert isinstance(state, Identity)  # the hub answers an Echo by itself
            warned = self.silent.remove(state, connection.id)
            session = self.core.connect(connection, state, warned=warned)
        return session

    def _guest_session(self, connection: Connection) -> Session:
        """Return the session of a guest; nobody's, and closing, where the tenant is full."""
        identity = Identity(UserId(self._welcome.guest_name(connection.id)))
        try:
            self.core.admit(identity)
        except RealtimeError as error:
            session = self.core.connect(connection, None)
            session.close(error.close_code, error_reason(error))
            return session
        return self.core.connect(connection, identity)

    def _defer(self, state: Deferred) -> None:
        """See to a connection whose token waits for a key, as soon as the hub has let it in."""
        self._loop.call_soon(self._begin_deferred, state)

    def _begin_deferred(self, state: Deferred) -> None:
        if state.taken:
            return  # its first message has come already
        for connection in self.hub.connections_of(state.key):
            if connection.state is state:
                self._session(state, connection)
                return
        abandoned = state.take()  # it is gone before it was there
        if isinstance(abandoned, Coroutine):
            abandoned.close()

    def _on_close(self, state: State, code: int, reason: bytes, clean: bool) -> None:
        connection = self.hub.current()
        if code == CloseCode.SLOW_CONSUMER and not clean:  # the peer's own word for it would be clean
            who = identity_of(connection)
            self._audit.record(limit_exceeded(who, connection, "room_lag_limit", code))
        self._forget(state, connection.id, code)

    def _forget(self, state: State, number: int, code: int) -> None:
        """Let the core know that connection `number` is gone, closed with `code`."""
        if isinstance(state, Session):
            self.core.disconnect(state, for_good=is_for_good(code))
        elif isinstance(state, Identity):
            self.silent.remove(state, number)
            self.core.release(state, number)

    def _on_wake(self, delay_s: float) -> None:
        if delay_s > 0:
            self._loop.call_later(delay_s, self.hub.on_ready)
        else:
            self._loop.call_soon(self.hub.on_ready)

    def _on_http(self, fd: int, received: bytes, remote: str, forwarded: bool) -> None:
        # One request alone: the next on a proxy's connection may be that of a client who is not welcome.
        self.http.adopt(fd, received, remote, keep_alive=not forwarded)

    # -- time and tasks -------------------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        self._tick_due = self._loop.time() + TICK_S
        self._ticker = self._loop.call_at(self._tick_due, self._tick)

    def _tick(self) -> None:
        self._lag.observe(self._loop.time() - self._tick_due)
        self._schedule_tick()  # first, so that one failure does not stop time
        self.hub.tick()
        if self._retired:
            return  # all else is another process' now
        self.core.tick()
        self.doorkeeper.turned_away.tick()
        self.network.tick()
        self.guard.tick()
        self.foundation.tick()
        self.silent.tick(self.hub.connections)
        if self._authenticator is not None:
            self._authenticator.tick()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)  # or the collector may take it while it waits
        task.add_done_callback(self._tasks.discard)

    # -- what it is made of ---------------------------------------------------------------------------------

    def _make_hub(self, connections_max: int) -> Hub:
        settings = self._settings
        return self.hub_type(
            on_handshake=self.gate.on_handshake,
            on_message=self._on_early_message,
            on_limited=self._on_limited,
            on_close=self._on_close,
            on_http=self._on_http,
            on_wake=self._on_wake,
            on_offence=self.guard.offend,
            max_connections=connections_max,
            max_message_bytes=settings.max_message_bytes,
            max_head_bytes=settings.max_head_bytes,
            handshake_timeout_s=settings.handshake_timeout_s,
            heartbeat_s=settings.heartbeat_interval_s,
            close_timeout_s=settings.close_timeout_s,
            messages_per_second=settings.messages_per_second,
            message_burst=settings.messages_burst,
            control_frames_per_second=settings.control_frames_per_second,
            control_frames_burst=settings.control_frames_per_second * settings.rate_burst_s,
            bytes_per_second=settings.bytes_per_second,
            bytes_burst=settings.bytes_per_second * settings.rate_burst_s,
            accepts_per_second=settings.accepts_per_second,
            accepts_burst=settings.accepts_per_second * settings.rate_burst_s,
            max_age_s=settings.max_connection_age_s,
            max_age_reason=rebalance_reason(settings),
            unicast_limit_bytes=settings.queue_bytes(settings.unicast_limit_bytes),
            room_lag_limit_bytes=settings.queue_bytes(settings.room_lag_limit_bytes),
            room_lag_limit_messages=settings.room_lag_limit_messages,
            read_chunk_bytes=settings.read_chunk_bytes,
            flush_chunk=settings.flush_chunk,
            accept_batch=settings.accept_batch,
            rest_ratio=settings.room_rest_ratio,
            rest_max_s=settings.room_rest_max_ms / 1000,
            compression_level=settings.compression_level,
            compression_threshold=settings.compression_threshold_bytes,
        )

    def _make_core(self, authenticator: Authenticator | None) -> Core:
        return Core(
            Catalog(discover()),
            self.foundation.broker(self.hub, self._rules),
            self.hub,
            self._clock,
            greet=self._greet,
            spawn=self._spawn,
            authenticator=authenticator,
            limits=_limits(self._settings),
            on_stranger=self._on_early_message,
            cluster=self.foundation.cluster,
            whereabouts=self.foundation.whereabouts,
            revocations=self.foundation.revocations,
            rules=self._rules,
            audit=self._audit,
            headcount=self.foundation.headcount,
            token_warning_s=self._settings.token_warning_s,
            services=self._services(),
        )

    def _services(self) -> Services | None:
        """What features are opened with; None where there is no store for what they keep."""
        database = self.foundation.database
        if database is None or self.files is None:
            return None
        return Services(
            settings=self._settings,
            clock=self._clock,
            spawn=self._spawn,
            database=database,
            blobs=self.files.blobs,
            url_secret=self.files.url_secret,
            post=post,
        )

    def _greet(self, number: int, identity: Identity) -> bytes:
        return self._welcome.json(number, json_string(identity.user), identity.tenant)

    def _make_http(self) -> HttpServer:
        settings = self._settings
        pages, told = web_routes(), self._system_routes(settings.tells_all)
        paths = [settings.ws_path] + ([settings.echo_path] if settings.echo_path else [])
        under = dict.fromkeys(paths, upgrade_required)
        return HttpServer(
            Routes({**pages, **told}, under=under),
            fallback=None if self.files is None else self.files.factory,
            fallback_under=() if self.files is None else self.files.under,
            files_origin="/".join(settings.chat_files_url.split("/")[:3]),
            admin_routes=Routes({**pages, **self._system_routes(True)}, under=under),
            hsts_s=0 if settings.loopback else settings.tls_hsts_s,
            request_timeout_s=settings.handshake_timeout_s,
            head_bytes_max=settings.max_head_bytes,
        )

    def _system_routes(self, all_of_it: bool) -> dict[str, Handler]:
        """The probes, and for who may see them the metrics and the version: the rest is for strangers."""
        return system_routes(
            health=lambda: self._health(all_of_it),
            ready=self._ready,
            render_metrics=self._render_metrics if all_of_it else None,
        )

    def _health(self, all_of_it: bool) -> Report:
        version = {"version": __version__} if all_of_it else {}
        return Report(True, {"node": self._node, **version})

    def _ready(self) -> Report:
        """Whether traffic may be sent here, by what it depends on."""
        listener = "draining" if self.gate.draining else "ok"
        checks = {"listener": listener, **self.network.checks(), **self.foundation.checks()}
        files = {} if self.files is None else self.files.checks()
        return Report(all(state == "ok" for state in checks.values()), {"checks": {**checks, **files}})

    def _token_stats(self) -> Mapping[str, int]:
        return {} if self._authenticator is None else self._authenticator.stats()

    def _stats(self) -> Mapping[str, float]:
        return {
            **self.core.stats(),
            **self.foundation.stats(),
            **self.record.stats(),
            **self.network.stats(),
            **self.guard.stats(),
            **self._token_stats(),
            **({} if self.files is None else self.files.stats()),
        }

    def _render_metrics(self) -> bytes:
        worker = self.foundation.worker
        return metrics.render(
            worker_metrics(
                self.hub.stats(),
                self._stats(),
                refusals={
                    limit: count + self.gate.refusals[limit] for limit, count in self.core.refusals.items()
                },
                arrivals=self.doorkeeper.turned_away.counts,
                offences=self.guard.offences,
                node=self._node,
                version=__version__,
                http=len(self.http.connections),
                lag=self._lag,
                tenants=self.core.tenant_stats(),
            ),
            # Workers share a port, so one target is any of them: each has series of its own.
            {"node": self._node, "worker": worker} if worker else {},
        )


def _authenticator(settings: Settings, policy: Policy, clock: Clock) -> TokenAuthenticator | None:
    """Return what judges tokens; None in open mode. The issuers of the policy are prepared with it later."""
    if settings.open_mode and not policy.issuers:
        return None
    return authenticator_of(
        (settings.jwt_secret, *settings.jwt_previous_secrets) if settings.jwt_secret else (),
        settings.jwt_algorithms,
        audiences=settings.jwt_audiences,
        leeway_s=settings.jwt_leeway_s,
        cache_tokens=settings.jwt_cache_tokens,
        clock=clock,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        connections_per_user=settings.max_connections_per_user,
        connection_limit_policy=settings.connection_limit_policy,
        rooms_per_connection=settings.max_rooms_per_connection,
        messages_per_frame=settings.messages_per_frame,
        messages_per_second=settings.messages_per_second,
        messages_burst=settings.messages_burst + 1 + settings.messages_per_second * RATE_SLACK_S,
        messages_per_second_per_user=settings.messages_per_second_per_user,
        messages_per_second_per_tenant=settings.messages_per_second_per_tenant,
        bytes_per_second_per_user=settings.bytes_per_second_per_user,
        bytes_per_second_per_tenant=settings.bytes_per_second_per_tenant,
        deliveries_per_second_per_user=settings.deliveries_per_second_per_user,
        deliveries_per_second_per_tenant=settings.deliveries_per_second_per_tenant,
        rate_burst_s=settings.rate_burst_s,
        connections_per_tenant=settings.connections_per_tenant,
        rooms_per_tenant=settings.rooms_per_tenant,
        storage_bytes_per_tenant=settings.storage_bytes_per_tenant,
        tenant_metrics=settings.tenant_metrics,
        content_bytes=settings.max_message_bytes,
        errors_per_second=settings.errors_per_second,
        errors_burst=settings.errors_burst,
        answer_bytes=settings.answer_bytes,
        presence_members=settings.presence_members,
        presence_grace_s=settings.presence_grace_s,
        presence_move_s=PRESENCE_MOVE_S if settings.redis_url else 0.0,
    )

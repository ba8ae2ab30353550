"""One worker: the hub's sockets, the core's rooms, and what stands between them.

A connection begins without a Python object of its own. Its state is what the gate gave it (a shared token's
identity, or a constant) until its first message makes a session of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final

from realtime import __version__
from realtime.backends.auth.authenticator import TokenAuthenticator, authenticator_by
from realtime.backends.http_post import notify, post
from realtime.core.auth import Authenticator, Identity
from realtime.core.catalog import Catalog
from realtime.core.contracts import Broker, Clock, Connection
from realtime.core.core import Core
from realtime.core.limits import rate_limited
from realtime.core.room_rules import RoomRules
from realtime.core.router import error_reason, limit_exceeded
from realtime.core.services import Services
from realtime.core.session import Session
from realtime.core.users import identity_of
from realtime.edge import metrics
from realtime.edge.address_limits import MessageRates
from realtime.edge.autoscale import Autoscaler
from realtime.edge.doorkeeper import Doorkeeper
from realtime.edge.drain import drain, rebalance_reason
from realtime.edge.expiry import SilentTokens
from realtime.edge.files import WorkerFiles
from realtime.edge.foundation import Foundation
from realtime.edge.gate import Deferred, Gate, Guest, Pending, State
from realtime.edge.guard import Guard
from realtime.edge.handover_state import Record
from realtime.edge.http import Handler, HttpServer, Routes, upgrade_required
from realtime.edge.limits_of import limits_of
from realtime.edge.load import LoadMeter
from realtime.edge.movable import Movable
from realtime.edge.network import NetworkRules
from realtime.edge.pages import Report, elsewhere_routes, system_routes, web_routes
from realtime.edge.policies import Commit, Policies
from realtime.edge.recorder import Recorder
from realtime.edge.returns import Returns
from realtime.edge.shared_penalties import SharedPenalties
from realtime.edge.shed import SHED, SHED_RATIO, Shedder
from realtime.edge.status import Reports
from realtime.edge.telemetry import Closes, Memory, Taken, worker_metrics
from realtime.edge.tracing import open_tracer
from realtime.edge.welcome import Welcome
from realtime.errors import CloseCode, RealtimeError, SettingsError
from realtime.features import discover
from realtime.ids import UserId
from realtime.native.encode import json_string
from realtime.native.envelope import scan, scan_msgpack
from realtime.native.histogram import Histogram
from realtime.native.hub import Hub
from realtime.policy import Policy
from realtime.protocol.closing import is_for_good
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

TICK_S: Final = 0.1


class Worker(Movable):
    """Builds everything from the settings; `start` begins to serve, `drain` and `close` end it.

    Its rooms stand on `foundation`, which whoever made it closes after the worker.
    """

    hub_type: type[Hub] = Hub
    supervised = False  # whether a supervisor watches the load of all of them

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        connections_max: int,
        clock: Clock,
        foundation: Foundation,
    ) -> None:
        self.settings = settings
        self._loop = loop
        self._clock = clock
        self.foundation = foundation
        self.node = foundation.node
        self._tasks: set[asyncio.Task[None]] = set()
        self.turns = 0  # how often the hub and the core have been looked after: what shows that it serves
        self._lag = Histogram()
        self._closes = Closes()
        self._memory = Memory()
        self._load = LoadMeter(
            clock.monotonic, connections_max=connections_max, accepts_per_second=settings.accepts_per_second
        )
        self._ticker: asyncio.TimerHandle | None = None
        self._retired, self._drained = False, 0
        self.record = Record()
        self._listening: socket.socket | None = None
        self.keeps_listening = False
        self._audit = foundation.audit
        self._policies = Policies(settings, self._audit)
        self._rules = RoomRules()
        self._tracer = open_tracer(settings, clock, foundation, loop)
        self._authenticator = authenticator = _authenticator(settings, self._policies.current, clock)
        self.gate = Gate(settings, authenticator, self._audit)
        self.doorkeeper = Doorkeeper(clock, self._audit)
        self.guard = Guard(settings, clock, self._audit)
        self.doorkeeper.add(self.guard.arrive, self.guard.depart)
        self._returns = Returns()
        self.hub = self._make_hub(connections_max)
        self.doorkeeper.serve(self.hub)
        self._welcome = Welcome(settings, self.node, self.hub, foundation.worker)
        self.files = None if foundation.database is None else WorkerFiles(settings, clock, discover())
        self.core = self._make_core(authenticator)
        SharedPenalties(self.guard, self.core.cluster)
        self._shedder = self._make_shedder()
        self.rates = MessageRates(settings, clock, self.guard.is_exempt)
        if self.rates:
            self.core.limit_addresses(self.rates)
        # Without tracing there is no Python of ours between them: it is the hot path.
        self._receive = self.core.receive if self._tracer is None else self._tracer.ingest(self.core.receive)
        self.hub.deliver_to(self._receive)
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
        about = self.node, self._timings, self._audit
        self.reports = Reports(self.core, self.hub, *about, self._checks, lambda: self.stopping)
        if foundation.cluster is not None:  # alone it has nobody to share with
            self.reports.offer(SHED, lambda: self._shedder.begin(settings.shed_ratio or SHED_RATIO))
        self._autoscaler = Autoscaler(
            settings, clock, notify, who=self.node, workers=self._count_workers, speaks=self._speaks
        )
        self.recorder = self._make_recorder()
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

    def start(
        self, listening: socket.socket | None, admin: socket.socket | None = None, *, kept: bool = False
    ) -> None:
        """Serve on a listening socket, which is the worker's from here on; without one it accepts nobody.

        On `admin` HTTP is answered too, until the worker is closed: while it drains as well. A socket that is
        `kept` by others goes on to listen without us: while we drain, who comes is told to come back, or
        would wait in its queue for as long as that takes.
        """
        self.keeps_listening = kept
        if admin is not None:
            self.http.listen(admin)
        if listening is not None:
            self._listening = listening
            self.hub.listen(listening.fileno())
        self._loop.add_reader(self.hub.fileno(), self.hub.on_ready)
        self.foundation.start(self.core)
        self._schedule_tick()

    def load(self) -> tuple[int, int]:
        """How many connections it has, and how many rooms with members."""
        return self.hub.stats()["connections"], self.core.stats()["rooms"]

    def serve_admin(self, fd: int) -> None:
        """Answer on the socket `fd`, which is ours from here on, what `admin` answers."""
        self.http.adopt_admin(fd)

    @property
    def stopping(self) -> bool:
        """Whether it has begun to drain."""
        return self.gate.draining

    async def drain(self) -> int:
        """Stop taking connections, close those there are; return how many had not closed in time."""
        self.gate.draining = True
        if not self.keeps_listening:
            self._stop_listening()
        # They go to the other workers, or alone to whoever comes after this one.
        takers = max(1, len(self.core.cluster.workers) - 1)
        await self.foundation.leave()
        acks = self._loop.create_task(self.core.paid())
        return await drain(
            self.hub,
            self.settings,
            pending=lambda: {acks, *self._tasks},
            returns_per_second=self._returns.per_second * takers,
            on_asked=self._note_drained,
        )

    def _note_drained(self, count: int) -> None:
        self._drained += count

    def close(self) -> None:
        """Stop at once: what is still open is cut."""
        self._stop_listening()
        if self._ticker is not None:
            self._ticker.cancel()
        self._autoscaler.close()
        self._loop.remove_reader(self.hub.fileno())
        self.http.close()
        if self.files is not None:
            self.files.close()
        if self._authenticator is not None:
            self._authenticator.close()

    async def closed(self) -> None:
        """Wait for what features still write, and let go of what they keep."""
        await self.core.close()
        await self.recorder.closed()
        if self.files is not None:
            await self.files.closed()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    def _count_workers(self) -> int:
        """How many workers there are, this one included."""
        cluster = self.foundation.cluster
        return 1 if cluster is None else max(1, len(cluster.workers))

    def _speaks(self) -> bool:
        """Whether this worker tells of scaling: the first of the ring does, unless a supervisor does."""
        cluster = self.foundation.cluster
        if self.supervised or cluster is None:
            return not self.supervised
        return cluster.ok and self.foundation.worker == min(cluster.workers, default="")

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self.hub.stop_listening()
            self._listening.close()

    # -- what the hub calls ---------------------------------------------------------------------------------

    def _on_early_message(self, state: State, payload: bytes) -> None:
        """Take the first message of a connection: it has no session yet."""
        self.core.receive(self._session(state, self.hub.current()), payload)

    def _on_limited(self, state: State, payload: bytes, limit: str, retry_after_s: float) -> None:
        """Answer a frame that is over a rate of its connection; its messages are not handled."""
        self._refuse_frame(self.hub.current(), payload, limit, retry_after_s)

    def _refuse_frame(self, connection: Connection, payload: bytes, limit: str, retry_after_s: float) -> None:
        session = self._session(connection.state, connection)
        error = rate_limited(limit, getattr(self.settings, limit), retry_after_s)
        scan_frame = scan_msgpack if session.binary else scan
        for message in scan_frame(payload, self.settings.messages_per_frame):
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
        self._closes.note(code)
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
        late_s = self._loop.time() - self._tick_due
        self._lag.observe(late_s)
        self._schedule_tick()  # first, so that one failure does not stop time
        self.hub.tick()
        if self._retired:
            return  # all else is another process' now
        self.core.tick()
        self.turns += 1
        self.doorkeeper.turned_away.tick()
        self.network.tick()
        self.guard.tick()
        self._returns.tick()
        self._shedder.tick()
        self.recorder.tick()
        self.foundation.tick()
        self.silent.tick(self.hub.connections)
        if self._authenticator is not None:
            self._authenticator.tick()
        hub = self.hub.stats()
        if self._load.tick(late_s, hub["connections"], hub["accepted"]):
            self._autoscaler.look(self._load.load)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)  # or the collector may take it while it waits
        task.add_done_callback(self._tasks.discard)

    # -- what it is made of ---------------------------------------------------------------------------------

    def _make_hub(self, connections_max: int) -> Hub:
        settings = self.settings
        return self.hub_type(
            on_handshake=self._returns.timed(self.gate.on_handshake),
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
            self._make_broker(),
            self.hub,
            self._clock,
            greet=self._greet,
            spawn=self._spawn,
            authenticator=authenticator,
            limits=limits_of(self.settings),
            on_stranger=self._on_early_message,
            cluster=self.foundation.cluster,
            whereabouts=self.foundation.whereabouts,
            revocations=self.foundation.revocations,
            rules=self._rules,
            audit=self._audit,
            headcount=self.foundation.headcount,
            token_warning_s=self.settings.token_warning_s,
            services=self._services(),
        )

    def _make_shedder(self) -> Shedder:
        return Shedder(
            self.hub,
            self.core.cluster,
            self._clock,
            spawn=self._spawn,
            returns_per_second=lambda: self._returns.per_second,
            stopping=lambda: self.stopping,
            least_ms=self.settings.reconnect_min_ms,
            ratio=self.settings.shed_ratio,
            delay_s=self.settings.shed_delay_s,
        )

    def _make_recorder(self) -> Recorder:
        recorder = Recorder(
            self.settings,
            self.hub,
            self.core.cluster,
            self._clock,
            self._audit,
            prefix=self.foundation.worker or self.node,
            catalog=self.core.catalog,
            policy=lambda: self._policies.current,
            loop=self._loop,
        )
        self.core.watch_failures(recorder.failed)
        return recorder

    def _make_broker(self) -> Broker:
        broker = self.foundation.broker(self.hub, self._rules)
        return broker if self._tracer is None else self._tracer.broker(broker)

    def _services(self) -> Services | None:
        """What features are opened with; None where there is no store for what they keep."""
        database = self.foundation.database
        if database is None or self.files is None:
            return None
        return Services(
            settings=self.settings,
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
        settings = self.settings
        pages = {**elsewhere_routes(), **web_routes()}
        told = self._system_routes(settings.tells_all)
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
        return Report(True, {"node": self.node, **version})

    def _ready(self) -> Report:
        """Whether traffic may be sent here, by what it depends on."""
        checks = self._checks()
        files = {} if self.files is None else self.files.checks()
        return Report(all(state == "ok" for state in checks.values()), {"checks": {**checks, **files}})

    def _checks(self) -> dict[str, str]:
        listener = "draining" if self.gate.draining else "ok"
        return {"listener": listener, **self.network.checks(), **self.foundation.checks()}

    def _token_stats(self) -> Mapping[str, int]:
        return {} if self._authenticator is None else self._authenticator.stats()

    def _stats(self) -> Mapping[str, float]:
        return {
            **self.core.stats(),
            **self.foundation.stats(),
            **self.record.stats(),
            "handover_phase": self.handover_phase,
            **self._returns.stats(),
            **({} if self._tracer is None else self._tracer.stats()),
            **self.recorder.stats(),
            **self.network.stats(),
            **self.guard.stats(),
            **self._token_stats(),
            **({} if self.files is None else self.files.stats()),
        }

    def _leaving(self, aged: int) -> Mapping[str, int]:
        """How many were asked to leave, by the reason; `aged` were too old."""
        return {"age": aged, "drain": self._drained, "handover": self.record.drained, **self._shedder.asked}

    def _timings(self) -> Mapping[str, Taken]:
        own = {"loop_lag": self._lag, **self.foundation.timings()}
        own_taken = {name: each.taken() for name, each in own.items()}
        return {**self.hub.timings(), **own_taken, "handover_pauses": self.record.taken()}

    def _render_metrics(self) -> bytes:
        worker = self.foundation.worker
        stats = self.hub.stats()
        told = worker_metrics(
            stats,
            self._stats(),
            refusals={
                limit: count + self.gate.refusals[limit] for limit, count in self.core.refusals.items()
            },
            arrivals=self.doorkeeper.turned_away.counts,
            offences=self.guard.offences,
            node=self.node,
            version=__version__,
            http=len(self.http.connections),
            errors=self.core.errors,
            closes=self._closes.counts,
            leaving=self._leaving(stats["aged"]),
            timings=self._timings(),
            load=self._load.load,
            connection_bytes=self._memory.per_connection(stats["connections"]),
            tenants=self.core.tenant_stats(),
        )
        scaling = () if self.supervised else self._autoscaler.metrics()
        # Workers share a port, so one target is any of them: each has series of its own.
        return metrics.render((*told, *scaling), {"node": self.node, "worker": worker} if worker else {})


def _authenticator(settings: Settings, policy: Policy, clock: Clock) -> TokenAuthenticator | None:
    """Return what judges tokens; None in open mode. The issuers of the policy are prepared with it later."""
    if settings.open_mode and not policy.issuers:
        return None
    return authenticator_by(settings, clock)

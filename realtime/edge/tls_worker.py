"""A worker that serves TLS too: its door, its certificates, and who comes in by it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from realtime.core.contracts import Clock
from realtime.edge.foreign import ForeignConnection
from realtime.edge.foundation import Foundation
from realtime.edge.mixed_worker import MixedWorker
from realtime.edge.policies import Commit
from realtime.edge.telemetry import Taken
from realtime.edge.tls import Certificates
from realtime.edge.tls_connection import TlsConnection
from realtime.edge.tls_door import TlsDoor, refuse
from realtime.errors import SettingsError
from realtime.native.address import unpack
from realtime.native.handshake import BadRequest, Request, accept_response, refusal_response
from realtime.native.hub import Refuse
from realtime.policy import Policy
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

BAD_FORWARDED: Final = Refuse(400, "the header of forwarded addresses cannot be read\n")
UNWELCOME: Final = Refuse(403, "this address may not connect\n")
OURS: Final = Refuse(500, "the handshake failed on our side\n")
BUSY: Final = refusal_response(503, b"too many HTTP connections\n", b"Retry-After: 1\r\n")


class Visitor(NamedTuple):
    """A client with a whole request: `received` begins with its head, `address` is packed."""

    transport: asyncio.Transport
    address: bytes
    request: Request
    received: bytes
    forwarded: bool  # by a proxy, whose connection it is


class TlsRequest:
    """A handshake as the gate reads it. Of extensions it says nothing: none is spoken over TLS."""

    def __init__(self, request: Request, address: str, connection_id: int) -> None:
        self.connection_id = connection_id
        self.address = address
        self.path = request.path
        self.query = request.query
        self._request = request

    def header(self, name: str) -> str | None:
        """Return the field's value (several lines joined by ", "), or None."""
        return None if name == "sec-websocket-extensions" else self._request.header(name)


class TlsWorker(MixedWorker):
    """A worker whose settings may name a `tls_port`; without one it is a `MixedWorker`."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        connections_max: int,
        clock: Clock,
        foundation: Foundation,
    ) -> None:
        super().__init__(settings, loop, connections_max, clock, foundation)
        self._door: TlsDoor | None = None
        if settings.tls_port:
            certificates = self._certificates = Certificates(settings, clock.time)
            self._policies.follow(_prepare_network)
            self._policies.follow(lambda policy: certificates.prepare())
            self._door = TlsDoor(settings, lambda: certificates.context, self, self.hub.counts)

    def listen_tls(self, listening: socket.socket) -> None:
        """Serve TLS on a listening socket, which is the worker's from here on."""
        assert self._door is not None
        self._door.open(listening)

    def sockets(self) -> dict[str, int]:
        """See `Worker`."""
        found = super().sockets()
        if self._door is not None and (listening := self._door.listening) is not None:
            found["tls"] = listening.fileno()
        return found

    def _stop_listening(self) -> None:
        super()._stop_listening()
        if self._door is not None:
            self._door.close()

    def _stats(self) -> Mapping[str, float]:
        if self._door is None:
            return super()._stats()
        return {
            **super()._stats(),
            "tls_arrivals": self._door.arrivals,
            "tls_certificate_expires_seconds": self._certificates.expires_s,
            "tls_crowded_out_total": self._door.crowded,
            "tls_handshake_failures_total": self._door.failures,
        }

    def _timings(self) -> Mapping[str, Taken]:
        if self._door is None:
            return super()._timings()
        return {**super()._timings(), "tls_handshakes": self._door.took.taken()}

    # -- what the door calls --------------------------------------------------------------------------------

    def arrive(self, address: bytes) -> bool:
        """See `tls_door.Host`."""
        return self.doorkeeper.arrive(address)

    def depart(self, address: bytes) -> None:
        """See `tls_door.Host`."""
        self.doorkeeper.depart(address)

    def offend(self, address: bytes, status: int) -> None:
        """See `tls_door.Host`."""
        self.guard.offend(address, status, False)

    def take(self, transport: asyncio.Transport, address: bytes, request: Request, received: bytes) -> None:
        """See `tls_door.Host`: a WebSocket, if the gate lets it in, or plain HTTP."""
        client = self.hub.client_of(address, request.header)
        if client is None:
            self._turn_away(transport, address, BAD_FORWARDED)
        elif client != address and not self._follow(address, client):
            self._turn_away(transport, address, UNWELCOME)
        else:
            self._serve(Visitor(transport, client, request, received, client != address))

    def _follow(self, proxy: bytes, client: bytes) -> bool:
        """Whether the client may come in whom a proxy speaks for; it then counts instead of the proxy."""
        if not self.doorkeeper.arrive(client):
            return False
        self.doorkeeper.depart(proxy)
        return True

    def _serve(self, visitor: Visitor) -> None:
        transport, address, request, received, forwarded = visitor
        try:
            upgrade = request.is_upgrade()
        except BadRequest as error:
            self._turn_away(transport, address, Refuse(error.status, f"{error.reason}\n"))
            return
        if upgrade:
            self._shake_hands(visitor)
            return
        self.depart(address)
        # As `_on_http`: the next request on a proxy's connection may be another client's.
        if not self.http.take_over(transport, received, address, keep_alive=not forwarded):
            refuse(transport, BUSY)

    def _shake_hands(self, visitor: Visitor) -> None:
        request = TlsRequest(visitor.request, unpack(visitor.address), self.hub.take_id())
        try:
            verdict = self.gate.on_handshake(request)
        except Exception:  # whatever it is, it is this connection's alone
            log.exception("a handshake failed", extra={"connection": request.connection_id})
            verdict = OURS
        if isinstance(verdict, Refuse):
            self._turn_away(visitor.transport, visitor.address, verdict)
            return
        key = (request.header("sec-websocket-key") or "").encode("latin-1")
        answer = accept_response(key, (verdict.subprotocol or "").encode("ascii"))
        connection = TlsConnection(
            request.connection_id,
            request.address,
            verdict,
            self.hub,
            self.settings,
            self._meter,
            self._on_frame,
            partial(self._on_end, visitor.address),
        )
        self.hub.counts["handshakes"] += 1
        # No await between the verdict and this: the user's next connection has to find this one.
        self.hub.take_in(connection)
        connection.begin(visitor.transport, verdict, answer, visitor.received[visitor.request.head_bytes :])

    def _turn_away(self, transport: asyncio.Transport, address: bytes, verdict: Refuse) -> None:
        self.hub.counts["refused"] += 1
        if not verdict.blameless:
            self.offend(address, verdict.status)
        self.depart(address)
        refuse(transport, refusal_response(verdict.status, verdict.body, verdict.headers.encode("latin-1")))

    def _on_end(self, address: bytes, connection: ForeignConnection, code: int) -> None:
        self.depart(address)
        if connection.closed_with:
            self.guard.offend(address, connection.closed_with, connection.admitted)
        self._forget(connection.state, connection.id, code)


def _prepare_network(policy: Policy) -> Commit:
    """Refuse what the door cannot keep: before TLS it reads nothing, so it cannot demand a PROXY header."""
    if policy.network.proxy_protocol == "required":
        raise SettingsError(
            "network.proxy_protocol is required, which tls_port cannot demand of who connects to it: "
            "terminate TLS in the proxy and leave tls_port off, or make it optional"
        )
    return lambda: None

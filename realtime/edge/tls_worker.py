"""A worker that serves TLS too: its door, its certificates, and who comes in by it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Final

from realtime.core.contracts import Clock
from realtime.edge.foreign import ForeignConnection
from realtime.edge.foundation import Foundation
from realtime.edge.mixed_worker import MixedWorker
from realtime.edge.tls import Certificates
from realtime.edge.tls_connection import TlsConnection
from realtime.edge.tls_door import TlsDoor, refuse
from realtime.native.handshake import BadRequest, Request, accept_response, refusal_response
from realtime.native.hub import Accept, Refuse
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

OURS: Final = Refuse(500, "the handshake failed on our side\n")
BUSY: Final = refusal_response(503, b"too many HTTP connections\n", b"Retry-After: 1\r\n")


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
            self._policies.follow(lambda policy: certificates.prepare())
            self._door = TlsDoor(settings, lambda: certificates.context, self, self.hub.counts)

    def listen_tls(self, listening: socket.socket) -> None:
        """Serve TLS on a listening socket, which is the worker's from here on."""
        assert self._door is not None
        self._door.open(listening)

    def _stop_listening(self) -> None:
        super()._stop_listening()
        if self._door is not None:
            self._door.close()

    def _stats(self) -> Mapping[str, int]:
        if self._door is None:
            return super()._stats()
        return {
            **super()._stats(),
            "tls_arrivals": self._door.arrivals,
            "tls_certificate_expires_seconds": self._certificates.expires_s,
            "tls_crowded_out_total": self._door.crowded,
            "tls_handshake_failures_total": self._door.failures,
        }

    # -- what the door calls --------------------------------------------------------------------------------

    def arrive(self, address: str) -> bool:
        """See `tls_door.Host`."""
        return True

    def depart(self, address: str) -> None:
        """See `tls_door.Host`."""

    def offend(self, address: str, status: int) -> None:
        """See `tls_door.Host`."""

    def take(self, transport: asyncio.Transport, address: str, request: Request, received: bytes) -> None:
        """See `tls_door.Host`: a WebSocket, if the gate lets it in, or plain HTTP."""
        try:
            upgrade = request.is_upgrade()
        except BadRequest as error:
            self._turn_away(transport, Refuse(error.status, f"{error.reason}\n"))
            return
        if not upgrade:
            if not self._http.take_over(transport, received, address):
                refuse(transport, BUSY)
            return
        number = self.hub.take_id()
        try:
            verdict = self._gate.on_handshake(TlsRequest(request, address, number))
        except Exception:  # whatever it is, it is this connection's alone
            log.exception("the handshake of connection %d", number)
            verdict = OURS
        if isinstance(verdict, Refuse):
            self._turn_away(transport, verdict)
        else:
            self._admit(transport, address, request, verdict, number, received)

    def _admit(
        self,
        transport: asyncio.Transport,
        address: str,
        request: Request,
        verdict: Accept,
        number: int,
        received: bytes,
    ) -> None:
        key = (request.header("sec-websocket-key") or "").encode("latin-1")
        answer = accept_response(key, (verdict.subprotocol or "").encode("ascii"))
        connection = TlsConnection(
            number, address, verdict, self.hub, self._settings, self._meter, self._on_frame, self._on_end
        )
        self.hub.counts["handshakes"] += 1
        # No await between the verdict and this: the user's next connection has to find this one.
        self.hub.adopt(connection)
        connection.begin(transport, verdict, answer, received[request.head_bytes :])

    def _turn_away(self, transport: asyncio.Transport, verdict: Refuse) -> None:
        self.hub.counts["refused"] += 1
        refuse(transport, refusal_response(verdict.status, verdict.body, verdict.headers.encode("latin-1")))

    def _on_end(self, connection: ForeignConnection, code: int) -> None:
        self._forget(connection.state, connection.id, code)

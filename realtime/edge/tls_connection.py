"""One WebSocket over TLS: our own frames on the event loop's transport, as the core sees connections.

The hub writes to sockets itself, which TLS does not allow, so this is the slower path: the same parser and
the same limits, in Python. It keeps to one write a turn, so that what comes together is one TLS record. There
is no permessage-deflate here: what is compressed under TLS tells by its length what is in it (CRIME), and
each connection would compress on its own what the hub compresses once for a room.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from realtime.edge.foreign import ForeignConnection, Meter
from realtime.edge.gate import Echo
from realtime.edge.mixed import MixedHub
from realtime.errors import CloseCode
from realtime.native.frames import Binary, Close, Fail, Ping, Pong, Reader, Text, encode
from realtime.native.hub import Accept
from realtime.protocol.closing import close_reason
from realtime.settings import KB, MB, Settings

log: Final = logging.getLogger("realtime.edge")

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FRAGMENTS_MAX: Final = 131_072  # as natively
ECHO_MESSAGE_BYTES: Final = 32 * MB  # as natively: the echo path serves conformance suites
EVENTS_A_TURN: Final = (
    32  # then the event loop gets its turn, or one that sends many would hold up the others
)
WRITE_BYTES: Final = 64 * KB  # of one write; the rest follows in the next turn
TRANSPORT_BYTES: Final = 64 * KB  # what the transport may hold before it says so
NO_HEARTBEAT: Final = close_reason("no_heartbeat")
FAILURES: Final = {1002: "not as RFC 6455 has it", 1007: "text is not UTF-8, or no sound data"}

Event = Text | Binary | Ping | Pong | Close | Fail


class TlsConnection(ForeignConnection, asyncio.Protocol):
    """A connection of the TLS listener, as `realtime.core.contracts.Connection`.

    `on_frame(connection, payload)` gets each whole message; it does not raise. `on_end(connection, code)` is
    called once, when the socket is gone and the hub has forgotten it.
    """

    def __init__(
        self,
        number: int,
        address: str,
        verdict: Accept,
        hub: MixedHub,
        settings: Settings,
        meter: Meter,
        on_frame: Callable[[TlsConnection, bytes], None],
        on_end: Callable[[TlsConnection, int], None],
    ) -> None:
        self._echo = isinstance(verdict.state, Echo) and not verdict.close_code
        self._message_bytes_max = ECHO_MESSAGE_BYTES if self._echo else settings.max_message_bytes
        queue_bytes = settings.queue_bytes(settings.unicast_limit_bytes)
        super().__init__(number, address, verdict, hub, settings, queue_bytes)
        self._meter = meter
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader = Reader(max_message_bytes=self._message_bytes_max, max_fragments=FRAGMENTS_MAX)
        self._events: deque[Event] = deque()  # read, and not handled yet
        self._turn_due = False
        self._flush_due = False
        self._writing_paused = False
        self._reading_paused = False
        self._pong: bytes | None = None  # only the latest ping needs an answer (RFC 6455, 5.5.3)
        self._close_sent = False
        self._peer_code = 0  # of the peer's close frame
        self._heard_at = self._loop.time()
        self._pinged = False
        self._beat: asyncio.TimerHandle

    def begin(self, transport: asyncio.Transport, verdict: Accept, answer: bytes, received: bytes) -> None:
        """Take over a transport: `answer` is the 101, `received` what came behind the request's head."""
        self._transport = transport
        transport.set_write_buffer_limits(high=TRANSPORT_BYTES)
        transport.set_protocol(self)
        transport.write(answer)
        self._beat = self._loop.call_later(self._settings.heartbeat_interval_s, self._on_beat)
        self._begin(verdict)
        if received:
            self.data_received(received)

    # -- what the transport calls -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what has come, frame by frame."""
        counts = self._hub.counts
        counts["bytes_in"] += len(data)
        self._heard_at = self._loop.time()
        self._pinged = False
        before = self._reader.frames
        events = self._reader.receive(data)
        frames = self._reader.frames - before
        counts["frames_in"] += frames
        whole = sum(not isinstance(event, Fail) for event in events)
        if frames > whole and not self._pay_fragments(frames - whole):
            return
        self._events.extend(events)
        if not self._turn_due:
            self._handle()

    def pause_writing(self) -> None:
        """The kernel takes no more: what waits stays in the outbox, which is bounded."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Go on where it was left."""
        self._writing_paused = False
        self._wake()

    def eof_received(self) -> bool:
        """The peer says no more: the loop's TLS keeps no half open, so it is over for both."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, then let the core know."""
        self._beat.cancel()
        self._events.clear()
        self._let_go()
        self._leave_hub()
        self._hub.counts["closed"] += 1
        code = self._ending.code if self._ending is not None else self._peer_code or CloseCode.ABNORMAL
        self._on_end(self, code)
        self.state = None  # a session knows its connection: see Outbox.end

    # -- reading ------------------------------------------------------------------------------------------

    def _pay_fragments(self, fragments: int) -> bool:
        """Count frames that are no message of their own; False when they are too many, and it is closed."""
        if self._echo or not self.open:
            return True
        limit, wait_s = self._meter.charge(self.id, 0, fragments)
        if not wait_s:
            return True
        self._hub.counts["rate_limited"] += 1
        allowed = getattr(self._settings, limit)
        self._fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments", limit=limit, allowed=allowed)
        return False

    def _handle(self) -> None:
        """Handle what was read, in its order, a few at a time; read on when it is done."""
        self._turn_due = False
        for _ in range(EVENTS_A_TURN):
            if not self._events or self._behind():
                break
            self._take(self._events.popleft())
        if self._events and not self._behind():
            self._turn_due = True
            self._loop.call_soon(self._handle)
        self._pause_reading(bool(self._events))

    def _behind(self) -> bool:
        """Whether so many answers wait that nothing more of it is handled."""
        if self._echo:
            return self.open and self._writing_paused
        return self.open and self.queued_bytes > self._high_water

    def _pause_reading(self, pause: bool) -> None:
        if pause == self._reading_paused or self._transport.is_closing():
            return
        self._reading_paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _take(self, event: Event) -> None:
        match event:
            case Text(payload=text):
                self._message(TEXT, text.encode())
            case Binary(payload=payload):
                self._message(BINARY, payload)
            case Ping(payload=payload):
                self._hub.counts["pings_in"] += 1
                if self._may(len(payload)):
                    self._pong = payload
                    self._wake()
            case Pong(payload=payload):
                self._hub.counts["pongs_in"] += 1
                self._may(len(payload))
            case Close(code=code):
                self._on_close_frame(code)
            case Fail(code=1009):
                self._fail(
                    1009, "message too large", limit="max_message_bytes", allowed=self._message_bytes_max
                )
            case Fail(code=code):
                self._fail(code, FAILURES[code])

    def _message(self, opcode: int, payload: bytes) -> None:
        if not self.open:
            return
        self._hub.counts["messages_in"] += 1
        if self._echo:
            self._transport.write(encode(opcode, payload))
        elif (opcode == BINARY) != self.binary:
            self._fail(CloseCode.UNSUPPORTED_DATA, "text or binary frames, as the subprotocol says")
        else:
            self._on_frame(self, payload)

    def _may(self, octets: int) -> bool:
        """Whether a ping may be answered. Who sends too many of them, or of pongs, is closed over it."""
        if self._echo or not self.open:
            return self.open
        if self._meter.floods(self.id):
            limit, allowed = "control_frames_per_second", self._settings.control_frames_per_second
            self._hub.counts["rate_limited"] += 1
            self._fail(CloseCode.TOO_MANY_ERRORS, "too many control frames", limit=limit, allowed=allowed)
            return False
        return not self._meter.charge(self.id, octets)[1]

    def _fail(
        self, code: int, reason: str, *, limit: str | None = None, allowed: float | None = None
    ) -> None:
        """Fail the WebSocket connection (RFC 6455, 7.1.7): a close frame, then nothing of it is handled."""
        self._hub.counts["protocol_errors"] += 1
        self._events.clear()
        self.close(code, close_reason(reason, limit=limit, allowed=allowed))

    def _on_close_frame(self, code: int) -> None:
        """Answer the peer's close frame, or see our own answered."""
        self._peer_code = code
        if self.open:
            self.open = False
            self._outbox.drop_rooms()
            self._set_deadline(self._settings.close_timeout_s, self.abort)
        self._wake()

    # -- writing ------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._flush_due and not self._writing_paused:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what waits, up to `WRITE_BYTES`: one write, and so one record where it is short."""
        self._flush_due = False
        if self._writing_paused or self._transport.is_closing():
            return
        pieces, more = self._collect()
        if not more and not self.open:
            pieces += self._last_words()
        if pieces:
            data = b"".join(pieces)
            self._hub.counts["bytes_out"] += len(data)
            self._hub.counts["sends"] += 1
            self._transport.write(data)
        if self._close_sent and self._peer_code:
            self._transport.close()
        elif more:
            self._wake()
        if self._reading_paused and not self._turn_due and not self._behind():
            self._handle()

    def _collect(self) -> tuple[list[bytes], bool]:
        """Take frames off the outbox; True with them where more is there."""
        pieces: list[bytes] = []
        size = 0
        if self._pong is not None:
            pieces.append(encode(PONG, self._pong))
            self._pong = None
        while size < WRITE_BYTES:
            taken = self._next()
            if taken is None:
                return pieces, False
            frame = encode(BINARY if self.binary else TEXT, taken.payload)
            self._outbox.done(taken)
            pieces.append(frame)
            size += len(frame)
        return pieces, True

    def _last_words(self) -> list[bytes]:
        """The close frame, ours or the answer to the peer's. Once."""
        if self._close_sent:
            return []
        self._close_sent = True
        if self._ending is not None:
            return [encode(CLOSE, self._ending.code.to_bytes(2, "big") + self._ending.reason)]
        code = self._peer_code
        return [encode(CLOSE, b"" if code == CloseCode.NO_STATUS else code.to_bytes(2, "big"))]

    # -- its life -----------------------------------------------------------------------------------------

    def close(self, code: int, reason: bytes = b"") -> None:
        """See `ForeignConnection`. What was not read for its answers is read again: the peer's own close."""
        super().close(code, reason)
        if self._reading_paused and not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._handle)

    def abort(self) -> None:
        """Be gone at once, without a word."""
        self.open = False
        self._outbox.drop_rooms()
        self._transport.abort()

    def _on_beat(self) -> None:
        """Ping a peer that was silent for one interval, close one that stayed silent for another."""
        interval_s = self._settings.heartbeat_interval_s
        silent_s = self._loop.time() - self._heard_at
        wait_s = interval_s
        if silent_s < interval_s:
            wait_s = interval_s - silent_s
        elif not self.open:
            return
        elif not self._pinged:
            self._pinged = True
            if not self._writing_paused:
                self._transport.write(encode(PING, b""))
        else:
            self._hub.counts["heartbeat_timeouts"] += 1
            self.close(CloseCode.NO_HEARTBEAT, NO_HEARTBEAT)
            return
        self._beat = self._loop.call_later(wait_s, self._on_beat)

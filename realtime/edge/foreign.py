"""A connection that the hub does not read or write itself, as the core sees connections.

Here is what all of them share: their queue, their user, their deadlines, how they are closed. How they read
and write is a subclass' own: `asgi_connection` on an ASGI server, `tls_connection` on a TLS transport.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from realtime.core.room import FOREIGN
from realtime.edge.drain import rebalance_reason
from realtime.edge.mixed import MixedHub
from realtime.edge.outbox import ForeignLog, Outbox, Taken
from realtime.errors import CloseCode
from realtime.native.hub import Accept
from realtime.native.ratelimit import Allowance, KeyedLimiter
from realtime.protocol.closing import close_reason
from realtime.settings import KB, Settings

log: Final = logging.getLogger("realtime.edge")

HIGH_WATER_BYTES: Final = 256 * KB  # while so many replies wait, what it sends is not read; as natively
METERED_CONNECTIONS: Final = 100_000
AGES: Final = (0.9, 1.1)  # of the allowed one, so that not all that came together go together
NOT_IN_TIME: Final = close_reason("authentication_timeout")


class Ending(NamedTuple):
    """The code and reason of the close frame that we send."""

    code: int
    reason: bytes


class ForeignConnection:
    """What the core calls, and the deadlines. `_wake` and `abort` are the subclass' part."""

    def __init__(
        self, number: int, address: str, verdict: Accept, hub: MixedHub, settings: Settings, queue_bytes: int
    ) -> None:
        self.id = number
        self.address = address
        self.state: Any = verdict.state
        self.binary = verdict.binary
        self.variant = FOREIGN | verdict.binary
        self.open = True
        self.admitted = not (verdict.pending or verdict.close_code)  # its peer has proved who it is
        self._hub = hub
        self._settings = settings
        self._user_key = 0
        self._high_water = min(queue_bytes // 2, HIGH_WATER_BYTES)
        self._outbox = Outbox(queue_bytes, self._wake, self._cut)
        self._ending: Ending | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._age: asyncio.TimerHandle | None = None

    @property
    def closed_with(self) -> int:
        """The code that we have closed it with; 0 where we have not."""
        return 0 if self._ending is None else self._ending.code

    # -- the subclass' part -------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Something waits to be written, or the connection begins to close."""
        raise NotImplementedError

    def abort(self) -> None:
        """Be gone at once."""
        raise NotImplementedError

    # -- what the core calls ------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """What waits for it alone, with the cost of queueing it."""
        return self._outbox.unicast_bytes

    def send(self, payload: bytes, urgent: bool = False) -> bool:
        """Queue one message, an urgent one ahead of all that is not; False when it takes no more."""
        if not self.open:
            return False
        self._outbox.send(payload, urgent=urgent)
        return self.open

    def close(self, code: int, reason: bytes = b"") -> None:
        """Begin the closing handshake: after what waits for it alone, not after what its rooms published."""
        if not self.open:
            return
        self.open = False
        self._ending = Ending(int(code), reason)
        self._outbox.drop_rooms()
        self._set_deadline(self._settings.close_timeout_s, self.abort)
        self._wake()

    def confirm(self) -> None:
        """It has authenticated: stop the handshake deadline."""
        if self.open and self._deadline is not None:
            self.admitted = True
            self._deadline.cancel()
            self._deadline = None

    def draw_on(self, allowance: Allowance | None) -> None:
        """Its socket is another server's, which reads it when it likes."""

    def belong(self, user_key: int) -> None:
        """Belong to a user until it is gone; no more to whom it belonged before."""
        if self._user_key != user_key:
            self._hub.list_under(user_key, self, self._user_key)
            self._user_key = user_key

    def join(self, log: ForeignLog) -> None:
        """Become a member of `log`: everything appended from now on. Idempotent."""
        if self.open:
            self._outbox.join(log)

    def leave(self, log: ForeignLog) -> None:
        """Get nothing more of `log`; what was appended before still comes. Idempotent."""
        self._outbox.leave(log, self.state)

    # -- its life -----------------------------------------------------------------------------------------

    def _begin(self, verdict: Accept) -> None:
        """Do what the gate said: greet it, give it its deadlines, or close it at once."""
        if verdict.user_key:
            self.belong(verdict.user_key)
        if verdict.welcome is not None:
            self.send(verdict.welcome)
        if verdict.pending:
            self._set_deadline(self._settings.handshake_timeout_s, self._not_in_time)
        if self._settings.max_connection_age_s:
            age_s = self._settings.max_connection_age_s * random.uniform(*AGES)
            self._age = asyncio.get_running_loop().call_later(age_s, self._too_old)
        if verdict.close_code:
            self.close(verdict.close_code, verdict.close_reason)

    def _let_go(self) -> None:
        """Take nothing more, and have no deadlines: it is about to be gone."""
        self.open = False
        self._outbox.drop_rooms()
        for timer in (self._deadline, self._age):
            if timer is not None:
                timer.cancel()

    def _leave_hub(self) -> None:
        """Be gone for the hub. Once, after `_let_go`."""
        self._hub.drop(self, self._user_key)
        self._outbox.end()

    def _next(self) -> Taken | None:
        """What is to be sent next; whatever goes wrong with telling what was missed ends this one alone."""
        try:
            return self._outbox.take(self.state)
        except Exception:
            log.exception("what a connection has missed was not told", extra={"connection": self.id})
            self.close(CloseCode.INTERNAL, close_reason("internal"))
            return self._outbox.take(self.state)  # of which no room is left

    def _cut(self, limit: str, allowed: int) -> None:
        self._hub.counts["slow_consumers"] += 1
        self.close(CloseCode.SLOW_CONSUMER, close_reason("slow_consumer", limit=limit, allowed=allowed))

    def _too_old(self) -> None:
        if self.open:
            self._hub.counts["aged"] += 1
            self.close(CloseCode.REBALANCE, rebalance_reason(self._settings))

    def _not_in_time(self) -> None:
        self._hub.counts["handshake_timeouts"] += 1
        self.close(CloseCode.NOT_AUTHENTICATED_IN_TIME, NOT_IN_TIME)

    def _set_deadline(self, seconds: float, then: Callable[[], None]) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, then)


class Meter:
    """What each connection sends a second, in frames and bytes; as the hub counts its own."""

    def __init__(self, settings: Settings) -> None:
        rate, burst = settings.messages_per_second, settings.messages_burst
        self._frames = KeyedLimiter(rate, burst, METERED_CONNECTIONS)
        self._control = None
        if settings.control_frames_per_second:
            rate = settings.control_frames_per_second
            self._control = KeyedLimiter(rate, max(1.0, rate * settings.rate_burst_s), METERED_CONNECTIONS)
        self._bytes = None
        if settings.bytes_per_second:
            burst = max(int(settings.bytes_per_second * settings.rate_burst_s), settings.max_message_bytes)
            self._bytes = KeyedLimiter(settings.bytes_per_second, burst, METERED_CONNECTIONS)

    def floods(self, number: int) -> bool:
        """Count one ping or pong of connection `number`; whether it has sent too many."""
        return self._control is not None and self._control.take(str(number)) > 0.0

    def charge(self, number: int, octets: int, frames: int = 1) -> tuple[str, float]:
        """Take what `frames` of connection `number` cost.

        Return the limit that refuses them, and how long for: 0.0 when none does.
        """
        key = str(number)
        wait_s = self._frames.take(key, frames)
        if wait_s or self._bytes is None:
            return "messages_per_second", wait_s
        return "bytes_per_second", self._bytes.take(key, octets)

"""How much one peer may take: the numbers, and the meters that hold them."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from realtime.core.contracts import Clock
from realtime.core.session import Session
from realtime.errors import RateLimited
from realtime.native.ratelimit import KeyedLimiter

# Connections whose buckets are remembered; those of silent ones are full again and forgotten by themselves.
METERED_CONNECTIONS: Final = 1_000_000
# Messages paid for at once: one call of the limiter (0.2 us) a chunk, not a message. It lets nobody send
# more than the rate, only up to a chunk of it later than it was paid for.
CREDIT_CHUNK: Final = 64


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit of the core. The edge fills them from the settings of the same names."""

    connections_per_user: int = 5
    connection_limit_policy: Literal["reject", "replace"] = "reject"  # what the one too many meets
    rooms_per_connection: int = 100
    messages_per_frame: int = 100
    messages_per_second: float = 100_000
    messages_burst: float = 100_000
    content_bytes: int = 64 * 1024
    errors_per_second: float = 1.0  # a connection that keeps causing more is closed (4509)
    errors_burst: float = 100
    history_page: int = 100  # publications in a `history` answer that names no limit
    history_page_max: int = 1000
    # Messages in one answer. More would not fit the peer's queue, and cut it off: a `history` stops there and
    # has more, a recovery over it is refused.
    answer_bytes: int = 512 * 1024
    presence_members: int = 100  # most members that are named; above it they are only counted
    presence_interval_s: float = 0.2
    presence_count_interval_s: float = 1.0
    backlog_messages: int = 1000  # waiting for a join of their session to finish


class Meters:
    """The token buckets of connections: messages and errors.

    The hub holds a connection's frames to the same rate, pings and empty ones included, and hands on what is
    within it; here the messages in them are counted, so that packing many into a frame gains nothing. A
    message is refused by one of the two, never by both, and whoever sends one a frame meets the hub's alone:
    the edge makes the burst here a little wider than there.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._messages = KeyedLimiter(
            limits.messages_per_second, limits.messages_burst, METERED_CONNECTIONS, clock=clock.monotonic_ns
        )
        self._errors = KeyedLimiter(
            limits.errors_per_second, limits.errors_burst, METERED_CONNECTIONS, clock=clock.monotonic_ns
        )
        self._chunk = max(1, min(CREDIT_CHUNK, int(limits.messages_burst) // 8))

    def pay(self, session: Session) -> None:
        """Take what the message at hand costs, and where there is more, for those that follow.

        Raises:
            RateLimited: the connection has sent what it may; the error says when to go on.
        """
        key = str(session.connection.id)
        if self._messages.take(key, self._chunk) == 0.0:
            session.credit = self._chunk - 1
            return
        wait_s = self._messages.take(key)
        if wait_s > 0.0:
            raise RateLimited(retry_after_s=wait_s)

    def count_error(self, session: Session) -> bool:
        """Count an error that the peer caused; False when it causes too many to be kept."""
        return bool(self._errors.take(str(session.connection.id)) == 0.0)

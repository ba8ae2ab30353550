"""What can be set about a client, with units and bounds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ssl import SSLContext

from realtime.client.clock import Clock, SystemClock
from realtime.client.connection import Connector, open_socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All times in seconds."""

    open_timeout_s: float | None = 30.0
    """How long `async with connect(...)` waits for the first connection; None waits for ever."""
    handshake_timeout_s: float = 10.0
    """One attempt to connect, and then the server's greeting."""
    ack_timeout_s: float = 10.0
    """From sending a request over a connection to its answer."""
    ping_interval_s: float = 15.0
    pong_timeout_s: float = 10.0
    """A server that sends nothing at all for so long after a ping is dead; at most `ping_interval_s`."""
    backoff_base_s: float = 0.5
    """First reconnect window where the server names none; it doubles with every attempt."""
    backoff_cap_s: float = 30.0
    pending_limit: int = 1000
    """Publishes waiting for their acks at once; further ones wait before they are sent."""
    inbox_limit: int = 1000
    """Items a room holds for its reader; above it the oldest become a Gap."""
    message_bytes_max: int = 16 * 1024 * 1024
    """Longest frame taken from the server."""
    ssl: SSLContext | None = None
    """How a wss:// server's certificate is checked; None: against the system's authorities."""
    clock: Clock = field(default_factory=SystemClock)
    uniform: Callable[[], float] = random.random
    """Jitter, in [0, 1)."""
    connector: Connector = open_socket

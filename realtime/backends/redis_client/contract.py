"""What the broker, the ring and the rest need of Redis: commands by slot, and sharded subscriptions."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

SLOTS = 16_384

# bytes for strings, None for nil; a map is a dict, a set a list.
Reply: TypeAlias = "bool | int | float | bytes | list[Any] | dict[Any, Any] | None"
Argument = bytes | str | int


class RedisError(Exception):
    """Redis refused a command. `code` is the reply's first word: `ERR`, or one of our functions' own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


Then = Callable[["Reply | Exception"], object]
"""Takes the reply, a RedisError, or Unavailable: not sent, or not answered, so nobody knows what was done."""


def slot_of(key: bytes) -> int:
    """Return the slot of a key or channel, as Redis Cluster has it: of its first {tag} where that has one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Subscriber(Protocol):
    """One subscription's other end. Called on the event loop."""

    def on_message(self, payload: bytes) -> None:
        """Take what was published, in the order of its node."""
        ...

    def on_subscribed(self) -> None:
        """It stands, for the first time or again: what was published before may have been missed."""
        ...

    def on_unsubscribed(self) -> None:
        """It does not stand (connection lost, slot moved): messages are missed until `on_subscribed`."""
        ...


class Redis(Protocol):
    """A cluster, or one node that stands for all slots."""

    @property
    def ok(self) -> bool:
        """Whether every slot has a master that answers."""
        ...

    def send(self, slot: int, *command: Argument, then: Then | None = None) -> None:
        """Queue a command for the master of `slot`; those of one turn of the event loop go as one write.

        `then` is called once, later and never from within. Commands of one slot are done in order, but a slot
        that moves may turn them round: who needs an order waits for the answer.
        """
        ...

    async def ask(self, slot: int, *command: Argument) -> Reply:
        """Return the reply.

        Raises:
            RedisError: the command was refused.
            Unavailable: not sent, or no answer in `timeout_s`.
        """
        ...

    def subscribe(self, channel: bytes, subscriber: Subscriber) -> None:
        """Subscribe to a sharded channel, once each; kept up over failures and moves until `unsubscribe`."""
        ...

    def unsubscribe(self, channel: bytes) -> None:
        """End it; nothing is called any more."""
        ...

    def stats(self) -> Mapping[str, int]:
        """Gauges and counters for /metrics, by name: `redis_…`."""
        ...

"""Which node has which slots: what nodes say of it, read."""

from __future__ import annotations

from typing import NamedTuple

from realtime.backends.redis_client.address import Endpoint
from realtime.backends.redis_client.contract import SLOTS, Reply


class Range(NamedTuple):
    """The slots from `first` to `last` are at `master`."""

    first: int
    last: int
    master: Endpoint


def read_slots(reply: Reply, asked: str) -> list[Range]:
    """Read the answer to CLUSTER SLOTS of the node at host `asked`.

    A master whose address the node does not know is left out. Raises ValueError: it is no such answer.
    """
    if not isinstance(reply, list):
        raise ValueError(f"CLUSTER SLOTS was answered with {reply!r}")
    found = []
    for entry in reply:
        match entry:
            case [int(first), int(last), [bytes() | None as host, int(port), *_], *_] if (
                0 <= first <= last < SLOTS and 0 < port < 65536
            ):
                name = host.decode("utf-8", "replace") if host else asked
                if name != "?":
                    found.append(Range(first, last, Endpoint(name, port)))
            case _:
                raise ValueError(f"CLUSTER SLOTS has {entry!r}")
    return found


def slots_in(ranges: list[Range]) -> int:
    """Return how many slots are at some node."""
    return sum(last - first + 1 for first, last, _ in ranges)


def read_redirect(message: str, asked: str) -> tuple[int, Endpoint]:
    """Read what follows MOVED or ASK: `3999 127.0.0.1:6381`. Without a host the one `asked` is meant.

    Raises ValueError: it is none.
    """
    words = message.split(" ")
    if len(words) != 2:
        raise ValueError(f"a redirect to {message!r}")
    host, colon, port = words[1].rpartition(":")
    slot = int(words[0])
    if not colon or not 0 <= slot < SLOTS or not 0 < int(port) < 65536 or host == "?":
        raise ValueError(f"a redirect to {message!r}")
    return slot, Endpoint(host.removeprefix("[").removesuffix("]") or asked, int(port))

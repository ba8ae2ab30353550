"""What things are called in Redis: a room's keys and its channel, and epochs as clients see them."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from realtime.backends.redis_client.contract import slot_of
from realtime.ids import RoomId

DIGITS: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"


class RoomNames:
    """One room's names. All of them begin with the channel's, and lie in one slot."""

    __slots__ = ("channel", "meta", "shared", "slot", "stream")

    def __init__(self, prefix: str, room: RoomId) -> None:
        self.channel = f"{prefix}:{{{room.tenant}/{room.room}}}".encode()
        self.meta = self.channel + b":m"
        self.stream = self.channel + b":s"
        self.shared = self.channel + b":p"
        self.slot = slot_of(self.channel)

    def idempotency(self, sender: bytes | None, key: str) -> bytes:
        """Return the name of what remembers `key` of `sender`.

        A digest: what a client chooses must not name another room's key.
        """
        digest = blake2b(
            (sender or b"") + b"|" + key.encode("utf-8", "surrogatepass"), digest_size=18
        ).digest()
        return self.channel + b":k:" + urlsafe_b64encode(digest)


@lru_cache(maxsize=10_000)
def epoch_text(epoch: int) -> bytes:
    """Return an epoch as clients see it: base 36."""
    digits = bytearray()
    while epoch:
        epoch, digit = divmod(epoch, 36)
        digits.append(DIGITS[digit])
    return bytes(digits[::-1]) or b"0"


def epoch_number(epoch: bytes) -> int:
    """Return the number that an epoch is the name of; 0 for what is no such name."""
    return int(epoch, 36) if epoch.isalnum() else 0

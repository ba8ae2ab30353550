"""What is sealed: AES-256-GCM under a data key that the box names, bound to where it belongs.

A box is its mark (one byte), the data key's id (8), the nonce (12), the ciphertext and its tag (16). No text
in UTF-8 has the mark anywhere, so a box is told from JSON and from an idempotency key by its first byte, and
what was kept in a room before it was encrypted stays readable.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from realtime.ids import TenantId

MARK: Final = b"\xf9"  # of this form; 0xf8 to 0xff are in no UTF-8 (RFC 3629, 3), so there is room for others
ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
HEAD_BYTES: Final = 1 + ID_BYTES + NONCE_BYTES
OVERHEAD_BYTES: Final = HEAD_BYTES + TAG_BYTES
"""By so much a box is larger than what is in it."""


class Tampered(Exception):  # noqa: N818 - what was done to the box
    """The box is not what was sealed here: it was changed, or is of another place."""


class DataKey:
    """One key of a tenant's. `name` is its id as people read it; its bytes show in no repr.

    `left` is how often this process may still seal with it: uses are taken from its table in blocks.
    """

    __slots__ = ("_aead", "id", "left", "number", "tenant")

    def __init__(self, tenant: TenantId, number: int, id: bytes, secret: bytes) -> None:
        if len(secret) != KEY_BYTES or len(id) != ID_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes and an id of {ID_BYTES}")
        self.tenant = tenant
        self.number = number
        self.id = id
        self.left = 0
        self._aead = AESGCM(secret)

    def __repr__(self) -> str:
        return f"DataKey({self.tenant}, {self.name})"

    @property
    def name(self) -> str:
        return self.id.hex()

    def seal(self, plain: bytes, place: bytes) -> bytes:
        """Return a box of `plain`, which opens at `place` alone.

        Nonces are random: after 2**32 of them two are the same with a probability of 2**-33, and that many
        are allowed a key (NIST SP 800-38D, 8.3). The keyring counts.
        """
        nonce = os.urandom(NONCE_BYTES)
        return b"".join((MARK, self.id, nonce, self._aead.encrypt(nonce, plain, place)))

    def open(self, box: bytes, place: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            Tampered: it was not sealed so, by this key, for this place.
        """
        nonce = box[1 + ID_BYTES : HEAD_BYTES]
        try:
            return self._aead.decrypt(nonce, box[HEAD_BYTES:], place)
        except InvalidTag:
            raise Tampered from None


def is_sealed(data: bytes) -> bool:
    """Whether it is a box, and no plain text."""
    return data[:1] == MARK


def key_id(box: bytes) -> bytes:
    """Return the id of the key that opens a box; cut off where the box is."""
    return box[1 : 1 + ID_BYTES]


def new_key() -> tuple[bytes, bytes]:
    """Return the id and the bytes of a key that nobody has."""
    return secrets.token_bytes(ID_BYTES), secrets.token_bytes(KEY_BYTES)


def place(what: str, *parts: bytes) -> bytes:
    """Return what a box is bound to: each part with its length before it: no two are the same."""
    named = (what.encode(), *parts)
    return b"".join(len(part).to_bytes(4, "little") + part for part in named)

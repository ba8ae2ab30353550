"""End-to-end rooms: keys that members share and the server never has, and what they seal and open.

A content is sealed with AES-256-GCM (NIST SP 800-38D) under a random nonce of 96 bits. Tenant, room, sender,
type, key id and version are bound to it: the server cannot show a message as another user's, in another room
or as another type. It can still drop, repeat or hold back messages, and it sees who writes where, when and
how much. Whoever has a key can read all that was ever sealed with it, and seal in the name of any member. How
members come by keys is the application's business.

The same bytes come from `realtime/web/seal.js`.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from realtime.client.errors import CannotSeal

log: Final = logging.getLogger("realtime.client")

VERSION: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
# With random nonces of 96 bits, 2^32 messages under one key keep a repeat below 2^-32 (SP 800-38D, 8.3).
MESSAGES_MAX: Final = 2**32
WORN_FROM: Final = MESSAGES_MAX // 2
ITERATIONS: Final = 600_000  # of PBKDF2-HMAC-SHA256, as OWASP advises (2023)
ITERATIONS_MIN: Final = 100_000
SALT_BYTES_MIN: Final = 8

_KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CONTEXT: Final = "realtime end-to-end"

Why = Literal["not_sealed", "unknown_key", "broken"]


class Place(NamedTuple):
    """Where a message stands, and whose it is: what its seal is bound to. The server's own has no sender."""

    tenant: str
    room: str
    sender: str | None
    type: str


class Unreadable(msgspec.Struct, frozen=True):
    """Stands in a message for a content that could not be opened.

    `not_sealed`: it came in plain words, so it may be anybody's; `unknown_key`: nobody gave us `kid`;
    `broken`: it was changed, moved from another place, or sealed with another key of that id.
    """

    why: Why
    kid: str | None
    content: Any  # as it came


class Key:
    """One key, and how often it is known to have been used. Its secret shows in no repr."""

    __slots__ = ("_cipher", "_secret", "kid", "used")

    def __init__(self, kid: str, secret: bytes) -> None:
        """Take `secret`, 32 random bytes; `kid` is 1 to 64 of A-Z a-z 0-9 . _ -, and public.

        Raises:
            ValueError: they are not.
        """
        if not _KID.fullmatch(kid):
            raise ValueError(f"key id {kid[:64]!r} has to match {_KID.pattern}")
        if len(secret) != KEY_BYTES:
            raise ValueError(f"key {kid}: a key has {KEY_BYTES} bytes, this has {len(secret)}")
        self.kid = kid
        self.used = 0  # sealed and opened here
        self._secret = bytes(secret)
        self._cipher = AESGCM(self._secret)

    def __repr__(self) -> str:
        return f"Key({self.kid!r})"

    @classmethod
    def generate(cls, kid: str) -> Key:
        """Return a new random key."""
        return cls(kid, os.urandom(KEY_BYTES))

    @classmethod
    def from_text(cls, kid: str, text: str) -> Key:
        """Return the key that `to_text` gave: base64url without padding.

        Raises:
            ValueError: it is none.
        """
        return cls(kid, _unbase64(text, f"key {kid}"))

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> Key:
        """Return the key in a JSON Web Key of type `oct` (RFC 7518, 6.4), as WebCrypto exports it.

        Raises:
            ValueError: it is none, or has no `kid`.
        """
        kid, k = jwk.get("kid"), jwk.get("k")
        if jwk.get("kty") != "oct" or not isinstance(kid, str) or not isinstance(k, str):
            raise ValueError("a key as JWK has kty oct, kid and k")
        return cls.from_text(kid, k)

    @classmethod
    def from_passphrase(cls, kid: str, passphrase: str, *, salt: str, iterations: int = ITERATIONS) -> Key:
        """Return a key derived by PBKDF2-HMAC-SHA256: the same for the same words, salt and iterations.

        `salt` is public, at least 8 bytes, and should be this room's own, such as its tenant and name. It
        takes a good part of a second. A passphrase that can be guessed is a key that can be guessed, by
        whoever has one sealed message: a generated key is better.

        Raises:
            ValueError: the salt is too short, or fewer than 100,000 iterations.
        """
        salted = salt.encode()
        if len(salted) < SALT_BYTES_MIN:
            raise ValueError(f"a salt has at least {SALT_BYTES_MIN} bytes")
        if iterations < ITERATIONS_MIN:
            raise ValueError(f"{iterations} iterations: at least {ITERATIONS_MIN}")
        derive = PBKDF2HMAC(hashes.SHA256(), KEY_BYTES, salted, iterations)
        return cls(kid, derive.derive(passphrase.encode()))

    def to_text(self) -> str:
        """Return the secret as base64url without padding, to be handed on."""
        return _base64(self._secret)

    def to_jwk(self) -> dict[str, Any]:
        """Return the secret as a JSON Web Key."""
        return {"kty": "oct", "kid": self.kid, "alg": "A256GCM", "k": self.to_text()}

    def seal(self, plain: bytes, bound: bytes) -> tuple[bytes, bytes]:
        """Return (nonce, ciphertext with its tag) of `plain`, bound to `bound`.

        Raises:
            CannotSeal: it was used as often as a key may be.
        """
        if self.used >= MESSAGES_MAX:
            raise CannotSeal(f"key {self.kid} is used up: seal with a new one")
        self._count()
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, plain, bound)

    def open(self, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes | None:
        """Return the plain text, None where it is not what was sealed."""
        try:
            plain = self._cipher.decrypt(nonce, ciphertext, bound)
        except InvalidTag:
            return None
        self._count()
        return plain

    def _count(self) -> None:
        self.used += 1
        if self.used == WORN_FROM:
            log.warning("key %s has half of its uses behind it: time for a new one", self.kid)


class Keyring:
    """The keys of a room: it opens with all of them and seals with the one that was added last."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[str, Key] = {}
        self._newest: Key | None = None
        for key in keys:
            self.add(key)

    def __repr__(self) -> str:
        return f"Keyring({list(self._keys)})"

    @property
    def newest(self) -> Key | None:
        """The key that seals."""
        return self._newest

    def add(self, key: Key) -> None:
        """Seal with `key` from now on; the others go on opening what they sealed."""
        self._keys[key.kid] = self._newest = key

    def forget(self, kid: str) -> None:
        """Open nothing with that key any more. What seals cannot be forgotten.

        Raises:
            ValueError: it is the newest.
            KeyError: there is none of that id.
        """
        if self._newest is not None and self._newest.kid == kid:
            raise ValueError(f"key {kid} seals; add the next one first")
        del self._keys[kid]

    def seal(self, content: object, place: Place) -> dict[str, Any]:
        """Return the content that is sent in place of `content`.

        Raises:
            CannotSeal: there is no key, the key is used up, or the content is nothing that JSON can say.
        """
        key = self._newest
        if key is None:
            raise CannotSeal("there is no key to seal with")
        try:
            plain = msgspec.json.encode(content)
        except (TypeError, UnicodeEncodeError) as error:
            raise CannotSeal(f"the content is nothing that JSON can say: {error}") from error
        nonce, ciphertext = key.seal(plain, bound(place, key.kid))
        return {"sealed": {"v": VERSION, "kid": key.kid, "nonce": _base64(nonce), "ct": _base64(ciphertext)}}

    def open(self, content: object, place: Place) -> Any:
        """Return what was sealed, or an `Unreadable`. It never raises, whatever came."""
        sealed = content.get("sealed") if isinstance(content, dict) and len(content) == 1 else None
        if not isinstance(sealed, dict):
            return Unreadable("not_sealed", None, content)
        kid = sealed.get("kid")
        if sealed.get("v") != VERSION or not isinstance(kid, str):
            return Unreadable("not_sealed", None, content)
        key = self._keys.get(kid)
        if key is None:
            return Unreadable("unknown_key", kid, content)
        plain = _open(key, sealed, bound(place, kid))
        if plain is None:
            return Unreadable("broken", kid, content)
        return plain[0]


def bound(place: Place, kid: str) -> bytes:
    """Return the associated data: each part as UTF-8 behind its length (four bytes, big-endian)."""
    tenant, room, sender, type = place
    texts = (_CONTEXT, str(VERSION), tenant, room, sender or "", type, kid)
    return b"".join(len(part).to_bytes(4, "big") + part for part in (text.encode() for text in texts))


def _open(key: Key, sealed: dict[str, Any], data: bytes) -> tuple[Any] | None:
    """Return what was sealed (which may be None), or None."""
    try:
        nonce, ciphertext = (_unbase64(sealed.get(name), name) for name in ("nonce", "ct"))
    except ValueError:
        return None
    if len(nonce) != NONCE_BYTES:
        return None
    plain = key.open(nonce, ciphertext, data)
    if plain is None:
        return None
    try:
        return (msgspec.json.decode(plain),)
    except msgspec.DecodeError:  # of somebody who has the key and seals no JSON
        return None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: object, what: str) -> bytes:
    """Return the bytes of base64url without padding.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError(f"{what} is no base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(f"{what} is no base64url: {error}") from error

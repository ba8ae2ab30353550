"""Master keys: they seal data keys and nothing else. From a setting, from a file, or in Vault.

What is wrapped says by which of them: `local:<name>:<base64>`, or `transit:<key>:vault:v<version>:…`. So
several may be configured at once, and `realtime keys rewrap` moves data keys from one to the other.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from realtime.backends.sealing.box import KEY_BYTES, NONCE_BYTES, place
from realtime.backends.sealing.table import WrappedKey
from realtime.errors import RealtimeError, SettingsError

FILE_BYTES_MAX: Final = 64 * 1024
BINDING_BYTES: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAKE: Final = "make one with: openssl rand -base64 32"


class KeyLost(RealtimeError):  # noqa: N818 - what has become of it
    """A data key cannot be had with the master keys that are configured: its data is not readable here."""

    code = "key_lost"
    number = 500
    retryable = False


class Vault(Protocol):
    """Vault's transit engine, with one of its keys. All three may raise Unavailable or KeyLost."""

    @property
    def key(self) -> str:
        """The name of the key."""
        ...

    async def encrypt(self, plain: bytes) -> str:
        """Return a ciphertext, `vault:v1:…`."""
        ...

    async def decrypt(self, ciphertext: str) -> bytes:
        """Return what was encrypted."""
        ...

    async def rewrap(self, ciphertext: str) -> str:
        """Return the ciphertext anew, under the newest version of the key, if it is not."""
        ...


class Masters:
    """The master keys that are configured: Vault first, then those given by name. The first one seals."""

    def __init__(self, keys: dict[str, bytes], vault: Vault | None = None) -> None:
        self._keys = {name: AESGCM(secret) for name, secret in keys.items()}
        self._vault = vault

    def __repr__(self) -> str:
        return f"Masters({', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """What they are called, the one that seals first."""
        vault = [] if self._vault is None else [f"vault key {self._vault.key}"]
        return vault + [f"master key {name}" for name in self._keys]

    def __bool__(self) -> bool:
        return bool(self._keys) or self._vault is not None

    def lacks(self, key: WrappedKey) -> str | None:
        """Return what the master key is called that wraps `key`, where it is not configured."""
        name = needed(key)
        return None if name in self.names else name

    def is_stale(self, key: WrappedKey) -> bool:
        """Whether another master key than the one that seals now wraps `key`, or may: Vault has versions."""
        return self._vault is not None or needed(key) != self.names[0]

    async def wrap(self, key: WrappedKey, secret: bytes) -> str:
        """Return `secret` sealed for the tenant and id of `key`.

        Raises:
            Unavailable: Vault gives no answer.
            KeyLost: there is no master key, or Vault lets us not.
        """
        if self._vault is not None:
            return f"transit:{self._vault.key}:{await self._vault.encrypt(secret + _binding(key))}"
        if not self._keys:
            raise KeyLost(
                "no master key is configured: set encryption_keys, encryption_key_file or vault_url"
            )
        name, aead = next(iter(self._keys.items()))
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + aead.encrypt(nonce, secret, _place(key))
        return f"local:{name}:{base64.b64encode(sealed).decode()}"

    async def unwrap(self, key: WrappedKey) -> bytes:
        """Return the data key's bytes.

        Raises:
            Unavailable: Vault gives no answer.
            KeyLost: its master key is not configured or is another one, or it was wrapped for elsewhere.
        """
        how, _, rest = key.wrapped.partition(":")
        name, _, sealed = rest.partition(":")
        lacking = self.lacks(key)
        if lacking is not None:
            raise KeyLost(
                f"data key {key.name} of tenant {key.tenant} needs {lacking}, which is not configured"
            )
        if how == "transit" and self._vault is not None:
            return _bound(key, await self._vault.decrypt(sealed))
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._keys[name].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _place(key))
        except (InvalidTag, ValueError) as error:
            raise _not_opened(key, f"master key {name}") from error

    async def rewrap(self, key: WrappedKey) -> str:
        """Return `key` wrapped by the master key that seals now, in its newest version.

        Raises:
            Unavailable, KeyLost: as `unwrap` and `wrap`.
        """
        if self._vault is not None and needed(key) == self.names[0]:
            _, name, sealed = key.wrapped.split(":", 2)
            return f"transit:{name}:{await self._vault.rewrap(sealed)}"
        return await self.wrap(key, await self.unwrap(key))


def needed(key: WrappedKey) -> str:
    """Return what the master key is called that wraps `key`."""
    how, _, rest = key.wrapped.partition(":")
    name = rest.partition(":")[0]
    return (
        f"vault key {name}"
        if how == "transit"
        else f"master key {name}"
        if how == "local"
        else "no master key"
    )


def read_keys(listed: str, path: Path | None) -> dict[str, bytes]:
    """Return the master keys that the settings give, by name, in order.

    Raises:
        SettingsError: what is no key, or comes twice; or a file that others may read. No key stands in it.
    """
    keys: dict[str, bytes] = {}
    _take(keys, listed.split(","), "encryption_keys")
    if path is not None:
        lines = (line.partition("#")[0] for line in _private(path).splitlines())
        _take(keys, lines, f"encryption_key_file {path}")
    return keys


def _take(keys: dict[str, bytes], given: Iterable[str], source: str) -> None:
    for number, text in enumerate(given, 1):
        if not text.strip():
            continue
        name, colon, encoded = text.strip().partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise SettingsError(
                f"{source}: key {number} is not name:base64, with a name like {_NAME.pattern}; {_MAKE}"
            )
        try:
            secret = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise SettingsError(f"{source}: key {name} is not {KEY_BYTES} bytes in base64; {_MAKE}")
        if name in keys:
            raise SettingsError(f"{source}: key {name} is given twice")
        keys[name] = secret


def _private(path: Path) -> str:
    """Return what is in a file that its owner alone may read."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise SettingsError(f"encryption_key_file {path} is no file")
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SettingsError(
                    f"encryption_key_file {path} may be read by others (mode {stat.S_IMODE(mode):04o}): "
                    f"chmod 600 {path}"
                )
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"encryption_key_file {path}: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise SettingsError(f"encryption_key_file {path} is over {FILE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"encryption_key_file {path} is no text") from None


def _place(key: WrappedKey) -> bytes:
    return place("data key", key.tenant.encode(), key.id)


def _binding(key: WrappedKey) -> bytes:
    # Vault takes associated data only in late versions: what a key is bound to goes along inside.
    return sha256(_place(key)).digest()[:BINDING_BYTES]


def _bound(key: WrappedKey, plain: bytes) -> bytes:
    secret, binding = plain[:KEY_BYTES], plain[KEY_BYTES:]
    if binding != _binding(key) or len(secret) != KEY_BYTES:
        raise _not_opened(key, needed(key))
    return secret


def _not_opened(key: WrappedKey, master: str) -> KeyLost:
    return KeyLost(
        f"data key {key.name} of tenant {key.tenant} is not opened by {master}: it is another one of that "
        f"name, or the wrapped key was changed"
    )

"""Keys that do not change while the policy stands: of a file, of a variable, of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from realtime.backends.auth.jwks import KeySet
from realtime.backends.auth.keys import Key
from realtime.errors import Unauthorized


class FileKeys:
    """The keys of a file."""

    fetches: Final = 0
    failed_fetches: Final = 0

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def refresh(self) -> None:
        """There is nothing to fetch."""

    def find(self, key_id: str | None, algorithm: str) -> Key:
        """Return the key that a token names.

        Raises:
            Unauthorized: there is none, or it says too little.
        """
        key = self._keys.find(key_id, algorithm)
        if key is None:
            raise Unauthorized("token: its issuer has no such key for its algorithm")
        return key

    def close(self) -> None:
        """They verify nothing any more."""
        self._keys = self._keys.followed_by(KeySet())


class Secrets(Key):
    """Shared secrets, any of which may have signed: the one of now and those before it, as they rotate."""

    __slots__ = ("_each",)
    fetches: Final = 0
    failed_fetches: Final = 0

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(None, keys[0].algorithms, None, b"")
        self._each = tuple(keys)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """See `Key`."""
        return any(each.verifies(algorithm, signed, signature) for each in self._each)

    def refresh(self) -> None:
        """There is nothing to fetch."""

    def find(self, key_id: str | None, algorithm: str) -> Key:
        """Return itself: secrets have no names, so that a token's `kid` says nothing here.

        Raises:
            Unauthorized: it is not for this algorithm.
        """
        if algorithm not in self.algorithms:
            raise Unauthorized("token: its algorithm is not one that is accepted")
        return self

    def close(self) -> None:
        """It verifies nothing any more."""
        self.live = False

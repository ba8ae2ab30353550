"""Where files are kept: whole, by a key that never gets other content."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

KEY_CHARACTERS_MAX: Final = 200
_KEY: Final = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")


class Blob(NamedTuple):
    """One file that is kept. `at_ms` is when it came, or was last touched, Unix time."""

    key: str
    bytes: int
    at_ms: int


class Blobs(Protocol):
    """Files by key, in a folder or in a bucket. Several processes may use one place at once.

    Keys are names of `[a-z0-9._-]` between slashes, none of which begins with a dot, of at most
    `KEY_CHARACTERS_MAX` altogether; another one is a mistake of ours (ValueError).
    """

    @property
    def ok(self) -> bool:
        """Whether what was last asked of it was answered."""
        ...

    async def put(self, key: str, content: AsyncIterator[bytes]) -> int:
        """Keep `content` under `key`, whole or not at all, and return the length of what is there then: what
        another one kept first stays as it is. It is on the disk when this returns.

        Whatever `content` raises comes out of here, and nothing is kept.

        Raises:
            Unavailable: it is not kept.
        """
        ...

    async def touch(self, key: str) -> Blob | None:
        """Let a file count as one that came now, and return what is known of it; None where there is none.

        Raises:
            Unavailable: it cannot be reached now.
        """
        ...

    async def stat(self, key: str) -> Blob | None:
        """Return what is known of a file, None where there is none. Raises Unavailable."""
        ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to `end` (exclusive; None: to the last), in pieces.

        Raises (while it is read):
            KeyError: there is no such file.
            Unavailable: it cannot be read now.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove a file, where there is one. Raises Unavailable."""
        ...

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[Blob]:
        """Return the files whose keys begin with `prefix` and come after `after`, by key.

        Raises (while it is read):
            Unavailable: it cannot be reached now.
        """
        ...

    async def tidy(self, prefix: str, before_ms: int) -> int:
        """Remove what `put`s that were never finished, of keys that begin with `prefix`, have left before a
        time; return how many there were.

        Raises:
            Unavailable: it cannot be reached now.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


def checked_key(key: str) -> str:
    """Return a key, or raise ValueError: it is none."""
    if len(key) > KEY_CHARACTERS_MAX or not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of a file")
    return key

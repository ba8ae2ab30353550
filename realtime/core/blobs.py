"""Where files are kept: whole, by a key that never gets other content."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol


class Blob(NamedTuple):
    """One file that is kept. `at_ms` is when it came, Unix time."""

    key: str
    bytes: int
    at_ms: int


class Blobs(Protocol):
    """Files by key, in a folder or in a bucket. Keys are `[a-z0-9/._-]`, at most 200 characters."""

    async def put(self, key: str, content: AsyncIterator[bytes]) -> int:
        """Keep `content` under `key`, whole or not at all; return its length. What is there stays as it is.

        Raises:
            Unavailable: it is not kept.
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

    async def delete(self, key: str) -> bool:
        """Remove a file; False where there was none. Raises Unavailable."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[Blob]:
        """Return the files whose keys begin with `prefix`, by key. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...

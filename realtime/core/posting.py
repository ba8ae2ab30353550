"""What asks another service over HTTP, for features, which open no sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Post(Protocol):
    """Sends one POST."""

    async def __call__(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, ca_file: str = ""
    ) -> bytes:
        """Return the body of the answer, of at most 512 KiB. An https `url` is checked by the certificates in
        `ca_file`, or by the system's.

        Raises:
            Unavailable: no answer in `timeout_s`, another one than 200, or one that is none.
        """
        ...

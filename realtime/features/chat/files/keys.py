"""Where things lie among the blobs: `files/` what is whole, by its hash; `uploads/` what comes in, by its id.

A tenant's files lie apart from others', below a hash of its id: ids may have characters that keys may not.
"""

from __future__ import annotations

import hashlib
from typing import Final

FILES: Final = "files/"
UPLOADS: Final = "uploads/"
PROBE: Final = "probe"
"""Never kept; asked for to see whether anybody answers."""

ABOUT: Final = "about"
"""Of an upload: it is whole, and this is what it became."""
GONE: Final = "gone"
"""Of an upload: it was ended, or is nothing that is taken; this says why."""


def tenant_key(tenant: str) -> str:
    """Return the folder of a tenant."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]


def file_key(tenant: str, sha256: str) -> str:
    """Return the key of a file by its hash, in hex."""
    return file_key_in(tenant_key(tenant), sha256)


def file_key_in(folder: str, sha256: str) -> str:
    """Return the same by the tenant's folder."""
    return f"{FILES}{folder}/{sha256[:2]}/{sha256}"


def parse_file_key(key: str) -> tuple[str, str]:
    """Return (tenant's folder, hash) of a key of `file_key`."""
    _, folder, _, sha256 = key.split("/")
    return folder, sha256


def upload_prefix(tenant: str, id: str) -> str:
    """Return what all keys of one upload begin with."""
    return f"{UPLOADS}{tenant_key(tenant)}/{id}/"


def piece_key(prefix: str, offset: int) -> str:
    """Return the key of the piece of an upload that begins at `offset`."""
    return f"{prefix}{offset:015}"

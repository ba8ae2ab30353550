"""Where wrapped data keys lie: beside what they seal, so that one backup has both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from realtime.ids import TenantId

FEATURE: Final = "sealing"
FOLDER: Final = Path(__file__).with_name("migrations")
"""The tables in the stores."""


class WrappedKey(NamedTuple):
    """A data key as it is kept. `made_at` is Unix time; `wrapped` says which master key opens it."""

    tenant: TenantId
    number: int
    id: bytes
    wrapped: str
    made_at: int

    @property
    def name(self) -> str:
        return self.id.hex()


class KeyTable(Protocol):
    """The data keys of all tenants. Every call may raise Unavailable."""

    async def keys_of(self, tenant: TenantId) -> Sequence[WrappedKey]:
        """Return a tenant's keys, by number."""
        ...

    async def all_keys(self) -> Sequence[WrappedKey]:
        """Return everybody's keys, by tenant and number."""
        ...

    async def add(self, key: WrappedKey) -> bool:
        """Keep a new key; False where the tenant has one of that number already, which stays."""
        ...

    async def replace(self, key: WrappedKey, wrapped: str) -> bool:
        """Keep `key` wrapped otherwise; False where it is not wrapped as it says any more."""
        ...

    async def use(self, key: WrappedKey, times: int) -> int:
        """Count so many uses of a key more; return how many that makes."""
        ...

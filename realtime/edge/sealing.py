"""Encryption at rest as the settings name it: master keys, where data keys lie, what seals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from realtime.backends.redis_client.client import RedisClient
from realtime.backends.sealing.keyring import Keyring, Missing
from realtime.backends.sealing.masters import Masters, read_keys
from realtime.backends.sealing.rooms import RoomSeals
from realtime.backends.sealing.store import Rows, SealedSharedStore, SealedStore
from realtime.backends.sealing.table import KeyTable
from realtime.backends.sealing.tables import PostgresKeys, RedisKeys, SqliteKeys
from realtime.backends.sealing.vault import VaultTransit
from realtime.backends.store_postgres import PostgresStore
from realtime.backends.store_sqlite import SqliteStore
from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.contracts import Clock, Store
from realtime.core.room_rules import RoomRules
from realtime.errors import SettingsError, Unavailable
from realtime.policy import Policy, load_policy
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.sealing")

LOOK_S: Final = 30.0  # so often it is looked whether what is missing still is


class Sealing:
    """What seals in this process. Without a master key it seals nothing, nor opens what was sealed."""

    def __init__(self, masters: Masters, table: KeyTable | None, clock: Clock, audit: Auditor) -> None:
        self.masters = masters
        self.keyring = None if table is None else Keyring(masters, table, clock, audit=audit)
        self._clock = clock
        self._missing: dict[str, Missing] = {}
        self._unsure = False  # there was no answer
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """See which master keys are missing, and say so loudly. Who has no answer is asked again later."""
        if self.keyring is None:
            return
        self._look_at = self._clock.monotonic() + LOOK_S
        try:
            missing = await self.keyring.missing()
        except Unavailable as error:
            if not self._unsure:
                log.warning("which data keys there are cannot be said now: %s", error.message)
            self._unsure = True
            return
        self._unsure = False
        for name, what in missing.items():
            if name not in self._missing:
                log.error(
                    "%s IS MISSING: %d data keys cannot be opened, nor what they have sealed; %d tenants "
                    "have no other to seal with",
                    *(name, what.keys, what.tenants),
                )
        self._missing = missing

    def tick(self) -> None:
        """Look again, while master keys are missing or nobody knows."""
        if (self._missing or self._unsure) and self._clock.monotonic() >= self._look_at:
            self._looking = asyncio.get_running_loop().create_task(self.look())

    def check_policy(self, policy: Policy) -> None:
        """Raise SettingsError where a policy encrypts rooms and there is no key to do it with."""
        if self.keyring is not None and not self.masters:
            check_policy(policy)

    def store(self, store: Store, rules: RoomRules) -> Store:
        """Return `store`, sealing."""
        if self.keyring is None:
            return store
        assert isinstance(store, SqliteStore | PostgresStore)
        return SealedStore(store, Rows(self.keyring, rules))

    def shared_store(self, store: PostgresStore, rules: RoomRules) -> SealedSharedStore:
        """Return the store of a cluster, sealing."""
        assert self.keyring is not None
        return SealedSharedStore(store, Rows(self.keyring, rules))

    def rooms(self, rules: RoomRules) -> RoomSeals | None:
        """Return what seals rooms in Redis."""
        return None if self.keyring is None else RoomSeals(self.keyring, rules)

    def checks(self) -> dict[str, str]:
        """What /ready says: tenants have no key to seal with, for the want of a master key. Where only older
        keys need it, the log and the metrics say so; `realtime keys rotate` makes it one of these.
        """
        if self.keyring is None or not (self.masters or self._missing):
            return {}
        names = [name for name, what in self._missing.items() if what.tenants]
        return {"keys": f"{', '.join(names)} missing" if names else "ok"}

    def stats(self) -> Mapping[str, int]:
        """Gauges and counters for /metrics."""
        if self.keyring is None:
            return {}
        return {**self.keyring.stats(), "sealing_masters_missing": len(self._missing)}

    async def close(self) -> None:
        """Let go of the keys."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self.keyring is not None:
            await self.keyring.close()


async def open_sealing(
    settings: Settings,
    clock: Clock,
    store: Store | None,
    redis: RedisClient | None = None,
    audit: Auditor = NO_AUDITOR,
) -> Sealing:
    """Make what seals: data keys lie in the store, else in Redis; where there is neither, nothing rests.

    Raises:
        SettingsError: the settings name no usable master keys.
    """
    sealing = Sealing(open_masters(settings), key_table(settings, store, redis), clock, audit)
    await sealing.look()
    return sealing


def open_masters(settings: Settings) -> Masters:
    """Return the master keys that the settings name. Vault is not asked.

    Raises:
        SettingsError: a key is none, a file is open to others, or what Vault needs is missing.
    """
    path = Path(settings.encryption_key_file) if settings.encryption_key_file else None
    keys = read_keys(settings.encryption_keys, path)
    vault = None
    if settings.vault_url:
        vault = VaultTransit(
            settings.vault_url,
            token=_token_of(settings),
            key=settings.vault_key,
            mount=settings.vault_mount,
            ca_file=settings.vault_ca_file,
            timeout_s=settings.vault_timeout_s,
        )
    return Masters(keys, vault)


def _token_of(settings: Settings) -> Callable[[], str]:
    """Return what gives Vault's token: from the settings, or from a file that is read each time."""
    if settings.vault_token or not settings.vault_token_file:
        return lambda: settings.vault_token
    path = Path(settings.vault_token_file)

    def read() -> str:
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no ASCII"
            raise SettingsError(f"vault_token_file {path}: {why}") from error

    return read


def finding(settings: Settings) -> str:
    """Say which master keys there are. Neither Vault nor a database is asked: `realtime keys status` does.

    Raises:
        SettingsError: the settings name no usable master keys, or the policy encrypts rooms without one.
    """
    masters = open_masters(settings)
    if settings.policy_path and not masters:
        check_policy(load_policy(Path(settings.policy_path)))
    return ", ".join(masters.names) or "no master keys, and no rooms that need one"


def check_policy(policy: Policy) -> None:
    """Raise SettingsError where a policy encrypts rooms, for a server that has no key to do it with."""
    for number, rule in enumerate(policy.rooms):
        if rule.encrypted:
            raise SettingsError(
                f"policy: rooms[{number}] ({', '.join(rule.rooms)}) is encrypted, and there is no master "
                "key: set encryption_keys, encryption_key_file or vault_url"
            )


def key_table(settings: Settings, store: Store | None, redis: RedisClient | None) -> KeyTable | None:
    """Return where data keys lie: in the store, else in Redis; None where nothing rests anywhere."""
    if isinstance(store, SqliteStore):
        return SqliteKeys(store)
    if isinstance(store, PostgresStore):
        return PostgresKeys(store)
    return None if redis is None else RedisKeys(redis, settings.redis_prefix)

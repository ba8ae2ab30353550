"""The store that durable rooms stand on: which one the settings name, opened and brought up to date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from realtime.backends.store_sqlite import open_sqlite
from realtime.core.contracts import Clock, Store
from realtime.features import discover
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")


async def open_store(settings: Settings, clock: Clock) -> Store | None:
    """Open the store that the settings name, with the tables of every feature; None where they name none.

    Raises:
        StartupError: it cannot be opened, is another server's, or is newer than we are.
    """
    store = await _open(settings, clock)
    if store is None:
        log.warning(
            "durable rooms are kept in memory only, and lost with this process: "
            "neither sqlite_path nor postgres_url is set"
        )
        return None
    try:
        for feature in discover():
            if feature.migrations is not None:
                await store.migrate(feature.name, feature.migrations)
    except BaseException:
        await store.close()
        raise
    return store


async def _open(settings: Settings, clock: Clock) -> Store | None:
    if settings.sqlite_path:
        path = Path(settings.sqlite_path)
        return await open_sqlite(path, synchronous=settings.store_synchronous, clock=clock)
    return None

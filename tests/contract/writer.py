"""Appends to a store until it is killed: `python -m tests.contract.writer sqlite PATH` (or `postgres URL`).

It goes on after what is there. Prints the store's epoch, then every offset once it is kept; 64 rows are on
their way at any time.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from realtime.backends.store_postgres import open_postgres
from realtime.backends.store_sqlite import open_sqlite
from realtime.core.clock import SystemClock
from realtime.core.contracts import Row, Store
from realtime.errors import Unavailable
from tests.contract.stores import LOBBY, a_row
from tests.sealing.stage import sealing


async def opened(kind: str, where: str, how: str = "") -> Store:
    """The store that the command line names."""
    if kind == "sqlite":
        store: Any = await open_sqlite(Path(where), synchronous="normal", clock=SystemClock())
    else:
        store = await open_postgres(where, synchronous="normal", clock=SystemClock())
    return await sealing(store, SystemClock()) if how == "sealed" else store


async def main() -> None:
    """Write for ever."""
    store = await opened(*sys.argv[1:])
    print(store.epoch.decode(), flush=True)
    offset = (await store.remembered(LOBBY, 0)).offset

    def append() -> None:
        nonlocal offset
        offset += 1
        store.append(a_row(store, offset), kept)

    def kept(row: Row, error: Unavailable | None) -> None:
        assert error is None
        print(row.position.offset, flush=True)
        append()

    for _ in range(64):
        append()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

"""Features' own tables in PostgreSQL, over the store's connections for reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from realtime.core.database import Cells, Dialect, Statement, check_values

if TYPE_CHECKING:
    from realtime.backends.store_postgres import PostgresStore


class PostgresTables:
    """A `Database` on an open store."""

    dialect: Final[Dialect] = "postgres"

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def read(self, sql: str, *values: Any) -> list[Cells]:
        """As `Database.read`."""
        check_values(values)

        async def ask(connection: Any) -> list[Cells]:
            return [tuple(row) for row in await connection.fetch(sql, *values)]

        return await self._store.run(ask)

    async def write(self, *statements: Statement) -> list[list[Cells]]:
        """As `Database.write`."""
        for statement in statements:
            check_values(statement.values)

        async def work(connection: Any) -> list[list[Cells]]:
            async with connection.transaction():
                return [
                    [tuple(row) for row in await connection.fetch(sql, *values)] for sql, values in statements
                ]

        return await self._store.run(work)

    async def scrub(self) -> None:
        """As `Database.scrub`: nothing."""

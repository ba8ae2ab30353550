"""Tables of a feature's own: what it keeps and asks beside its rooms' publications, in the server's store.

A feature makes them by its migrations. They lie in the database that has the publications (`rooms`,
`publications`), so a trigger of a feature's can follow what is published in the transaction that keeps it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

Dialect = Literal["sqlite", "postgres"]
Cells = tuple[Any, ...]


class Statement(NamedTuple):
    """One statement of a transaction: `$1` in `sql` is the first of `values`."""

    sql: str
    values: tuple[Any, ...] = ()


class Database(Protocol):
    """Asks and writes, beside the event loop. Values are None, integers, floats and text; no bytes.

    Both dialects take `$1`, `$2` … for values, so a statement that both understand is written once.
    """

    @property
    def dialect(self) -> Dialect:
        """Which SQL it speaks."""
        ...

    async def read(self, sql: str, *values: Any) -> list[Cells]:
        """Return the rows of one SELECT. One that has an order needs a LIMIT for it to hold; the names of its
        columns have to differ.

        Raises:
            Unavailable: no answer in time.
        """
        ...

    async def write(self, *statements: Statement) -> list[list[Cells]]:
        """Do all of `statements` in one transaction, and return the rows that each gives (RETURNING).

        What is there already is met by ON CONFLICT, which is no error. It is kept as a publication is.

        Raises:
            Unavailable: nothing is done; or where its answer got lost, nobody knows.
        """
        ...

"""Tables of a feature's own: what it keeps and asks beside its rooms' publications, in the server's store.

A feature makes them by its migrations. They lie in the database that has the publications (`rooms`,
`publications`), so a trigger of a feature's can follow what is published in the transaction that keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol

from realtime.errors import BadMessage

Dialect = Literal["sqlite", "postgres"]
Cells = tuple[Any, ...]


class Statement(NamedTuple):
    """One statement of a transaction: `$1` in `sql` is the first of `values`."""

    sql: str
    values: tuple[Any, ...] = ()


class Database(Protocol):
    """Asks and writes, beside the event loop. Values are None, integers, floats and text; no bytes.

    What a peer has sent may be no value of a database (`check_values`): it is refused as the peer's mistake.
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
            BadMessage: a value is none that databases have.
            Unavailable: no answer in time.
        """
        ...

    async def write(self, *statements: Statement) -> list[list[Cells]]:
        """Do all of `statements` in one transaction, and return the rows that each gives (RETURNING).

        What is there already is met by ON CONFLICT, which is no error. It is kept as a publication is.

        Raises:
            BadMessage: as `read`.
            Unavailable: nothing is done; or where its answer got lost, nobody knows.
        """
        ...

    async def scrub(self) -> None:
        """Leave nothing of what was deleted in a file's log. What a database server does with dead rows is
        its own affair (VACUUM).

        Raises:
            Unavailable: somebody reads what is to go; it is for later.
        """
        ...


def check_values(values: Iterable[Any]) -> None:
    """Take values that every database has.

    Raises:
        BadMessage: an integer has over 64 bits, a float is no number, a text has U+0000 or a lone surrogate.
    """
    for value in values:
        if isinstance(value, str):
            if "\0" in value or not (value.isascii() or _is_text(value)):
                raise BadMessage("a text may not have U+0000 or a lone surrogate")
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise BadMessage("a number may have 64 bits")
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadMessage("a number has to be finite")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Numbered SQL files: which there are, which a database has had, which it still needs. It knows no driver.

A feature has one folder of them, with one folder a dialect in it: `migrations/sqlite/001_words.sql`. A file
is applied once, whole, in one transaction with the row that says so, and never changes after that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from realtime.errors import StartupError

CORE: Final = "core"
CORE_FOLDER: Final = Path(__file__).with_suffix("")
"""The stores' own tables."""

_NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")


class Migration(NamedTuple):
    """One file. `name` is the file's, such as `001_publications.sql`."""

    number: int
    name: str
    sha256: str
    sql: str


class Applied(NamedTuple):
    """One file as the database knows it. `applied_at` is Unix time in seconds."""

    feature: str
    number: int
    name: str
    sha256: str
    applied_at: int


def files(feature: str, folder: Path, dialect: str) -> list[Migration]:
    """Return the files of `folder` for `dialect`, by number.

    Raises:
        StartupError: there is no folder for the dialect, a file's name is not `NNN_words.sql`, or the numbers
            do not go 1, 2, 3 …
    """
    place = folder / dialect
    if not place.is_dir():
        raise StartupError(f"migrations of {feature}: there is no folder {place}")
    found = [_read(feature, path) for path in sorted(place.iterdir()) if path.suffix == ".sql"]
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise StartupError(
                f"migrations of {feature}: {migration.name} follows number {expected - 1:03}; "
                f"they must count 001, 002, 003 … without a gap or a repeat"
            )
    return found


def due(feature: str, available: Sequence[Migration], applied: Sequence[Applied]) -> list[Migration]:
    """Return those of `available` that are still to be applied, by number.

    Raises:
        StartupError: the database has had one that we do not have, one that has changed since, or a later one
            than the next.
    """
    had = {row.number: row for row in applied if row.feature == feature}
    for number, row in sorted(had.items()):
        if number > len(available):
            raise StartupError(
                f"the database is newer than this version: it has {row.name} of {feature} and we have "
                f"{len(available)} of its migrations; upgrade realtime, or use the database it belongs to"
            )
        ours = available[number - 1]
        if ours.sha256 != row.sha256:
            raise StartupError(
                f"migrations of {feature}: {ours.name} has changed since it was applied as {row.name}; "
                f"put it back as it was and make the change in a new file"
            )
        if number > 1 and number - 1 not in had:
            raise StartupError(
                f"migrations of {feature}: the database has {row.name} and not number {number - 1:03}; "
                f"restore it from a backup"
            )
    return list(available[len(had) :])


def _read(feature: str, path: Path) -> Migration:
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise StartupError(f"migrations of {feature}: {path.name} must be named NNN_words.sql")
    content = path.read_bytes()
    return Migration(int(named[1]), path.name, hashlib.sha256(content).hexdigest(), content.decode())

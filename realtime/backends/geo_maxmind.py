"""Countries of addresses, from a file in MaxMind's format (GeoIP2 or GeoLite2 Country or City, and alike).

The file is read whole and given to the C reader as a copy in memory: the reader maps what it is given, and a
file that somebody overwrites in place would change, or end, under the process's feet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from realtime.errors import SettingsError
from realtime.native.address import unpack

DATABASE_BYTES_MAX: Final = 1024**3
CACHED_ADDRESSES: Final = 16_384  # a look-up costs 6 us, one of an address that came before 0.1

CountryOf = Callable[[bytes], str | None]
"""The ISO 3166 code of a packed address's country, None where it is not known; DatabaseBroken."""


class DatabaseBroken(Exception):  # noqa: N818 - what is wrong is the database
    """There is no database in the file, or none that can be read."""


def open_countries(path: Path) -> CountryOf:
    """Return what looks countries up in the database at `path`, as it is now.

    The country is where an address is used; where that is not known, where it is registered.

    Raises:
        DatabaseBroken: there is none, or none of countries.
        SettingsError: `maxminddb` is not installed.
    """
    maxminddb = _driver()
    reader = _open(path)
    kind = reader.metadata().database_type
    if not re.search("country|city|enterprise", kind, re.IGNORECASE):
        raise DatabaseBroken(f"{path} is a database of {kind}, not of countries")
    only_v4 = reader.metadata().ip_version == 4

    @lru_cache(maxsize=CACHED_ADDRESSES)
    def country_of(address: bytes) -> str | None:
        if only_v4 and len(address) == 16:
            return None
        try:
            record = reader.get(unpack(address))
        except (maxminddb.InvalidDatabaseError, ValueError) as error:
            raise DatabaseBroken(str(error)) from error
        return _iso_code(record, "country") or _iso_code(record, "registered_country")

    return country_of


def _iso_code(record: Any, name: str) -> str | None:
    """The code in a record, whatever a stranger's database may have put there."""
    place = record.get(name) if isinstance(record, dict) else None
    code = place.get("iso_code") if isinstance(place, dict) else None
    return code if isinstance(code, str) else None


def _driver() -> Any:
    try:
        import maxminddb  # here, for it is an extra: who blocks no countries needs none of it
    except ImportError as error:
        raise SettingsError("geo_database needs the package maxminddb: pip install realtime[geo]") from error
    return maxminddb


def _open(path: Path) -> Any:
    try:
        if path.stat().st_size > DATABASE_BYTES_MAX:
            raise DatabaseBroken(f"{path} is over {DATABASE_BYTES_MAX} bytes")
        copy = os.memfd_create("realtime-geo")
    except OSError as error:
        raise DatabaseBroken(f"{path}: {error.strerror}") from error
    maxminddb = _driver()
    with open(copy, "wb") as file:
        try:
            file.write(path.read_bytes())
            file.flush()
            return maxminddb.open_database(f"/proc/self/fd/{copy}", maxminddb.MODE_MMAP_EXT)
        except OSError as error:
            raise DatabaseBroken(f"{path}: {error.strerror}") from error
        except (maxminddb.InvalidDatabaseError, ValueError) as error:
            raise DatabaseBroken(f"{path} is no MaxMind database, or a broken one") from error

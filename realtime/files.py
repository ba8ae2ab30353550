"""Files of the operator's, such as keys and lists: read whole, up to a bound."""

from __future__ import annotations

import errno
from pathlib import Path


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """Return what the file `path` holds. What never ends, such as a device, is read no further than that.

    Raises:
        OSError: it cannot be read, or holds more than `bytes_max`; its `strerror` says which.
    """
    with path.open("rb") as file:
        raw = file.read(bytes_max + 1)
    if len(raw) > bytes_max:
        raise OSError(errno.EFBIG, f"it is over {bytes_max} bytes", str(path))
    return raw

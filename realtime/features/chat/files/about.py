"""What an upload has become, as it is kept beside it and in the table."""

from __future__ import annotations

import msgspec

from realtime.core.blobs import Blobs
from realtime.features.chat.files.keys import ABOUT, upload_prefix
from realtime.features.chat.files.media import INLINE


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of one file by its hash. `width` and `height` are 0 where it is no image."""

    sha256: str
    bytes: int
    type: str
    width: int = 0
    height: int = 0

    @property
    def inline(self) -> bool:
        """Whether it may be shown in a page, as what it is."""
        return self.type in INLINE


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an upload has become."""

    file: Shown
    thumbnail: Shown | None = None


_decode = msgspec.json.Decoder(About).decode


def read_about(content: bytes | str) -> About:
    """Return what was written of it, by us."""
    return _decode(content)


async def about_of(blobs: Blobs, tenant: str, id: str) -> About | None:
    """Return what an upload has become; None where it is not whole. Raises Unavailable."""
    try:
        content = b"".join([each async for each in blobs.read(upload_prefix(tenant, id) + ABOUT)])
    except KeyError:
        return None
    return read_about(content)

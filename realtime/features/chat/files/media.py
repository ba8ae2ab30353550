"""Media types, and how each is treated."""

from __future__ import annotations

from typing import Final

BINARY: Final = "application/octet-stream"

IMAGES: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF", "image/webp": "WEBP"}
"""The images that are taken as such, and what Pillow calls them."""

# These tell where a photograph was taken, and nothing here can take it out of them.
TELLING: Final = frozenset({"image/heif", "image/avif", "image/tiff", "image/jxl"})

# Only what nobody can script is served as what it is, to be shown in a page: images, made anew, sound, video.
INLINE: Final = frozenset(
    {*IMAGES, "video/mp4", "video/webm", "audio/mpeg", "audio/ogg", "audio/wav", "audio/mp4", "audio/flac"}
)

"""What attachments are bounded by where no setting says it."""

from __future__ import annotations

from typing import Final

NAME_CHARACTERS_MAX: Final = 255
# An upload is kept in pieces of this size: so much is lost at most when a process is killed under it.
PIECE_BYTES: Final = 8 * 1024 * 1024
# Uploads and downloads at once in one process; more are told to come again.
UPLOADS_MAX: Final = 64
DOWNLOADS_MAX: Final = 256
# A peer that sends, or reads, nothing for so long is cut off. What it has sent by then is kept.
IDLE_S: Final = 20.0
# And one that brings less than so much a second over such a time, too: an upload would never come to its end.
BYTES_PER_SECOND_MIN: Final = 256
# An image is decoded whole in memory; a larger one than this is refused before anybody looks at it.
IMAGE_BYTES_MAX: Final = 64 * 1024 * 1024
TICKET_CHARACTERS_MAX: Final = 4096

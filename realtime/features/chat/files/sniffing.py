"""What a file is, by its bytes. What the client calls it is never looked at.

What may be shown in a page, and what is refused, is decided by exact signatures here; for all else, which is
only ever saved, puremagic says what to call it.
"""

from __future__ import annotations

import re
from typing import Final

import puremagic

from realtime.features.chat.files.media import BINARY, IMAGES

HEAD_BYTES: Final = 4096
_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]{1,80}")
_HEIF: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF: Final = frozenset({b"avif", b"avis"})
_MARKUP: Final = re.compile(
    rb"<(?:!doctype|html|head|body|script|svg|\?xml|iframe|img|a|div|style|title|table|!--)\b", re.I
)
_BEFORE_MARKUP: Final = b"\xef\xbb\xbf\t\n\x0c\r "
_OTHER_NAMES: Final = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/mp3": "audio/mpeg",
}


def sniff(head: bytes) -> str:
    """Return the media type of what begins with `head` (its first HEAD_BYTES, or all of it)."""
    known = _certain(head)
    if known:
        return known
    if head.startswith(b"PK\x03\x04"):
        return "application/zip"  # which of the many kinds only its contents say
    # Three bytes of random ones may well look like a tag: in what is no text it has to come first.
    text = _is_text(head)
    if _MARKUP.search(head[:1024]) if text else _MARKUP.match(head.lstrip(_BEFORE_MARKUP)):
        return "image/svg+xml" if b"<svg" in head.lower() else "text/html"
    guessed = _guess(head)
    if guessed:
        return guessed
    return "text/plain" if text else BINARY


def _certain(head: bytes) -> str:
    """What decides how a file is treated is decided here, by signatures that are exact."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "image/tiff"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "image/jxl"
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in range(8, min(len(head), 64), 4)}
        if brands & _AVIF:
            return "image/avif"
        if brands & _HEIF:
            return "image/heif"
    return ""


def _guess(head: bytes) -> str:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return ""
    likely = [each for each in found if each.mime_type and each.confidence >= 0.3]
    if not likely:
        return ""
    told = likely[0].mime_type.lower()
    told = _OTHER_NAMES.get(told, told)
    # An image that we do not make anew is a file like any other.
    return told if _TYPE.fullmatch(told) and told not in IMAGES else ""


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) >= HEAD_BYTES  # cut within a character
    return True

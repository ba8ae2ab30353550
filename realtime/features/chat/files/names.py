"""The names of files, as people see them; no path is ever made of one."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from realtime.errors import BadMessage
from realtime.features.chat.files.limits import NAME_CHARACTERS_MAX

# Characters that turn the reading order: `photo\u202egpj.exe` would be shown as `photoexe.jpg`.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_name(name: str) -> str:
    """Return the name that a file is known by: the last part of what the client calls it.

    Raises:
        BadMessage: nothing is left of it, or it is too long.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    kept = "".join(each for each in last if each not in _TURNING and unicodedata.category(each)[0] != "C")
    kept = kept.strip(" .") if kept.strip(" .") == "" else kept.strip()
    if not kept:
        raise BadMessage(f"{name[:64]!r} is no name of a file")
    if len(kept) > NAME_CHARACTERS_MAX:
        raise BadMessage(f"the file's name has {len(kept)} characters; {NAME_CHARACTERS_MAX} are taken")
    return kept


def disposition(name: str, *, inline: bool) -> str:
    """Return a Content-Disposition (RFC 6266): the name in ASCII, then as it is (RFC 8187)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = "".join("_" if each in '"\\%' or not each.isprintable() else each for each in plain) or "file"
    shown = "inline" if inline else "attachment"
    return f"{shown}; filename=\"{safe}\"; filename*=UTF-8''{quote(name, safe='')}"

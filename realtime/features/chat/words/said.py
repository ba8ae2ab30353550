"""A message as it is published: made of a draft, and read from a table again for an edit."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from realtime.errors import BadMessage
from realtime.features.chat.words.draft import Draft
from realtime.features.chat.words.entities import Entity, Found, find


class Said(msgspec.Struct, omit_defaults=True, gc=False):
    """The content of the pushes `chat_message` and `chat_edit`."""

    id: str
    text: str
    lang: str = ""
    entities: list[Entity] | None = None  # an empty one is None, which is left out
    mentions: list[str] | None = None
    here: bool = False
    reply_to: str = ""
    thread: str = ""
    attachments: list[dict[str, Any]] | None = None
    expires_at: str = ""
    sent_at: str = ""
    scheduled: str = ""
    edited_at: str = ""


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Said).decode


def check_text(text: str, limit: int, attachments: Sequence[object] = ()) -> None:
    """Take a message's text.

    Raises:
        BadMessage: there is none and no attachment, it is too long, or holds U+0000.
    """
    if len(text) > limit:
        raise BadMessage(
            f"a message has {len(text)} characters; {limit} are taken",
            limit="chat_message_chars",
            allowed=limit,
        )
    if "\0" in text:
        raise BadMessage("a message may not have U+0000 in its text")
    if not attachments and (not text or text.isspace()):
        raise BadMessage("a message has to have a text or an attachment")


def say(draft: Draft, id: str, lang: str, files: Sequence[dict[str, Any]], *, may_call: bool) -> Said:
    """Return a draft as it is published."""
    found: Found = find(draft.text, may_call=may_call)
    return Said(
        id,
        draft.text,
        lang,
        found.entities or None,
        found.mentions or None,
        found.here,
        draft.reply_to or "",
        draft.thread or "",
        list(files) or None,
    )


def check_emoji(emoji: str) -> None:
    """Take what somebody reacts with.

    Raises:
        BadMessage: it is neither an emoji nor a :name:, as far as that can be told.
    """
    if emoji[0] == ":" == emoji[-1] and len(emoji) > 2 and emoji[1:-1].replace("_", "a").isalnum():
        return
    if any(not _is_of_emoji(each) for each in emoji) or all(map(_is_joiner, emoji)):
        raise BadMessage(f"{emoji!r} is no emoji and no :name:")


def _is_of_emoji(char: str) -> bool:
    category = unicodedata.category(char)
    return category in ("So", "Sk", "Sm", "Po", "Nd", "Me", "Mn", "Cn") or char in "ℹ©®" or _is_joiner(char)  # noqa: RUF001


def _is_joiner(char: str) -> bool:
    """U+200D joins, U+FE0F says that it is an emoji, and tags name the flag of a region."""
    return char in "\u200d\ufe0e\ufe0f" or 0xE0020 <= ord(char) <= 0xE007F

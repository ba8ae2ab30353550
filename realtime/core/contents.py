"""How the contents of messages are read; what they hold is declared in `protocol.messages` or by features."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from realtime.errors import BadMessage
from realtime.protocol.messages import History, Join, Token

Content = TypeVar("Content")


def decode(decoder: msgspec.json.Decoder[Content], content: bytes | None) -> Content:
    """Return a content by its decoder; an absent or null one counts as {}.

    Raises:
        BadMessage: it is something else; the message says where and what.
    """
    try:
        return decoder.decode(b"{}" if content is None or content == b"null" else content)
    except msgspec.ValidationError as error:
        raise BadMessage(f"content: {error}") from error


_join = msgspec.json.Decoder(Join)
_history = msgspec.json.Decoder(History)
_token = msgspec.json.Decoder(Token)


def decode_join(content: bytes | None) -> Join:
    """Return the content of a `join`, or raise BadMessage."""
    return decode(_join, content)


def decode_history(content: bytes | None) -> History:
    """Return the content of a `history`, or raise BadMessage."""
    found = decode(_history, content)
    if found.before is not None and found.after is not None:
        raise BadMessage("content: `before` and `after` exclude each other")
    return found


def decode_token(content: bytes | None) -> Token:
    """Return the content of a `connect` or `refresh`, or raise BadMessage."""
    return decode(_token, content)

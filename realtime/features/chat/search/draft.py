"""A search as it is asked for."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

HITS_MAX: Final = 50


class Search(msgspec.Struct, forbid_unknown_fields=True):
    """What a `chat_search` looks for. Filters narrow what `query` says; a room is the envelope's."""

    query: Annotated[
        str,
        Meta(
            description='Words, "a phrase", pre*, -without, from:user, in:room, before:/after:date, has:link.'
        ),
    ] = ""
    from_: Annotated[str, Meta(description="The sender.")] = msgspec.field(name="from", default="")
    after: Annotated[str, Meta(description="A date or time: not what was before it.")] = ""
    before: Annotated[str, Meta(description="A date or time: only what was before it.")] = ""
    has: tuple[Literal["attachment", "link"], ...] = ()
    order: Annotated[
        Literal["newest", "rank"], Meta(description="Rank orders the newest 200 that are found.")
    ] = "newest"
    lang: Annotated[
        str, Meta(pattern="^([a-z]{2})?$", description="The language of the words; empty: as it shows.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=HITS_MAX)] = 20
    position: Annotated[str, Meta(max_length=128, description="The one of the page before.")] = ""

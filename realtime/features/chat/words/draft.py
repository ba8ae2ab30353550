"""A message as its sender writes it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Draft(msgspec.Struct):
    """What a `chat_message` says. `chat_room_id` names the room where the envelope does not."""

    text: Annotated[str, Meta(description="What is said.")] = ""
    attachments: Annotated[
        tuple[str, ...], Meta(max_length=10, description="Ids of files that were uploaded for it.")
    ] = ()
    chat_room_id: Annotated[str | int | None, Meta(description="The room, in place of `room`.")] = None

"""The message types of this part."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from realtime.core.command import Command
from realtime.core.core import Core
from realtime.core.feature import MessageType
from realtime.features.chat.asking import chat_of, command, question
from realtime.features.chat.words import pages
from realtime.features.chat.words.changes import DELETE, EDIT, PIN, REACT
from realtime.features.chat.words.draft import (
    Delete,
    Draft,
    Edit,
    Edits,
    History,
    Import,
    Nothing,
    Pin,
    React,
    Schedule,
    Unschedule,
)
from realtime.features.chat.words.importing import IMPORT
from realtime.features.chat.words.words import HERE, MESSAGE

# Chat may go on beside what others do: in listening sessions and over playlists it is an event like others.
EVERYWHERE: Final = frozenset({"chat", "events", "playlist", "session", "user"})


def _send(core: Core, command: Command) -> bytes | Awaitable[bytes]:
    return chat_of(core).words.send(command)


MESSAGES: Final[tuple[MessageType, ...]] = (
    MessageType(name=MESSAGE, kinds=EVERYWHERE, content=Draft, owner=_send, plain=True),
    command(EDIT, Edit, lambda chat, given, asked: chat.words.changes.edit(given, asked)),
    command(DELETE, Delete, lambda chat, given, asked: chat.words.changes.delete(given, asked)),
    command(REACT, React, lambda chat, given, asked: chat.words.changes.react(given, asked)),
    command(PIN, Pin, lambda chat, given, asked: chat.words.changes.pin(given, asked)),
    question("chat_history", History, pages.history),
    question("chat_edits", Edits, pages.edits),
    question("chat_pins", Nothing, pages.pins),
    command(
        "chat_schedule", Schedule, lambda chat, given, asked: chat.words.scheduler.schedule(given, asked)
    ),
    question("chat_scheduled", Nothing, lambda chat, *asked: chat.words.scheduler.scheduled(*asked)),
    question("chat_unschedule", Unschedule, lambda chat, *asked: chat.words.scheduler.unschedule(*asked)),
    command(IMPORT, Import, lambda chat, given, asked: chat.words.importer.take(given, asked)),
)
PERMISSIONS: Final[tuple[str, ...]] = (HERE, IMPORT)

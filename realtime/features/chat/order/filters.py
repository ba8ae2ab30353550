"""The policy's rules of what may be said, compiled: which speak of a room, and what they say of a message."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from realtime.core.patterns import matcher
from realtime.errors import SettingsError
from realtime.features.chat.order.folding import Reading
from realtime.features.chat.order.said import capitals_percent, links_in, mentions_in, within
from realtime.features.chat.order.wordlist import Span, WordList, merged, words_in
from realtime.files import read_bounded
from realtime.ids import RoomId
from realtime.policy import Chat, ChatRule

REMEMBERED_MAX: Final = 50_000
LIST_BYTES_MAX: Final = 4 * 1024 * 1024
LIST_WORDS_MAX: Final = 200_000


class Finding(NamedTuple):
    """What a rule says of a message: what is wrong, and where, if that is a part of it."""

    why: str
    spans: list[Span] = []  # noqa: RUF012 - never changed


class Filter:
    """One rule. Its counts are the owner's (`Floods`).

    Raises:
        SettingsError: a file cannot be read, or a pattern is none.
    """

    def __init__(self, rule: ChatRule, place: str) -> None:
        self.rule = rule
        self._rooms = matcher(rule.rooms)
        self._tenants = matcher(rule.tenants)
        words = [*rule.words]
        for path in rule.word_files:
            words += _words_of(place, path)
        if len(words) > LIST_WORDS_MAX:
            raise SettingsError(f"{place}: {len(words)} words; a rule has at most {LIST_WORDS_MAX}")
        self.words = WordList(words, rule.allow) if words else None
        self._patterns = _compiled(place, rule.patterns)
        self._allow = frozenset(each.lower() for each in rule.link_allow)
        self._deny = frozenset(each.lower() for each in rule.link_deny)

    def speaks_of(self, room: RoomId) -> bool:
        """Whether it is about this room."""
        return self._tenants(room.tenant) and self._rooms(room.room)

    def find(self, reading: Reading, member_for_s: float) -> Finding | None:
        """Return what is wrong with a message of somebody who has been a member for so long."""
        rule = self.rule
        spans = self.words.find(reading) if self.words is not None else []
        for pattern in self._patterns:
            matches = (each.span() for each in pattern.finditer(reading.folded))
            spans += [reading.place(start, end) for start, end in matches if end > start]
        if spans:
            return Finding("it has words that are not wanted here", merged(spans))
        if rule.on_links and (found := self._find_links(reading, member_for_s)):
            return found
        if rule.caps_percent < 100:
            percent = capitals_percent(reading.text, rule.caps_letters)
            if percent > rule.caps_percent:
                why = f"{percent} % of its letters are capitals; {rule.caps_percent} % are taken"
                return Finding(why)
        if rule.mentions is not None and (named := mentions_in(reading.text)) > rule.mentions:
            return Finding(f"it names {named} people; {rule.mentions} may be named")
        return None

    def _find_links(self, reading: Reading, member_for_s: float) -> Finding | None:
        links = links_in(reading)
        if not links:
            return None
        rule = self.rule
        if member_for_s < rule.links_after_s:
            wait = f"members of less than {rule.links_after_s:g} s send no links"
            return Finding(wait, [(each.start, each.end) for each in links])
        bad = [each for each in links if within(each.host, self._deny)]
        if self._allow:
            bad += [each for each in links if not within(each.host, self._allow) and each not in bad]
        if bad:
            spans = merged([(each.start, each.end) for each in bad])
            return Finding("it has a link to where none may lead from here", spans)
        if rule.links is not None and len(links) > rule.links:
            over = [(each.start, each.end) for each in links[rule.links :]]
            return Finding(f"it has {len(links)} links; {rule.links} are taken", over)
        return None


class Filters:
    """All rules of a policy, found by room.

    Raises:
        SettingsError: as `Filter`.
    """

    def __init__(self, chat: Chat) -> None:
        self.all = [Filter(rule, f"policy: chat.rules[{n}]") for n, rule in enumerate(chat.rules)]
        self._remembered: dict[RoomId, tuple[Filter, ...]] = {}

    def of(self, room: RoomId) -> tuple[Filter, ...]:
        """Return the rules that speak of a room, in their order."""
        if not self.all:
            return ()
        found = self._remembered.get(room)
        if found is None:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            found = self._remembered[room] = tuple(each for each in self.all if each.speaks_of(room))
        return found


def _words_of(place: str, path: str) -> list[str]:
    try:
        return words_in(read_bounded(Path(path), LIST_BYTES_MAX).decode())
    except OSError as error:
        raise SettingsError(f"{place}.word_files: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{place}.word_files: {path} is not UTF-8: {error}") from error


def _compiled(place: str, patterns: Sequence[str]) -> list[Any]:
    """Compile patterns with RE2, whose time is linear in the text whatever the pattern says."""
    if not patterns:
        return []
    try:
        re2 = importlib.import_module("re2")
    except ImportError:
        raise SettingsError(f"{place}.patterns need RE2: pip install 'realtime[filters]'") from None
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = False  # what it is held against is in lower case
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re2.compile(pattern, options))
        except re2.error as error:
            said = error.args[0] if error.args else ""
            told = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            raise SettingsError(f"{place}.patterns: {pattern!r}: {told}") from error
    return compiled

"""What a message's text is made of, as data: links, mentions, and marks of form. It never becomes HTML here.

The text stays as it was written, marks and all; an entity says what the characters from `from` up to `to`
are. Positions count Unicode code points. Where the text has characters that UTF-16 needs two units for, and a
position of JavaScript is another one, it is in `utf16` too: `const [a, b] = e.utf16 ?? [e.from, e.to]`.

Each entity takes its marks along: `**` of bold, `*` or `_` of italic, `~~` of strike, a backtick of code,
three of code_block, `>` of each line of quote. Links are those that are written out, and of http, https and
mailto alone: what is shown is where it leads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

ENTITIES_MAX: Final = 100
MENTIONS_MAX: Final = 50
URL_CHARS_MAX: Final = 2000
HERE: Final = "here"

# Controls, and what turns the direction of text, would show an address as another one.
_NO_URL: Final = r"\s<>\"`\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
_ANY: Final = "@*_~`>:"  # most texts have none of these
_CODE: Final = re.compile(r"```(?P<block>[\s\S]+?)```|`(?P<code>[^`\n]+)`")
_QUOTE: Final = re.compile(r"^>[^\n]*(?:\n>[^\n]*)*", re.MULTILINE)
_TOKEN: Final = re.compile(
    rf"(?P<url>(?<!\w)(?:https?://|mailto:)[^{_NO_URL}]+)"
    r"|(?<![\w@./])@(?:\{(?P<quoted>[^{}\n]{1,128})\}|(?P<user>\w[\w.:-]{0,127}))"
    r"|(?P<mark>\*\*|(?<!\*)\*(?!\*)|(?<!_)_(?!_)|~~)|(?P<line>\n)",
    re.IGNORECASE,
)
_KINDS: Final = {"**": "bold", "*": "italic", "_": "italic", "~~": "strike"}
_AFTER: Final = ".,;:!?'\""  # at the end of an address it is of the sentence


class Entity(msgspec.Struct, omit_defaults=True, rename={"start": "from", "end": "to"}, gc=False):
    """One of them. `url` is of a link, `user` of a mention; that of @here has none."""

    kind: str  # url | mention | here | bold | italic | strike | code | code_block | quote
    start: int
    end: int
    url: str = ""
    user: str = ""
    utf16: tuple[int, int] | None = None


class Found(NamedTuple):
    """What is in a text: `entities` by where they begin, whom it `mentions`, and whether all are called."""

    entities: list[Entity]
    mentions: list[str]
    here: bool


NOTHING: Final = Found([], [], False)


def find(text: str, *, may_call: bool) -> Found:
    """Return what is in a text, the first ENTITIES_MAX of it. @here is one where its sender `may_call`."""
    if not any(map(text.__contains__, _ANY)):
        return NOTHING
    entities: list[Entity] = []
    at = 0
    for code in _CODE.finditer(text):
        _scan(text, at, code.start(), entities, may_call=may_call)
        entities.append(Entity("code" if code["block"] is None else "code_block", *code.span()))
        at = code.end()
    _scan(text, at, len(text), entities, may_call=may_call)
    blocks = [each for each in entities if each.kind == "code_block"]
    for quote in _QUOTE.finditer(text):
        if not any(block.start <= quote.start() < block.end for block in blocks[:ENTITIES_MAX]):
            entities.append(Entity("quote", *quote.span()))
        if len(entities) > 2 * ENTITIES_MAX:
            break
    entities.sort(key=lambda each: (each.start, -each.end))
    del entities[ENTITIES_MAX:]
    _count_units(text, entities)
    users = dict.fromkeys(each.user for each in entities if each.kind == "mention")
    return Found(entities, list(users)[:MENTIONS_MAX], any(each.kind == HERE for each in entities))


def _scan(text: str, start: int, end: int, found: list[Entity], *, may_call: bool) -> None:
    """Add what is in `text` from `start` to `end`, where no code is."""
    opened: list[tuple[str, int]] = []  # marks that may yet be closed, each kind once
    for token in _TOKEN.finditer(text, start, end):
        if len(found) >= ENTITIES_MAX:
            return
        if token["line"]:
            opened.clear()
        elif mark := token["mark"]:
            _take_mark(text, mark, token.start(), opened, found)
        elif token["url"]:
            url = _trimmed(token["url"])
            if url is not None:
                found.append(Entity("url", token.start(), token.start() + len(url), url=url))
        else:
            _take_mention(token, found, may_call=may_call)


def _take_mark(text: str, mark: str, at: int, opened: list[tuple[str, int]], found: list[Entity]) -> None:
    """Close what `mark` closes, or open what it may open."""
    before = text[at - 1] if at else " "
    after = text[at + len(mark)] if at + len(mark) < len(text) else " "
    place = next((n for n, (each, _) in enumerate(opened) if each == mark), None)
    if place is not None and not before.isspace() and not after.isalnum():
        begun = opened[place][1]
        del opened[place:]
        if begun + len(mark) < at:
            found.append(Entity(_KINDS[mark], begun, at + len(mark)))
    elif place is None and not after.isspace() and not before.isalnum():
        opened.append((mark, at))


def _take_mention(token: re.Match[str], found: list[Entity], *, may_call: bool) -> None:
    user = token["quoted"]
    end = token.end()
    if user is None:
        user = token["user"].rstrip(".:-")
        end -= len(token["user"]) - len(user)
        if user == HERE:
            if may_call:
                found.append(Entity(HERE, token.start(), end))
            return
    if user.isprintable() and len(user.encode()) <= 128:
        found.append(Entity("mention", token.start(), end, user=user))


def _trimmed(url: str) -> str | None:
    """Return an address without what is of the sentence around it; None where it leads nowhere."""
    url = url[:URL_CHARS_MAX]
    opened = url.count("(")
    while url and (url[-1] in _AFTER or url[-1] in "*_~" or (url[-1] == ")" and url.count(")") > opened)):
        url = url[:-1]
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "mailto":
        return url if "@" in rest.strip("@") else None
    host = re.split(r"[/?#]", rest.removeprefix("//"), maxsplit=1)[0]
    # A name before the host is there to be taken for it: https://bank.example@evil.example
    return url if host.strip(".:") and "@" not in host and "\\" not in host else None


def _count_units(text: str, entities: Iterable[Entity]) -> None:
    if text.isascii() or max(text) <= "\uffff":
        return
    places = sorted({place for each in entities for place in (each.start, each.end)})
    units, last, known = 0, 0, {}
    for place in places:
        units += len(text[last:place].encode("utf-16-le")) // 2
        known[place], last = units, place
    for each in entities:
        if known[each.end] != each.end:
            each.utf16 = (known[each.start], known[each.end])

"""Which forms of a word have been said: so that an index is asked for these alone.

All forms of a stem begin alike, but not all that begin so are forms of it: of 1,000,000 messages of the
benchmark 10,329 have a word in `typ`. `chat_words` lists what was said as words that may have a stem.
Triggers only queue what is said (`chat_unlisted`); a worker lists it within a second or so, and until then a
search reads it there. So no form is missed; where it is not known which there are, the index is asked for the
beginning. What is unsaid (deleted, edited, expired, erased) is queued too (`chat_unsaid`), and words of it
that no message has any more leave the list as soon.

That a word is listed is remembered, so whoever takes words from the list counts it (`chat_listing`), and
holds others up that list at that moment: else one of them could pass over a word that is being taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from realtime.core.contracts import Clock
from realtime.core.database import Database, Dialect, Statement
from realtime.errors import RealtimeError
from realtime.features.chat.search.letters import fold, is_joined, words_of
from realtime.features.chat.search.stems import STEM_CHARS_MIN, WORD_CHARS_MAX, root, stem

log: Final = logging.getLogger("realtime.chat")

LISTED_AT_ONCE: Final = 200
"""Messages that are listed in one transaction."""
EVERY_S: Final = 1.0
NEWEST: Final = 500
"""Messages whose words are still said for certain: most of what was unsaid need not be looked for."""
UNLISTED_MAX: Final = 256
"""Messages of the queue that a search reads itself; where there are more, as after an import, it asks the
index for beginnings.
"""
WORDS_MAX: Final = 1_000
"""Words with the same beginning that a search looks through."""
FORMS_MAX: Final = 64
KNOWN_MAX: Final = 200_000
_LAST: Final = "\U0010ffff"


def stemmable(text: str) -> set[str]:
    """Return the words of a text that may have a stem in some language."""
    return {
        word
        for word in words_of(fold(text))
        if STEM_CHARS_MIN <= len(word) <= WORD_CHARS_MAX and word.isalpha() and not is_joined(word)
    }


class Forms:
    """Reads and keeps the list of words."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: set[str] = set()  # what is listed for certain, unless the count below has changed
        self._pruned = -1
        self._due = 0.0
        self._listing = False
        self._closing = False

    async def of(self, words: Iterable[str], lang: str) -> dict[str, tuple[str, ...]]:
        """Return, by word that has a stem, its forms that were said, itself included; without those of which
        that cannot be told.
        """
        stems = {word: stemmed for word in words if (stemmed := stem(word, lang))}
        if not stems:
            return {}
        roots = sorted({root(stemmed) for stemmed in stems.values()})
        rows = await self._database.read(_question(len(roots)), *roots, *(each + _LAST for each in roots))
        counts = [0] * len(roots)
        said: set[str] = set()
        unlisted = 0
        for kind, text in rows:
            if kind < 0:
                unlisted += 1
                said |= stemmable(text)
            else:
                counts[kind] += 1
                said.add(text)
        if unlisted > UNLISTED_MAX:
            return {}
        full = {each for each, count in zip(roots, counts, strict=True) if count > WORDS_MAX}
        found = {
            word: (word, *sorted(_forms(word, stemmed, lang, said)))
            for word, stemmed in stems.items()
            if root(stemmed) not in full
        }
        return {word: forms for word, forms in found.items() if len(forms) <= FORMS_MAX}

    def tick(self) -> bool:
        """Whether it is time to `list` what is queued."""
        now = self._clock.monotonic()
        if now < self._due or self._listing:
            return False
        self._due = now + EVERY_S
        self._listing = True
        return True

    async def list(self) -> None:
        """List all that is queued, and take from the list what nobody says any more."""
        try:
            while not self._closing and await self._list_some():
                pass
            while not self._closing and await prune_some(self._database):
                pass
        except RealtimeError as error:
            log.warning("words that were said cannot be listed yet, so searches are slower: %s", error)
        finally:
            self._listing = False

    def close(self) -> None:
        """List nothing any more: the rest of the queue waits for the next server."""
        self._closing = True

    async def _list_some(self) -> bool:
        """List the words of the oldest in the queue; return whether there may be more."""
        rows = await self._database.read(_UNLISTED)
        if not rows:
            return False
        pruned = rows[0][0]
        if pruned != self._pruned:
            self._known.clear()
            self._pruned = pruned
        said: set[str] = set()
        for _, _, text in rows:
            said |= stemmable(text or "")
        numbers = {number for _, number, _ in rows}
        # In order, so that two servers do not wait for each other.
        new = sorted(said - self._known)
        listing, done, held = _LISTING[self._database.dialect]
        *_, gone = await self._database.write(
            *held,
            *([Statement(listing, (_json(new), pruned))] if new else []),
            Statement(done, (_json(sorted(numbers)), pruned)),
        )
        if not gone:
            return True  # words were taken meanwhile, or another worker has listed these
        if len(self._known) > KNOWN_MAX:
            self._known.clear()
        self._known.update(new)
        return len(numbers) == LISTED_AT_ONCE


async def prune_some(database: Database) -> bool:
    """Take words from the list that were unsaid and that no message has any more, of the oldest in the queue;
    return whether there may be more.

    Raises:
        Unavailable: the store gives no answer.
    """
    rows = await database.read(_UNSAID)
    if not rows:
        return False
    words: set[str] = set()
    for _, text in rows:
        words |= stemmable(text)
    for (text,) in await database.read(_NEWEST):
        words -= stemmable(text)
    pruning, done = _PRUNING[database.dialect]
    await database.write(
        # First: whoever lists has to wait from here on.
        Statement("UPDATE chat_listing SET pruned = pruned + 1"),
        *([Statement(pruning, (_json(sorted(words)),))] if words else []),
        Statement(done, (_json([number for number, _ in rows]),)),
    )
    return len(rows) == LISTED_AT_ONCE


def _json(values: object) -> str:
    return msgspec.json.encode(values).decode()


_UNLISTED: Final = f"""SELECT l.pruned AS pruned, u.n AS n, m.text AS text FROM (
    SELECT n, message FROM chat_unlisted ORDER BY n LIMIT {LISTED_AT_ONCE}
) u CROSS JOIN chat_listing l LEFT JOIN chat_messages m ON m.id = u.message"""
_UNSAID: Final = f"SELECT n AS n, text AS text FROM chat_unsaid ORDER BY n LIMIT {LISTED_AT_ONCE}"
_NEWEST: Final = f"""SELECT text AS text FROM (
    SELECT id, text, deleted_ms, hidden_ms FROM chat_messages ORDER BY id DESC LIMIT {NEWEST}
) newest WHERE deleted_ms = 0 AND hidden_ms = 0"""
_LISTING: Final[Mapping[Dialect, tuple[str, str, tuple[Statement, ...]]]] = {
    "sqlite": (
        "INSERT INTO chat_words (word) SELECT value FROM json_each($1) "
        "WHERE $2 = (SELECT pruned FROM chat_listing) ON CONFLICT DO NOTHING",
        "DELETE FROM chat_unlisted WHERE n IN (SELECT value FROM json_each($1)) "
        "AND $2 = (SELECT pruned FROM chat_listing) RETURNING n",
        (),
    ),
    "postgres": (
        "INSERT INTO chat_words (word) SELECT json_array_elements_text($1::text::json) "
        "WHERE $2 = (SELECT pruned FROM chat_listing) ON CONFLICT DO NOTHING",
        "DELETE FROM chat_unlisted WHERE n IN (SELECT json_array_elements_text($1::text::json)::bigint) "
        "AND $2 = (SELECT pruned FROM chat_listing) RETURNING n",
        (Statement("SELECT pruned AS pruned FROM chat_listing FOR SHARE"),),
    ),
}
# Words are letters alone (`stemmable`): nothing in them is syntax.
_PRUNING: Final[Mapping[Dialect, tuple[str, str]]] = {
    "sqlite": (
        "DELETE FROM chat_words WHERE word IN (SELECT value FROM json_each($1)) AND NOT EXISTS ("
        "SELECT 1 FROM chat_found WHERE chat_found MATCH 'words : \"' || chat_words.word || '\"')",
        "DELETE FROM chat_unsaid WHERE n IN (SELECT value FROM json_each($1))",
    ),
    "postgres": (
        "DELETE FROM chat_words WHERE word IN (SELECT json_array_elements_text($1::text::json)) "
        "AND NOT EXISTS (SELECT FROM chat_messages WHERE terms @@ quote_literal(chat_words.word)::tsquery)",
        "DELETE FROM chat_unsaid WHERE n IN (SELECT json_array_elements_text($1::text::json)::bigint)",
    ),
}


def _question(roots: int) -> str:
    """All in one statement, so of one moment: what leaves the queue is in the list."""
    parts = [
        f"""SELECT * FROM (SELECT {number} AS kind, word AS text FROM chat_words
        WHERE word >= ${number + 1} AND word < ${number + 1 + roots} LIMIT {WORDS_MAX + 1}) words{number}"""
        for number in range(roots)
    ]
    parts.append(
        f"""SELECT -1 AS kind, m.text AS text
        FROM (SELECT message FROM chat_unlisted LIMIT {
            UNLISTED_MAX + 1
        }) u JOIN chat_messages m ON m.id = u.message"""
    )
    return " UNION ALL ".join(parts)


def _forms(word: str, stemmed: str, lang: str, said: Iterable[str]) -> Iterable[str]:
    begins = root(stemmed)
    for other in said:
        if other != word and other.startswith(begins) and stem(other, lang) == stemmed:
            yield other

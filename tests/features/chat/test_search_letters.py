"""What a word is, in both stores as in search/letters.py: held against all of Unicode that matters."""

import sqlite3
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from realtime.features.chat import FEATURE
from realtime.features.chat.search import letters
from realtime.features.chat.search.letters import GRAM, fold, is_joined, pieces_of, words_of
from realtime.features.chat.search.narrow import PAIR_CHARS
from realtime.features.chat.search.windows import SLICE_BITS

FOLDER = Path(FEATURE.migrations)
# All planes that have letters or signs in use, without the surrogates, which are no characters; of the large
# blocks, whose characters are all alike, some.
LARGE = [range(0x3500, 0x4D00), range(0x4F00, 0x9E00), range(0xAD00, 0xD700), range(0x12000, 0x1D000)]
POINTS = [
    point
    for point in range(1, 0x20400)
    if not 0xD800 <= point < 0xE000 and (point % 61 == 0 or not any(point in block for block in LARGE))
]
COLUMNS = """id {integer} PRIMARY KEY, room {integer} NOT NULL, sender text, text text NOT NULL,
    lang text NOT NULL DEFAULT '', content text NOT NULL DEFAULT '{{}}',
    deleted_ms {integer} NOT NULL DEFAULT 0, hidden_ms {integer} NOT NULL DEFAULT 0"""


@pytest.fixture(scope="module")
def sqlite():
    """A table of messages with the search's own."""
    db = sqlite3.connect(":memory:")
    db.execute(f"CREATE TABLE chat_messages ({COLUMNS.format(integer='INTEGER')})")
    db.executescript((FOLDER / "sqlite/004_search.sql").read_text())
    db.execute("CREATE VIRTUAL TABLE tokens USING fts5vocab(chat_found, instance)")
    yield db
    db.close()


def tokens(db, texts):
    """By text: what SQLite's index has of it, as a list for each column, in order."""
    db.execute("DELETE FROM chat_messages")
    db.executemany("INSERT INTO chat_messages (id, room, text) VALUES (?, 1, ?)", enumerate(texts))
    found = {text: {"words": [], "grams": []} for text in texts}
    for term, id, column in db.execute("SELECT term, doc, col FROM tokens ORDER BY doc, col, offset"):
        found[texts[id]].setdefault(column, []).append(term)
    return found


def grams(run):
    return [run[at : at + GRAM] for at in range(len(run))]


def test_sqlite_separates_and_joins_where_we_do(sqlite):
    texts = [f"x{chr(point)}z" for point in POINTS]
    for text, had in tokens(sqlite, texts).items():
        words = words_of(fold(text))
        plain = [word for word in words if not is_joined(word)]
        runs = [gram for word in words if is_joined(word) for gram in grams(word)]
        # It may cut a word further, and then what is looked for is cut so too; never less.
        assert len(had["words"]) >= len(plain), f"U+{ord(text[1]):04X}: {had}"
        assert had["grams"] == [gram.encode().hex() for gram in runs], f"U+{ord(text[1]):04X}: {had}"


def test_sqlite_takes_for_the_same_what_we_take_for_the_same(sqlite):
    changed = [chr(point) for point in POINTS if fold(chr(point)) != chr(point)]
    assert len(changed) > 800
    had = tokens(sqlite, [f"x{letter}z" for letter in changed])
    same = tokens(sqlite, sorted({fold(f"x{letter}z") for letter in changed}))
    for letter in changed:
        assert had[f"x{letter}z"] == same[fold(f"x{letter}z")], f"U+{ord(letter):04X}"


async def test_postgres_has_just_our_words(postgres):
    connection = await asyncpg.connect(await postgres.new_database())
    try:
        await connection.execute(f"CREATE TABLE chat_messages ({COLUMNS.format(integer='bigint')})")
        await connection.execute((FOLDER / "postgres/004_search.sql").read_text())
        texts = [f"x{chr(point)}z" for point in POINTS]
        rows = await connection.fetch(
            "SELECT given, tsvector_to_array(chat_terms(0, given, 1, 'alice', '{}')) "
            "FROM unnest($1::text[]) given",
            texts,
        )
    finally:
        await connection.close()
    assert len(rows) == len(texts)
    about = {"#r1", "#ualice", *(f"#{level}0" for level in range(len(SLICE_BITS)))}
    for text, terms in rows:
        words = words_of(fold(text))
        ours = {gram for word in words for gram in (grams(word) if is_joined(word) else [word])}
        plain = [word[:PAIR_CHARS] for word in words if not is_joined(word)]
        ours |= {f"{word} {following}" for word, following in pairwise(plain)}
        assert set(terms) - about == ours, f"U+{ord(text[1]):04X}"


async def test_postgres_has_the_same_terms_of_ascii_the_short_way(postgres):
    texts = [
        "",
        "  ",
        "a" * 250,
        "a" * 251,
        "two\nlines",
        "HTTP://x",
        "see WWW.x",
        "http:x",
        "tab\there",
        "\\ 'q' \"r\"",
    ]
    texts += [f"{sign}a{sign}B{sign}{sign}7{sign}" for sign in map(chr, range(1, 128))]
    connection = await asyncpg.connect(await postgres.new_database())
    try:
        await connection.execute(f"CREATE TABLE chat_messages ({COLUMNS.format(integer='bigint')})")
        await connection.execute((FOLDER / "postgres/004_search.sql").read_text())
        of = "(3764944510797319968, text, 1, sender, content)"
        rows = await connection.fetch(
            f"SELECT text, chat_terms{of} AS terms, chat_terms_folded{of} AS folded "
            "FROM unnest($1::text[]) text, unnest(ARRAY['Ann Ö', NULL]) sender, "
            """unnest(ARRAY['{}', '{"attachments":[{}]}']) content""",
            texts,
        )
    finally:
        await connection.close()
    assert len(rows) == 4 * len(texts)
    assert [row["text"] for row in rows if row["terms"] != row["folded"]] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How to make partitions?", ["how", "to", "make", "partitions"]),
        ("Die STRASSE, Straße", ["die", "strasse", "strasse"]),
        ("Crème Brûlée", ["creme", "brulee"]),
        ("cre\u0300me", ["creme"]),
        ("Ёлка и ёж", ["елка", "и", "еж"]),
        ("مَرْحَبًا أحمد", ["مرحبا", "احمد"]),
        ("ΟΔΟΣ", ["οδοσ"]),
        ("apt-get_x/y.z", ["apt", "get", "x", "y", "z"]),
        ("ubuntu中文 日本語テスト", ["ubuntu", "中文", "日本語テスト"]),
        ("ok🤖then ❤️heart", ["ok", "then", "heart"]),
        ("soft\u00adhyphen", ["softhyphen"]),
        ("สวัสดี ครับ", ["สวัสดี", "ครับ"]),
    ],
)
def test_words(text, words):
    assert words_of(fold(text)) == words
    assert [piece.text for piece in pieces_of(text)] == words


def test_pieces_say_where_they_are_in_the_text_as_it_was_written():
    text = "Die Straße der Œuvre, cre\u0300me; 東京"
    assert [text[piece.start : piece.end] for piece in pieces_of(text)] == [
        *("Die", "Straße", "der", "Œuvre", "cre\u0300me", "東京")
    ]
    (street,) = (piece for piece in pieces_of(text) if piece.text == "strasse")
    assert [text[start:end] for start, end in street.parts("ss")] == ["ß"]


def test_the_migrations_say_what_the_module_says():
    """Beside the tests above: the list is the same, not only what it does."""
    written = (FOLDER / "postgres/004_search.sql").read_text()
    shown = "".join(line.strip().strip("'") for line in written.splitlines())
    for part in (letters.JOINED, letters.SEPARATORS.partition("\u0080")[2]):
        escaped = "".join(
            one if one == "-" else f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"
            for one in part
        )
        assert escaped in shown

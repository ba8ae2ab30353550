"""Questions for a search, by chance and from a seed: as they are typed, and as the oracle takes them."""

from datetime import UTC, datetime

from realtime.features.chat.ids import at_ms, first_id
from realtime.features.chat.search.language import language_of
from realtime.features.chat.search.query import parse
from tests.oracles.chat_search import Question, cut

LANGUAGES = ["en", "en", "de", "fr", "ru", "ja", ""]
DAY_MS = 86_400_000


def a_question(rng, messages, users, rooms):
    """Return (the content of a `chat_search`, the same for the oracle, the language of its words)."""
    asked, typed = Question(), []
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3])):
        _add_words(rng, rng.choice(messages).text, asked, typed)
    if rng.random() < 0.2:
        asked.senders = rng.sample(users, rng.choice([1, 1, 2]))
        typed += [f'from:"{sender}"' for sender in asked.senders]
    if rng.random() < 0.15:
        asked.rooms = [rng.choice(rooms)]
        typed += [f"in:{asked.rooms[0].removeprefix('chat:')}"]
    if rng.random() < 0.15:
        asked.has = [rng.choice(["link", "link", "attachment"])]
        typed += [f"has:{asked.has[0]}"]
    if rng.random() < 0.25:
        _add_times(rng, messages, asked, typed)
    if not (asked.words or asked.phrases or asked.prefixes or asked.senders or asked.rooms or asked.has):
        return a_question(rng, messages, users, rooms)
    rng.shuffle(typed)
    query = " ".join(typed)
    if len(query) > 250:
        return a_question(rng, messages, users, rooms)
    lang = rng.choice(LANGUAGES)
    content = {"query": query} | ({"lang": lang} if lang else {})
    return content, asked, lang or language_of(parse(query).text) or "en"


def _add_words(rng, text, asked, typed):
    words = [word for word in text.replace('"', " ").split() if _is_word(word)]
    if not words:
        return
    at = rng.randrange(len(words))
    word = words[at].strip("*-:")
    if not _is_word(word) or ":" in word:
        return
    match rng.choice(["word", "word", "word", "part", "phrase", "prefix", "without"]):
        case "phrase":
            # What stands side by side here as in the text: nothing between them has letters.
            phrase = words[at : at + rng.choice([1, 2, 3])]
            asked.phrases.append(phrase)
            typed.append('"' + " ".join(phrase) + '"')
        case "prefix":
            (part,) = cut(word)[:1]
            begin = part[: rng.randint(2, 5)]
            if len(begin) >= 2:
                asked.prefixes.append(begin)
                typed.append(begin + "*")
        case "without":
            asked.without.append(word)
            typed.append("-" + word)
        case "part":
            part = rng.choice(cut(word))
            begin = rng.randrange(len(part)) if not part.isascii() and len(part) > 3 else 0
            chosen = part[begin : begin + rng.randint(1, 4)] if begin else part
            asked.words.append(chosen)
            typed.append(chosen)
        case _:
            written = rng.choice([word, word.upper(), word.lower()])
            asked.words.append(written)
            typed.append(written)


def _is_word(word):
    """Whether it is looked for as a word: with a letter or a digit in each of its parts, and no key."""
    parts = cut(word)
    return bool(parts) and all(any(map(str.isalnum, part)) for part in parts)


def _add_times(rng, messages, asked, typed):
    times = sorted(at_ms(rng.choice(messages).id) for _ in range(2))
    if rng.random() < 0.7:
        day = datetime.fromtimestamp(times[0] / 1000, UTC).date()
        typed.append(f"after:{day}")
        asked.after_id = first_id(int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000))
    if rng.random() < 0.7:
        moment = datetime.fromtimestamp(times[1] // 1000, UTC)
        typed.append(f"before:{moment.isoformat().replace('+00:00', 'Z')}")
        asked.before_id = first_id(times[1] // 1000 * 1000)

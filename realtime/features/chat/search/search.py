"""Search in what was said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from realtime.core.database import Dialect
from realtime.core.session import Session
from realtime.errors import BadMessage, Forbidden, Unavailable
from realtime.features.chat import ids
from realtime.features.chat.asking import chat_room, identity_of
from realtime.features.chat.part import Part
from realtime.features.chat.rules import KIND
from realtime.features.chat.search.draft import HITS_MAX
from realtime.features.chat.search.draft import Search as Asked
from realtime.features.chat.search.finding import Asker, Candidate, Finding
from realtime.features.chat.search.forms import Forms
from realtime.features.chat.search.language import language_of
from realtime.features.chat.search.leftovers import Leftovers
from realtime.features.chat.search.letters import fold, words_of
from realtime.features.chat.search.matching import Matcher, has_link, score, snippet
from realtime.features.chat.search.narrow import narrowing
from realtime.features.chat.search.query import Query, add_filter, parse
from realtime.features.chat.search.windows import Layout
from realtime.features.chat.words.shown import columns, shown
from realtime.ids import RoomId, RoomName

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

FIRST_ROWS: Final = 40
ROWS_MAX: Final = 4_096
EXAMINED_MAX: Final = 20_000
"""Rows that one question looks at; then it answers with what it has, and where to go on."""
PATIENCE_S: Final = 0.5
"""How long it looks, at most, before it does the same."""
RANKED: Final = 200
AT_ONCE_MAX: Final = 64
"""Questions that one worker has under way; the next are told to come again."""
HITS_USUAL: Final = 20
ALONE_MAX: Final = 10_000
_EVER: Final = (1 << 63) - 1
_POSITION: Final = re.compile(r"n(\d{1,19})|r(\d{1,19})\.(\d{1,9})\.(\d{1,19})")


class Hit(NamedTuple):
    """A message that was found, where in its text, and how well it fits."""

    candidate: Candidate
    places: list[list[tuple[int, int]]]
    score: int


class Search(Part):
    """Answers questions about what was said, in all rooms that the asker may read."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self._alone: set[tuple[str, str]] = set()
        self._forms = Forms(self.database, self.clock)
        self._layout = Layout(self.database, self.clock)
        self._leftovers = Leftovers(self.database, self.clock, self.settings.chat_search_forget_s)
        self._running = 0
        self._asked = 0
        self._examined = 0

    def language(self, text: str) -> str:
        """Return the language of a message as two letters (ISO 639-1); empty: it does not show."""
        return language_of(text) or self.settings.chat_search_lang

    def stats(self) -> dict[str, int]:
        """As `Part.stats`."""
        return {"chat_searches_total": self._asked, "chat_search_rows_total": self._examined}

    def tick(self) -> None:
        """As `Part.tick`."""
        if self._forms.tick():
            self.chat.services.spawn(self._forms.list())
        if self._layout.tick():
            self.chat.services.spawn(self._layout.learn())
        if self._leftovers.tick():
            self.chat.services.spawn(self._leftovers.clear())

    async def close(self) -> None:
        """As `Part.close`."""
        self._forms.close()
        self._leftovers.close()

    async def ask(self, session: Session, room: RoomId | None, asked: Asked) -> dict[str, Any]:
        """Return what is found, a page of it: the answer to `chat_search`.

        Raises:
            BadMessage: it does not say what to look for, or says it wrongly.
            Forbidden: the asker may not read in a room that it names; or nobody can search there.
            Unavailable: no answer in time, or too many questions are under way.
        """
        if self._running >= AT_ONCE_MAX:
            raise Unavailable("too many searches are under way", retry_after_s=1.0)
        self._running += 1
        self._asked += 1
        try:
            return await self._page(_Question(self.chat, session, asked), room, asked)
        finally:
            self._running -= 1

    async def _page(self, question: _Question, room: RoomId | None, asked: Asked) -> dict[str, Any]:
        top, after = _read_position(asked)
        numbers = await question.rooms(room)
        if numbers == []:
            return {"hits": [], "more": False}
        words = [term.words[0] for term in question.query.terms if term.stemmed]
        forms = await self._forms.of(words, question.lang)
        match = narrowing(question.query, question.lang, forms, numbers or [])
        if not match.wanted:
            raise BadMessage("say what to look for: a word, from:, in: or has:")
        low = ids.first_id(question.query.after_ms or 0)
        high = min(top, ids.first_id(question.query.before_ms) if question.query.before_ms else _EVER)
        who = question.asker[:2]
        finding = Finding(
            self.database, self._layout, question.asker, match, low, high, alone=who in self._alone
        )
        if asked.order == "rank":
            answer = await self._ranked(question, finding, asked.limit, after)
        else:
            answer = await self._newest(question, finding, asked.limit)
        if finding.alone:
            self._remember(who)
        return answer

    def _remember(self, who: tuple[str, str]) -> None:
        """Keep in mind who reads few rooms: their next question begins with these."""
        if len(self._alone) >= ALONE_MAX:
            self._alone.clear()
        self._alone.add(who)

    async def _newest(self, question: _Question, finding: Finding, limit: int) -> dict[str, Any]:
        hits: list[Hit] = []
        async for hit in self._hits(question, finding):
            hits.append(hit)
            if len(hits) > limit:
                break
        answer: dict[str, Any] = {"hits": await question.show(hits[:limit])}
        if len(hits) > limit:
            return answer | {"more": True, "position": f"n{hits[limit - 1].candidate.id}"}
        if finding.left:
            return answer | {"more": True, "position": f"n{finding.high}"}
        return answer | {"more": False}

    async def _ranked(
        self, question: _Question, finding: Finding, limit: int, after: tuple[int, int] | None
    ) -> dict[str, Any]:
        hits: list[Hit] = []
        async for hit in self._hits(question, finding):
            hits.append(hit)
            if len(hits) == RANKED:
                break
        if not hits:
            return {"hits": [], "more": False}
        top = hits[0].candidate.id + 1
        hits.sort(key=_rank)
        left = [hit for hit in hits if after is None or _rank(hit) > after]
        answer: dict[str, Any] = {"hits": await question.show(left[:limit]), "more": len(left) > limit}
        if len(left) > limit:
            worst = left[limit - 1]
            answer["position"] = f"r{top}.{worst.score}.{worst.candidate.id}"
        return answer

    async def _hits(self, question: _Question, finding: Finding) -> AsyncIterator[Hit]:
        """Give what is found, newest first, until there is no more or enough was looked at."""
        until = self.clock.monotonic() + PATIENCE_S
        examined, count = 0, FIRST_ROWS
        while finding.left and examined < EXAMINED_MAX and self.clock.monotonic() < until:
            rows = await finding.more(count)
            examined += len(rows)
            self._examined += len(rows)
            for row in rows:
                hit = question.look(row)
                if hit is not None:
                    yield hit
            count = min(count * 4, ROWS_MAX)


class _Question:
    """One question, and what was found out for it about the rooms that were come upon."""

    def __init__(self, chat: Chat, session: Session, asked: Asked) -> None:
        identity = identity_of(session)
        self._chat = chat
        self._session = session
        self._tenant = session.tenant.id
        self._kind = chat.core.catalog.kinds[KIND]
        self._readable: dict[str, bool] = {}
        open_rooms = int(chat.services.settings.chat_open_rooms)
        self.asker = Asker(self._tenant, identity.user, chat.rooms.now_ms, open_rooms)
        self.query = _query_of(asked)
        self.lang = asked.lang or chat.search.language(self.query.text)
        self._matcher = Matcher(self.query, self.lang)

    async def rooms(self, room: RoomId | None) -> list[int] | None:
        """Return the numbers of the rooms to look into, which are readable; None for all that are.

        Raises:
            BadMessage, Forbidden: as `Search.ask`.
        """
        names = [*({room.room} if room is not None else ())]
        for name in self.query.rooms:
            names.append(chat_room(self._tenant, name if ":" in name else f"{KIND}:{name}").room)
        if not names:
            return None
        numbers = []
        for name in dict.fromkeys(names):
            look = await self._chat.rooms.look(self._session, RoomId(self._tenant, name))
            self._check(name)
            if look.room.number:
                numbers.append(look.room.number)
        return numbers

    def _check(self, name: RoomName) -> None:
        flags = self._chat.core.rules.of(RoomId(self._tenant, name))
        if flags.encrypted or flags.end_to_end:
            raise Forbidden(f"{name} is sealed: nothing of it can be searched here; read its `history`")
        if not self._may_read(name):
            raise Forbidden(f"you may not read what was said in {name}")

    def _may_read(self, name: str) -> bool:
        """Whether the policy lets the asker read in a room, and it is not sealed. Asked once a room."""
        known = self._readable.get(name)
        if known is None:
            room = RoomId(self._tenant, RoomName(name))
            flags = self._chat.core.rules.of(room)
            rights = self._chat.core.membership.rights_in(self._session, self._kind, name)
            sealed = flags.encrypted or flags.end_to_end
            known = self._readable[name] = rights.join and rights.history and not sealed
        return known

    def look(self, row: Candidate) -> Hit | None:
        """Return a row as a hit, or None where it is not looked for or not to be seen."""
        if row.room is None or not self._may_read(row.room):
            return None
        places = self._matcher.find(row.text, row.lang)
        if places is None or ("link" in self.query.has and not has_link(row.text)):
            return None
        return Hit(row, places, score(places, len(words_of(fold(row.text)))))

    async def show(self, hits: list[Hit]) -> list[dict[str, Any]]:
        """Return hits as they are sent, in their order; without those that are gone by now."""
        if not hits:
            return []
        database = self._chat.services.database
        # As many values each time: each number of them would be a statement of its own, to be planned anew.
        places = [(hit.candidate.number, hit.candidate.id) for hit in hits]
        places += places[-1:] * ((HITS_USUAL if len(hits) <= HITS_USUAL else HITS_MAX) - len(hits))
        rows = await database.read(
            _SHOWN[database.dialect, len(places)],
            self._tenant,
            self.asker.user,
            *(value for place in places for value in place),
        )
        messages = {(row[0], row[1]): shown(row) for row in rows}
        found = []
        for hit in hits:
            message = messages.get((hit.candidate.id, hit.candidate.room))
            if message is not None:
                found.append({"message": message, "snippet": snippet(hit.candidate.text, hit.places)})
        return found


def _show(dialect: Dialect, count: int) -> str:
    """By room and id: by id alone PostgreSQL looks for each in all rooms, which took up to 20 ms in 42."""
    wanted = ", ".join(
        f"(CAST(${n} AS bigint), CAST(${n + 1} AS bigint))" for n in range(3, 3 + 2 * count, 2)
    )
    return f"""SELECT {columns(dialect, "$2")} FROM (VALUES {wanted}) hit
        JOIN chat_messages m ON m.room = hit.column1 AND m.id = hit.column2 JOIN rooms r ON r.id = m.room
        WHERE r.tenant = $1 AND m.deleted_ms = 0 AND m.hidden_ms = 0"""


_SHOWN: Final = {
    (dialect, count): _show(dialect, count)
    for dialect in get_args(Dialect)
    for count in (HITS_USUAL, HITS_MAX)
}


def _rank(hit: Hit) -> tuple[int, int]:
    return (-hit.score, -hit.candidate.id)


def _query_of(asked: Asked) -> Query:
    query = parse(asked.query)
    for key, value in (("from", asked.from_), ("after", asked.after), ("before", asked.before)):
        if value:
            add_filter(query, key, value)
    for each in asked.has:
        add_filter(query, "has", each)
    if query.without and not (query.terms or query.senders or query.rooms or query.has):
        raise BadMessage("say what to look for beside what should not be there")
    return query


def _read_position(asked: Asked) -> tuple[int, tuple[int, int] | None]:
    """Return the id below which to look, and where a ranked page goes on."""
    if not asked.position:
        return _EVER, None
    found = _POSITION.fullmatch(asked.position)
    if found is None or (found[1] is None) != (asked.order == "rank"):
        raise BadMessage("this is no position of a search in this order")
    if found[1]:
        return min(int(found[1]), _EVER), None
    return min(int(found[2]), _EVER), (-int(found[3]), -int(found[4]))

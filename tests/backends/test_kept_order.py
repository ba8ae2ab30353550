"""Pages that are read in several pieces, while what they read goes on and loses its oldest."""

import msgspec

from realtime.backends.kept_order import FIRST_ROWS, KeptOrder
from realtime.core.contracts import Page, Position
from realtime.ids import RoomId, RoomName, TenantId
from realtime.native.sequence import Sequence

ROOM = RoomId(TenantId("default"), RoomName("events:a"))


class Moving:
    """A source that keeps the last `keep` of `last` publications, and has some more before each question."""

    def __init__(self, keep: int, last: int, more_each: int) -> None:
        self._keep, self._last, self._more = keep, last, more_each

    async def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        raise NotImplementedError

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        assert after is not None
        first = max(after + 1, self._last - self._keep + 1)
        self._last += self._more
        pushes = [b'{"offset":%d}' % offset for offset in range(first, first + limit)]
        return Page(pushes, True)


async def offsets(source: Moving, after: int, limit: int) -> tuple[list[int], bool]:
    order = KeptOrder(ROOM, source, 10_000, lambda at: Sequence(b'"a"', b"e", 9, 999, None, at), 1 << 20)
    page = order.history(None, after, limit)
    assert not isinstance(page, Page)
    found = await page
    return [msgspec.json.decode(push)["offset"] for push in found.messages], found.more


async def test_a_page_ends_where_the_oldest_went_while_it_was_read():
    found, more = await offsets(Moving(keep=300, last=400, more_each=20), 0, 40)
    assert found == list(range(101, 101 + FIRST_ROWS))
    assert more, "the rest is in the next page, which may begin above"


async def test_a_page_goes_on_over_its_pieces():
    found, more = await offsets(Moving(keep=300, last=400, more_each=0), 0, 40)
    assert found == list(range(101, 141))
    assert more

"""Recovery and history of durable rooms: of memory, of the store, and of both while publications commit."""

import asyncio

import pytest

from realtime.core.contracts import Page, Position, Recovery, Row
from realtime.errors import Unavailable
from tests.backends.durable_stage import LOBBY, Stage, get, kept_before, offsets
from tests.core.slow_broker import settle


@pytest.fixture
async def stage() -> Stage:
    return await Stage().ready()


@pytest.mark.parametrize(
    ("history_messages", "commits"), [(1000, 1), (1000, 7), (7, 3), (3, 3), (3, 7), (0, 2)]
)
async def test_what_commits_while_a_recovery_reads_continues_it_without_gap_or_repeat(
    history_messages, commits
):
    stage = Stage(history_messages=history_messages)
    kept_before(stage, 5)
    await stage.ready()
    stage.store.answers = asyncio.Event()
    recovering = asyncio.ensure_future(stage.stream.recover(Position(2, b"epoch1")))
    await settle()
    assert stage.store.asked == ["read"]
    for _ in range(commits):
        stage.say()
    stage.store.commit()
    stage.store.answers.set()
    recovery = await recovering
    assert (recovery.recovered, recovery.offset) == (True, 5)
    last = 5 + commits
    assert offsets(recovery) + stage.delivered == list(range(3, last + 1))
    for since in range(last + 1):
        again = await get(stage.stream.recover(Position(since, b"epoch1")))
        assert (again.offset, offsets(again)) == (last, list(range(since + 1, last + 1)))


async def test_what_was_read_is_not_joined_to_what_memory_has_where_the_two_do_not_meet():
    stage = Stage(history_bytes=500)
    kept_before(stage, 5)
    await stage.ready()
    stage.store.answers = asyncio.Event()
    recovering = asyncio.ensure_future(stage.stream.recover(Position(2, b"epoch1")))
    await settle()
    stage.say("x" * 1_000)  # too large for memory, which is empty after it
    stage.store.commit()
    stage.store.answers.set()
    assert offsets(await recovering) == [3, 4, 5]
    stage.say()
    stage.store.commit()
    assert stage.delivered == [6, 7]
    assert offsets(await get(stage.stream.recover(Position(3, b"epoch1")))) == [4, 5, 6, 7]


async def test_many_who_come_back_at_once_read_the_store_once():
    stage = Stage()
    kept_before(stage, 900)
    stream = stage.stream
    recoveries = await asyncio.gather(*(stream.recover(Position(700 + n, b"epoch1")) for n in range(100)))
    for n, recovery in enumerate(recoveries):
        assert offsets(recovery) == list(range(701 + n, 901))
    assert stage.store.asked == ["remembered", "read", "read"], (
        "a few, to see how large they are, and the rest"
    )
    stage.say()
    stage.store.commit()
    assert stage.delivered == [901]
    assert offsets(stream.recover(Position(700, b"epoch1"))) == list(range(701, 902))


async def test_a_read_that_fails_refuses_all_that_wait_for_it_and_the_next_one_is_made():
    stage = Stage()
    kept_before(stage, 10)
    await stage.ready()
    stage.store.answers = Unavailable()
    asked = [asyncio.ensure_future(stage.stream.recover(Position(n, b"epoch1"))) for n in range(5)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert stage.store.asked == ["read"]
    stage.store.answers = None
    assert offsets(await stage.stream.recover(Position(4, b"epoch1"))) == [5, 6, 7, 8, 9, 10]


async def test_whoever_reads_and_is_gone_leaves_the_others_to_read():
    stage = Stage()
    kept_before(stage, 10)
    await stage.ready()
    stage.store.answers = asyncio.Event()
    gone = asyncio.ensure_future(stage.stream.recover(Position(3, b"epoch1")))
    other = asyncio.ensure_future(stage.stream.recover(Position(4, b"epoch1")))
    await settle()
    gone.cancel()
    stage.store.answers.set()
    assert offsets(await other) == [5, 6, 7, 8, 9, 10]


async def test_a_recovery_is_bounded_and_one_too_large_is_read_once_and_not_to_its_end():
    stage = Stage(answer_bytes=50_000)
    kept_before(stage, 450, size=1_000)
    await stage.ready()
    refused = Recovery(450, b"epoch1", False, ())
    assert await stage.stream.recover(Position(10, b"epoch1")) == refused
    assert stage.store.asked == ["read", "read"]
    assert stage.store.read_rows < 100
    for since in (10, 5, 0):
        assert stage.stream.recover(Position(since, b"epoch1")) == refused
    assert offsets(await stage.stream.recover(Position(420, b"epoch1"))) == list(range(421, 451))


@pytest.mark.parametrize("after", [None, 100])
async def test_a_page_ends_where_an_answer_would_and_says_that_there_is_more(after):
    stage = Stage(answer_bytes=60_000)
    kept_before(stage, 450, size=1_000)
    await stage.ready()
    page = await stage.stream.history(None, after, 400)
    found = offsets(page)
    assert page.more is True
    assert sum(map(len, page.messages)) >= 60_000
    assert stage.store.read_rows == len(found) < 80
    first = 451 - len(found) if after is None else 101
    assert found == list(range(first, first + len(found)))


async def test_a_long_walk_through_pages_of_the_store_sees_all_once_in_both_directions():
    stage = Stage(answer_bytes=5_000)
    for offset, size in enumerate([10, 10, 3_000, 10, 6_000] * 40, start=1):
        kept_before(stage, offset, size=size)
    await stage.ready()
    for after in (None, 0):
        seen: list[int] = []
        before, more = None, True
        while more:
            page = await get(stage.stream.history(before, after, 50))
            found, more = offsets(page), page.more
            if after is None:
                seen, before = found + seen, found[0]
            else:
                seen, after = seen + found, found[-1]
        assert seen == list(range(1, 201))


async def test_more_rows_than_could_ever_fit_are_refused_unread():
    stage = Stage(answer_bytes=10_000)
    kept_before(stage, 1_000)
    await stage.ready()
    assert stage.stream.recover(Position(1, b"epoch1")).recovered is False
    assert stage.store.asked == []


async def test_recovery_is_whole_or_refused_where_the_store_has_a_hole_or_another_epoch():
    stage = Stage()
    kept_before(stage, 5, epoch=b"earlier")
    stage.store.write(Row(LOBBY, Position(6, b"epoch1"), b'{"offset":6}', None, None, 0))
    stage.store.write(Row(LOBBY, Position(8, b"epoch1"), b'{"offset":8}', None, None, 0))
    await stage.ready()
    for since, epoch, whole in ((3, b"epoch1", False), (5, b"epoch1", False), (7, b"epoch1", True)):
        recovery = await stage.stream.recover(Position(since, epoch))
        assert (recovery.recovered, recovery.offset) == (whole, 8)
        assert offsets(recovery) == ([8] if whole else [])
    assert stage.stream.recover(Position(3, b"earlier")).recovered is False


async def test_history_of_what_memory_has_is_answered_at_once_and_the_rest_by_the_store():
    stage = Stage()
    kept_before(stage, 10)
    await stage.ready()
    for _ in range(5):
        stage.say()
    stage.store.commit()
    for before, after, limit, expected, more, at_once in (
        (None, None, 3, [13, 14, 15], True, True),
        (None, None, 5, [11, 12, 13, 14, 15], True, False),
        (None, None, 7, [9, 10, 11, 12, 13, 14, 15], True, False),
        (15, None, 2, [13, 14], True, True),
        (11, None, 2, [9, 10], True, False),
        (3, None, 5, [1, 2], False, False),
        (None, 12, 2, [13, 14], True, True),
        (None, 10, 9, [11, 12, 13, 14, 15], False, True),
        (None, 9, 2, [10, 11], True, False),
    ):
        page = stage.stream.history(before, after, limit)
        assert isinstance(page, Page) is at_once
        page = page if isinstance(page, Page) else await page
        assert (offsets(page), page.more) == (expected, more), (before, after, limit)


async def test_history_shows_nothing_that_is_not_delivered_yet(stage):
    for _ in range(3):
        stage.say()
    stage.store.commit()
    stage.say()
    stage.store.write(stage.store.queue[0][0])
    assert offsets(await get(stage.stream.history(None, None, 100))) == [1, 2, 3]

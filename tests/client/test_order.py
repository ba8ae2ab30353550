"""A room's order over epochs, and over anything that may happen: against a model of a server."""

import pytest

from realtime.client import Gap, Message, Position, Resumed
from tests.client.order_model import RESTARTED, History, Model, at, drained, filled, names, push, told


@pytest.mark.parametrize(
    ("history", "here", "expected"),
    [
        # All of the new epoch is there, from its beginning: whoever restarted has published meanwhile.
        (History(("b", 1, 4)), 4, [RESTARTED, *names("b", 1, 4)]),
        # As much of it as the history has.
        (History(("b", 3, 4)), 4, [RESTARTED, "b3", "b4"]),
        # Nothing of it.
        (History(), 4, [RESTARTED]),
        # A store's offsets go on over epochs: first the old one's tail, then all of the new one.
        (History(("a", 1, 12), ("b", 13, 20)), 20, [*names("a", 11, 12), RESTARTED, *names("b", 13, 20)]),
        # The tail was lost, also what we have seen of it: the new epoch begins below our offset.
        (History(("a", 1, 8), ("b", 9, 20)), 20, [RESTARTED, *names("b", 9, 20)]),
        # Nothing was published since.
        (History(("a", 1, 12)), 12, ["a11", "a12", RESTARTED]),
        (History(("a", 1, 10)), 10, [RESTARTED]),
        (History(("a", 1, 7)), 7, [RESTARTED]),
        # Two epochs have gone by.
        (
            History(("a", 1, 11), ("c", 12, 13), ("b", 14, 15)),
            15,
            ["a11", RESTARTED, "c12", "c13", RESTARTED, "b14", "b15"],
        ),
        # The history no longer reaches back to us.
        (History(("a", 14, 15), ("b", 16, 17)), 17, ["a14", "a15", RESTARTED, "b16", "b17"]),
    ],
)
@pytest.mark.parametrize("limit", [8, 1000])
async def test_a_new_epoch_is_told_and_what_the_history_has_of_both_comes(history, here, expected, limit):
    order, inbox = at(10, "a", limit)
    order.joined(Position(here, "b"), False, ())
    order.push(push(here + 1, "b"))
    history.kept.append((here + 1, "b"))
    items = told(await filled(order, inbox, history))
    assert [item for item in items if item != Resumed(False)] == [*expected, f"b{here + 1}"]
    assert items.index(Resumed(False)) > items.index(RESTARTED)
    assert order.position == Position(here + 1, "b")


async def test_a_connection_that_breaks_while_the_new_epoch_is_looked_for_has_told_nothing_yet():
    order, inbox = at(10, "a")
    history = History(("a", 1, 12), ("b", 13, 20))
    order.joined(Position(20, "b"), False, ())
    ask = order.wanted
    assert ask is not None
    order.page(ask, history.answer(ask))
    assert (order.position, len(inbox)) == (Position(10, "a"), 0)
    order.joined(Position(20, "b"), False, ())
    assert told(await filled(order, inbox, history))[:3] == ["a11", "a12", RESTARTED]


async def test_a_connection_that_breaks_between_pages_goes_on_from_there():
    order, inbox = at(0, "a", 16)
    history = History(("a", 1, 20))
    order.joined(Position(20, "a"), False, ())
    ask = order.wanted
    assert ask is not None
    order.page(ask, history.answer(ask))
    assert order.position == Position(4, "a")
    late = order.wanted
    assert late is not None
    order.joined(Position(20, "a"), True, [push(offset, "a") for offset in range(5, 21)])
    order.page(late, history.answer(late))  # an answer to who we were before
    assert told(await drained(inbox)) == names("a", 1, 8), "no more than the reader has room for"
    assert told(await filled(order, inbox, history)) == [*names("a", 9, 20), Resumed(True)]


async def test_an_offset_beyond_the_end_is_a_restart_and_nothing_comes_twice():
    order, inbox = at(10, "a")
    order.joined(Position(3, "a"), False, ())
    assert order.wanted is None, "what is there may be what we have seen"
    order.push(push(4, "a"))
    assert told(await drained(inbox)) == [RESTARTED, Resumed(False), "a4"]


async def test_an_epoch_that_changes_in_the_midst_of_pushes_is_looked_for_too():
    order, inbox = at(10, "a")
    order.push(push(3, "b"))
    order.push(push(4, "b"))
    history = History(("b", 1, 4))
    assert told(await filled(order, inbox, history)) == [RESTARTED, *names("b", 1, 4)]


async def test_pushes_beyond_the_bound_are_fetched_in_their_turn():
    order, inbox = at(0, "a", 16)
    order.joined(Position(10, "a"), False, ())
    for offset in range(11, 101):
        order.push(push(offset, "a"))
    history = History(("a", 1, 100))
    seen = told(await filled(order, inbox, history))
    assert [item for item in seen if item != Resumed(True)] == names("a", 1, 100)


async def test_pushes_beyond_the_bound_that_the_history_has_no_more_are_a_gap():
    order, inbox = at(0, "a", 16)
    order.joined(Position(10, "a"), False, ())
    for offset in range(11, 101):
        order.push(push(offset, "a"))
    assert told(await filled(order, inbox, History(("a", 1, 3)))) == [
        *names("a", 1, 3),
        Gap(4, 10, "unrecoverable"),
        Resumed(False),
        Gap(11, 96, "lost"),
        *names("a", 97, 100),
    ]


async def test_an_order_without_an_end_to_fill_goes_on_to_where_the_history_ends():
    order, inbox = at(0, "a", 16)
    order.joined(None, False, ())
    assert told(await filled(order, inbox, History(("a", 1, 10)))) == [*names("a", 1, 10), Resumed(True)]


@pytest.mark.parametrize("epoch", ["a", "b"])
async def test_a_history_that_is_refused_is_a_gap_and_the_room_goes_on(epoch):
    order, inbox = at(10, "a")
    order.joined(Position(20, epoch), False, ())
    order.push(push(21, epoch))
    while (ask := order.wanted) is not None:
        order.give_up(ask)
    gap = Gap(11, 20, "unrecoverable") if epoch == "a" else RESTARTED
    assert told(await drained(inbox)) == [gap, Resumed(False), f"{epoch}21"]


async def test_an_epoch_that_the_server_says_has_ended_is_told_at_once_and_not_again():
    order, inbox = at(10, "a")
    order.gap(RESTARTED)
    order.gap(RESTARTED)  # and one more, of which nothing was seen
    assert told(await drained(inbox)) == [RESTARTED]
    assert order.wanted is None, "where the room goes on the next push says"
    order.push(push(13, "b"))
    history = History(("a", 1, 11), ("b", 12, 13))
    assert told(await filled(order, inbox, history)) == ["a11", "b12", "b13"]
    order.push(push(5, "c"))
    assert told(await filled(order, inbox, History(("c", 5, 5)))) == [RESTARTED, "c5"]


async def test_what_is_lost_in_an_epoch_that_was_not_seen_is_told_once():
    order, inbox = at(10, "a")
    order.gap(RESTARTED)
    order.gap(Gap(11, 12, "unrecoverable"))
    order.push(push(13, "b"))
    history = History(("a", 1, 10), ("b", 13, 13))
    assert told(await filled(order, inbox, history)) == [RESTARTED, "b13"]


async def test_an_epochs_end_waits_for_what_is_missing_before_it():
    order, inbox = at(10, "a")
    order.push(push(12, "a"))
    order.gap(RESTARTED)
    order.push(push(13, "b"))
    history = History(("a", 1, 12), ("b", 13, 13))
    assert told(await filled(order, inbox, history)) == ["a11", "a12", RESTARTED, "b13"]


async def test_who_comes_back_after_an_epochs_end_was_told_hears_of_it_once():
    order, inbox = at(10, "a")
    order.gap(RESTARTED)
    order.joined(Position(12, "b"), False, ())
    history = History(("a", 1, 10), ("b", 11, 12))
    assert told(await filled(order, inbox, history)) == [RESTARTED, "b11", "b12", Resumed(False)]


async def test_received_and_gaps_are_what_was_published_whatever_happens():
    for seed in range(400):
        model = Model(seed)
        await model.run()
        messages = [item for item in model.got if isinstance(item, Message)]
        rows = [(message.offset, message.epoch) for message in messages]
        assert len(set(rows)) == len(rows), f"seed {seed}: twice"
        assert [row for row in model.everything if row in set(rows)] == rows, f"seed {seed}: out of order"
        assert model.order.position == Position(model.offset, model.epoch), f"seed {seed}"
        assert model.got.count(RESTARTED) <= model.epochs_ended, f"seed {seed}: an epoch ended twice"
        covered, epoch = set(rows), model.everything[0][1] if model.everything else ""
        for item in model.got:
            if isinstance(item, Message):
                epoch = item.epoch or ""
            elif isinstance(item, Gap) and item.first is not None and item.last is not None:
                missing = {(offset, epoch) for offset in range(item.first, item.last + 1)}
                if RESTARTED not in model.got:
                    assert not missing & set(rows), f"seed {seed}: a gap of what came"
                covered |= missing
        if RESTARTED not in model.got:
            assert covered == set(model.everything), f"seed {seed}: lost in silence"
        if model.keeps >= 10**6 and not model.dropped:
            kept = {row for row in model.history.kept if row[1] == model.epoch}
            assert kept <= set(rows), f"seed {seed}: lost although the server has it"
            if model.goes_on and not model.loses:
                assert set(rows) == set(model.everything), f"seed {seed}: lost over epochs"
            assert all(gap == RESTARTED for gap in model.got if isinstance(gap, Gap)), f"seed {seed}"

"""A few kills under chaotic clients; and the judge of them has to see what is wrong. `make chaos` goes on."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.chaos.drive import chaos, on_postgres, on_sqlite
from tests.chaos.judge import Attempt, Judge, Place, Stay
from tests.chaos.wire import JSON, MSGPACK, Said
from tests.conftest import Server

KILLS = 12
ROOM, FLEETING = "chat:a", "events:a"


@pytest.fixture(params=["sqlite", "postgres"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    """The settings of a server, by where it keeps durable rooms."""
    if request.param == "sqlite":
        return on_sqlite(tmp_path)
    return on_postgres(asyncio.run(request.getfixturevalue("postgres").new_database()))


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled_while_the_server_is_killed(kept_in: dict[str, object]):
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1 << 32)))
    print(f"CHAOS_SEED={seed}")
    server = Server(kept_in)
    try:
        counts = asyncio.run(chaos(server, seed, kills=KILLS))
    finally:
        server.finish()
    print(counts)
    # A run in which nothing was published, repeated or recovered would prove nothing.
    assert counts["kill"] == KILLS
    assert {"ack", "push", "duplicate", "recovered", "another epoch", "page", "signal"} <= set(counts)


# ---------------------------------------------------------------- the judge can fail


class Court:
    """A judge, and a story told to it: two members of a room, a sender, a server that keeps its promises."""

    def __init__(self, room: str = ROOM) -> None:
        self.judge = Judge({"chat"}, keys_last=5, recovers=1)
        self.books = self.judge.room(room)
        self.al, self.bo = (self.judge.stay(name, room) for name in ("al", "bo"))
        self.attempts: list[Attempt] = []
        for stay in (self.al, self.bo):
            self.join(stay, Place("e", 0))

    def join(self, stay: Stay, at: Place, *missed: bytes, recovered: bool = False, life: int = 0) -> None:
        raws = [msgspec.Raw(one) for one in missed]
        stay.joined(JSON, at, recovered, raws, self.books.floor(), life)

    def send(self, *, key: str | None = "k", client: str = "al") -> Attempt:
        """Return the next attempt, which has been sent."""
        number = len(self.attempts) + 1
        attempt = Attempt(client, number, self.books.name, key, {"by": client, "n": number, "pad": "ä"})
        self.attempts.append(attempt)
        self.judge.sending(attempt)
        return attempt

    def ack(self, attempt: Attempt, place: Place, *, life: int = 0, duplicate: bool = False) -> None:
        self.judge.acked(attempt, place, life, f"{attempt.client}/1", duplicate=duplicate)

    def push(self, attempt: Attempt, place: Place, *stays: Stay, codec: str = JSON) -> None:
        for stay in stays or (self.al, self.bo):
            stay.pushed(codec, push(attempt, place, codec=codec))

    def publish(self, many: int = 1) -> None:
        """Publish, acked and delivered as it should be."""
        for _ in range(many):
            attempt = self.send()
            self.ack(attempt, Place("e", attempt.number))
            self.push(attempt, Place("e", attempt.number))

    def page(self, stay: Stay, after: int, *raws: bytes, more: bool = False) -> None:
        stay.paged(JSON, after, 100, [msgspec.Raw(raw) for raw in raws], more, self.books.floor())

    def end(self) -> list[str]:
        """Read all that was received, have both members stay to the end, and return the faults."""
        if not self.books.was_read:
            self.books.read_page(list(self.books.known))
        self.al.is_final = self.bo.is_final = True
        self.judge.close()
        return self.judge.faults


def push(attempt: Attempt, place: Place, *, codec: str = JSON, **other: object) -> bytes:
    """Return a publication as the server sends it."""
    value = {"type": "chat_message", "room": attempt.room, "from": attempt.client, "offset": place.offset}
    value |= {"epoch": place.epoch, "content": attempt.content} | other
    return (msgspec.json.encode if codec == JSON else msgspec.msgpack.encode)(value)


def at(offset: int, epoch: str = "e") -> Place:
    return Place(epoch, offset)


def test_a_server_that_keeps_its_promises_is_found_without_fault():
    court = Court()
    court.publish(3)
    first = court.send()
    court.al.offline()
    court.push(first, at(4), court.bo, codec=MSGPACK)
    court.join(court.al, at(4), push(first, at(4)), recovered=True)
    court.judge.sending(first)
    court.ack(first, at(4), duplicate=True)
    assert court.end() == []


def test_a_gap_and_a_paged_hole_are_no_fault():
    court = Court()
    court.publish(2)
    court.bo.offline()
    missed = [court.send() for _ in range(3)]  # more than are always recovered
    for offset, attempt in enumerate(missed, start=3):
        court.push(attempt, at(offset), court.al)
    court.join(court.bo, at(5))
    assert court.bo.holes == [(3, 5)]
    court.page(court.bo, 2, push(missed[0], at(3)), push(missed[1], at(4)), more=True)
    assert court.bo.holes == [(5, 5)]
    court.page(court.bo, 4, push(missed[2], at(5)))
    court.send()
    lost = court.send()
    court.al.gap(6, 6)
    court.bo.gap(6, 6)
    court.push(lost, at(7))
    assert court.end() == []
    assert (court.bo.lost, court.bo.received) == (1, 6)


def test_a_new_epoch_of_a_room_that_is_not_durable_is_no_fault():
    court = Court(FLEETING)
    court.publish(3)
    court.judge.died()
    for stay in (court.al, court.bo):
        stay.offline()
        court.join(stay, at(0, "f"), life=1)
    again = court.attempts[0]
    court.judge.sending(again)
    court.ack(again, at(1, "f"), life=1)
    court.push(again, at(1, "f"))
    assert court.end() == []


def an_acked_message_is_gone(court: Court) -> None:
    court.ack(court.send(), at(4))


def an_acked_message_is_not_in_the_history(court: Court) -> None:
    court.books.read_page([at(1), at(3)])


def a_received_message_is_not_in_the_history(court: Court) -> None:
    court.push(court.send(), at(4))
    court.books.read_page([at(1), at(2), at(3)])


def a_member_misses_the_last_one(court: Court) -> None:
    court.push(court.send(), at(4), court.al)


def a_member_misses_one_between(court: Court) -> None:
    court.push(court.send(), at(5), court.al)


def a_message_comes_twice(court: Court) -> None:
    court.push(court.attempts[2], at(3), court.bo)


def messages_come_out_of_order(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.push(fifth, at(5), court.bo)
    court.push(fourth, at(4), court.bo)


def two_members_get_different_bytes(court: Court) -> None:
    attempt = court.send()
    court.push(attempt, at(4), court.al)
    court.bo.pushed(JSON, push(attempt, at(4), timestamp="2025-07-15T10:30:00.123Z"))


def the_codecs_say_different_things(court: Court) -> None:
    attempt = court.send()
    court.push(attempt, at(4), court.al)
    court.bo.pushed(MSGPACK, push(attempt, at(4), codec=MSGPACK, type="chat_edit"))


def two_messages_change_places(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.ack(fourth, at(4))
    court.ack(fifth, at(5))
    court.push(fifth, at(4))
    court.push(fourth, at(5))


def an_ack_names_the_place_of_another(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.push(fourth, at(4))
    court.push(fifth, at(5))
    court.ack(fourth, at(5))


def two_acks_name_one_place(court: Court) -> None:
    fourth, fifth = court.send(), court.send(client="bo")
    court.push(fourth, at(4))
    court.ack(fourth, at(4))
    court.ack(fifth, at(4))


def a_senders_messages_are_swapped(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.push(fifth, at(4))
    court.push(fourth, at(5))


def acks_come_out_of_order(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.push(fourth, at(4))
    court.push(fifth, at(5))
    court.ack(fifth, at(5))
    court.ack(fourth, at(4))


def a_key_yields_two_publications(court: Court) -> None:
    attempt = court.send()
    court.push(attempt, at(4))
    court.judge.sending(attempt)
    court.push(attempt, at(5))


def a_repeat_gets_another_place(court: Court) -> None:
    attempt = court.send()
    court.push(attempt, at(4))
    court.ack(attempt, at(4))
    court.judge.sending(attempt)
    court.ack(attempt, at(5), duplicate=True)


def a_repeat_is_not_called_a_duplicate(court: Court) -> None:
    court.judge.sending(court.attempts[2])
    court.ack(court.attempts[2], at(3))


def a_first_message_is_called_a_duplicate(court: Court) -> None:
    attempt = court.send()
    court.push(attempt, at(4))
    court.ack(attempt, at(4), duplicate=True)


def the_content_is_changed(court: Court) -> None:
    attempt = court.send()
    changed = {**attempt.content, "pad": "a"}
    for stay in (court.al, court.bo):
        stay.pushed(JSON, push(attempt, at(4), content=changed))


def nobody_has_sent_it(court: Court) -> None:
    stranger = Attempt("al", 99, ROOM, None, {"by": "al", "n": 99, "pad": ""})
    court.push(stranger, at(4))


def it_comes_from_another_user(court: Court) -> None:
    attempt = court.send()
    for stay in (court.al, court.bo):
        stay.pushed(JSON, push(attempt, at(4), **{"from": "bo"}))


def it_comes_to_another_room(court: Court) -> None:
    attempt = court.send()
    attempt.room = "chat:b"
    court.push(attempt, at(4))


def a_publication_has_no_place(court: Court) -> None:
    court.al.pushed(JSON, push(court.send(), at(4), offset=None))


def a_gap_leaves_one_out(court: Court) -> None:
    court.al.gap(5, 6)


def a_gap_covers_what_was_received(court: Court) -> None:
    court.al.gap(3, 4)


def a_gap_goes_backwards(court: Court) -> None:
    court.al.gap(4, 3)


def a_push_after_leaving(court: Court) -> None:
    attempt = court.send()
    court.bo.offline()
    court.push(attempt, at(4))


def a_signal_comes_twice(court: Court) -> None:
    for _ in range(2):
        court.al.signalled(Said("chat_typing", sender="bo"), 7)


def a_signal_has_a_place(court: Court) -> None:
    court.al.signalled(Said("chat_typing", sender="bo", offset=4), 7)


def a_signal_after_leaving(court: Court) -> None:
    court.al.offline()
    court.al.signalled(Said("chat_typing", sender="bo"), 7)


def a_recovery_is_not_whole(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.bo.offline()
    court.push(fourth, at(4), court.al)
    court.push(fifth, at(5), court.al)
    court.join(court.bo, at(5), push(fifth, at(5)), recovered=True)


def a_recovery_repeats_the_last_one(court: Court) -> None:
    court.bo.offline()
    court.join(court.bo, at(3), push(court.attempts[2], at(3)), recovered=True)


def a_refused_recovery_has_messages(court: Court) -> None:
    court.bo.offline()
    court.join(court.bo, at(3), push(court.attempts[2], at(3)))


def a_hole_is_never_filled(court: Court) -> None:
    court.bo.offline()
    court.push(court.send(), at(4), court.al)
    court.push(court.send(), at(5), court.al)
    court.join(court.bo, at(5))


def a_recovery_is_refused_without_need(court: Court) -> None:
    court.bo.offline()
    fourth = court.send()
    court.push(fourth, at(4), court.al)
    court.join(court.bo, at(4))
    court.page(court.bo, 3, push(fourth, at(4)))


def a_page_leaves_one_out(court: Court) -> None:
    court.page(court.al, 0, push(court.attempts[0], at(1)), push(court.attempts[2], at(3)))


def a_page_begins_too_late(court: Court) -> None:
    court.page(court.al, 0, push(court.attempts[1], at(2)), push(court.attempts[2], at(3)))


def a_page_ends_too_early(court: Court) -> None:
    court.page(court.al, 0, push(court.attempts[0], at(1)), push(court.attempts[1], at(2)))


def a_durable_room_has_another_epoch(court: Court) -> None:
    court.judge.died()
    court.bo.offline()
    court.join(court.bo, at(0, "f"), life=1)


def a_durable_room_has_gone_back(court: Court) -> None:
    court.judge.died()
    court.bo.offline()
    court.join(court.bo, at(2), life=1)


def an_offset_is_used_again_after_a_crash(court: Court) -> None:
    court.judge.died()
    attempt = court.send()
    court.ack(attempt, at(3), life=1)
    court.push(attempt, at(3))


@pytest.mark.parametrize(
    ("crime", "said"),
    [
        (an_acked_message_is_gone, "was acked at e/4 and is lost"),
        (an_acked_message_is_not_in_the_history, "was acked at e/2 and is lost"),
        (a_received_message_is_not_in_the_history, "e/4 was received and is lost"),
        (a_member_misses_the_last_one, "bo in chat:a at e/3 has not received up to 4"),
        (a_member_misses_one_between, "al in chat:a at e/3 received e/5: without a gap"),
        (a_message_comes_twice, "received e/3: twice"),
        (messages_come_out_of_order, "received e/5: without a gap"),
        (two_members_get_different_bytes, "others received"),
        (the_codecs_say_different_things, "others received"),
        (two_messages_change_places, "no. 5 to chat:a, where al's no. 4 to chat:a was acked"),
        (an_ack_names_the_place_of_another, "'n': 5, 'pad': 'ä'} was received"),
        (two_acks_name_one_place, "ack of bo's no. 5 to chat:a at e/4, where al's no. 4 to chat:a is"),
        (a_senders_messages_are_swapped, "no. 5 to chat:a at e/4, but al's no. 4 to chat:a behind it"),
        (acks_come_out_of_order, "no. 4 to chat:a at e/4, after the one of no. 5"),
        (a_key_yields_two_publications, "no. 4 to chat:a stands at e/4, too"),
        (a_repeat_gets_another_place, "at e/5, after one at e/4"),
        (a_repeat_is_not_called_a_duplicate, "again, without `duplicate`"),
        (a_first_message_is_called_a_duplicate, "is a duplicate, and it was sent once"),
        (the_content_is_changed, "'pad': 'a'} was never sent"),
        (nobody_has_sent_it, "was never sent"),
        (it_comes_from_another_user, "no. 4 to chat:a from bo"),
        (it_comes_to_another_room, "no. 4 to chat:b in chat:b"),
        (a_publication_has_no_place, "a publication without a place"),
        (a_gap_leaves_one_out, "told of a gap 5 to 6"),
        (a_gap_covers_what_was_received, "told of a gap 3 to 4"),
        (a_gap_goes_backwards, "told of a gap 4 to 3"),
        (a_push_after_leaving, "received e/4, and is not in the room"),
        (a_signal_comes_twice, "received 7 twice"),
        (a_signal_has_a_place, "7 has a place: 4"),
        (a_signal_after_leaving, "received 7, and is not in the room"),
        (a_recovery_is_not_whole, "recovered 5 since e/3, not 4-5"),
        (a_recovery_repeats_the_last_one, "recovered 3 since e/3, not nothing"),
        (a_refused_recovery_has_messages, "not recovered, with 1 messages"),
        (a_hole_is_never_filled, "never filled [(4, 5)]"),
        (a_recovery_is_refused_without_need, "is refused, 1 behind e/3"),
        (a_page_leaves_one_out, "paged after 0: 1 3"),
        (a_page_begins_too_late, "begins at 2"),
        (a_page_ends_too_early, "1-2 is all, but the room was at 3"),
        (a_durable_room_has_another_epoch, "the durable chat:a had epoch e"),
        (a_durable_room_has_gone_back, "it had e/3, which the room has lost"),
        (an_offset_is_used_again_after_a_crash, "no. 4 to chat:a at e/3, where al's no. 3 to chat:a is"),
    ],
)
def test_the_judge_sees_that(crime: Callable[[Court], None], said: str):
    court = Court()
    court.publish(3)
    crime(court)
    assert any(said in fault for fault in court.end()), court.judge.faults


def the_epoch_outlives_a_kill(court: Court) -> None:
    court.judge.died()
    court.bo.offline()
    court.join(court.bo, at(3), life=1)


def a_room_has_two_epochs_in_one_life(court: Court) -> None:
    court.bo.offline()
    court.join(court.bo, at(0, "f"))


def a_push_has_another_epoch(court: Court) -> None:
    court.push(court.send(), at(1, "f"), court.bo)


def a_key_is_forgotten_too_early(court: Court) -> None:
    again = court.attempts[0]
    court.judge.sending(again)
    court.push(again, at(4))


@pytest.mark.parametrize(
    ("crime", "said"),
    [
        (the_epoch_outlives_a_kill, "epoch of the server's life 0, now 1"),
        (a_room_has_two_epochs_in_one_life, "had epoch e in this life"),
        (a_push_has_another_epoch, "another epoch without a join"),
        (a_key_is_forgotten_too_early, "no. 1 to events:a stands at e/1, too"),
    ],
)
def test_of_a_room_that_is_not_durable_the_judge_sees_that(crime: Callable[[Court], None], said: str):
    court = Court(FLEETING)
    court.publish(3)
    crime(court)
    assert any(said in fault for fault in court.end()), court.judge.faults

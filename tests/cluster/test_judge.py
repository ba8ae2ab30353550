"""The judge of the cluster has to see what is wrong, and nothing where all is well."""

from collections.abc import Callable

import msgspec
import pytest

from tests.chaos.judge import Attempt, Place, Stay
from tests.chaos.wire import JSON, Said
from tests.cluster.counting import Tallies, Written
from tests.cluster.judge import ClusterJudge, ClusterStay, Trouble

ROOM, DURABLE = "events:a", "chat:a"


class Court:
    """A judge, and a story told to it: two members on two workers, epochs 1, 2 and so on, a clock."""

    def __init__(self, room: str = ROOM) -> None:
        self.now_s = 10.0
        self.judge = ClusterJudge({"chat"}, now=lambda: self.now_s, keys_last=5, recovers=1)
        self.books = self.judge.ledger(room)
        self.al, self.bo = (self.stay(name) for name in ("al", "bo"))
        self.attempts: list[Attempt] = []
        for stay in (self.al, self.bo):
            self.join(stay, at(0))

    def stay(self, name: str) -> ClusterStay:
        stay = self.judge.stay(name, self.books.name)
        assert isinstance(stay, ClusterStay)
        return stay

    def join(self, stay: Stay, place: Place, *missed: bytes, recovered: bool = False) -> None:
        raws = [msgspec.Raw(one) for one in missed]
        stay.joined(JSON, place, recovered, raws, self.books.floor(), 0)

    def send(self, *, key: str | None = "k", over: str = "al/1") -> Attempt:
        """Return the next attempt, which has been sent."""
        number = len(self.attempts) + 1
        content = {"by": "al", "n": number, "pad": "ä"}
        attempt = Attempt("al", number, self.books.name, key, content, connection=over)
        self.attempts.append(attempt)
        self.judge.sending(attempt)
        return attempt

    def ack(self, attempt: Attempt, place: Place, *, duplicate: bool = False) -> None:
        self.judge.acked(attempt, place, 0, attempt.connection, duplicate=duplicate)

    def push(self, attempt: Attempt, place: Place, *stays: Stay) -> None:
        for stay in stays or (self.al, self.bo):
            stay.pushed(JSON, push(attempt, place))

    def publish(self, place: Place, *stays: Stay) -> Attempt:
        """Publish, acked and delivered as it should be."""
        attempt = self.send()
        self.ack(attempt, place)
        self.push(attempt, place, *stays)
        return attempt

    def trouble(self, *, opens_epochs: bool = True, loses: bool = True, lasts_s: float = 1.0) -> None:
        """Let something happen to Redis, now."""
        self.judge.troubles.append(
            Trouble("kill", self.now_s, self.now_s + lasts_s, opens_epochs=opens_epochs, loses=loses)
        )

    def page(self, stay: Stay, after: int, *raws: bytes, more: bool = False) -> None:
        stay.paged(JSON, after, 100, [msgspec.Raw(raw) for raw in raws], more, self.books.floor())

    def end(self) -> list[str]:
        if not self.books.was_read:
            self.books.read_page(list(self.books.known))
        self.al.is_final = self.bo.is_final = True
        self.judge.close()
        return self.judge.faults


def push(attempt: Attempt, place: Place) -> bytes:
    value = {"type": "publish", "room": attempt.room, "from": attempt.client, "offset": place.offset}
    return msgspec.json.encode(value | {"epoch": place.epoch, "content": attempt.content})


def at(offset: int, epoch: int = 1) -> Place:
    return Place(str(epoch), offset)


def test_a_lost_tail_that_every_member_was_told_of_is_no_fault():
    court = Court()
    for offset in (1, 2, 3):
        court.publish(at(offset))
    court.ack(court.send(), at(4))  # acked, and never copied to the replica
    court.trouble()
    court.bo.turned()
    court.publish(at(4, 2))  # al sees the epoch in the push alone
    assert court.end() == []
    assert court.judge.lost == 1
    assert (court.al.turns, court.bo.turns) == (1, 1)


def test_a_tail_that_one_member_had_received_is_no_fault():
    court = Court()
    court.publish(at(1))
    court.publish(at(2), court.al)
    court.trouble()
    court.publish(at(2, 2))
    assert court.end() == []
    assert court.judge.lost == 1


def test_a_refused_recovery_in_a_new_epoch_is_no_fault():
    court = Court()
    court.publish(at(1))
    court.publish(at(2), court.al)
    court.bo.offline()
    court.trouble()
    court.join(court.bo, at(2, 2))
    court.publish(at(3, 2))
    court.page(court.bo, 0, push(court.attempts[0], at(1)), push(court.attempts[2], at(3, 2)))
    assert court.end() == []
    assert court.judge.lost == 0


def test_a_key_that_was_lost_with_its_publication_may_stand_in_the_next_epoch():
    court = Court()
    court.publish(at(1))
    fallen = court.send()
    court.ack(fallen, at(2))
    court.trouble()
    court.judge.sending(fallen)
    court.ack(fallen, at(2, 2))
    court.push(fallen, at(2, 2))
    assert court.end() == []
    assert court.judge.doubled == 1


def test_a_passive_member_is_told_of_a_new_epoch_and_joins_since_where_it_was():
    court = Court()
    court.publish(at(1))
    court.bo.offline()
    court.bo.is_passive = True
    court.trouble()
    court.bo.turned()
    court.publish(at(2, 2), court.al)
    court.join(court.bo, at(2, 2))
    assert court.end() == []
    assert court.bo.turns == 1


def test_a_signal_may_come_twice_while_redis_is_in_trouble():
    court = Court()
    court.trouble()
    for _ in range(2):
        court.bo.signalled(Said("chat_typing", sender="al"), 7)
    assert court.end() == []
    assert court.judge.echoes == 1


def test_a_signal_may_come_again_over_another_connection():
    court = Court()
    court.bo.signalled(Said("chat_typing", sender="al"), 7)
    court.bo.offline()
    court.join(court.bo, at(0), recovered=True)
    court.bo.signalled(Said("chat_typing", sender="al"), 7)
    assert court.end() == []


def test_what_was_refused_in_a_trouble_may_come_later():
    court = Court()
    court.trouble()
    first, second = court.send(), court.send()
    court.push(second, at(1))
    court.ack(second, at(1))
    court.push(first, at(2))  # a master that stood still had it in its socket
    assert court.end() == []


def test_two_connections_of_one_client_have_no_order_between_them():
    court = Court()
    first, second = court.send(over="al/1"), court.send(over="al/2")
    court.push(second, at(1))
    court.push(first, at(2))
    assert court.end() == []


def test_a_hole_is_filled_by_pages():
    court = Court()
    court.bo.offline()
    missed = [court.publish(at(offset), court.al) for offset in (1, 2, 3)]
    court.join(court.bo, at(3))
    court.page(court.bo, 0, *(push(one, at(n)) for n, one in enumerate(missed[:2], start=1)), more=True)
    assert court.bo.holes == [(3, 3)]
    court.page(court.bo, 2, push(missed[2], at(3)))
    assert court.end() == []


def the_tail_is_lost_in_silence(court: Court) -> None:
    """The promoted replica lacks offset 4, goes on in the old epoch, and bo never had the first one."""
    court.publish(at(4), court.al)
    court.trouble()
    court.push(court.send(), at(4), court.bo)


def an_acked_one_is_gone_within_the_epoch(court: Court) -> None:
    court.ack(court.send(), at(4))
    court.trouble()


def an_acked_one_is_gone_from_the_history(court: Court) -> None:
    """Nobody was there to receive it, and later ones stand."""
    for stay in (court.al, court.bo):
        stay.offline()
        stay.forget()
    court.ack(court.send(), at(4))
    for stay in (court.al, court.bo):
        court.join(stay, at(4))
    court.publish(at(5))


def the_tail_is_lost_by_a_planned_failover(court: Court) -> None:
    court.ack(court.send(), at(4))
    court.trouble(loses=False)
    court.publish(at(4, 2))


def the_tail_was_acked_long_before_the_trouble(court: Court) -> None:
    court.ack(court.send(), at(4))
    court.now_s += 10
    court.trouble()
    court.publish(at(4, 2))


def the_epoch_changes_without_a_cause(court: Court) -> None:
    court.publish(at(4, 2))


def the_epoch_changes_because_of_a_worker(court: Court) -> None:
    court.trouble(opens_epochs=False)
    court.publish(at(4, 2))


def a_member_goes_back_to_an_old_epoch(court: Court) -> None:
    court.trouble()
    court.publish(at(4, 2))
    court.push(court.send(), at(4), court.bo)


def a_member_joins_in_an_old_epoch(court: Court) -> None:
    court.trouble()
    court.publish(at(4, 2))
    court.bo.offline()
    court.join(court.bo, at(3))


def a_member_forgets_and_joins_in_an_old_epoch(court: Court) -> None:
    court.trouble()
    court.publish(at(4, 2))
    court.bo.offline()
    court.bo.forget()
    court.join(court.bo, at(3))


def a_member_stays_in_the_old_epoch(court: Court) -> None:
    court.trouble()
    court.publish(at(4, 2), court.al)


def a_new_epoch_is_told_and_the_old_one_goes_on(court: Court) -> None:
    court.bo.turned()
    court.publish(at(4))


def a_gap_within_the_new_epoch_is_not_told(court: Court) -> None:
    court.trouble()
    court.publish(at(4, 2))
    fifth, sixth = court.send(), court.send()
    court.push(fifth, at(5, 2), court.al)
    court.push(sixth, at(6, 2))


def an_offset_has_two_contents(court: Court) -> None:
    court.push(court.send(), at(4), court.al)
    court.push(court.send(), at(4), court.bo)


def a_worker_answers_from_before(court: Court) -> None:
    court.bo.offline()
    court.join(court.bo, at(2), recovered=True)


def a_worker_refuses_what_it_does_not_have_yet(court: Court) -> None:
    court.bo.offline()
    court.join(court.bo, at(2))


def a_recovery_leaves_one_out(court: Court) -> None:
    court.bo.offline()
    court.publish(at(4), court.al)
    fifth = court.publish(at(5), court.al)
    court.join(court.bo, at(5), push(fifth, at(5)), recovered=True)


def a_key_yields_two_publications(court: Court) -> None:
    attempt = court.send()
    court.push(attempt, at(4))
    court.judge.sending(attempt)
    court.push(attempt, at(5))


def a_senders_messages_are_swapped(court: Court) -> None:
    fourth, fifth = court.send(), court.send()
    court.push(fifth, at(4))
    court.push(fourth, at(5))


def a_signal_comes_twice(court: Court) -> None:
    court.trouble(opens_epochs=False)
    for _ in range(2):
        court.bo.signalled(Said("chat_typing", sender="al"), 7)


def a_signal_comes_twice_long_after_a_trouble(court: Court) -> None:
    court.trouble(lasts_s=1)
    court.bo.signalled(Said("chat_typing", sender="al"), 7)
    court.now_s += 5
    court.bo.signalled(Said("chat_typing", sender="al"), 7)


def a_senders_acked_messages_are_swapped_in_a_trouble(court: Court) -> None:
    court.trouble()
    fourth, fifth = court.send(), court.send()
    court.push(fifth, at(4))
    court.push(fourth, at(5))
    court.ack(fifth, at(4))
    court.judge.acked(fourth, at(5), 0, "al/other")


def a_page_goes_back_an_epoch(court: Court) -> None:
    court.trouble()
    fourth = court.publish(at(4, 2))
    court.page(court.bo, 0, push(fourth, at(4, 2)), push(court.attempts[0], at(1)))


def a_page_leaves_one_out(court: Court) -> None:
    court.page(court.bo, 0, push(court.attempts[0], at(1)), push(court.attempts[2], at(3)))


def an_epoch_is_no_number(court: Court) -> None:
    court.trouble()
    court.publish(Place("k3f9-", 4))


@pytest.mark.parametrize(
    ("crime", "said"),
    [
        (the_tail_is_lost_in_silence, "others received"),
        (an_acked_one_is_gone_within_the_epoch, "al in events:a at 1/3 has not received up to 1/4"),
        (an_acked_one_is_gone_from_the_history, "was acked at 1/4, and the history lacks it"),
        (the_tail_is_lost_by_a_planned_failover, "at 1/4 and is lost, and nothing that may lose it happened"),
        (the_tail_was_acked_long_before_the_trouble, "and nothing that may lose it happened"),
        (the_epoch_changes_without_a_cause, "went from epoch 1 to 2 without a cause"),
        (the_epoch_changes_because_of_a_worker, "went from epoch 1 to 2 without a cause"),
        (a_member_goes_back_to_an_old_epoch, "received 1/4: it has been in 2"),
        (a_member_joins_in_an_old_epoch, "joined at 1/3: it has been in 2"),
        (a_member_forgets_and_joins_in_an_old_epoch, "joined at 1/3: it has been in 2"),
        (a_member_stays_in_the_old_epoch, "bo in events:a at 1/3 has not received up to 2/4"),
        (a_new_epoch_is_told_and_the_old_one_goes_on, "received 1/4: the epoch that was said to be over"),
        (a_gap_within_the_new_epoch_is_not_told, "received 2/6: without a gap"),
        (an_offset_has_two_contents, "others received"),
        (a_worker_answers_from_before, "joined at 1/2, and has been farther"),
        (a_worker_refuses_what_it_does_not_have_yet, "it had 1/3, which the room has lost"),
        (a_recovery_leaves_one_out, "recovered 5 since 1/3, not 4-5"),
        (a_key_yields_two_publications, "no. 4 to events:a stands at 1/4, too"),
        (a_senders_messages_are_swapped, "no. 5 to events:a at 1/4, but al's no. 4 to events:a behind it"),
        (
            a_senders_acked_messages_are_swapped_in_a_trouble,
            "no. 5 to events:a at 1/4, but al's no. 4 to events:a behind it",
        ),
        (a_signal_comes_twice, "received 7 twice"),
        (a_signal_comes_twice_long_after_a_trouble, "received 7 twice"),
        (a_page_goes_back_an_epoch, "1/1 behind 2/4"),
        (a_page_leaves_one_out, "1/3 behind 1/1"),
        (an_epoch_is_no_number, "'k3f9-' is no number"),
    ],
)
def test_the_judge_sees_that(crime: Callable[[Court], None], said: str):
    court = Court()
    for offset in (1, 2, 3):
        court.publish(at(offset))
    crime(court)
    assert any(said in fault for fault in court.end()), court.judge.faults


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (Written(2, 7, "b"), ""),
        (Written(2, 8, "b"), ""),
        (Written(1, 8, "b"), "two owners have counted"),
        (Written(3, 8, "b"), "two owners have counted"),
        (Written(2, 6, "b"), "an owner that was no more has written"),
    ],
)
def test_the_books_of_owners_see_two_at_once(second: Written, said: str):
    court = Court()
    tallies = Tallies(court.judge)
    tallies.heard("tally:a", at(1), Written(1, 7, "a"))
    tallies.heard("tally:a", at(2), second)
    tallies.close()
    assert [said in fault for fault in court.judge.faults] == [True] * bool(said)
    assert (tallies.written, tallies.owners) == (2, second.fence != 7)


def test_a_write_that_two_members_receive_differently_is_seen():
    court = Court()
    tallies = Tallies(court.judge)
    tallies.heard("tally:a", at(1), Written(1, 7, "a"))
    tallies.heard("tally:a", at(1), Written(1, 7, "b"))
    assert any("others received" in fault for fault in court.judge.faults)


def test_the_judge_sees_that_an_acked_durable_one_is_not_in_the_history():
    court = Court(DURABLE)
    court.publish(at(1))
    court.ack(court.send(), at(2))
    court.trouble()
    court.publish(at(2, 2))
    assert any("no. 2 to chat:a was acked at 1/2 and is lost" in fault for fault in court.end())


def test_a_durable_one_that_redis_lost_and_the_store_has_is_no_fault():
    court = Court(DURABLE)
    court.publish(at(1))
    court.publish(at(2), court.al)
    court.trouble()
    court.publish(at(3, 2))
    assert court.end() == []

"""Connections and rooms handed over from one hub to the next: nothing lost, doubled or out of order."""

from __future__ import annotations

import os
import select
import socket
import time
import weakref
from collections.abc import Iterator

import pytest

from realtime.native.hub import Accept, RoomLog
from realtime.native.ratelimit import Allowance, Tariff
from tests.native.test_hub import DEADLINE_S, Client, Host, frame

PAD = b"." * 1000


def successor(old: Host, **limits: object) -> Host:
    """A host beside `old`, frozen, that accepts at the same door later."""
    new = Host(**limits)
    new.hub.stop_listening()
    new.listener.close()
    new.listener = old.listener
    new.hub.freeze()
    return new


def hand_over(old: Host, new: Host, *rooms: RoomLog, on_gap=None) -> list[RoomLog]:  # type: ignore[no-untyped-def]
    """Everything of `old` goes to `new`, which goes on; the rooms it has then."""
    old.hub.freeze()
    old.hub.stop_listening()
    for number, fd, state, parcel in old.hub.export_all():
        connection = new.hub.adopt(os.dup(fd), parcel, state)
        assert connection.id == number
        if state is not None:
            new.handles[state] = connection
    made = [new.hub.adopt_room(room.export(), on_gap) for room in rooms]
    for connection in old.hub.all_connections():
        old.hub.release(connection)
    new.hub.listen(new.listener.fileno())
    new.hub.thaw()
    return made


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.listener.close()


def follow(client: Client, host: Host) -> None:
    """From here on `client` turns the hub that has its connection now."""
    client.host = host


def test_members_go_on_in_another_hub(host: Host) -> None:
    log = host.hub.room()
    members = [host.member(f"m{i}", log) for i in range(5)]
    log.append(b"one")
    new = successor(host)
    (room,) = hand_over(host, new, log)
    assert (host.hub.stats()["connections"], new.hub.stats()["connections"]) == (0, 5)
    assert host.closed == []
    room.append(b"two")
    for member in members:
        follow(member, new)
        member.send(b"still here")
        member.wait(lambda m: len(m.texts) == 2)
        assert member.texts == [b"one", b"two"]
    new.until(lambda: len(new.messages) == 5)
    new.until(lambda: room.queued_bytes == 0)


# ---------------------------------------------------------------------- standing still


def test_a_frozen_hub_does_nothing_and_goes_on_where_it_stood(host: Host) -> None:
    log = host.hub.room()
    member = host.member("m", log)
    answered: list[bytes] = []
    host.on_message = lambda state, payload: answered.append(payload)
    host.hub.freeze()
    assert host.hub.frozen
    member.send(b"asked meanwhile")
    log.append(b"said meanwhile")
    host.handles["/m"].send(b"unicast meanwhile")
    for _ in range(3):
        assert host.hub.on_ready() is False
        host.hub.tick()
    host.hub.export_all()
    log.export()
    member.read()
    assert (member.texts, answered) == ([], [])
    late = Client(host, b"/late")
    host.hub.on_ready()
    assert host.hub.stats()["accepted"] == 1
    host.hub.thaw()
    assert host.wakes[-1] == 0.0, "it asks to be turned"
    member.wait(lambda m: len(m.texts) == 2)
    assert sorted(member.texts) == [b"said meanwhile", b"unicast meanwhile"]
    host.until(lambda: answered == [b"asked meanwhile"])
    host.until(late.read_head)
    host.hub.thaw()


def test_freezing_tells_first_of_those_that_have_ended(host: Host) -> None:
    host.member("a")
    host.member("b")
    host.handles["/a"].abort()
    host.hub.freeze()
    assert [told[0] for told in host.closed] == ["/a"]
    assert [each.state for each in host.hub.all_connections()] == ["/b"]


def test_a_hub_is_frozen_between_its_batches_alone(host: Host) -> None:
    raised: list[str] = []

    def freeze(state: object, payload: bytes) -> None:
        with pytest.raises(RuntimeError) as caught:
            host.hub.freeze()
        raised.append(str(caught.value))

    member = host.member("m")
    host.on_message = freeze
    member.send(b"now")
    host.until(lambda: len(raised) == 1)
    assert "callback" in raised[0]
    assert not host.hub.frozen


def test_only_a_frozen_hub_packs_and_unpacks(host: Host) -> None:
    log = host.hub.room()
    host.member("m", log)
    connection = host.handles["/m"]
    for attempt in (
        lambda: host.hub.export(connection),
        host.hub.export_all,
        log.export,
        lambda: host.hub.adopt(0, b"", None),
        lambda: host.hub.adopt_room(b""),
        lambda: host.hub.release(connection),
    ):
        with pytest.raises(RuntimeError, match="not frozen"):
            attempt()


def test_what_cannot_be_packed_or_adopted_is_refused_and_changes_nothing(host: Host) -> None:
    host.member("m")
    connection = host.handles["/m"]
    other = successor(host)
    host.hub.freeze()
    parcel = host.hub.export(connection)
    with pytest.raises(ValueError, match="another hub"):
        other.hub.export(connection)
    with pytest.raises(ValueError, match="another hub"):
        other.hub.release(connection)
    with pytest.raises(ValueError, match="there already"):
        host.hub.adopt(connection.fileno(), parcel, "/m")
    with pytest.raises(OSError, match="fcntl"):
        other.hub.adopt(1 << 20, parcel, "/m")
    with open(os.devnull) as regular, pytest.raises(OSError, match="epoll_ctl"):
        other.hub.adopt(regular.fileno(), parcel, "/m")
    assert other.hub.stats()["connections"] == 0
    other.hub.adopt(os.dup(connection.fileno()), parcel, "/m")
    connection.abort()
    with pytest.raises(ValueError, match="ended"):
        host.hub.export(connection)
    with pytest.raises(ValueError, match="ended"):
        host.hub.release(connection)


# ---------------------------------------------------------------------- letting go


def test_letting_go_sends_nothing_and_tells_nobody() -> None:
    departed: list[bytes] = []
    host = Host(on_arrival=lambda address: True, on_departure=departed.append)
    log = host.hub.room()
    leaving, staying = host.member("leaving", log), host.member("staying", log)

    class Traced:
        pass

    host.handles["/leaving"].state = traced = Traced()
    gone = weakref.ref(traced)
    del traced
    host.hub.freeze()
    connection = host.handles.pop("/leaving")
    host.hub.export_all()
    with socket.socket(fileno=os.dup(connection.fileno())) as held:
        host.hub.release(connection)
        host.hub.release(connection)
        assert (gone(), connection.open, connection.fileno(), log.members) == (None, False, -1, 1)
        host.hub.thaw()
        log.append(b"for the others")
        staying.wait(lambda m: len(m.texts) == 1)
        assert (host.closed, departed) == ([], [])
        leaving.read()
        assert (leaving.eof, leaving.texts) == (False, [])
        leaving.send(b"to whoever has it")
        assert select.select([held], [], [], DEADLINE_S)[0], "the socket is as it was"
        stats = host.hub.stats()
        assert (stats["released"], stats["closed"], stats["connections"]) == (1, 0, 1)
    leaving.wait(lambda m: m.eof)
    host.listener.close()


def test_the_end_is_told_by_the_hub_that_has_it_then() -> None:
    departed: list[tuple[str, bytes]] = []
    guards = {
        name: {
            "on_arrival": lambda address: True,
            "on_departure": lambda address, name=name: departed.append((name, address)),
        }
        for name in ("old", "new")
    }
    host = Host(**guards["old"])
    member = host.member("m")
    new = successor(host, **guards["new"])
    hand_over(host, new)
    member.socket.close()
    new.until(lambda: len(new.closed) == 1)
    assert (new.closed[0][:2], host.closed) == (("/m", 1006), [])
    assert departed == [("new", b"\x7f\0\0\1")]
    host.listener.close()


def test_ids_go_on_above_those_handed_over(host: Host) -> None:
    host.member("a")
    new = successor(host)
    hand_over(host, new)
    assert new.hub.last_id == host.hub.last_id == 1
    new.hub.last_id = 41
    with pytest.raises(ValueError, match="given already"):
        new.hub.last_id = 40
    assert new.hub.take_id() == 42


# ---------------------------------------------------------------------- times and rates


def wait_on(host: Host, seconds: float) -> None:
    until = time.monotonic() + seconds
    host.until(lambda: time.monotonic() > until)


def test_a_silent_peer_ends_at_its_time_wherever_its_ping_came_from() -> None:
    limits = {"heartbeat_s": 0.6}
    host = Host(**limits)
    member = host.member("m")
    start = time.monotonic()
    member.wait(lambda m: any(first == 0x89 for first, _ in m.frames))
    new = successor(host, **limits)
    hand_over(host, new)
    follow(member, new)
    member.wait(lambda m: m.close_code == 4002)
    assert 1.0 <= time.monotonic() - start < 2.0, "two intervals, and a tick or two"
    assert sum(first == 0x89 for first, _ in member.frames) == 1, "it was not pinged again"
    host.listener.close()


@pytest.mark.parametrize("stay", [True, False])
def test_a_pong_that_arrived_while_the_hub_stood_still_counts(stay: bool) -> None:
    limits = {"heartbeat_s": 0.2}
    host = Host(**limits)
    member = host.member("m")
    member.wait(lambda m: any(first == 0x89 for first, _ in m.frames))
    host.hub.freeze()
    member.send(b"", 0x8A)
    time_is_up = time.monotonic() + 0.5
    while time.monotonic() < time_is_up:
        host.turn(0.0)
    new = host
    if stay:
        host.hub.thaw()
    else:
        new = successor(host, **limits)
        hand_over(host, new)
    new.hub.tick()  # which may come before any socket is read
    assert new.closed == []
    new.turn()
    new.turn()
    assert new.closed == []
    assert new.hub.stats()["pongs_in"] == 1
    host.listener.close()


def test_who_does_not_authenticate_in_time_ends_in_time() -> None:
    limits = {"handshake_timeout_s": 0.8}
    host = Host(**limits)
    host.answer = lambda shake: Accept(shake.path, pending=True)
    start = time.monotonic()
    pending = host.client()
    mute = Client(host, b"/mute", head=b"GET /mu")
    wait_on(host, 0.3)
    new = successor(host, **limits)
    hand_over(host, new)
    wait_on(new, 0.2)
    assert new.closed == []
    follow(pending, new)
    follow(mute, new)
    new.until(mute.read_head)
    assert 0.6 <= time.monotonic() - start < 1.6
    assert mute.head.startswith(b"HTTP/1.1 408")
    pending.wait(lambda c: c.close_code == 4502)
    assert new.hub.stats()["handshake_timeouts"] == 2
    host.listener.close()


def test_an_age_goes_on() -> None:
    limits = {"max_age_s": 1.0}
    host = Host(**limits)
    start = time.monotonic()
    member = host.member("m")
    wait_on(host, 0.4)
    new = successor(host, **limits)
    hand_over(host, new)
    follow(member, new)
    member.wait(lambda m: m.close_code == 4006)
    assert 0.7 <= time.monotonic() - start < 2.0
    host.listener.close()


def test_rates_go_on_as_they_stood() -> None:
    limits = {"messages_per_second": 0.1, "message_burst": 3.0, "control_frames_per_second": 0.1}
    host = Host(**limits, control_frames_burst=2.0)
    member = host.member("m")  # which has said one already
    member.send(b"two")
    host.until(lambda: len(host.messages) == 2)
    member.send(b"", 0x89)
    member.wait(lambda m: (0x8A, b"") in m.frames)
    new = successor(host, **limits, control_frames_burst=2.0)
    hand_over(host, new)
    follow(member, new)
    member.send(b"four: a ping counts too")
    new.until(lambda: len(new.limited) == 1)
    assert new.limited[0][2] == "messages_per_second"
    assert 5 < new.limited[0][3] <= 10
    assert new.messages == []
    member.send(b"", 0x89)
    member.send(b"", 0x89)
    member.wait(lambda m: m.close_code == 4509)
    host.listener.close()


def test_who_waits_for_its_tenants_rates_is_read_by_the_next_hub(host: Host) -> None:
    allowance = Allowance(Tariff(("m", "b", "d"), (1e-3, 0, 0), 1000.0))
    member = host.member("m")
    host.handles["/m"].draw_on(allowance)
    assert allowance.take(1, 0, 0) is None
    assert allowance.take(1, 0, 0) is not None  # over its rates now
    member.send(b"waits")
    host.until(lambda: host.hub.stats()["held_back"] >= 1)
    assert len(host.messages) == 1
    new = successor(host)
    hand_over(host, new)
    new.until(lambda: new.messages == [("/m", b"waits")])


def test_rooms_hold_the_rates_of_their_members_whichever_comes_first(host: Host) -> None:
    log = host.hub.room()
    member = host.member("m", log)
    new = successor(host)
    host.hub.freeze()
    ((_, fd, state, parcel),) = host.hub.export_all()
    connection = new.hub.adopt(os.dup(fd), parcel, state)
    allowance = Allowance(Tariff(("m", "b", "d"), (1.0, 0, 0), 1.0))
    connection.draw_on(allowance)
    room = new.hub.adopt_room(log.export())
    host.hub.release(host.handles["/m"])
    new.hub.thaw()
    room.append(b"still sent")
    follow(member, new)
    member.wait(lambda m: m.texts == [b"still sent"])
    connection.draw_on(None)


# ---------------------------------------------------------------------- half done


def test_a_reader_that_rests_is_read_when_it_has_taken_its_answers() -> None:
    host = Host(unicast_limit_bytes=1 << 22)
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    member = host.member("m", receive_buffer=4096)

    def answer(host: Host, state: object, payload: bytes) -> None:
        host.handles[state].send(payload + b"." * 100_000)

    host.on_message = lambda state, payload: answer(host, state, payload)
    asked = [b"%02d" % i for i in range(20)]
    for question in asked:
        member.send(question)
    host.until(lambda: host.hub.stats()["pauses"] >= 1)
    assert 3 <= len(host.messages) - 1 < 20
    new = successor(host, unicast_limit_bytes=1 << 22)
    new.on_message = lambda state, payload: answer(new, state, payload)
    hand_over(host, new)
    follow(member, new)
    member.wait(lambda m: len(m.texts) == 20)
    assert [text[:2] for text in member.texts] == asked
    assert [payload for _, payload in host.messages[1:] + new.messages] == asked
    host.listener.close()


def test_a_failed_connection_is_drained_and_ended_by_the_next_hub() -> None:
    limits = {"close_timeout_s": 0.5}
    host = Host(**limits)
    member = host.member("m")
    member.socket.sendall(b"\xff\xff\xff\xff")
    host.until(lambda: host.hub.stats()["protocol_errors"] == 1)
    new = successor(host, **limits)
    hand_over(host, new)
    follow(member, new)
    member.wait(lambda m: m.eof)
    assert member.close_code == 1002
    new.until(lambda: len(new.closed) == 1)
    assert (new.closed[0][:2], host.closed) == (("/m", 1002), [])
    host.listener.close()


def test_characters_cut_by_fragments_are_still_checked(host: Host) -> None:
    members = [host.member("right"), host.member("wrong")]
    for member in members:
        member.send("ä".encode()[:1], 0x01)
    host.until(lambda: host.hub.stats()["frames_in"] == 4)
    new = successor(host)
    hand_over(host, new)
    for member, rest in zip(members, ("ä".encode()[1:], b"a"), strict=True):
        follow(member, new)
        member.send(rest, 0x80)
    members[1].wait(lambda m: m.close_code == 1007)
    new.until(lambda: new.messages == [("/right", "ä".encode())])


def test_a_message_that_began_under_larger_limits_is_too_large(host: Host) -> None:
    member = host.member("m")
    member.send(b"x" * 3000, 0x01)
    host.until(lambda: host.hub.stats()["frames_in"] == 2)
    new = successor(host, max_message_bytes=1000)
    hand_over(host, new)
    follow(member, new)
    member.send(b"y" * 10, 0x80)
    member.wait(lambda m: m.close_code == 1009)
    assert new.messages == []


def test_users_are_found_and_closed_in_the_next_hub(host: Host) -> None:
    host.answer = lambda shake: Accept(shake.path, user_key=7)
    members = [host.client(b"/%d" % i) for i in range(3)]
    new = successor(host)
    hand_over(host, new)
    assert [each.state for each in new.hub.connections_of(7)] == ["/0", "/1", "/2"]
    assert (new.hub.count_of(7), host.hub.count_of(7)) == (3, 0)
    for each in new.hub.connections_of(7):
        each.close(4010, b"moved out")
    for member in members:
        follow(member, new)
        member.wait(lambda m: m.close_code == 4010)


def stalled(host: Host, log: RoomLog) -> Client:
    """A member whose socket is full, in the middle of a frame."""
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    member = host.member("m", log, receive_buffer=4096)
    for i in range(100):
        log.append(b"%03d" % i + PAD * 5)
    host.until(lambda: log.laggards == 1)
    return member


def test_who_waits_for_a_frame_of_a_room_that_did_not_come_ends(host: Host) -> None:
    log = host.hub.room()
    member = stalled(host, log)
    new = successor(host)
    hand_over(host, new)
    follow(member, new)
    member.wait(lambda m: m.eof)
    new.until(lambda: len(new.closed) == 1)
    assert new.closed[0][:2] == ("/m", 1006)
    assert all(text[:3] == b"%03d" % i for i, text in enumerate(member.texts)), "nothing but whole frames"


def test_who_stays_behind_is_left_out_of_the_room(host: Host) -> None:
    log = host.hub.room()
    slow = stalled(host, log)
    fast = host.member("fast", log)
    new = successor(host)
    host.hub.freeze()
    connection = host.handles["/fast"]
    new.hub.adopt(os.dup(connection.fileno()), host.hub.export(connection), "/fast")
    room = new.hub.adopt_room(log.export())
    host.hub.release(connection)
    new.hub.thaw()
    host.hub.thaw()
    room.append(b"there")
    log.append(b"here")
    follow(fast, new)
    fast.wait(lambda m: m.texts == [b"there"])
    slow.wait(lambda m: len(m.texts) == 101)
    assert slow.texts[-1] == b"here"
    new.until(lambda: room.queued_bytes == 0)


def test_a_room_that_drops_needs_its_gaps_told(host: Host) -> None:
    log = host.hub.room(slow_reader="latest", on_gap=lambda state, after, last: 0)
    host.member("m", log)
    new = successor(host)
    host.hub.freeze()
    ((_, fd, state, parcel),) = host.hub.export_all()
    new.hub.adopt(os.dup(fd), parcel, state)
    with pytest.raises(ValueError, match="on_gap"):
        new.hub.adopt_room(log.export())
    room = new.hub.adopt_room(log.export(), lambda state, after, last: 0)
    assert (room.members, room.variant) == (1, 0)


def busily(seconds: float) -> None:
    """Take so long that the hub's batch is over: what it has not done by then stays in its lists."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_frames_that_were_read_and_had_to_wait_are_handled_by_the_next_hub(host: Host) -> None:
    member = host.member("m")
    said = [b"%03d" % i for i in range(400)]
    host.on_message = lambda state, payload: busily(0.0002)
    member.socket.sendall(b"".join(frame(each) for each in said))
    while len(host.messages) == 1:
        host.hub.on_ready()
    had = len(host.messages) - 1
    assert 0 < had < 400, "it had its time, and the others their turn"
    new = successor(host)
    hand_over(host, new)
    new.until(lambda: len(new.messages) == 400 - had)
    assert [payload for _, payload in host.messages[1:] + new.messages] == said


def test_who_published_faster_than_its_room_went_out_goes_on_in_the_next_hub() -> None:
    host = Host(flush_chunk=1)
    log = host.hub.room()
    members = [host.member(f"m{i}", log) for i in range(4)]
    said = [b"%03d" % i for i in range(20)]

    def publish(log: RoomLog, payload: bytes) -> None:
        log.append(payload + b"." * 100_000)
        busily(0.002)

    host.on_message = lambda state, payload: publish(log, payload)
    members[0].socket.sendall(b"".join(frame(each) for each in said))
    while host.hub.stats()["pauses"] == 0:
        host.hub.on_ready()
    had = len(host.messages) - 4
    assert 0 < had < 20
    new = successor(host, flush_chunk=1)
    (room,) = hand_over(host, new, log)
    new.on_message = lambda state, payload: publish(room, payload)
    for member in members:
        follow(member, new)
        member.wait(lambda m: len(m.texts) == 20)
        assert [text[:3] for text in member.texts] == said
    assert len(new.messages) == 20 - had
    host.listener.close()

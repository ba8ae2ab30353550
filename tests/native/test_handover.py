"""Connections and rooms handed over from one hub to the next: nothing lost, doubled or out of order."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from realtime.native.hub import RoomLog
from tests.native.test_hub import Client, Host

LIMIT = 1 << 16
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

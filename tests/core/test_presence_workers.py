"""Rosters over workers: one list for all, whoever moves or dies, and what each member makes of the diffs."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from realtime.core.limits import Limits
from realtime.core.presence import Roster
from realtime.core.sharing import ENTRY_BYTES_MAX, Entry, decode_entry, encode_entry
from tests.core.workers import Watcher, Workers, seeded
from tests.core.world import Member, World

LOBBY = "chat:lobby"
GRACE_S = 10.0
MOVE_S = 0.6
QUIET_S = GRACE_S + 3.0  # after which everything has been told that ever will be


def limits(members: int = 100, grace_s: float = GRACE_S) -> Limits:
    return Limits(
        presence_members=members,
        presence_grace_s=grace_s,
        presence_move_s=MOVE_S,
        connections_per_user=100,
    )


@pytest.fixture
def workers() -> Workers:
    return Workers(3, limits())


def world_of(workers: Workers, number: int) -> World:
    return list(workers.worlds.values())[number]


def watch(workers: Workers, number: int, user: str) -> Watcher:
    return Watcher(world_of(workers, number).member(user), LOBBY)


def here(workers: Workers) -> list[list[str]]:
    """Who is in the lobby by each worker that has it."""
    rosters = [room.roster for world in workers.worlds.values() for room in lobby_of(world)]
    return [sorted(user.decode().strip('"') for user in roster.users) for roster in rosters]


def lobby_of(world: World) -> list:
    # Straight from the tenant: nobody has to join, and so change it, to look.
    tenants = world.core._tenants._by_id
    return [tenant.rooms[LOBBY] for tenant in tenants.values() if LOBBY in tenant.rooms]


def test_members_on_all_workers_are_one_list_in_the_order_of_coming(workers):
    alice = watch(workers, 0, "alice")
    workers.pass_time(0.5)
    bob = watch(workers, 1, "bob")
    workers.pass_time(0.5)
    carol = watch(workers, 2, "carol")
    workers.pass_time(0.5)
    assert alice.read().names == ["alice", "bob", "carol"]
    for watcher in (alice, bob, carol):
        assert sorted(watcher.read().names) == ["alice", "bob", "carol"]
        assert watcher.count == 3
        asked = watcher.member.ask("presence", room=LOBBY)["content"]
        assert asked["count"] == 3
        assert sorted(asked["members"]) == ["alice", "bob", "carol"]


def test_a_user_on_two_workers_is_one_until_the_last_session_leaves(workers):
    watcher = watch(workers, 0, "alice")
    first, second = watch(workers, 1, "bob"), watch(workers, 2, "bob")
    workers.pass_time(1)
    assert (watcher.read().names, watcher.count) == (["alice", "bob"], 2)
    first.member.ask("leave", room=LOBBY)
    workers.pass_time(5)
    assert watcher.read().left == []
    second.member.ask("leave", room=LOBBY)
    workers.pass_time(1.5)
    assert (watcher.read().left, watcher.count) == (["bob"], 1)
    assert watcher.joined.count("bob") == 1


def test_who_lost_the_connection_and_comes_back_on_another_worker_was_never_gone(workers):
    watchers = [watch(workers, number, f"user-{number}") for number in range(3)]
    bob = watch(workers, 0, "bob")
    workers.pass_time(1)
    bob.member.leave()
    workers.pass_time(5)
    again = watch(workers, 1, "bob")
    assert sorted(again.names) == ["bob", "user-0", "user-1", "user-2"]
    workers.pass_time(3 * GRACE_S)
    assert [watcher.read().left for watcher in watchers] == [[], [], []]
    again.member.ask("leave", room=LOBBY)
    workers.pass_time(1.5)
    assert [watcher.read().left for watcher in watchers] == [["bob"]] * 3


def test_who_came_back_elsewhere_and_leaves_there_is_gone_though_the_first_worker_still_waits(workers):
    """Also where both happened between two words of the other worker."""
    for seconds in (0.0, 1.0):
        watcher = watch(workers, 2, "alice")
        bob = watch(workers, 0, "bob")
        workers.pass_time(1)
        bob.member.leave()
        workers.pass_time(1)
        again = watch(workers, 1, "bob")
        workers.pass_time(seconds)
        again.member.ask("leave", room=LOBBY)
        workers.pass_time(1.5)
        assert watcher.read().names == ["alice"], f"after {seconds} s"
        watcher.member.ask("leave", room=LOBBY)
        workers.pass_time(2)


def test_nobody_flaps_who_leaves_one_worker_and_joins_on_another_within_an_interval():
    for seed in range(30):
        dice, delay = seeded(seed, late_s=0.1)
        workers = Workers(3, limits(), delay)
        watchers = [watch(workers, number, f"user-{number}") for number in range(3)]
        at = 0
        bob = watch(workers, at, "bob")
        workers.pass_time(1)
        for _ in range(6):
            workers.pass_time(dice.random())
            bob.member.ask("leave", room=LOBBY)
            workers.pass_time(dice.random() * 0.2, step_s=0.05)
            at = (at + dice.randrange(1, 3)) % 3
            bob = watch(workers, at, "bob")
        workers.pass_time(5)
        for watcher in watchers:
            assert watcher.read().left == [], f"seed {seed}"
            assert watcher.joined.count("bob") <= 1, f"seed {seed}"


def test_users_of_a_worker_that_died_are_gone_exactly_when_the_grace_period_ends(workers):
    watcher = watch(workers, 0, "alice")
    watch(workers, 1, "bob")
    watch(workers, 1, "carol")
    workers.pass_time(1)
    workers.crash("worker-2")
    workers.arrive()
    workers.pass_time(GRACE_S - 0.05)
    assert watcher.read().names == ["alice", "bob", "carol"]
    workers.pass_time(0.1)
    assert sorted(watcher.read().left) == ["bob", "carol"]
    assert watcher.names == ["alice"]


def test_users_of_a_worker_that_died_who_come_back_on_others_were_never_gone(workers):
    watcher = watch(workers, 0, "alice")
    watch(workers, 1, "bob")
    watch(workers, 1, "carol")
    workers.pass_time(1)
    workers.crash("worker-2", noticed_after_s=1.5)
    workers.pass_time(0.7)
    bob = watch(workers, 0, "bob")  # before anybody knows that the worker is dead
    workers.pass_time(3)
    watch(workers, 1, "carol")
    workers.pass_time(3 * GRACE_S)
    assert watcher.read().left == []
    bob.member.ask("leave", room=LOBBY)
    workers.pass_time(1.5)
    assert watcher.read().left == ["bob"]


def test_a_worker_whose_entry_was_lost_and_is_shared_again_was_never_gone(workers):
    watcher = watch(workers, 0, "alice")
    bob = watch(workers, 1, "bob")
    workers.pass_time(1)
    ((room, _), entry) = next(item for item in workers.entries.items() if item[0][1] == "worker-2")
    workers.share(room, "worker-2", None)
    workers.pass_time(GRACE_S / 2)
    workers.share(room, "worker-2", entry)
    workers.pass_time(2 * GRACE_S)
    assert watcher.read().left == []
    bob.member.ask("leave", room=LOBBY)
    workers.pass_time(1.5)
    assert watcher.read().left == ["bob"]


def test_who_comes_back_from_a_dead_worker_and_leaves_is_gone_at_once_everywhere(workers):
    watchers = [watch(workers, 0, "alice"), watch(workers, 2, "dave")]
    watch(workers, 1, "bob")
    workers.pass_time(1)
    workers.crash("worker-2")
    workers.pass_time(1)
    again = world_of(workers, 0).member("bob")
    again.join(LOBBY)
    again.ask("leave", room=LOBBY)  # no other worker has seen it there
    workers.pass_time(1.5)
    assert [sorted(watcher.read().names) for watcher in watchers] == [["alice", "dave"]] * 2


def test_a_leave_that_was_heard_of_ends_no_later_grace_period(workers):
    watcher = watch(workers, 2, "alice")
    stays = watch(workers, 1, "dave")
    watch(workers, 0, "erin")
    bob = watch(workers, 1, "bob")
    workers.pass_time(1)
    bob.member.ask("leave", room=LOBBY)
    workers.pass_time(1.5)
    again = watch(workers, 0, "bob")
    workers.pass_time(1)
    again.member.leave()
    workers.pass_time(1)
    stays.member.leave()  # so that worker-2 shares again, with the leave of before
    workers.pass_time(2)
    assert "bob" in watcher.read().names


def test_who_left_is_mentioned_no_longer_than_anybody_may_wait(workers):
    watch(workers, 0, "alice")
    bob = watch(workers, 0, "bob")
    watch(workers, 1, "carol")
    workers.pass_time(1)
    bob.member.ask("leave", room=LOBBY)
    workers.pass_time(1)

    def left() -> list[bytes]:
        (entry,) = (entry for (_, worker), entry in workers.entries.items() if worker == "worker-1")
        return [user for _, user in decode_entry(entry).left]

    assert left() == [b'"bob"']
    workers.pass_time(GRACE_S)
    watch(workers, 0, "dave")
    workers.pass_time(1)
    assert left() == []


def test_a_worker_that_ends_lets_its_users_linger_and_nobody_is_told(workers):
    """As on SIGTERM: all connections go, the entry says who lingers, then the worker leaves the ring."""
    watcher = watch(workers, 0, "alice")
    theirs = [watch(workers, 1, name) for name in ("bob", "carol")]
    workers.pass_time(1)
    for each in theirs:
        each.member.leave()
    workers.pass_time(0.5)
    workers.crash("worker-2")
    workers.pass_time(2)
    watch(workers, 0, "bob")
    watch(workers, 1, "carol")
    workers.pass_time(3 * GRACE_S)
    assert (watcher.read().left, watcher.names) == ([], ["alice", "bob", "carol"])


def test_the_last_member_that_leaves_a_worker_is_no_ghost_on_the_others(workers):
    watcher = watch(workers, 0, "alice")
    bob = watch(workers, 1, "bob")
    workers.pass_time(1)
    bob.member.ask("leave", room=LOBBY)
    workers.pass_time(1.5)
    assert watcher.read().names == ["alice"]
    assert lobby_of(world_of(workers, 1)) == []
    assert len(workers.entries) == 1


def test_without_a_grace_period_everybody_is_gone_who_has_no_connection():
    workers = Workers(2, limits(grace_s=0))
    watcher = watch(workers, 0, "alice")
    bob = watch(workers, 1, "bob")
    watch(workers, 1, "carol")
    workers.pass_time(1)
    bob.member.leave()
    workers.pass_time(1.5)
    assert watcher.read().names == ["alice", "carol"]
    workers.crash("worker-2")
    workers.pass_time(1.5)
    assert watcher.read().names == ["alice"]


def test_something_is_shared_once_an_interval_and_not_where_nothing_changes(workers):
    watch(workers, 0, "alice")
    workers.pass_time(1)
    before = workers.shares
    for number in range(50):
        world_of(workers, 0).member(f"user-{number}").join(LOBBY)
    workers.pass_time(0.2)
    assert workers.shares == before + 1
    again = world_of(workers, 0).member("alice")
    again.join(LOBBY)
    again.leave()
    workers.pass_time(60)
    assert workers.shares == before + 1


def test_a_worker_alone_shares_nothing():
    alone = Limits(presence_grace_s=GRACE_S)
    workers = Workers(1, alone)
    bob = watch(workers, 0, "bob")
    workers.pass_time(1)
    bob.member.ask("leave", room=LOBBY)
    workers.pass_time(1)
    assert workers.shares == 0


def test_above_the_limit_over_all_workers_members_are_counted_and_below_it_named_again():
    workers = Workers(2, limits(members=3, grace_s=0))
    watcher = watch(workers, 0, "alice")
    others = [watch(workers, 1, name) for name in ("bob", "carol", "dave", "erin", "frank")]
    workers.pass_time(3)
    assert (watcher.read().count, others[0].read().count) == (6, 6)
    asked = watcher.member.ask("presence", room=LOBBY)["content"]
    assert (len(asked["members"]), asked["count"]) == (3, 6)
    for other in others[:3]:
        other.member.ask("leave", room=LOBBY)
    workers.pass_time(3)
    for each in (watcher, others[4]):
        assert (sorted(each.read().names), each.count) == (["alice", "erin", "frank"], 3)


def test_the_count_of_a_large_room_does_not_swing_when_a_worker_ends_and_its_users_come_back():
    workers = Workers(3, limits(members=5))
    watchers = [Watcher(world_of(workers, number).member(f"w-{number}"), LOBBY) for number in range(3)]
    for number in range(90):
        world_of(workers, number % 3).member(f"user-{number}").join(LOBBY)
    workers.pass_time(3)
    assert [watcher.read().count for watcher in watchers] == [93] * 3
    workers.crash("worker-3", noticed_after_s=1.5)
    seen = set()
    for number in range(2, 92, 3):
        workers.pass_time(0.2)
        world_of(workers, number % 2).member(f"user-{number}").join(LOBBY)
        seen |= {watcher.read().count for watcher in watchers[:2]}
    assert max(seen) <= 93 + 10, "until the death is noticed some count twice"
    assert min(seen) >= 92
    workers.pass_time(QUIET_S)
    assert [watcher.read().count for watcher in watchers[:2]] == [92] * 2


def test_what_is_no_entry_changes_nothing_and_is_logged(workers, caplog):
    watcher = watch(workers, 0, "alice")
    watch(workers, 1, "bob")
    workers.pass_time(1)
    (room,) = lobby_of(world_of(workers, 0))
    hear = world_of(workers, 0).core._membership.rosters.hear
    lies = encode_entry(Entry(0, 0, [b'"x"'], [], []))
    for bad in (b"", b"\xc1", b"nonsense", b"\x93\x01\x02\x03", lies):
        hear(room, "worker-2", bad)
    assert caplog.text.count("is none") == 5
    workers.pass_time(3)
    assert sorted(watcher.read().names) == ["alice", "bob"]


def test_members_are_named_again_when_nobody_is_left_without_a_name_though_the_count_is_the_same(workers):
    watcher = watch(workers, 0, "alice")
    (room,) = lobby_of(world_of(workers, 0))
    hear = world_of(workers, 0).core._membership.rosters.hear
    hear(room, "odd", encode_entry(Entry(2, 0, [b'"bob"'], [], [])))
    workers.pass_time(1)
    assert watcher.read().count == 3
    hear(room, "odd", None)
    hear(room, "even", encode_entry(Entry(2, 0, [b'"bob"', b'"carol"'], [], [])))
    workers.pass_time(2)
    assert (watcher.read().names, watcher.count) == (["alice"], 3)
    workers.pass_time(GRACE_S)
    assert (watcher.read().names, watcher.count) == (["alice", "bob", "carol"], 3)


def test_an_entry_of_a_later_version_is_read_as_far_as_it_is_known():
    import msgspec

    later = msgspec.msgpack.encode([2, 0, [b'"a"'], [], [], {"more": True}])
    entry = decode_entry(later)
    assert (entry.here_count, entry.here) == (2, [b'"a"'])


def test_names_twice_in_an_entry_are_held_once(workers):
    watcher = watch(workers, 0, "alice")
    (room,) = lobby_of(world_of(workers, 0))
    hear = world_of(workers, 0).core._membership.rosters.hear
    hear(room, "odd", encode_entry(Entry(2, 1, [b'"x"', b'"x"'], [b'"x"'], [])))
    hear(room, "odd", encode_entry(Entry(0, 0, [], [], [])))
    workers.pass_time(1.5)
    assert watcher.read().names == ["alice"]


@pytest.mark.parametrize("name_bytes", [10, 700])
def test_an_entry_fits_whatever_the_names_are(name_bytes):
    roster = Roster(100_000)
    for number in range(5000):
        roster.join(b'"%s"' % str(number).rjust(name_bytes, "x").encode())
    data = roster.entry(0)
    entry = decode_entry(data)
    assert len(data) <= ENTRY_BYTES_MAX + 64
    assert entry.here_count == 5000
    assert entry.here == list(roster.users)[: len(entry.here)]
    assert len(entry.here) >= min(5000, ENTRY_BYTES_MAX // (name_bytes + 10))


@dataclass
class Client:
    """One connection of a random run."""

    user: str
    worker: str
    member: Member
    watcher: Watcher


class Run:
    """A random run over workers that die and words that are late or lost."""

    def __init__(self, seed: int, *, users: int, members: int, loss: float, late_s: float) -> None:
        self.dice, delay = seeded(seed, loss=loss, late_s=late_s)
        self.workers = Workers(3, limits(members), delay)
        self.users = users
        self.clients: list[Client] = []

    def step(self) -> None:
        dice = self.dice
        what = dice.random()
        if what < 0.4 or not self.clients:
            self.come(f"user-{dice.randrange(self.users)}")
        elif what < 0.55:
            client = self.pick()
            client.member.ask("leave", room=LOBBY)
        elif what < 0.75:
            client = self.pick()
            client.member.leave(for_good=dice.random() < 0.1)
            if dice.random() < 0.5:
                self.workers.pass_time(dice.random() * 3)
                self.come(client.user)
        elif what < 0.8:
            self.crash()
        else:
            self.workers.pass_time(dice.choice([0.1, 0.3, 1.1, 4.0, GRACE_S]))

    def come(self, user: str) -> None:
        worker = self.dice.choice(list(self.workers.worlds))
        member = self.workers.worlds[worker].member(user)
        self.clients.append(Client(user, worker, member, Watcher(member, LOBBY)))

    def pick(self) -> Client:
        return self.clients.pop(self.dice.randrange(len(self.clients)))

    def crash(self) -> None:
        name = self.dice.choice(list(self.workers.worlds))
        self.workers.crash(name, noticed_after_s=self.dice.random() * 2)
        self.workers.start()
        self.clients = [client for client in self.clients if client.worker != name]

    def settle(self) -> None:
        """Let every word arrive, and pass the time after which everybody knows."""
        self.workers.repair()
        self.workers.delay = lambda: self.dice.random() * 0.1
        self.workers.pass_time(QUIET_S)


def test_in_the_end_every_worker_and_every_client_knows_who_is_there():
    first = random.randrange(1_000_000)
    print(f"seeds from {first}")
    for seed in range(first, first + 60):
        run = Run(seed, users=8, members=12, loss=0.2, late_s=1.0)
        for _ in range(40):
            run.step()
        run.settle()
        truth = sorted({client.user for client in run.clients})
        assert all(each == truth for each in here(run.workers)), f"seed {seed}: {here(run.workers)} {truth}"
        for client in run.clients:
            watcher = client.watcher.read()
            assert sorted(watcher.names) == truth, f"seed {seed}"
            assert watcher.count == len(truth), f"seed {seed}"
        check_nothing_is_left_over(run, seed)


def test_in_the_end_every_count_of_a_large_room_is_right_where_no_user_is_on_two_workers():
    first = random.randrange(1_000_000)
    print(f"seeds from {first}")
    for seed in range(first, first + 40):
        run = Run(seed, users=10**9, members=3, loss=0.2, late_s=1.0)
        for _ in range(40):
            run.step()
        run.settle()
        truth = sorted({client.user for client in run.clients})
        for client in run.clients:
            watcher = client.watcher.read()
            assert watcher.count == len(truth), f"seed {seed}"
            if len(truth) <= 3:
                assert sorted(watcher.names) == truth, f"seed {seed}"
        check_nothing_is_left_over(run, seed)


def check_nothing_is_left_over(run: Run, seed: int) -> None:
    """Rooms live where somebody is, nobody lingers, and what is remembered of others is of those alive."""
    for name, world in run.workers.worlds.items():
        inside = any(client.worker == name for client in run.clients)
        assert world.core.stats()["rooms"] == int(inside), f"seed {seed}"
        assert world.core.stats()["lingering_users"] == 0, f"seed {seed}"
        rosters = world.core._membership.rosters
        assert (len(rosters._moving), len(rosters._gone), rosters._changed) == (0, 0, set()), f"seed {seed}"
        for room in lobby_of(world):
            held = set(room.roster._holds)
            assert room.kept == 0, f"seed {seed}"
            if room.roster.elsewhere is not None:
                assert not room.roster.elsewhere.gone, f"seed {seed}"
                named = [set(share.users()) for share in room.roster.elsewhere.shares.values()]
                assert held == set().union(*named), f"seed {seed}"


def test_nobody_is_told_gone_who_was_never_away_for_longer_than_the_grace_period():
    first = random.randrange(1_000_000)
    print(f"seeds from {first}")
    for seed in range(first, first + 40):
        run = Run(seed, users=0, members=12, loss=0.0, late_s=0.2)
        watchers = [Watcher(world.member(name), LOBBY) for name, world in run.workers.worlds.items()]
        for number in range(4):
            run.come(f"user-{number}")
        run.workers.pass_time(1)
        for _ in range(12):
            client = run.pick()
            client.member.leave()
            run.workers.pass_time(run.dice.random() * (GRACE_S - 2.0))
            run.come(client.user)
            run.workers.pass_time(run.dice.random() * 3)
        run.settle()
        for watcher in watchers:
            assert watcher.read().left == [], f"seed {seed}"
            assert sorted(watcher.names) == sorted(
                [*(f"user-{number}" for number in range(4)), *(f"worker-{number}" for number in range(1, 4))]
            ), f"seed {seed}"


def test_who_is_kicked_is_not_waited_for_after_the_death_of_a_worker(workers):
    watcher = watch(workers, 0, "alice")
    watch(workers, 1, "bob")
    watch(workers, 1, "carol")
    workers.pass_time(1)
    workers.crash("worker-2")
    workers.pass_time(1)
    for world in workers.worlds.values():  # a kick goes to all that are alive
        asyncio.run(world.core.control.kick("bob"))
    workers.pass_time(1)
    assert watcher.read().left == ["bob"]

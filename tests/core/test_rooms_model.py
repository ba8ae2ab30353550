"""Any run of joins, leaves, breaks, publications and questions, against a model that is a list per room."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime.core.limits import Limits
from tests.core.world import Member, World

ROOMS = ("chat:a", "chat:b", "events:a")
KEPT = 6  # publications a room keeps
WINDOW_S = 100.0


@dataclass
class Known:
    """What the model knows of one client: where it is, and what it must have seen."""

    member: Member
    user: str
    expected: dict[str, list[tuple[int, int]]] = field(
        default_factory=dict
    )  # (offset, content) by joined room
    positions: dict[str, tuple[int, str]] = field(
        default_factory=dict
    )  # the last it knows, also after leaving


class Rooms(RuleBasedStateMachine):
    """The model: `published[room]` is all of an epoch, and a client in a room sees all from its join on."""

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(connections_per_user=100, rooms_per_connection=2)
        self.world = World(limits=limits, history_messages=KEPT, recovery_window_s=WINDOW_S)
        self.published: dict[str, list[int]] = {room: [] for room in ROOMS}
        self.epochs: dict[str, str] = {}
        self.empty_since: dict[str, float] = {}
        self.clients: list[Known] = []
        self.contents = 0

    def inside(self, room: str) -> list[Known]:
        return [known for known in self.clients if room in known.expected]

    def pick(self, number: int) -> Known:
        return self.clients[number % len(self.clients)]

    @rule(user=st.sampled_from("abc"), variant=st.sampled_from([0, 1, 30]))
    def connect(self, user: str, variant: int) -> None:
        if len(self.clients) < 6:
            self.clients.append(Known(self.world.member(user, variant=variant), user))

    @precondition(lambda self: self.clients)
    @rule(number=st.integers(0, 5), room=st.sampled_from(ROOMS), back=st.sampled_from([None, 0, 1, 3, 99]))
    def join(self, number: int, room: str, back: int | None) -> None:
        """Join, asking for nothing, or for what came after a position known, moved by `back`."""
        known = self.pick(number)
        self.check(known)
        if room not in known.expected and len(known.expected) == 2:
            assert known.member.error("join", room=room) == "room_limit"
            return
        published = self.published[room]
        since = {}
        if back is not None and room in known.positions:
            offset, epoch = known.positions[room]
            since = {"offset": offset + 50 if back == 99 else max(0, offset - back), "epoch": epoch}
        joined = known.member.join(room, **since)
        known.expected.setdefault(room, [])
        self.empty_since.pop(room, None)
        assert self.epochs.setdefault(room, joined["epoch"]) == joined["epoch"]
        assert joined["offset"] == len(published)
        assert sorted(joined["members"]) == sorted({each.user for each in self.inside(room)})
        assert joined["count"] == len(joined["members"])
        recoverable = (
            bool(since)
            and since["epoch"] == self.epochs[room]
            and len(published) - KEPT <= since["offset"] <= len(published)
        )
        assert joined["recovered"] is recoverable
        missed = published[since["offset"] :] if recoverable else []
        assert [push["content"] for push in joined["messages"]] == missed
        known.positions[room] = (joined["offset"], joined["epoch"])

    @precondition(lambda self: self.clients)
    @rule(number=st.integers(0, 5), room=st.sampled_from(ROOMS), frame=st.integers(1, 4))
    def publish(self, number: int, room: str, frame: int) -> None:
        """Publish some messages in one frame."""
        known = self.pick(number)
        contents = range(self.contents, self.contents + frame)
        self.contents += frame
        known.member.send_frame(
            *({"type": "chat_message", "id": f"p{each}", "room": room, "content": each} for each in contents)
        )
        for content in contents:
            answer = known.member.answer(f"p{content}")
            if room not in known.expected:
                assert answer["content"]["name"] == "not_joined"
                continue
            self.published[room].append(content)
            offset = len(self.published[room])
            assert answer["content"] == {"offset": offset, "epoch": self.epochs[room]}
            for each in self.inside(room):
                each.expected[room].append((offset, content))

    @precondition(lambda self: self.clients)
    @rule(number=st.integers(0, 5), room=st.sampled_from(ROOMS))
    def leave(self, number: int, room: str) -> None:
        known = self.pick(number)
        self.check(known)
        answer = known.member.ask("leave", room=room)
        assert answer["type"] == ("ack" if known.expected.pop(room, None) is not None else "error")
        self.note_empty(room)

    @precondition(lambda self: self.clients)
    @rule(number=st.integers(0, 5))
    def lose(self, number: int) -> None:
        """The connection breaks; the client comes back with what it knew."""
        known = self.pick(number)
        self.check(known)
        rooms, known.expected = list(known.expected), {}
        known.member.leave()
        for room in rooms:
            self.note_empty(room)
        known.member = self.world.member(known.user, variant=known.member.connection.variant)

    @precondition(lambda self: self.clients)
    @rule(number=st.integers(0, 5), room=st.sampled_from(ROOMS), limit=st.integers(1, 8))
    def ask_history(self, number: int, room: str, limit: int) -> None:
        known = self.pick(number)
        if room not in known.expected:
            return
        page = known.member.ask("history", room=room, content={"limit": limit})["content"]
        kept = self.published[room][-KEPT:]
        assert [push["content"] for push in page["messages"]] == kept[-limit:]
        assert page["more"] is (len(kept) > limit)

    @rule(seconds=st.sampled_from([0.3, 60.0, WINDOW_S + 1]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        for room, since in list(self.empty_since.items()):
            if self.world.clock.now - since > WINDOW_S:
                del self.empty_since[room]
                self.published[room] = []
                self.epochs.pop(room, None)

    def note_empty(self, room: str) -> None:
        if not self.inside(room) and room in self.epochs:
            self.empty_since.setdefault(room, self.world.clock.now)

    def check(self, known: Known) -> None:
        """It has seen exactly what was published since it joined, in one order, and nothing else."""
        seen: dict[str, list[tuple[int, int]]] = {}
        for push in known.member.pushes():
            assert push["epoch"] == self.epochs[push["room"]]
            seen.setdefault(push["room"], []).append((push["offset"], push["content"]))
        expected = {room: pushes for room, pushes in known.expected.items() if pushes}
        assert seen == expected
        for room, pushes in expected.items():
            known.positions[room] = (pushes[-1][0], self.epochs[room])
            known.expected[room] = []

    @invariant()
    def live_rooms_are_those_with_members(self) -> None:
        live = [room for room in ROOMS if self.inside(room)]
        assert self.world.core.stats()["rooms"] == len(live)

    def teardown(self) -> None:
        for known in self.clients:
            self.check(known)
            known.member.leave()
        stats = self.world.core.stats()
        assert (stats["sessions"], stats["rooms"], stats["tenants"]) == (0, 0, 0)


TestRooms = Rooms.TestCase
TestRooms.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)

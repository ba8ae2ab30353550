"""A second world that takes the place of a first: everything that the core exports, over MessagePack."""

import msgspec

from realtime.core.contracts import StreamState
from realtime.core.entry import SessionState
from realtime.core.handover import CoreState
from realtime.core.room import RoomState
from realtime.core.rosters import RostersState
from realtime.core.session import Session
from tests.core.world import World
from tests.oracles.hub import FakeConnection


def sent(value, type):
    """Return what arrives in another process."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type)


def succeed(old, members, stays=(), **options):
    """Return a world in the place of `old`, with the same clock, and `members` in it; those who stay are gone
    without a word.
    """
    new = World(clock=old.clock, limits=old.limits, **options)
    new.tokens, new.grants = old.tokens, old.grants
    ours, theirs = old.core.handover, new.core.handover
    for state in ours.streams({}):
        theirs.adopt_stream(sent(state, StreamState))
    theirs.keep_only(list(ours.kept_rooms))
    theirs.adopt_state(sent(ours.state(), CoreState))
    connections = {}
    for member in members:
        connections[member.connection.id] = _move(new, member)
    sessions = {number: each.state for number, each in connections.items()}
    moving = [member.session for member in members]
    stayed = []
    for state in ours.rooms(moving, [each.session for each in stays]):
        new.hub.arriving = connections
        theirs.adopt_room(sent(state, RoomState), sessions)
        stayed.append(state.stayed)
    theirs.adopt_rosters(sent(ours.rosters(), RostersState), stayed)
    for member in members:
        member._world, member.connection = new, connections[member.connection.id]
        member.session = member.connection.state
    return new


def _move(new, member):
    """Give `new` the connection of a member."""
    old = member.connection
    made = FakeConnection(old.variant, new.hub)
    made.id, made.sent, made.open = old.id, old.sent, old.open
    state = sent(member._world.core.handover.session(member.session), SessionState)
    session = new.core.handover.adopt_session(made, state)
    assert isinstance(session, Session)
    assert made.state is session
    return made

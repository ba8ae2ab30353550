"""No tenant can tell that there is another: every message type and every order, with the same names."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.backends.broker_memory import MemoryBroker
from realtime.core import presence, users
from realtime.core.catalog import Catalog
from realtime.core.revocations import Revoked
from realtime.core.tenant import Tenants
from realtime.features import discover
from realtime.ids import RoomId, TenantId
from realtime.protocol.messages import FROM_CLIENT
from tests.isolation import twins
from tests.isolation.twins import TENANTS, TYPES, VALUES, Stage, differences, tape

LENGTH = 650


@pytest.mark.parametrize("seed", range(12))
def test_a_tenant_sees_the_same_whether_or_not_another_is_there(seed):
    assert differences(seed, LENGTH) == []


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_the_same_for_any_tape(seed):
    print(f"seed {seed}")
    assert differences(seed, 150) == []


def test_every_message_type_that_there_is_is_played_by_both():
    declared = set(Catalog(discover()).messages) | set(FROM_CLIENT)
    assert set(TYPES) == declared
    for tenant in TENANTS:
        played = {
            act.values[1] for act in tape(random.Random(1), 1) if act.tenant == tenant and act.verb == "send"
        }
        assert played == declared


def test_every_order_that_a_worker_takes_is_played():
    stage = Stage(TENANTS)
    verbs = set(stage.world.core.cluster._verbs._answers)
    # What the core's own parts ask of each other: commands for owners go through message types.
    # `audit` and `presence_news` take what others report, and answer nothing.
    internal = {"notify", "kick", "command", "audit", "presence_news"}
    # What administrators ask through a worker: tests/edge/test_rest_api.py tries each with others' keys.
    internal |= {"rooms", "connections", "signal", "close", "revoke", "revoked", "put_out"}
    assert verbs - internal <= VALUES.keys(), "a worker takes an order that no tape plays"
    played = {act.verb for act in tape(random.Random(2), LENGTH)}
    assert played >= set(VALUES) - {"quotas"} or played == set(VALUES)


def test_the_tapes_come_to_something():
    """A test of nothing would find nothing: acks, pushes, histories, refusals of all kinds are heard."""
    heard = []
    for seed in range(12):
        stage = Stage(TENANTS, twins.limits_of(seed))
        stage.play(tape(random.Random(seed), LENGTH))
        heard += stage.heard["acme"]
    text = b"".join(heard).decode()
    wanted = (
        *("ack", "joined", "history", "presence", "pong", "notification", "error", "connected", "unread"),
        *("not_joined", "room_limit", "rate_limited", "forbidden", "unauthorized", "bad_message", "kicked"),
        *("revoked", "max_rooms_per_connection", "rooms_per_tenant", "connections_per_tenant"),
        *("max_connections_per_user", "messages_per_second_per_tenant", "deliveries_per_second_per_tenant"),
    )
    assert [word for word in wanted if word not in text] == [], "never heard"


# -- the test of the test: each leak that is planted has to be found ----------------------------------------


def shared_rooms(monkeypatch):
    enter = Tenants.enter
    monkeypatch.setattr(Tenants, "enter", lambda self, id: enter(self, TenantId("all")))
    monkeypatch.setattr(Tenants, "__getitem__", lambda self, id: self._by_id[TenantId("all")])
    monkeypatch.setattr(Tenants, "find", lambda self, id: self._by_id.get(TenantId("all")))


def shared_streams(monkeypatch):
    for name in ("open", "publish"):
        method = getattr(MemoryBroker, name)

        def merged(self, room, *rest, method=method, **options):
            return method(self, RoomId(TenantId("all"), room.room), *rest, **options)

        monkeypatch.setattr(MemoryBroker, name, merged)


def shared_users(monkeypatch):
    monkeypatch.setattr(users, "user_key", lambda tenant, user: hash(user) & 0xFFFF or 1)
    monkeypatch.setattr("realtime.core.entry.user_key", lambda tenant, user: hash(user) & 0xFFFF or 1)

    def is_of(connection, tenant, user):
        identity = users.identity_of(connection)
        return identity is not None and identity.user == user

    monkeypatch.setattr(users, "_is_of", is_of)


def shared_revocations(monkeypatch):
    covers = Revoked.covers
    monkeypatch.setattr(
        Revoked,
        "covers",
        lambda self, identity: any(
            covers(self, type(identity)(**{**fields_of(identity), "tenant": TenantId(each)}))
            for each in TENANTS
        ),
    )


def fields_of(identity):
    return {name: getattr(identity, name) for name in identity.__struct_fields__}


def shared_rates(monkeypatch):
    from realtime.core.limits import Allowances

    tenant = Allowances._tenant
    monkeypatch.setattr(Allowances, "_tenant", lambda self, id: tenant(self, TenantId("all")))


def kicks_of_all(monkeypatch):
    connections = users.Users.connections
    monkeypatch.setattr(
        users.Users,
        "connections",
        lambda self, tenant, user: [x for each in TENANTS for x in connections(self, TenantId(each), user)],
    )


def counts_of_all(monkeypatch):
    """Presence that counts who is in the room of the same name, whoever's it is."""
    totals = {}
    came = presence.Roster.__len__
    monkeypatch.setattr(presence.Roster, "__len__", lambda self: came(self) + sum(totals.values()))
    arrive = users.Users.make_room

    def make_room(self, identity):
        totals[identity.tenant] = totals.get(identity.tenant, 0) + 1
        return arrive(self, identity)

    monkeypatch.setattr(users.Users, "make_room", make_room)


def telling_errors(monkeypatch):
    """A refusal that says whether the room exists somewhere."""
    from realtime.core.membership import Membership

    joined_room = Membership.joined_room

    def telling(self, session, message):
        try:
            return joined_room(self, session, message)
        except twins.RealtimeError as error:
            somewhere = any(message.room in each.rooms for each in self._tenants._by_id.values())
            raise type(error)(f"{error.message} {somewhere}") from None

    monkeypatch.setattr(Membership, "joined_room", telling)


@pytest.mark.parametrize(
    "plant",
    [
        shared_rooms,
        shared_streams,
        shared_users,
        shared_revocations,
        shared_rates,
        kicks_of_all,
        counts_of_all,
        telling_errors,
    ],
)
def test_a_planted_leak_is_found(plant, monkeypatch):
    plant(monkeypatch)
    assert any(differences(seed, LENGTH) for seed in range(12))


def test_users_of_two_tenants_whose_keys_collide_stay_apart(monkeypatch):
    """The registry's keys are 32 bits of a hash: with all of them equal nothing changes but the time."""
    monkeypatch.setattr(users, "user_key", lambda tenant, user: 1)
    monkeypatch.setattr("realtime.core.entry.user_key", lambda tenant, user: 1)
    for seed in range(4):
        assert differences(seed, LENGTH) == []

"""What the policy says of rooms: all rules that speak of one, together."""

from realtime.core.room_rules import RoomFlags, RoomRules
from realtime.ids import RoomId, RoomName, TenantId
from realtime.policy import RoomRule


def room(name: str, tenant: str = "acme") -> RoomId:
    return RoomId(TenantId(tenant), RoomName(name))


def test_without_rules_a_room_is_nothing_special():
    assert RoomRules().of(room("chat:lobby")) == RoomFlags()


def test_what_one_rule_turns_on_is_on():
    rules = RoomRules(
        [
            RoomRule(rooms=("chat:*",), encrypted=True),
            RoomRule(rooms=("*-secret",), private=True),
            RoomRule(rooms=("chat:*",), tenants=("other",), end_to_end=True),
        ]
    )
    assert rules.of(room("chat:a")) == RoomFlags(encrypted=True)
    assert rules.of(room("chat:a-secret")) == RoomFlags(encrypted=True, private=True)
    assert rules.of(room("chat:a", "other")) == RoomFlags(encrypted=True, end_to_end=True)
    assert rules.of(room("events:a")) == RoomFlags()


def test_other_rules_hold_at_once():
    rules = RoomRules([RoomRule(rooms=("*",), private=True)])
    assert rules.of(room("chat:a")).private
    rules.replace([])
    assert not rules.of(room("chat:a")).private

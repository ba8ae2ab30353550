"""What `realtime policy check` says of rules that hold and are odd all the same."""

import pytest

from realtime.core.access_findings import findings
from realtime.core.catalog import Catalog
from realtime.features import discover
from realtime.policy.loading import read_policy

CATALOG = Catalog(discover())
JOIN = {"actions": ["join"], "rooms": ["chat:*"]}


def said(*rules: dict, default: str = "deny", roles: tuple[str, ...] = ()) -> list[str]:
    table = {"access": {"default": default, "roles": list(roles), "rules": list(rules)}}
    return list(findings(read_policy(table, "test").access, CATALOG))


def deny(**rule) -> dict:
    return {"effect": "deny", **rule}


def test_rules_that_all_matter_are_not_odd():
    assert said(JOIN, {"actions": ["publish"], "rooms": ["chat:*"], "roles": ["staff"]}) == []
    assert said(default="allow") == []


def test_a_type_that_the_rooms_do_not_take_never_matches():
    (one,) = said(JOIN, deny(actions=["publish:publish"], rooms=["chat:*"]))
    assert one.startswith("access.rules[1] never matches: publish:publish")
    assert not said(JOIN, deny(actions=["publish:publish"], rooms=["chat:*", "events:*"]))
    assert not said(JOIN, deny(actions=["publish:publish"], rooms=["*"]))


@pytest.mark.parametrize(
    ("rule", "denial", "covered"),
    [
        ({"rooms": ["chat:a-*"]}, {"rooms": ["chat:a*"]}, True),
        ({"rooms": ["chat:a*"]}, {"rooms": ["chat:a-*"]}, False),
        ({"rooms": ["user:{user}"]}, {"rooms": ["user:*"]}, True),
        ({"rooms": ["chat:a", "chat:b"]}, {"rooms": ["chat:a"]}, False),
        ({"roles": ["staff"]}, {"roles": ["*"]}, True),
        ({"roles": ["staff"]}, {"roles": ["guest"]}, False),
        ({"tenants": ["acme"]}, {"tenants": ["acme", "b"]}, True),
        ({"tenants": ["*"]}, {"tenants": ["acme"]}, False),
        ({"actions": ["publish:chat_message"]}, {"actions": ["publish"]}, True),
        ({"actions": ["publish"]}, {"actions": ["publish:chat_message"]}, False),
    ],
)
def test_what_a_denial_covers_never_matters(rule, denial, covered):
    other = {**JOIN, "rooms": ["events:*"]}
    found = said(other, {**JOIN, **rule}, deny(**{**JOIN, "actions": ["*"], **denial}))
    assert [each for each in found if "access.rules[2] denies all" in each] == (
        ["access.rules[1] never matters: access.rules[2] denies all that it allows"] if covered else []
    )


def test_allowing_what_is_allowed_changes_nothing():
    assert said(JOIN, default="allow") == [
        "access.rules[0] changes nothing: what it allows is allowed by default"
    ]


def test_roles_that_are_not_there_are_named_where_it_is_said_which_there_are():
    rule = {**JOIN, "roles": ["staff", "stuff", "team-*", "gues*", "*"]}
    assert said(rule, roles=("staff", "guest", "team-*")) == [
        "access.rules[0] speaks of roles that access.roles does not have: 'stuff'"
    ]
    assert said(rule) == []


def test_nobody_in_any_room_is_said():
    assert said({"actions": ["publish"], "rooms": ["chat:*"]})[-1].startswith("access: nobody may join")

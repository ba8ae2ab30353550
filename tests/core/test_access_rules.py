"""The compiled rules answer as walking over all of them does, and refuse what could never match."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.core.access import Rules, actions_of, sending
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.core.rule_index import OwnRooms, Rooms
from realtime.errors import SettingsError
from realtime.features import discover
from realtime.ids import TenantId, UserId
from realtime.policy.access import OWN, Access, Rule
from realtime.policy.loading import read_policy
from tests.oracles import access as oracle

KINDS = ("chat", "user", "doc")
CATALOG = Catalog(
    [
        Feature(
            name="test",
            kinds=tuple(RoomKind(name=name) for name in KINDS),
            messages=(
                MessageType(name="chat_message", kinds=frozenset({"chat", "doc"})),
                MessageType(name="chat_typing", kinds=frozenset({"chat"}), ephemeral=True),
                MessageType(name="doc_edit", kinds=frozenset({"doc"}), owner=lambda core, command: b"{}"),
            ),
            permissions=("moderate",),
        )
    ]
)
ACTIONS = sorted(actions_of(CATALOG))

# Few letters, so that patterns and names meet often; ids have what could be taken for syntax.
LETTERS = "ab*:{}."
ids = st.text(LETTERS, min_size=1, max_size=4)
rooms = st.builds(
    lambda kind, id: f"{kind}:{id}", st.sampled_from(KINDS), st.text("ab:*.", min_size=1, max_size=7)
)
pieces = st.lists(st.sampled_from(["a", "b", ":", ".", "*", "{user}"]), min_size=1, max_size=6).map("".join)
plain_patterns = st.one_of(
    st.just("*"), st.builds(lambda kind, rest: f"{kind}:{rest}", st.sampled_from(["*", *KINDS]), pieces)
)


def will_do(pattern: str) -> bool:
    try:
        Rule(actions=("join",), rooms=(pattern,)).check()
    except ValueError:
        return False
    return True


rules = st.builds(
    Rule,
    effect=st.sampled_from(["allow", "deny"]),
    roles=st.lists(st.sampled_from(["*", "r1", "r2", "r*", "*2"]), min_size=1, max_size=2).map(tuple),
    tenants=st.lists(st.sampled_from(["*", "t1", "t*"]), min_size=1, max_size=2).map(tuple),
    actions=st.lists(
        st.sampled_from(
            [
                "*",
                "join",
                "publish",
                "publish:*",
                "pub*",
                "*:chat_*",
                "signal",
                "command:doc_edit",
                "moderate",
            ]
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    rooms=st.lists(plain_patterns.filter(will_do), min_size=1, max_size=3).map(tuple),
)
policies = st.builds(
    lambda default, found: Access(default=default, rules=tuple(found)),
    st.sampled_from(["allow", "deny"]),
    st.lists(rules, max_size=6),
)
people = st.builds(
    lambda user, tenant, roles: Identity(UserId(user), TenantId(tenant), frozenset(roles)),
    ids,
    st.sampled_from(["t1", "t2", "other"]),
    st.sets(st.sampled_from(["r1", "r2", "q"])),
)


@st.composite
def questions(draw: st.DrawFn) -> tuple[Access, list[tuple[Identity, str]]]:
    """A policy, and who asks of which rooms: of any, and of some that its patterns were made into."""
    policy = draw(policies)
    asked = []
    for _ in range(draw(st.integers(1, 8))):
        identity, room = draw(people), draw(rooms)
        patterns = [pattern for rule in policy.rules for pattern in rule.rooms if ":" in pattern]
        if patterns and draw(st.booleans()):
            made = draw(st.sampled_from(patterns)).replace("{user}", identity.user)
            made = "".join(
                draw(st.sampled_from(["", "a", ":b", "ab"])) if part == "*" else part for part in made
            )
            room = f"{draw(st.sampled_from(KINDS))}:{made.partition(':')[2] or 'a'}"
        asked.append((identity, room))
    return policy, asked


@settings(max_examples=200)
@given(questions())
def test_it_decides_as_walking_over_all_rules_does(case):
    policy, asked = case
    compiled = Rules(policy, CATALOG)
    for identity, room in asked * 2:  # the second time from what is remembered
        kind = CATALOG.kind_of(room)
        expected = {action: oracle.allows(policy, identity, action, room) for action in ACTIONS}
        assert {action: compiled.allows(identity, action, room) for action in ACTIONS} == expected
        rights = compiled.rights(identity, kind, room)
        assert (rights.join, rights.history, rights.presence) == tuple(
            expected[action] for action in ("join", "history", "presence")
        )
        taken = CATALOG.types_by_kind[kind.name]
        assert rights.types == {type for type in taken if expected[sending(CATALOG, type)]}
        for action in ACTIONS:
            decision = compiled.explain(identity, action, room)
            assert decision.allowed == expected[action]
            if decision.rule is not None:
                rule = policy.rules[decision.rule]
                assert oracle.speaks(rule, identity, action, room)
                assert (rule.effect == "allow") == decision.allowed
            else:
                assert not any(oracle.speaks(rule, identity, action, room) for rule in policy.rules)


def every(letters: tuple[str, ...], longest: int) -> list[str]:
    """All texts of up to so many of these letters."""
    lengths = range(1, longest + 1)
    return ["".join(made) for length in lengths for made in itertools.product(letters, repeat=length)]


def test_every_short_pattern_finds_what_it_fits():
    """Above all where what stands before and behind a `*` would have to share letters: `a*a` is not `a`."""
    rooms = [f"chat:{id}" for id in every(("a", "b"), 4)]
    for pattern in (f"chat:{id}" for id in every(("a", "b", "*"), 5)):
        found = {room for room in rooms if Rooms([[pattern]]).find(room)[0]}
        assert found == {room for room in rooms if oracle.fits(pattern, room)}, pattern


def test_every_short_pattern_of_own_rooms_fits_as_it_reads():
    rooms = [f"doc:{id}" for id in every(("a", ":"), 5)]
    several = [f"{OWN}:{rest}" for rest in every(("a", "*"), 5)]
    for pattern in (f"doc:{id}" for id in [*every(("a", ":", "*", OWN), 4), *several]):
        if OWN not in pattern or not will_do(pattern):
            continue
        own = OwnRooms(pattern, 1)
        for user in ("a", ":", "aa", "a:a"):
            found = {room for room in rooms if own.fits(user, room)}
            assert found == {room for room in rooms if oracle.fits_own(pattern, user, room)}, (pattern, user)
            assert own.is_whole(user) == oracle.is_whole(pattern, user), (pattern, user)


@st.composite
def own_rooms(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A pattern with `{user}`, a room made of it, and users who might all take that for theirs."""
    pattern = draw(plain_patterns.filter(will_do).filter(lambda pattern: "{user}" in pattern))
    letters = st.text("ab:.*", min_size=1, max_size=5)
    user = draw(letters)
    room = "".join(
        draw(letters) if part == "*" else part.replace("{user}", user) for part in re.split(r"(\*)", pattern)
    )
    _, _, id = room.partition(":")
    cuts = draw(st.lists(st.tuples(st.integers(0, len(id)), st.integers(0, len(id))), max_size=12))
    pieces = {id[min(cut) : max(cut)] for cut in cuts} - {""}
    return pattern, room, [user, *pieces]


@settings(max_examples=300)
@given(own_rooms())
def test_no_room_is_two_users_own(case):
    pattern, room, users = case
    compiled = Rules(Access(default="deny", rules=(Rule(actions=("join",), rooms=(pattern,)),)), CATALOG)
    allowed = {user for user in users if compiled.allows(Identity(UserId(user)), "join", room)}
    assert len(allowed) < 2, f"{pattern} gives {room} to {allowed}"


def of(*found: dict, default: str = "deny") -> Rules:
    policy = read_policy({"access": {"default": default, "rules": list(found)}}, "test")
    return Rules(policy.access, CATALOG)


def test_a_star_in_a_users_id_is_a_star_and_no_pattern():
    compiled = of({"actions": ["join"], "rooms": ["user:{user}"]})
    assert compiled.allows(Identity(UserId("*")), "join", "user:*")
    assert not compiled.allows(Identity(UserId("*")), "join", "user:alice")


def test_an_id_that_goes_on_as_anothers_reaches_no_room_of_theirs():
    compiled = of({"actions": ["join"], "rooms": ["doc:{user}:*"]})
    assert compiled.allows(Identity(UserId("a")), "join", "doc:a:b:x")
    assert not compiled.allows(Identity(UserId("a:b")), "join", "doc:a:b:x")


def test_a_denial_of_own_rooms_holds_whatever_the_id_is():
    compiled = of({"effect": "deny", "actions": ["join"], "rooms": ["doc:{user}:*"]}, default="allow")
    assert not compiled.allows(Identity(UserId("a:b")), "join", "doc:a:b:x")


def test_one_type_may_be_denied_where_the_others_are_allowed():
    compiled = of(
        {"actions": ["*"], "rooms": ["doc:*"]},
        {"effect": "deny", "actions": ["command:doc_edit"], "rooms": ["doc:final-*"]},
    )
    kind = CATALOG.kinds["doc"]
    assert compiled.rights(Identity(UserId("u")), kind, "doc:draft").types == {"chat_message", "doc_edit"}
    assert compiled.rights(Identity(UserId("u")), kind, "doc:final-1").types == {"chat_message"}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"actions": ["pubish"]}, r"access.rules\[0\]: no action is called 'pubish'"),
        ({"actions": ["publish:chat_typing"]}, "no action is called 'publish:chat_typing'"),  # it is a signal
        ({"actions": ["join"], "rooms": ["chta:*"]}, "no room kind 'chta'; there are chat, doc, user"),
        ({"actions": ["join"], "rooms": ["lobby"]}, "'lobby' names no room: they are kind:id"),
        ({"actions": ["join"], "rooms": ["user:{usr}"]}, r"has \{usr\}; \{user\} is the only one"),
        ({"actions": ["join"], "rooms": ["user:{user}*"]}, "needs a sign between"),
        ({"actions": ["join"], "rooms": ["doc:{user}{user}"]}, "needs a sign between"),
        ({"actions": ["join"], "rooms": ["*:{user}:*"]}, r"on both sides"),
        ({"actions": []}, "actions"),
        ({"actions": ["join"], "effect": "perhaps"}, "effect"),
    ],
)
def test_a_rule_that_could_not_hold_is_refused_by_its_place(rule, said):
    with pytest.raises(SettingsError, match=said):
        of({"effect": "deny", **rule} if "effect" not in rule else rule)


def test_the_features_of_the_project_give_every_type_an_action():
    catalog = Catalog(discover())
    assert {sending(catalog, type) for type in catalog.messages} <= actions_of(catalog).keys()


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("realtime.core.access.ROOMS_REMEMBERED", 100)
    monkeypatch.setattr("realtime.core.access.WHO_REMEMBERED", 100)
    compiled = of({"actions": ["join"], "rooms": ["chat:a*"]})
    for number in range(1000):
        who = Identity(UserId("u"), TenantId("t"), frozenset({f"r{number}"}))
        compiled.allows(who, "join", f"chat:{number}")
    assert len(compiled._known_rooms) <= 100
    assert len(compiled._known_who) <= 100


def test_a_power_is_granted_by_a_rule_that_names_it_and_by_no_other():
    boss = Identity(UserId("boss"), roles=frozenset({"boss"}))
    for rule, granted in (
        ({"actions": ["moderate"], "roles": ["boss"], "rooms": ["chat:*"]}, True),
        ({"actions": ["*"], "roles": ["boss"], "rooms": ["*"]}, False),
        ({"actions": ["mod*"], "roles": ["boss"], "rooms": ["*"]}, False),
        ({"actions": ["moderate"], "roles": ["other"], "rooms": ["*"]}, False),
        ({"actions": ["moderate"], "roles": ["boss"], "rooms": ["doc:*"]}, False),
    ):
        section = read_policy({"access": {"rules": [rule]}}, "test").access
        assert Rules(section, CATALOG).grants(boss, "moderate", "chat:a") is granted, rule
    allowed = {"actions": ["moderate"], "rooms": ["*"]}
    denied = {"effect": "deny", "actions": ["*"], "roles": ["boss"], "rooms": ["chat:a"]}
    both = Rules(read_policy({"access": {"rules": [allowed, denied]}}, "test").access, CATALOG)
    assert not both.grants(boss, "moderate", "chat:a")
    assert both.grants(boss, "moderate", "chat:b")

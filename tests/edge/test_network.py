"""The policy's `[network]`, compiled and followed: lists, countries, proxies, origins, reviews."""

from pathlib import Path

import pytest

from realtime.core.audit import Action, Event, Outcome
from realtime.edge.doorkeeper import Doorkeeper
from realtime.edge.network import REVIEWED_A_TICK, NetworkRules
from realtime.errors import SettingsError
from realtime.native.address import pack, unpack
from realtime.policy import Policy
from realtime.policy.loading import read_policy
from realtime.protocol.origins import OriginRules
from tests.backends.test_geo_maxmind import (
    BROKEN_POINTERS,
    COUNTRIES,
    DATABASE,
    as_country_database,
    edges,
)
from tests.oracles.hub import FakeClock

JAPAN, SWEDEN, NOWHERE = "2001:218::1", "89.160.20.112", "127.0.0.1"


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


class Hub:
    """The hub's side: what it was told, and connections by address."""

    def __init__(self) -> None:
        self.trusted = None
        self.how: dict[str, object] = {}
        self.here: list[bytes] = []
        self.closed: list[tuple[str, int, bytes]] = []
        self.slices: list[int] = []

    def guard(self, on_arrival, on_departure):
        self.on_arrival = on_arrival

    def trust(self, trusted, **how):
        self.trusted, self.how = trusted, how

    def review(self, welcomes, *, cursor, count, code, reason):
        cursor = min(cursor, len(self.here))
        seen = self.here[max(0, cursor - count) : cursor]
        self.closed += [(unpack(each), code, reason) for each in seen if not welcomes(each)]
        self.slices.append(len(seen))
        return max(0, cursor - count)


class Stage:
    """Rules that follow policies, on a hub."""

    def __init__(self, **more: object) -> None:
        self.hub, self.log = Hub(), Log()
        self.keeper = Doorkeeper(FakeClock(), self.log)
        self.keeper.serve(self.hub)
        self.origins = OriginRules()
        self.rules = NetworkRules(
            self.hub,
            self.keeper,
            audit=self.log,
            on_origins=lambda origins: setattr(self, "origins", origins),
            **more,
        )

    def follow(self, **values: object) -> None:
        self.prepare(**values)()

    def prepare(self, **values: object):
        return self.rules.prepare(read_policy({"network": values}, "policy.toml"))

    def refusals(self, *texts: str) -> list[str | None]:
        """Why each address is refused, None for who is let in."""
        reasons = []
        for text in texts:
            before = self.keeper.turned_away.counts.copy()
            arrive = self.hub.on_arrival
            let_in = arrive is None or arrive(pack(text))
            reasons.append(None if let_in else next(iter(self.keeper.turned_away.counts - before)))
        return reasons


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_without_rules_the_hub_asks_nobody_and_trusts_nobody(stage: Stage):
    stage.rules.prepare(Policy())()
    assert stage.hub.on_arrival is None
    assert (stage.hub.trusted, stage.hub.how["proxy_protocol"]) == (None, "off")
    assert not stage.origins
    assert (stage.rules.checks(), stage.rules.stats()) == ({}, {})


def test_the_longest_prefix_of_both_lists_decides(stage: Stage):
    stage.follow(deny=["10.0.0.0/8", "10.1.2.0/24"], allow=["10.1.0.0/16", "10.1.2.0/24"], default="allow")
    asked = ("10.9.9.9", "10.1.9.9", "10.1.2.9", "192.0.2.1")
    assert stage.refusals(*asked) == ["denied", None, "denied", None]


def test_where_some_are_allowed_all_others_are_not(stage: Stage):
    stage.follow(allow=["192.0.2.0/24", "2001:db8::/32"])
    asked = ("192.0.2.1", "2001:db8::1", "198.51.100.1", "2001:db9::1")
    assert stage.refusals(*asked) == [None, None, "not_listed", "not_listed"]


def test_a_default_of_deny_needs_no_list(stage: Stage):
    stage.follow(default="deny")
    assert stage.refusals("192.0.2.1") == ["not_listed"]


def test_lists_may_stand_in_files(stage: Stage, tmp_path: Path):
    (tmp_path / "bad.txt").write_text("# of today\n192.0.2.0/24\n\n2001:db8::/32 # all of it\n")
    stage.follow(deny_files=[str(tmp_path / "bad.txt")])
    assert stage.refusals("192.0.2.1", "2001:db8::1", "198.51.100.1") == ["denied", "denied", None]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"deny": ["192.0.2.1", "10.0.0.1/8"]},
            "network.deny[1]: '10.0.0.1/8': host bits are set; the network",
        ),
        ({"allow": ["fe80::1%eth0"]}, "network.allow[0]: 'fe80::1%eth0': a zone id"),
        ({"trusted_proxies": ["proxy.example"]}, "network.trusted_proxies[0]: 'proxy.example': not an IPv4"),
        ({"deny_files": ["/nowhere/bad.txt"]}, "network.deny_files: /nowhere/bad.txt: No such file"),
        ({"origins": ["example.com"]}, "'example.com' is not scheme://host[:port]"),
    ],
)
def test_what_will_not_do_is_named_and_changes_nothing(stage: Stage, values: dict[str, object], said: str):
    stage.follow(deny=["192.0.2.1"])
    with pytest.raises(SettingsError) as caught:
        stage.prepare(**values)
    assert said in caught.value.message
    assert stage.refusals("192.0.2.1", "10.0.0.1") == ["denied", None]


def test_a_bad_line_of_a_file_is_named(stage: Stage, tmp_path: Path):
    path = tmp_path / "bad.txt"
    path.write_text("192.0.2.1\n10.0.0.1/8\n")
    with pytest.raises(SettingsError, match=r"deny_files: .*bad\.txt: line 2: '10\.0\.0\.1/8': host bits"):
        stage.prepare(deny_files=[str(path)])


# ---------------------------------------------------------------- countries


def test_every_network_of_the_test_database_is_let_in_or_not_by_its_country():
    known = sorted({country for country in COUNTRIES.values() if country})
    for number in range(0, len(known), 5):
        stage = Stage()
        chosen = known[number : number + 5]
        stage.follow(geo_database=str(DATABASE), countries_deny=chosen)
        for text, country in COUNTRIES.items():
            expected = "country" if country in chosen else None
            assert stage.refusals(*map(unpack, edges(text))) == [expected, expected], text


def test_where_countries_are_allowed_all_others_are_not(stage: Stage):
    stage.follow(
        geo_database=str(DATABASE), countries_allow=["SE"], allow=["127.0.0.0/8"], deny=["89.160.20.128/25"]
    )
    asked = (SWEDEN, "89.160.20.129", JAPAN, NOWHERE, "10.0.0.1")
    assert stage.refusals(*asked) == [None, "denied", "country", None, "country_unknown"]


def test_an_allowed_address_is_let_in_from_a_denied_country(stage: Stage):
    stage.follow(
        geo_database=str(DATABASE), countries_deny=["JP", "SE"], allow=["2001:218::/48"], default="allow"
    )
    assert stage.refusals(JAPAN, "2001:218:1::1", SWEDEN, NOWHERE) == [None, "country", "country", None]


@pytest.mark.parametrize(
    ("failure", "refused", "state"),
    [("closed", "country_unavailable", "no database: addresses are refused"), ("open", None, "ok")],
)
def test_a_database_that_is_missing_fails_as_configured_and_loudly(
    stage: Stage, caplog, failure, refused, state
):
    stage.follow(
        geo_database="/nowhere/x.mmdb",
        geo_failure=failure,
        countries_deny=["JP"],
        deny=["192.0.2.1"],
        allow=["198.51.100.1"],
    )
    assert stage.refusals("192.0.2.1", "198.51.100.1", SWEDEN, NOWHERE) == ["denied", None, refused, refused]
    assert stage.rules.checks() == {"countries": state}
    assert stage.rules.stats() == {"geo_ok": 0, "geo_failures_total": 0}
    assert "/nowhere/x.mmdb: No such file" in caplog.text
    event = stage.log.events[0]
    assert (event.action, event.outcome, event.target) == (Action.ADDRESS, Outcome.FAILED, "x.mmdb")


@pytest.mark.parametrize(("failure", "refused"), [("closed", "country_unavailable"), ("open", None)])
def test_a_database_that_breaks_in_use_fails_as_configured(stage: Stage, caplog, tmp_path, failure, refused):
    path = as_country_database(BROKEN_POINTERS, tmp_path / "broken.mmdb")
    stage.follow(geo_database=str(path), geo_failure=failure, countries_deny=["JP"])
    assert stage.rules.stats()["geo_ok"] == 1
    assert stage.refusals("1.1.1.1", "1.1.1.16", "1.1.1.32", "1.1.1.16") == [None, refused, refused, refused]
    assert stage.rules.stats() == {"geo_ok": 0, "geo_failures_total": 3}
    assert caplog.text.count("geo_failure is") == 1


def test_a_file_that_was_replaced_is_read_again(stage: Stage, tmp_path: Path):
    path = tmp_path / "countries.mmdb"
    path.write_bytes(b"nothing yet")
    how = {"geo_database": str(path), "countries_deny": ["JP"]}
    stage.follow(**how)
    assert stage.refusals(JAPAN, SWEDEN) == ["country_unavailable"] * 2
    path.write_bytes(DATABASE.read_bytes())
    stage.follow(**how)
    assert stage.refusals(JAPAN, SWEDEN) == ["country", None]


def test_a_broken_replacement_is_refused_and_the_old_one_goes_on(stage: Stage, tmp_path: Path):
    path = tmp_path / "countries.mmdb"
    path.write_bytes(DATABASE.read_bytes())
    how = {"geo_database": str(path), "countries_deny": ["JP"]}
    stage.follow(**how)
    path.write_bytes(DATABASE.read_bytes()[:5000])
    with pytest.raises(SettingsError, match="is no MaxMind database, or a broken one"):
        stage.prepare(**how)
    assert stage.refusals(JAPAN, SWEDEN) == ["country", None]


# ---------------------------------------------------------------- proxies, origins, reviews


def test_trusted_proxies_are_told_to_the_hub(stage: Stage):
    stage.follow(trusted_proxies=["10.0.0.0/8"], proxy_protocol="optional", proxy_header="x-forwarded-for")
    assert stage.hub.trusted.find(pack("10.1.2.3")) == 1
    assert stage.hub.how["proxy_protocol"] == "optional"
    read = stage.hub.how["on_forwarded"]
    assert read(pack("10.0.0.1"), "198.51.100.66, 192.0.2.1, 10.0.0.9") == pack("192.0.2.1")
    stage.follow()
    assert (stage.hub.trusted, stage.hub.how["on_forwarded"]) == (None, None)


def test_who_is_refused_over_what_a_proxy_says_is_told_of(stage: Stage):
    stage.follow(trusted_proxies=["10.0.0.0/8"], proxy_protocol="required")
    stage.hub.how["on_untrusted"](pack("192.0.2.1"), "not_a_proxy")
    assert stage.keeper.turned_away.counts == {"not_a_proxy": 1}
    assert stage.log.events[0].detail == {"reason": "not_a_proxy"}


def test_origins_of_the_policy_are_allowed_beside_those_of_the_settings():
    stage = Stage(allowed_origins=("https://a.example",))
    stage.follow(origins=["https://*.b.example"])
    said = ("https://a.example", "https://x.b.example", "https://c.example", None)
    assert [stage.origins.allow(each) for each in said] == [True, True, False, False]
    stage.follow(origin_missing="allow")
    assert [stage.origins.allow(each) for each in said] == [True, False, False, True]


def test_new_rules_are_held_against_who_is_there_in_slices():
    reviewed = []
    stage = Stage(on_review=reviewed.append)
    good, bad = pack("192.0.2.1"), pack("198.51.100.1")
    stage.hub.here = [bad, *[good] * (2 * REVIEWED_A_TICK), bad]
    stage.follow(deny=["203.0.113.0/24"])
    stage.rules.tick()
    assert stage.hub.slices == []  # at the start nobody is there
    stage.follow(deny=["198.51.100.0/24"])
    assert [welcomes(bad) for welcomes in reviewed] == [False]  # what the hub does not hold
    for _ in range(4):
        stage.rules.tick()
    assert stage.hub.slices == [REVIEWED_A_TICK, REVIEWED_A_TICK, 2]
    assert stage.hub.closed == [("198.51.100.1", 4507, b'{"r":"address_denied"}')] * 2
    (event,) = stage.log.events
    assert (event.action, event.outcome) == (Action.CLOSE, Outcome.DENIED)
    assert event.detail == {"reason": "address_denied", "connections": 3}


def test_a_policy_without_rules_reviews_nobody(stage: Stage):
    stage.follow(deny=["198.51.100.0/24"])
    stage.follow()
    stage.rules.tick()
    assert stage.hub.slices == []

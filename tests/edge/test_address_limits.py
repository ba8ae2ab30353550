"""Limits by address and by subnet, without sockets: what one address is, who is refused, who is exempt."""

import pytest

from realtime.edge.address_limits import AddressLimits, Exemptions, MessageRates, prefix
from realtime.errors import SettingsError
from realtime.native.address import pack
from realtime.settings import Settings
from tests.oracles.hub import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limits(clock):
    """Return what makes limits of settings; nobody is exempt."""

    def make(**settings) -> AddressLimits:
        off = {"max_connections_per_address": 0, "connections_per_second_per_address": 0}
        return AddressLimits(Settings(**{**off, **settings}), clock, lambda address: False)

    return make


def arrivals(limits: AddressLimits, *addresses: str) -> list[str | None]:
    return [limits.arrive(pack(address)) for address in addresses]


def test_one_address_has_so_many_connections_at_once_and_another_as_many(limits):
    few = limits(max_connections_per_address=2)
    assert arrivals(few, *["192.0.2.1"] * 3) == [None, None, "max_connections_per_address"]
    assert arrivals(few, "192.0.2.2") == [None]
    few.depart(pack("192.0.2.1"))
    assert arrivals(few, *["192.0.2.1"] * 2) == [None, "max_connections_per_address"]


def test_a_subnet_has_so_many_however_they_are_spread(limits):
    few = limits(max_connections_per_subnet=3)
    spread = [f"192.0.2.{number}" for number in range(4)]
    assert arrivals(few, *spread) == [None, None, None, "max_connections_per_subnet"]
    assert arrivals(few, "192.0.3.1") == [None]


def test_a_smaller_subnet_by_setting(limits):
    few = limits(max_connections_per_subnet=1, subnet_bits_v4=30)
    assert arrivals(few, "192.0.2.0", "192.0.2.3", "192.0.2.4") == [None, "max_connections_per_subnet", None]


def test_all_addresses_of_a_64_are_one(limits):
    few = limits(max_connections_per_address=2)
    rotating = [f"2001:db8:0:1::{number:x}" for number in range(3)]
    assert arrivals(few, *rotating) == [None, None, "max_connections_per_address"]
    assert arrivals(few, "2001:db8:0:2::1") == [None]


def test_all_64s_of_a_48_are_one_subnet(limits):
    few = limits(max_connections_per_subnet=2)
    rotating = [f"2001:db8:7:{number:x}::1" for number in range(3)]
    assert arrivals(few, *rotating) == [None, None, "max_connections_per_subnet"]
    assert arrivals(few, "2001:db8:8::1") == [None]


def test_an_ipv4_address_is_no_ipv6_one_that_begins_alike(limits):
    few = limits(max_connections_per_address=1, ipv6_prefix_bits=32)
    assert arrivals(few, "32.1.13.184", "2001:db8::1") == [None, None]


def test_new_connections_come_at_a_rate(limits, clock):
    slow = limits(connections_per_second_per_address=10, rate_burst_s=2.0)
    answers = arrivals(slow, *["192.0.2.1"] * 25)
    assert answers == [None] * 20 + ["connections_per_second_per_address"] * 5
    for _ in range(20):
        slow.depart(pack("192.0.2.1"))  # that they are gone gives nothing back
    clock.advance(0.5)
    assert arrivals(slow, *["192.0.2.1"] * 6) == [None] * 5 + ["connections_per_second_per_address"]


def test_who_is_refused_by_one_limit_counts_in_none(limits):
    few = limits(max_connections_per_address=1, max_connections_per_subnet=2)
    arrivals(few, *["192.0.2.1"] * 50)
    assert arrivals(few, "192.0.2.2", "192.0.2.3") == [None, "max_connections_per_subnet"]


def test_the_tables_hold_no_more_than_there_are_connections(limits):
    few = limits(max_connections_per_address=5)
    for number in range(1000):
        address = pack(f"192.0.{number >> 8}.{number & 255}")
        assert few.arrive(address) is None
        few.depart(address)
    assert len(few) == 0


def test_who_is_exempt_is_never_refused_and_is_counted(clock):
    limits = AddressLimits(Settings(max_connections_per_address=1), clock, lambda address: True)
    assert arrivals(limits, *["127.0.0.1"] * 5) == [None] * 5
    for _ in range(5):
        limits.depart(pack("127.0.0.1"))
    assert len(limits) == 0


@pytest.mark.parametrize(
    ("address", "is_in"),
    [
        ("127.0.0.1", True),
        ("127.255.255.255", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("::1", True),
        ("::2", False),
        ("10.1.2.3", True),
        ("10.1.2.4", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
    ],
)
def test_exemptions_are_addresses_and_networks_of_both_families(address, is_in):
    exemptions = Exemptions(["127.0.0.0/8", "::1/128", "10.1.2.3", "2001:db8::/32"])
    assert (pack(address) in exemptions) is is_in


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "", "fe80::1%eth0/64"])
def test_an_exemption_that_is_none_is_named(text):
    with pytest.raises(SettingsError, match="exempt_addresses") as refused:
        Exemptions([text])
    assert repr(text) in refused.value.message or text in refused.value.message


@pytest.mark.parametrize("bits", [0, 1, 8, 24, 31, 32])
def test_a_prefix_keeps_so_many_leading_bits(bits):
    cut = prefix(bits, 64)
    assert int.from_bytes(cut(b"\xff\xff\xff\xff")).bit_count() == bits
    assert cut(bytes(range(16))) == bytes(range(8)) + bytes(8)


@pytest.fixture
def rates(clock):
    """Return what makes rates of messages of settings; 127.0.0.1 is exempt."""

    def make(**settings) -> MessageRates:
        return MessageRates(Settings(**settings), clock, lambda address: address == pack("127.0.0.1"))

    return make


def test_rates_of_messages_are_there_only_where_they_are_limited(rates):
    assert not rates()
    assert rates(messages_per_second_per_subnet=1)


def test_an_address_sends_so_many_messages_whoever_it_is_and_another_as_many(rates, clock):
    some = rates(messages_per_second_per_address=10, rate_burst_s=1)
    assert some.over("192.0.2.1", 10) is None
    assert some.over("192.0.2.1", 1) == ("messages_per_second_per_address", 10, pytest.approx(0.1))
    assert some.over("192.0.2.2", 10) is None
    clock.advance(0.2)
    assert some.over("192.0.2.1", 2) is None
    assert some.over("127.0.0.1", 1000) is None
    assert some.over("", 1000) is None  # over a Unix socket, say


def test_a_subnet_sends_so_many_messages_and_pays_for_none_that_its_address_may_not(rates):
    some = rates(messages_per_second_per_address=10, messages_per_second_per_subnet=15, rate_burst_s=1)
    assert some.over("192.0.2.1", 10) is None
    for _ in range(20):
        assert some.over("192.0.2.1", 1)[0] == "messages_per_second_per_address"
    assert some.over("192.0.2.2", 5) is None
    assert some.over("192.0.2.3", 1)[0] == "messages_per_second_per_subnet"
    assert some.over("198.51.100.1", 10) is None

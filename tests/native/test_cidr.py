"""Networks to numbers by the longest prefix: against `ipaddress`, and what is said of bad entries."""

import ipaddress
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.native.address import pack
from realtime.native.cidr import CidrList, CidrTable
from tests.oracles.cidr import Network, longest_prefix

ALLOW, DENY = 1, 2


def table(*entries: tuple[str, int]) -> CidrTable:
    networks = CidrList()
    for text, value in entries:
        networks.add(text, value)
    return networks.table()


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks of few distinct bits, so that they nest, touch and repeat."""
    bits = draw(st.sampled_from([32, 128]))
    prefix = draw(st.integers(0, bits))
    # In the last 96 bits of ::/32 only: what lies in ::ffff:0:0/96 is IPv4, and has a test of its own.
    top = draw(st.sampled_from([0, 1, 2, 3, 0x20, 0x80, 0xFF]))
    low = draw(st.integers(0, 3) | st.integers(0, 2**bits - 1))
    number = (top << (bits - 8) | low) & (2**bits - 1)
    number = number >> (bits - prefix) << (bits - prefix) if prefix else 0
    return (ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network)((number, prefix))


def edges(network: Network) -> list[bytes]:
    """The addresses at which answers change: the first and last of it, and those beside it."""
    first, last = int(network[0]), int(network[-1])
    size = network.max_prefixlen // 8
    return [n.to_bytes(size, "big") for n in (first - 1, first, last, last + 1) if 0 <= n < 256**size]


def is_mapped(address: bytes) -> bool:
    return len(address) == 16 and ipaddress.IPv6Address(address).ipv4_mapped is not None


@given(
    entries=st.lists(st.tuples(networks(), st.integers(1, 3)), max_size=40),
    others=st.lists(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), max_size=10),
)
@example(entries=[(ipaddress.ip_network("::/0"), 1), (ipaddress.ip_network("ffff::/16"), 2)], others=[])
@example(entries=[(ipaddress.ip_network("0.0.0.0/0"), 2), (ipaddress.ip_network("0.0.0.0/0"), 1)], others=[])
@example(entries=[(ipaddress.ip_network("255.255.255.255/32"), 1)], others=[])
def test_the_table_answers_as_ipaddress_does(entries, others):
    entries = [each for each in entries if not is_mapped(each[0].network_address.packed)]
    compiled = table(*((str(network), value) for network, value in entries))
    asked = [*others, *(address for network, _ in entries for address in edges(network))]
    for address in asked:
        if not is_mapped(address):
            assert compiled.find(address) == longest_prefix(entries, address), address.hex()
    assert len(compiled) == len(entries)


@given(entries=st.lists(st.tuples(networks(), st.integers(1, 3)), max_size=20), seed=st.randoms())
def test_the_order_of_entries_does_not_count(entries, seed):
    entries = [each for each in entries if not is_mapped(each[0].network_address.packed)]
    shuffled = entries[:]
    seed.shuffle(shuffled)
    one, other = (table(*((str(n), v) for n, v in each)) for each in (entries, shuffled))
    for network, _ in entries:
        for address in edges(network):
            assert one.find(address) == other.find(address)


@given(st.text(max_size=60) | st.from_regex(r"\A[0-9a-f:.]{1,20}/[0-9]{1,4}\Z"))
def test_an_entry_is_taken_or_refused_as_ipaddress_would(text):
    networks = CidrList()
    try:
        networks.add(text, 1)
    except ValueError:
        taken = False
    else:
        taken = True
    try:
        known = ipaddress.ip_network(text)
    except ValueError:
        assert not taken
        return
    prefix = text.partition("/")[2]
    ours_alone = "%" in text or "." in prefix or (len(prefix) > 1 and prefix[0] == "0")
    mapped = known.version == 6 and known.network_address.ipv4_mapped is not None and known.prefixlen < 96
    assert taken or ours_alone or mapped


@pytest.mark.parametrize(("bits", "fixed"), [(32, 8), (128, 8), (128, 60), (128, 100)])
def test_many_networks_answer_as_ipaddress_does(bits: int, fixed: int):
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    size = bits // 8
    base = 0x20 << (bits - 8)
    kind = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network

    def draw() -> int:
        return base | dice.getrandbits(bits - fixed)

    entries = []
    for _ in range(500):
        prefix = dice.randint(fixed, bits)
        entries.append((kind((draw() >> (bits - prefix) << (bits - prefix), prefix)), dice.randint(1, 3)))
    compiled = table(*((str(network), value) for network, value in entries))
    asked = [draw().to_bytes(size, "big") for _ in range(100)]
    asked += [address for network, _ in dice.sample(entries, 100) for address in edges(network)]
    assert [compiled.find(each) for each in asked] == [longest_prefix(entries, each) for each in asked]


def test_the_longest_prefix_wins_over_both_lists():
    lists = table(("10.0.0.0/8", DENY), ("10.1.0.0/16", ALLOW), ("10.1.2.0/24", DENY), ("10.1.2.3", ALLOW))
    answers = {text: lists.find(pack(text)) for text in ("10.2.0.1", "10.1.0.1", "10.1.2.4", "10.1.2.3")}
    assert answers == {"10.2.0.1": DENY, "10.1.0.1": ALLOW, "10.1.2.4": DENY, "10.1.2.3": ALLOW}
    assert lists.find(pack("11.0.0.0")) == 0


def test_ipv4_in_ipv6s_form_is_ipv4_on_both_sides():
    lists = table(("::ffff:192.0.2.0/120", DENY), ("198.51.100.0/24", DENY), ("::/0", ALLOW))
    assert lists.find(pack("192.0.2.255")) == DENY
    assert lists.find(pack("::ffff:198.51.100.7")) == DENY
    assert lists.find(bytes(10) + b"\xff\xff" + pack("198.51.100.7")) == DENY
    assert lists.find(pack("203.0.113.1")) == 0
    assert lists.find(pack("2001:db8::1")) == ALLOW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8': host bits are set; the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "'2001:db8::1/32': host bits are set; the network is 2001:db8::/32"),
        ("::ffff:10.0.0.1/104", "host bits are set; the network is 10.0.0.0/8"),
        ("::ffff:0:0/95", "more than all of IPv4 in IPv6's form"),
        ("10.0.0.0/33", "the prefix of an IPv4 network is a number from 0 to 32"),
        ("2001:db8::/129", "the prefix of an IPv6 network is a number from 0 to 128"),
        ("10.0.0.0/", "is a number from 0 to 32"),
        ("10.0.0.0/08", "is a number from 0 to 32"),
        ("10.0.0.0/-1", "is a number from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "is a number from 0 to 32"),
        ("fe80::1%eth0", "a zone id means something on one machine alone"),
        ("fe80::%eth0/64", "a zone id means something on one machine alone"),
        ("010.0.0.1", "not an IPv4 or IPv6 address, nor a network"),
        ("10.0.0", "not an IPv4 or IPv6 address"),
        ("example.com", "not an IPv4 or IPv6 address"),
        ("", "not an IPv4 or IPv6 address"),
        ("10.0.0.0\0/8", "not an IPv4 or IPv6 address"),
        ("ä" * 500, "not an IPv4 or IPv6 address"),
    ],
)
def test_a_bad_entry_is_named_with_what_would_do(text: str, said: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
        CidrList().add(text, 1)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_lines_of_a_file_are_networks_with_comments():
    networks = CidrList()
    networks.add_lines(b"# bad ones\r\n192.0.2.0/24\t# all of it\r\n\n  2001:db8::/32  \n198.51.100.1", DENY)
    lists = networks.table()
    assert len(lists) == 3
    asked = ("192.0.2.9", "2001:db8::9", "198.51.100.1", "198.51.100.2")
    assert [lists.find(pack(each)) for each in asked] == [DENY, DENY, DENY, 0]


def test_a_bad_line_is_named_by_its_number():
    with pytest.raises(ValueError, match=r"line 3: '10\.0\.0\.1/8': host bits are set"):
        CidrList().add_lines(b"# one\n192.0.2.0/24\n10.0.0.1/8\n", DENY)


def test_a_list_is_bounded():
    networks = CidrList()
    networks.add_lines(b"".join(b"10.%d.%d.%d\n" % (n >> 16, n >> 8 & 255, n & 255) for n in range(10**6)), 1)
    with pytest.raises(ValueError, match="over 1000000 networks"):
        networks.add("192.0.2.1", 1)
    assert networks.table().find(pack("10.15.66.63")) == 1


@pytest.mark.parametrize("value", [0, 256, -1])
def test_a_value_fits_a_byte_and_is_not_nothing(value: int):
    with pytest.raises(ValueError, match="1 to 255"):
        CidrList().add("192.0.2.1", value)


@pytest.mark.parametrize("address", [b"", b"123", b"12345", b"x" * 17])
def test_what_is_no_packed_address_is_not_looked_up(address: bytes):
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        table(("192.0.2.1", 1)).find(address)

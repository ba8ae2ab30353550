"""What a REDIS_URL says, and what nodes say of where slots are."""

import pytest

from realtime.backends.redis_client.address import Endpoint, parse_url
from realtime.backends.redis_client.contract import SLOTS, slot_of
from realtime.backends.redis_client.slots import Range, read_redirect, read_slots, slots_in
from realtime.errors import StartupError

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.mark.parametrize(
    ("url", "seeds", "user", "password", "db"),
    [
        ("redis://localhost", [("localhost", 6379)], "default", None, 0),
        ("redis://h1:7000,h2:7001", [("h1", 7000), ("h2", 7001)], "default", None, 0),
        ("redis://:pass@h", [("h", 6379)], "default", "pass", 0),
        ("redis://me:p%40ss%2Fword@h:1/2", [("h", 1)], "me", "p@ss/word", 2),
        ("redis://me:p@ss@h", [("h", 6379)], "me", "p@ss", 0),
        ("redis://[::1]:7000,[::2]", [("::1", 7000), ("::2", 6379)], "default", None, 0),
        ("redis://10.0.0.1/", [("10.0.0.1", 6379)], "default", None, 0),
    ],
)
def test_a_url_names_seeds_and_who_we_are(url: str, seeds: list, user: str, password: str | None, db: int):
    address = parse_url(url)
    assert address == (tuple(Endpoint(*seed) for seed in seeds), user, password, db, None)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://h", "begins with redis://"),
        ("localhost:6379", "begins with redis://"),
        ("redis://", "no host:port"),
        ("redis://h1,,h2", "no host:port"),
        ("redis://h:70000", "no port"),
        ("redis://h:x", "no port"),
        ("redis://::1:7000", "no host:port"),
        ("redis://[::1", "[address]:port"),
        ("redis://user@h", "user:password"),
        ("redis://h/one", "number of the database"),
        ("redis://h?ssl_ca_certs=x", "need rediss://"),
        ("rediss://h?verify=no", "unknown: verify"),
        ("rediss://h?ssl_check_hostname=perhaps", "true or false"),
        ("rediss://h?ssl_keyfile=x", "needs ssl_certfile"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "cannot be read"),
    ],
)
def test_a_wrong_url_is_told_apart_without_its_password(url: str, wrong: str):
    scheme, _, rest = url.partition("://")
    if rest and "@" not in rest:
        url = f"{scheme}://me:secret@{rest}"
    with pytest.raises(StartupError) as caught:
        parse_url(url)
    assert wrong in caught.value.message
    assert "secret" not in caught.value.message


def test_tls_checks_the_host_unless_told_otherwise():
    checked, unchecked = parse_url("rediss://h"), parse_url("rediss://h?ssl_check_hostname=false")
    assert checked.tls is not None
    assert checked.tls.check_hostname
    assert unchecked.tls is not None
    assert not unchecked.tls.check_hostname
    assert unchecked.tls.verify_mode == checked.tls.verify_mode


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 12739), (b"foo", 12182), (b"{foo}bar", 12182), (b"foo{}{bar}", 8363), (b"{}foo", 9500)],
)
def test_a_slot_is_that_of_redis(key: bytes, slot: int):
    assert slot_of(key) == slot


def test_the_slots_are_read_with_the_hosts_that_a_node_leaves_out():
    reply = [
        [0, 8000, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.2", 7001, b"replica", []]],
        [8001, 16382, [b"", 7002, b"id"]],
        [16383, 16383, [None, 7003, b"id"]],
    ]
    ranges = read_slots(reply, "asked")
    assert ranges == [
        Range(0, 8000, Endpoint("10.0.0.1", 7000)),
        Range(8001, 16382, Endpoint("asked", 7002)),
        Range(16383, 16383, Endpoint("asked", 7003)),
    ]
    assert slots_in(ranges) == SLOTS


def test_a_master_that_a_node_does_not_know_the_address_of_is_left_out():
    assert read_slots([[0, 16383, [b"?", 7000, b"id"]]], "asked") == []


@pytest.mark.parametrize(
    "reply", [b"x", None, [b"x"], [[0, 1]], [[1, 0, [b"h", 1]]], [[0, SLOTS, [b"h", 1]]], [[0, 1, [b"h", 0]]]]
)
def test_what_is_no_answer_about_slots_is_refused(reply: object):
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        read_slots(reply, "asked")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "slot", "host", "port"),
    [
        ("3999 127.0.0.1:6381", 3999, "127.0.0.1", 6381),
        ("1 ::1:7000", 1, "::1", 7000),
        ("1 node.example:7000", 1, "node.example", 7000),
        ("16383 :7000", 16383, "asked", 7000),
    ],
)
def test_a_redirect_says_where_to(message: str, slot: int, host: str, port: int):
    assert read_redirect(message, "asked") == (slot, Endpoint(host, port))


@pytest.mark.parametrize(
    "message", ["", "1", "x h:1", "16384 h:1", "1 h", "1 h:0", "1 h:x", "1 ?:7000", "1 h:1 x"]
)
def test_what_is_no_redirect_is_refused(message: str):
    with pytest.raises(ValueError, match=r"redirect|invalid literal"):
        read_redirect(message, "asked")

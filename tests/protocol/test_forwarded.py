"""Whose request is forwarded: read from the end, as far as trusted addresses go, and no further."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.native.address import pack, unpack
from realtime.protocol.forwarded import client_of

PROXY = pack("10.0.0.1")
INVENTED = "198.51.100.66"


def is_trusted(address: bytes) -> bool:
    return address[:1] == b"\x0a" or address[:4] == bytes.fromhex("fd000000")


def client(header: str, value: str) -> str | None:
    found = client_of(header, value, PROXY, is_trusted)
    return None if found is None else unpack(found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (f"{INVENTED}, 192.0.2.1", "192.0.2.1"),
        (f"{INVENTED}, 192.0.2.1, 10.0.0.9", "192.0.2.1"),
        (f"{INVENTED},192.0.2.1 ,\t10.0.0.9 , 10.0.0.8", "192.0.2.1"),
        ("10.0.0.7, 10.0.0.9", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("192.0.2.1:56324", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        (f"{INVENTED}, , 192.0.2.1,", "192.0.2.1"),
        ("unknown", "10.0.0.1"),
        (f"{INVENTED}, unknown, 10.0.0.9", "10.0.0.9"),
        ("garbage, 192.0.2.1", "192.0.2.1"),
        ("", "10.0.0.1"),
        ("fd00::5, fd00::6", "fd00::5"),
        ("garbage", None),
        ("garbage, 10.0.0.9", None),
        ("192.0.2.1 192.0.2.2", None),
        ("192.0.2.1:port", None),
        ("192.0.2.1:", None),
        ("192.0.2.256", None),
        ("[192.0.2.1", None),
        ("fe80::1%eth0", None),
        ('"192.0.2.1"', None),
    ],
)
def test_x_forwarded_for(value: str, expected: str | None):
    assert client("x-forwarded-for", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 7239, 4, 6.3 and 7.4
        ('for="_gazonk"', "10.0.0.1"),
        ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        ("for=_hidden, for=_SEVKISEK", "10.0.0.1"),
        ('for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown', "10.0.0.1"),
        ("for=192.0.2.1;host=example.com, for=10.0.0.9", "192.0.2.1"),
        (f'for={INVENTED}, for="192.0.2.1:56324"', "192.0.2.1"),
        ('by="_secret;for=1.2.3.4";for=192.0.2.1', "192.0.2.1"),
        (r'for="192.0.2\.1"', "192.0.2.1"),
        ('for="192.0.2.1:_port"', "192.0.2.1"),
        ("for=192.0.2.1:80", "192.0.2.1"),
        ("FOR=192.0.2.1 ; Proto=https", "192.0.2.1"),
        ("proto=https", "10.0.0.1"),
        (f"for={INVENTED}, proto=https", "10.0.0.1"),
        (" , for=192.0.2.1,, ;", "192.0.2.1"),
        ("", "10.0.0.1"),
        # A client that leaves a quote open, for the proxy to append to.
        ('for=", for=192.0.2.1', None),
        ('for=198.51.100.66;by=", for="192.0.2.1"', None),
        ('for=x;by="\\, for="192.0.2.1"', None),
        ("for=192.0.2.1;for=198.51.100.66", None),
        ("for", None),
        ("for=", None),
        ("=192.0.2.1", None),
        ("for =192.0.2.1", None),
        ("for=192.0.2.1 198.51.100.66", None),
        ("for=192.0.2.1=", None),
        ("for=nobody", None),
        ("for=[2001:db8::1", None),
    ],
)
def test_forwarded(value: str, expected: str | None):
    assert client("forwarded", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        (f"{INVENTED}, 192.0.2.1", None),  # two lines: which of them is the proxy's?
        ("", None),
        ("unknown", "10.0.0.1"),
    ],
)
def test_x_real_ip(value: str, expected: str | None):
    assert client("x-real-ip", value) == expected


@given(invented=st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n\0")))
def test_nothing_that_a_client_sends_first_changes_what_its_proxy_appends(invented: str):
    assert client("x-forwarded-for", f"{invented}, 192.0.2.1") == "192.0.2.1"
    assert client("forwarded", f"{invented}, for=192.0.2.1") in ("192.0.2.1", None)
    assert client("forwarded", f'{invented},for="192.0.2.1:80"') in ("192.0.2.1", None)


@given(
    header=st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"]),
    value=st.text(alphabet=' \t,;="\\[]:.%_forunkw0123456789') | st.text(),
)
def test_any_value_is_read_or_not(header: str, value: str):
    found = client_of(header, value, PROXY, is_trusted)
    assert found is None or len(found) in (4, 16)


@pytest.mark.parametrize(
    "piece", [" ", "\t", ",", ";", '"', "\\", "a", "a=", 'a="', "10.0.0.1,", "for=10.0.0.1,"]
)
def test_the_longest_head_is_read_in_linear_time(piece: str):
    def took(n: int) -> float:
        began = time.process_time()
        for header in ("x-forwarded-for", "forwarded"):
            client_of(header, (piece * n)[:n] + "!", PROXY, is_trusted)
        return time.process_time() - began

    assert min(took(16_384) for _ in range(3)) < 0.2

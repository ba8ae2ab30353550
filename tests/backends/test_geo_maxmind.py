"""Countries from a MaxMind file: every network of the test database, and files that are none."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from realtime.backends.geo_maxmind import DatabaseBroken, open_countries
from realtime.native.address import pack

DATA = Path(__file__).parents[1] / "data" / "maxmind"
DATABASE = DATA / "GeoIP2-Country-Test.mmdb"
COUNTRIES: dict[str, str | None] = json.loads((DATA / "countries.json").read_text())
BROKEN_POINTERS = DATA / "MaxMind-DB-test-broken-pointers-24.mmdb"


def edges(text: str) -> list[bytes]:
    """The first and the last address of a network, packed; `::192.0.2.0/120` is how MaxMind says IPv4."""
    network = ip_network(text, strict=False)
    found = [network[0].packed, network[-1].packed]
    return (
        [each[12:] for each in found]
        if network.version == 6 and network.subnet_of(ip_network("::/96"))
        else found
    )


def as_country_database(source: Path, to: Path) -> Path:
    """Write a copy of a broken test database that says of itself to be one of cities."""
    raw = source.read_bytes()
    assert raw.count(b"\x44Test") == 1
    to.write_bytes(raw.replace(b"\x44Test", b"\x44City"))
    return to


def test_every_network_of_the_test_database_is_in_its_country():
    country_of = open_countries(DATABASE)
    assert len(COUNTRIES) == 345
    for text, country in COUNTRIES.items():
        for address in edges(text):
            assert country_of(address) == country, text
    print(len(COUNTRIES), "networks ok")


def test_an_address_of_no_network_is_in_no_country():
    country_of = open_countries(DATABASE)
    assert [country_of(pack(each)) for each in ("10.0.0.1", "127.0.0.1", "fd00::1")] == [None] * 3


def test_a_file_that_is_overwritten_in_place_changes_nothing_until_it_is_read_again(tmp_path: Path):
    path = tmp_path / "countries.mmdb"
    path.write_bytes(DATABASE.read_bytes())
    country_of = open_countries(path)
    path.write_bytes(b"")
    assert country_of(pack("2001:218::1")) == "JP"
    with pytest.raises(DatabaseBroken):
        open_countries(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "No such file"),
        (b"", "is no MaxMind database, or a broken one"),
        (b"x" * 4096, "is no MaxMind database, or a broken one"),
        (DATABASE.read_bytes()[:10_000], "is no MaxMind database, or a broken one"),
        (DATABASE.read_bytes()[10_000:], "is no MaxMind database, or a broken one"),
        (BROKEN_POINTERS.read_bytes(), "is a database of Test, not of countries"),
        ((DATA / "GeoLite2-ASN-Test.mmdb").read_bytes(), "is a database of GeoLite2-ASN, not of countries"),
    ],
)
def test_a_file_that_is_no_database_of_countries_is_named(tmp_path: Path, raw: bytes | None, said: str):
    path = tmp_path / "countries.mmdb"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(DatabaseBroken, match=r"countries\.mmdb") as caught:
        open_countries(path)
    assert said in str(caught.value)


def test_a_folder_is_no_database(tmp_path: Path):
    with pytest.raises(DatabaseBroken, match="Is a directory"):
        open_countries(tmp_path)


def test_a_broken_place_in_a_database_is_an_error_of_its_own(tmp_path: Path):
    country_of = open_countries(as_country_database(BROKEN_POINTERS, tmp_path / "broken.mmdb"))
    assert country_of(pack("1.1.1.1")) is None  # readable, and without a country
    for address in ("1.1.1.16", "1.1.1.32"):
        with pytest.raises(DatabaseBroken):
            country_of(pack(address))
    assert country_of(pack("2001:db8::1")) is None  # of a database of IPv4 alone

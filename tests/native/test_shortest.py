"""Shortest decimals, held against Python's repr: the same text for every double."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.native.shortest import shortest


def double(bits: int) -> float:
    return struct.unpack("<d", bits.to_bytes(8, "little"))[0]


@pytest.mark.parametrize(
    "value",
    [
        *(0.0, 1.0, 0.1, 1 / 3, 9.5, 1e15, 1e16, 1e17, 1e21, 1e22, 1e23, 1e-4, 1e-5, 1e-6, 1e-7, 4.35),
        *(123456789012345680.0, 9007199254740991.0, 9007199254740992.0, 9007199254740994.0),
        *(4503599627370496.5, 5e-324, 1e-323, 2.2250738585072014e-308, 2.225073858507201e-308),
        *(1.7976931348623157e308, 8.98846567431158e307, 9.109383701528e-31, 2.0**-1074 * 3),
    ],
)
def test_it_writes_what_repr_writes(value: float):
    assert shortest(value).decode() == repr(value)
    assert shortest(-value).decode() == repr(-value)


def test_powers_of_two_and_their_neighbours():
    """Where the next smaller double is half as far away as the next larger."""
    for exponent in range(-1074, 1024):
        for value in (2.0**exponent, math.nextafter(2.0**exponent, 0), math.nextafter(2.0**exponent, 2e308)):
            assert shortest(value).decode() == repr(value)


def test_powers_of_ten_and_their_neighbours():
    for exponent in range(-323, 309):
        power = float(f"1e{exponent}")
        for value in (power, math.nextafter(power, 0), math.nextafter(power, math.inf)):
            assert shortest(value).decode() == repr(value)


@given(st.integers(min_value=0, max_value=2**64 - 1).map(double).filter(math.isfinite))
def test_any_double_by_its_bits(value: float):
    assert shortest(value).decode() == repr(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_double_as_they_are_met(value: float):
    assert shortest(value).decode() == repr(value)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_any_short_float(value: float):
    assert shortest(value).decode() == repr(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_decimal(value: float):
    with pytest.raises(ValueError, match="no decimal"):
        shortest(value)

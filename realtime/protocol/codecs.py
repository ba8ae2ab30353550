"""From the canonical form of a message, JSON text, to what a MessagePack connection gets.

The way in is `realtime.native.envelope.scan` and `scan_msgpack`: both leave JSON text.
"""

import json

import msgspec

# msgspec reads 1e308 by shifting decimals, 30 us each: a message of 64 KiB of it held up a worker for 390 ms.
# float() takes 0.4 us at most, and 55 ns more than msgspec where the number is an easy one.
_decode = msgspec.json.Decoder(float_hook=float).decode
_encode = msgspec.msgpack.Encoder().encode


def to_msgpack(payload: bytes) -> bytes:
    """Return one message, given as valid JSON, in MessagePack.

    JSON numbers have no bounds and MessagePack's have: an integer of more than 64 bits becomes the
    nearest double, and a number beyond the doubles an infinity, as `JSON.parse` reads both.

    Raises:
        msgspec.DecodeError: `payload` is no JSON.
    """
    try:
        return _encode(_decode(payload))
    except (msgspec.ValidationError, OverflowError):  # a number that msgspec or MessagePack has no room for
        return _encode(json.loads(payload, parse_int=_integer, parse_float=float))


def _integer(digits: str) -> int | float:
    if len(digits) > 20:  # past 64 bits for certain; and int() refuses more than 4,300 digits
        return float(digits)
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)

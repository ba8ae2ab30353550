"""Strict scanning of what clients send; the canonical form of a message is JSON bytes.

All that core needs is here: the other scanner and the encoders are passed on.
"""

from realtime.native.encode import encode_ack as encode_ack
from realtime.native.encode import encode_error as encode_error
from realtime.native.encode import encode_push as encode_push
from realtime.native.encode import encode_reply as encode_reply
from realtime.native.encode import json_string as json_string
from realtime.native.message import Envelope as Envelope
from realtime.native.message import Malformed as Malformed
from realtime.native.packed import scan_msgpack as scan_msgpack

def scan(frame: bytes, max_messages: int, max_depth: int = 64) -> list[Envelope | Malformed]:
    """Return the messages of a JSON frame in order, sound or not; never an empty list.

    A message is one object; several stand one a line (LF or CRLF), and one may span lines.
    Each must be RFC 8259 JSON, nested at most `max_depth` (1 to 512, the envelope is the first level),
    without duplicate keys at any level, lone surrogates or NaN. `type` is a string of 1 to 64
    characters, `id` an integer from -2^53 to 2^53 or a string of at most 64 bytes, `room` a string
    of 1 to 200 bytes, `key` of 1 to 64. Other keys are checked and ignored. After a bad message the
    scan goes on with the next line. That the frame is UTF-8 the hub has checked; here only the strings of the
    envelope are looked at. More than `max_messages` end in one Malformed. O(n log n) for any
    input; at most seven times the frame in scratch memory.

    Raises:
        ValueError: a bound is out of range, or a frame of 4 GiB or more.
    """

"""The scanner of what clients send as MessagePack."""

from realtime.native.message import Envelope, Malformed

def scan_msgpack(frame: bytes, max_messages: int, max_depth: int = 64) -> list[Envelope | Malformed]:
    """Return the messages of a MessagePack frame, one map or an array of maps, as `scan` does.

    Contents become JSON text: keys are str, numbers finite, there is no bin and no ext; floats are written
    in the shortest form that reads back the same. After a bad message the scan goes on with the next
    one, unless the frame is truncated or a length lies: then nothing after it can be told apart.

    Raises:
        ValueError: a bound is out of range, or a frame of 4 GiB or more.
    """

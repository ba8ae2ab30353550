"""What workers say to each other, as bytes: a request, a message nobody answers, an answer, an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from realtime.core.cluster import WorkerId
from realtime.errors import Internal, RealtimeError

TELL: Final = 0
ASK: Final = 1
ANSWER: Final = 2
ERROR: Final = 3


class Parcel(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message between workers. `number` is the request's, by which its answer is found."""

    kind: int
    sender: WorkerId
    number: int
    verb: str
    body: bytes


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A RealtimeError. `name` is its class; who does not know that has `code` to go by."""

    name: str
    code: str
    message: str
    retry_after_s: float | None
    limit: str | None
    allowed: float | None


encode_parcel = msgspec.msgpack.Encoder().encode
_parcels = msgspec.msgpack.Decoder(Parcel)
_failures = msgspec.msgpack.Decoder(Failure)


def decode_parcel(payload: bytes) -> Parcel | None:
    """Return the parcel, None where it is none."""
    try:
        return _parcels.decode(payload)
    except msgspec.MsgspecError:
        return None


def encode_error(error: RealtimeError) -> bytes:
    """Return the error as the body of a parcel."""
    name = type(error).__name__
    return encode_parcel(
        Failure(name, error.code, error.message, error.retry_after_s, error.limit, error.allowed)
    )


def decode_error(body: bytes) -> RealtimeError:
    """Return the same error; of a class that is not known here, one with its code, or else Internal."""
    try:
        failure = _failures.decode(body)
    except msgspec.MsgspecError:
        return Internal()
    known = list(_classes(RealtimeError))
    alike = [each for each in known if each.__name__ == failure.name]
    alike += [each for each in known if each.code == failure.code]
    return (alike or [Internal])[0](
        failure.message, retry_after_s=failure.retry_after_s, limit=failure.limit, allowed=failure.allowed
    )


def _classes(above: type[RealtimeError]) -> Iterator[type[RealtimeError]]:
    """All below `above`, each after those it stands on."""
    for each in above.__subclasses__():
        yield each
        yield from _classes(each)

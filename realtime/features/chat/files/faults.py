# ruff: noqa: N818 - the classes are named as `realtime.errors` names its own.
"""What is said over HTTP where the wire's own errors have no word for it. The number is the status."""

from __future__ import annotations

from realtime.errors import Forbidden, RealtimeError


class Cut(Exception):
    """The peer is gone, or as good as gone: nobody is there to be answered."""


class Refused(RealtimeError):
    """The upload is whole, and nothing that is taken here."""

    code = "bad_message"
    number = 422
    retryable = False


class ChecksumMismatch(RealtimeError):
    """The bytes do not have the checksum that was said."""

    number = 460  # tus, checksum


class Gone(RealtimeError):
    """The upload is over."""

    number = 410
    retryable = False


class Locked(RealtimeError):
    """The upload is being sent by another connection."""

    number = 423


class Expired(Forbidden):
    """The URL has expired."""

    number = 410

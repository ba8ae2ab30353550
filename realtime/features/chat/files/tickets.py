"""Tickets: what a URL lets its bearer do, signed, until when. Whoever checks one needs the secret alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final, Literal, TypeVar

import msgspec

from realtime.errors import Forbidden
from realtime.features.chat.files.faults import Expired
from realtime.features.chat.files.limits import TICKET_CHARACTERS_MAX

# What is signed says what for, so that the secret may be used for other things.
_PURPOSE: Final = b"realtime chat files 1\0"
_SIGNATURE_BYTES: Final = 24
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{32})")

UPLOADS: Final = "/chat/uploads/"
FILES: Final = "/chat/files/"


class UploadTicket(msgspec.Struct, frozen=True, tag_field="for", tag="put", array_like=True):
    """Lets its bearer send the bytes of one upload, until `expires_s` (Unix time). `sha256` is what they are
    to have, in hex, or empty.
    """

    tenant: str
    id: str
    bytes: int
    expires_s: int
    sha256: str = ""


class FileTicket(msgspec.Struct, frozen=True, tag_field="for", tag="get", array_like=True):
    """Lets its bearer read one file, by its hash. `type` is what it is served as."""

    tenant: str
    id: str
    sha256: str
    bytes: int
    name: str
    type: str
    inline: bool
    expires_s: int


Ticket = TypeVar("Ticket", UploadTicket, FileTicket)
Kind = Literal["put", "get"]

_uploads = msgspec.msgpack.Decoder(UploadTicket)
_files = msgspec.msgpack.Decoder(FileTicket)


class Tickets:
    """Makes and reads tickets with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def url(self, ticket: UploadTicket | FileTicket, base: str = "") -> str:
        """Return the URL of a ticket, below `base` or on the host that the client talks to already."""
        payload = msgspec.msgpack.encode(ticket)
        text = f"{_text(payload)}.{_text(self._signature(payload))}"
        path = UPLOADS if isinstance(ticket, UploadTicket) else FILES
        return f"{base}{path}{ticket.id}?ticket={text}"

    def read_upload(self, text: str, id: str, now_s: float) -> UploadTicket:
        """Return the ticket of an upload. Raises as `read_file`."""
        return self._read(text, id, now_s, _uploads)

    def read_file(self, text: str, id: str, now_s: float) -> FileTicket:
        """Return the ticket of a file.

        Raises:
            Forbidden: it is none of ours, or for something else.
            Expired: it was one.
        """
        return self._read(text, id, now_s, _files)

    def _read(self, text: str, id: str, now_s: float, decoder: msgspec.msgpack.Decoder[Ticket]) -> Ticket:
        form = _FORM.fullmatch(text) if len(text) <= TICKET_CHARACTERS_MAX else None
        if form is None:
            raise Forbidden("this URL is not signed")
        payload, signature = _bytes(form[1]), _bytes(form[2])
        if not hmac.compare_digest(self._signature(payload), signature):
            raise Forbidden("the signature of this URL is not ours")
        try:
            ticket = decoder.decode(payload)
        except msgspec.MsgspecError as error:  # of another kind: we signed it
            raise Forbidden("this URL was signed for something else") from error
        if ticket.id != id:
            raise Forbidden("this URL was signed for something else")
        if ticket.expires_s <= now_s:
            raise Expired("this URL has expired: ask for a new one")
        return ticket

    def _signature(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, _PURPOSE + payload, hashlib.sha256)[:_SIGNATURE_BYTES]


def _text(payload: bytes) -> str:
    return base64.urlsafe_b64encode(payload).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise Forbidden("this URL is not signed") from error

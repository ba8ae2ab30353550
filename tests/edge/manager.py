"""The service manager's end of NOTIFY_SOCKET: what a service says, and which process it came from."""

import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

DATAGRAM_BYTES_MAX = 4096  # systemd's own limit
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Message:
    """One datagram, and the process that the kernel says it came from."""

    fields: dict[str, str]
    pid: int


class ServiceManager:
    """Listens as systemd does: datagrams, with the sender's credentials. `address` is NOTIFY_SOCKET."""

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        path = str(directory / "notify")
        self.address = f"@{path}" if abstract else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("\0" + path if abstract else path)
        self.heard: list[Message] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self, timeout_s: float = 20.0) -> Message:
        """Return the next datagram; fail where none comes."""
        message = self._receive(timeout_s)
        if message is None:
            pytest.fail(f"nothing was said for {timeout_s} s after {self.heard}")
        return message

    def all(self) -> list[Message]:
        """Return what has been said and not been read yet."""
        found = []
        while (message := self._receive(0.0)) is not None:
            found.append(message)
        return found

    def wait_for(self, field: str, value: str | None = None, timeout_s: float = 30.0) -> Message:
        """Return the first message with `field` (of that `value`); fail where none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self._receive(left)
            if message is not None and field in message.fields and value in (None, message.fields[field]):
                return message
        pytest.fail(f"{field}={value or '…'} was not said within {timeout_s} s: {self.heard}")

    def _receive(self, timeout_s: float) -> Message | None:
        self._socket.settimeout(timeout_s)
        try:
            wire, ancillary, _, _ = self._socket.recvmsg(
                DATAGRAM_BYTES_MAX, socket.CMSG_SPACE(_CREDENTIALS.size)
            )
        except (TimeoutError, BlockingIOError):
            return None
        pid = _CREDENTIALS.unpack(ancillary[0][2])[0]
        message = Message(dict(line.split("=", 1) for line in wire.decode().splitlines()), pid)
        self.heard.append(message)
        return message

"""A server on sockets that somebody else has made, as systemd makes them, and who hears how it is.

Run as a program it is what systemd does between fork and exec: it puts the sockets at 3 and up, says so in
the environment, and becomes the command.
"""

import os
import socket
import sys
from collections.abc import Mapping

from tests.conftest import Server


def listening(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket as a socket unit makes one: others may share its port."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, port))
    made.listen(64)
    return made


class Activated(Server):
    """`realtime serve` on `sockets`, by name; `environ` is for it alone. The sockets stay the test's."""

    def __init__(
        self, sockets: Mapping[str, socket.socket], settings: dict[str, object], environ: Mapping[str, str]
    ) -> None:
        self._names = list(sockets)
        self.pass_fds = [each.fileno() for each in sockets.values()]
        self._extra = dict(environ)
        super().__init__(settings)

    @property
    def launcher(self) -> tuple[str, ...]:
        """See `Server`."""
        fds = ",".join(map(str, self.pass_fds))
        return (sys.executable, "-m", "tests.edge.activated", ":".join(self._names), fds)

    def _environ(self) -> dict[str, str]:
        return super()._environ() | self._extra


def become(names: str, fds: str, *command: str) -> None:
    """Run `command` in this process, with the descriptors `fds` at 3 and up."""
    numbers = [os.dup(int(fd)) for fd in fds.split(",") if fd]
    above = [os.dup(fd) for fd in numbers]  # above all of 3 and up that is about to be taken
    for place, fd in enumerate(above, start=3):
        os.dup2(fd, place, inheritable=True)
    said = {"LISTEN_FDS": str(len(above)), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": names}
    os.execvpe(command[0], command, {**os.environ, **(said if above else {})})


if __name__ == "__main__":
    become(*sys.argv[1:])

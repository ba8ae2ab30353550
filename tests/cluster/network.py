"""Two hosts in network namespaces of their own, with a cable between them that can be cut. For root on Linux.

us --- front --- host a      each host is reached from here at its address over a cable of its own;
us --- front --- host b      what the hosts say to each other goes over the third, `back`
       host a -- back -- host b
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NAMES = "ab"
# For measurements of networks (RFC 2544): nobody's real addresses.
BACK, FRONT = "198.18.{net}.{host}", "198.19.{net}.{host}"
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Place:
    """A host's namespace: everybody calls it by `address`; a command in it begins with `launcher`."""

    name: str
    address: str
    launcher: tuple[str, ...]


class Network:
    """The cables and namespaces, from `build` to `remove`."""

    def __init__(self) -> None:
        net = _RANDOM.randrange(256)
        self._tag = f"rt{os.getpid() % 10_000}x{net}"
        self._net = net
        self.places = [
            Place(
                self._space(name),
                BACK.format(net=net, host=number + 1),
                ("ip", "netns", "exec", self._space(name)),
            )
            for number, name in enumerate(NAMES)
        ]

    def build(self) -> None:
        """Make everything.

        Raises:
            OSError: the kernel does not let us.
        """
        a, b = (place.name for place in self.places)
        for place in self.places:
            _ip("netns", "add", place.name)
            _ip("-n", place.name, "link", "set", "lo", "up")
        _ip("-n", a, "link", "add", "back", "type", "veth", "peer", "name", "back", "netns", b)
        for number, place in enumerate(self.places):
            ours, theirs = (FRONT.format(net=self._net, host=4 * number + end) for end in (1, 2))
            cable = f"{self._tag}{NAMES[number]}"
            _ip("link", "add", cable, "type", "veth", "peer", "name", "front", "netns", place.name)
            _ip("addr", "add", f"{ours}/30", "dev", cable)
            _ip("link", "set", cable, "up")
            _ip("-n", place.name, "addr", "add", f"{theirs}/30", "dev", "front")
            _ip("-n", place.name, "link", "set", "front", "up")
            _ip("-n", place.name, "addr", "add", f"{place.address}/30", "dev", "back")
            _ip("-n", place.name, "link", "set", "back", "up")
            _ip("route", "add", f"{place.address}/32", "via", theirs)

    def cut(self) -> None:
        """Cut the cable between the hosts; nobody is told, packets only vanish."""
        _ip("-n", self.places[0].name, "link", "set", "back", "down")

    def mend(self) -> None:
        """Put it together again."""
        _ip("-n", self.places[0].name, "link", "set", "back", "up")

    def remove(self) -> None:
        """Remove everything, made or not: the cables go with the namespaces."""
        for place in self.places:
            subprocess.run(["ip", "netns", "del", place.name], capture_output=True, check=False)

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"


@contextmanager
def network() -> Iterator[Network]:
    """Yield a network that is up.

    Raises:
        OSError: the kernel does not let us.
    """
    made = Network()
    try:
        made.build()
        yield made
    finally:
        made.remove()


def possible() -> str:
    """Return why there can be no namespaces here; nothing where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip`: apt-get install iproute2"
    try:
        with network():
            return ""
    except OSError as error:
        return str(error)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

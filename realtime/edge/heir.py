"""What a process has of the one whose place it takes, before it has anything else."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Inheritance(msgspec.Struct, frozen=True):
    """The name and the id in the ring under which it goes on, and descriptors by what they are for."""

    node: str
    worker: str
    files: Mapping[str, int]

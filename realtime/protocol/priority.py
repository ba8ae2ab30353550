"""How urgent something is: of a notification on the wire, and of what waits for a slow connection."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """What is higher goes first where not all can go at once."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

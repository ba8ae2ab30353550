"""A room's order in this process: offsets, pushes, and as many of them as are kept."""

from collections.abc import Callable

class Budget:
    """Bytes that many sequences may keep together."""

    def __init__(self, limit: int) -> None:
        """Raises ValueError where the limit is negative."""
    @property
    def used(self) -> int: ...
    @property
    def limit(self) -> int: ...

class Sequence:
    """The order of one room within one `epoch`, from the publication after `offset` on.

    The last pushes are kept: at most `messages_max`, of at most `bytes_max` together; a push that alone is
    over that empties the ring. Where the `budget` shared with others is spent, a sequence gives up as many of
    its own as a new push needs. `deliver(push, offset)` gets each one, None nobody.
    """

    deliver: Callable[[bytes, int], None] | None

    def __init__(
        self,
        room_json: bytes,
        epoch: bytes,
        messages_max: int,
        bytes_max: int,
        budget: Budget | None = None,
        offset: int = 0,
    ) -> None:
        """Raises ValueError where a bound is negative."""
    def __len__(self) -> int: ...
    @property
    def room_json(self) -> bytes: ...
    @property
    def epoch(self) -> bytes: ...
    @property
    def offset(self) -> int:
        """Of the last publication; 0 before the first."""
    @property
    def first(self) -> int:
        """Offset of the oldest push kept; one above `offset` when there is none."""
    @property
    def size_bytes(self) -> int:
        """Of all pushes kept."""
    @property
    def messages_max(self) -> int: ...
    @property
    def bytes_max(self) -> int: ...
    def publish(self, type: str, sender: bytes | None, content: bytes, timestamp: bytes) -> int:
        """Give the next offset to a publication, keep and deliver it; return the offset.

        `sender` is a JSON string, `content` JSON text; `timestamp` stands without quotes.
        """
    def append(self, push: bytes) -> int:
        """Keep and deliver a publication that was encoded with the next offset; return the offset."""
    def between(self, low: int, high: int) -> list[bytes]:
        """Return the pushes from offset `low` to `high`, both included, as far as they are kept."""

"""UTF-8 as the Unicode Standard's table 3-7, one byte at a time: the twin of `frames.utf8_feed`."""

# What may follow a first byte, byte by byte. A first byte that is in no row starts no character.
CONTINUATION = range(0x80, 0xC0)
WELL_FORMED = [
    (range(0x80), []),
    (range(0xC2, 0xE0), [CONTINUATION]),
    (range(0xE0, 0xE1), [range(0xA0, 0xC0), CONTINUATION]),
    (range(0xE1, 0xED), [CONTINUATION, CONTINUATION]),
    (range(0xED, 0xEE), [range(0x80, 0xA0), CONTINUATION]),
    (range(0xEE, 0xF0), [CONTINUATION, CONTINUATION]),
    (range(0xF0, 0xF1), [range(0x90, 0xC0), CONTINUATION, CONTINUATION]),
    (range(0xF1, 0xF4), [CONTINUATION, CONTINUATION, CONTINUATION]),
    (range(0xF4, 0xF5), [range(0x80, 0x90), CONTINUATION, CONTINUATION]),
]


class Validator:
    """Takes bytes; says whether they can still become UTF-8, and whether they are complete characters."""

    def __init__(self) -> None:
        self.valid = True
        self._due: list[range] = []

    @property
    def complete(self) -> bool:
        """Whether the bytes so far are whole characters and nothing else."""
        return self.valid and not self._due

    def feed(self, data: bytes) -> bool:
        """Take more bytes and return `valid`: false from the first byte that no UTF-8 could have there."""
        for byte in data:
            self.valid = self.valid and self._takes(byte)
        return self.valid

    def _takes(self, byte: int) -> bool:
        if self._due:
            return byte in self._due.pop(0)
        for first, following in WELL_FORMED:
            if byte in first:
                self._due = list(following)
                return True
        return False

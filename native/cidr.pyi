"""Networks to small numbers, by the longest prefix; `native/cidr.pyx` says how."""

class CidrList:
    """Networks (at most 1,000,000), each with a number of 1 to 255. On the same prefix the greater counts.

    `192.0.2.0/24`, `2001:db8::/32`, and single addresses. IPv4 in IPv6's form (`::ffff:192.0.2.0/120`) is
    IPv4; `::/0` covers IPv6 alone.
    """

    def __len__(self) -> int: ...
    def add(self, network: str, value: int) -> None:
        """Add a network. Raises ValueError with what is wrong: bits behind the prefix, nonsense."""
    def add_lines(self, lines: bytes, value: int) -> None:
        """Add one network a line; # begins a comment. Raises ValueError as `add`, with the line's number."""
    def table(self) -> CidrTable:
        """Return the table of all networks added so far."""

class CidrTable:
    """Which number an address has: that of the longest prefix that covers it. `CidrList.table` makes it."""

    def __len__(self) -> int:
        """How many networks it was made of."""
    @property
    def memory_bytes(self) -> int: ...
    def find(self, address: bytes) -> int:
        """Return the number of a packed address (4 or 16 bytes), 0 where no network covers it."""

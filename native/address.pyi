"""Addresses, packed (4 bytes for IPv4, 16 for IPv6, in network order) and as text."""

def pack(text: str) -> bytes | None:
    """Return the packed form of an IPv4 or IPv6 address, None where it is neither.

    An IPv4 address in IPv6's form (`::ffff:192.0.2.1`) is packed as IPv4. Short forms (`127.1`), leading
    zeros and zone ids (`fe80::1%eth0`) are no addresses.
    """

def unpack(address: bytes) -> str:
    """Return a packed address as text. Raises ValueError when it has neither 4 nor 16 bytes."""

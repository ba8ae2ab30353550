"""The PROXY protocol, versions 1 and 2; `native/proxyproto.pyx` says how."""

def parse_proxy_header(data: bytes) -> tuple[int, bytes | None, int] | None:
    """Return (bytes of the header, packed source address or None, source port), or None for more bytes.

    The address is None where the proxy speaks for itself (LOCAL), or for one that has no IP address. Whose
    word is taken is the caller's to decide: anybody can write such a header. Raises ValueError when `data`
    begins with none (of at most 107 bytes in version 1, 4096 in version 2), or with a broken one.
    """

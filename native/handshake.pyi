"""What Python sees of the request parser and of the answers to a handshake."""

class BadRequest(ValueError):  # noqa: N818 - the name of the status
    """The bytes are no request that may be served; `status` is the HTTP answer, `reason` says why."""

    status: int
    reason: str
    def __init__(self, status: int, reason: str) -> None: ...

class Request:
    """One parsed request head, with its own copy of the bytes. Made by `Request.parse` only."""

    @staticmethod
    def parse(
        data: bytes,
        *,
        head_bytes_max: int = 16384,
        request_line_bytes_max: int = 8192,
        headers_max: int = 100,
    ) -> Request | None:
        """Return the request whose head `data` starts with, or None where more bytes are needed.

        Raises:
            BadRequest: it can become no valid request, whatever follows.
        """

    @property
    def head_bytes(self) -> int:
        """How many bytes the head took; what follows in the input is a body or the next request."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def path(self) -> str:
        """Percent-encoded as sent, without the query, and never empty."""

    @property
    def query(self) -> str: ...
    @property
    def host(self) -> str:
        """The authority asked for: the target's own where it has one, else Host; "" in HTTP/1.0."""

    @property
    def version(self) -> str:
        """ "1.1" or "1.0"; what claims to be newer than 1.1 is treated as 1.1."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All fields in the order sent, names as sent."""

    def header(self, name: str) -> str | None:
        """Return a field's value, the lines of a repeated one joined by ", ", or None."""

    @property
    def content_length(self) -> int:
        """0 where the field is absent; saturates at 2**63."""

    @property
    def has_body(self) -> bool: ...
    @property
    def keep_alive(self) -> bool: ...
    def is_upgrade(self) -> bool:
        """Say whether this is a WebSocket handshake that may be accepted; False for plain HTTP.

        Raises:
            BadRequest: it asks for a WebSocket, but not as RFC 6455 wants it (400, 405 or 426).
        """

def accept_response(
    key: bytes, subprotocol: bytes = b"", extensions: bytes = b"", *, capacity: int = 4096
) -> bytes:
    """Return the 101 that answers `key` (24 bytes).

    Raises:
        ValueError: `key` has another length, a value would break the header, or it is all longer than
            `capacity` bytes.
    """

def refusal_response(status: int, body: bytes = b"", headers: bytes = b"", *, capacity: int = 4096) -> bytes:
    """Return the whole answer of a refused request; `headers` are lines, each ending in CR LF.

    Raises:
        ValueError: `headers` are not whole, valid field lines, or it is all longer than `capacity` bytes.
    """

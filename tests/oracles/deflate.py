"""A permessage-deflate message inflated (RFC 7692, 7.2.2) with Python's zlib: twin of `deflate.Inflater`."""

import zlib

from realtime.native.deflate import BadData, TooBig

REMOVED_BY_SENDER = b"\x00\x00\xff\xff"
FINAL_EMPTY_BLOCK = b"\x01\x00\x00\xff\xff"
WINDOW_BYTES = 1 << 15


def inflate(data: bytes, limit: int) -> bytes:
    """Return the message.

    Raises:
        BadData: it is not complete once what the sender removed is back.
        TooBig: it is longer than `limit`.
    """
    message = _Message(limit)
    if data and not message.ends_with(data):
        length = len(message.content)
        message.ends_with(REMOVED_BY_SENDER)
        # The lengths of an empty stored block say nothing; where they do, they stood for lost data.
        if len(message.content) > length or not message.between_blocks():
            raise BadData("the last block is incomplete")
    return bytes(message.content)


class _Message:
    def __init__(self, limit: int) -> None:
        self.content = bytearray()
        self._limit = limit
        self._decompressor = zlib.decompressobj(-15)

    def ends_with(self, piece: bytes) -> bool:
        """Inflate one more piece; say whether a final block ended where it ends."""
        ended = False
        while piece:
            try:
                self.content += self._decompressor.decompress(piece, self._limit + 1 - len(self.content))
            except zlib.error as error:
                raise BadData(str(error)) from error
            if len(self.content) > self._limit:
                raise TooBig(f"more than {self._limit} bytes")
            piece = self._decompressor.unconsumed_tail
            ended = self._decompressor.eof
            if ended:  # other blocks may follow, with the same window
                piece = self._decompressor.unused_data
                self._decompressor = zlib.decompressobj(-15, zdict=bytes(self.content[-WINDOW_BYTES:]))
        return ended

    def between_blocks(self) -> bool:
        """Whether a block could start here: then a final empty one ends the data, exactly."""
        probe = self._decompressor.copy()
        try:
            return probe.decompress(FINAL_EMPTY_BLOCK) == b"" and probe.eof and not probe.unused_data
        except zlib.error:
            return False

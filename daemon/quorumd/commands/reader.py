"""Walking packed bytes."""

import struct

from quorumd.errors import ProtocolError


class Reader:
    """Walks bytes; running out of them is a ProtocolError."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """The fields of `layout`, all of them integers."""
        return layout.unpack(self.take(layout.size))

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self.data) - self.offset:
            raise ProtocolError(f"truncated: {size} bytes expected at {self.offset} of {len(self.data)}")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def finish(self) -> None:
        """Raises ProtocolError unless everything was read."""
        if self.offset != len(self.data):
            raise ProtocolError(f"{len(self.data) - self.offset} bytes too many")

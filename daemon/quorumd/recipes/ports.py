"""What the drivers need of a client: `quorumd.client`'s two have it, and the tests' have it on a model of the store."""

from collections.abc import Sequence
from typing import Protocol

from quorumd.commands import Op, Result
from quorumd.watchcodec import Event


class Batch(Protocol):
    """All events of one revision."""

    @property
    def revision(self) -> int:
        """Their revision."""

    @property
    def events(self) -> Sequence[Event]:
        """In the order of its operations."""


class Watch(Protocol):
    """See client.watches.Watch."""

    def get(self, timeout: float | None = None) -> Batch:
        """The next batch. Raises Timeout, Compacted, and ConnectionLost once it is closed, by any thread."""

    def close(self) -> None:
        """Ends it, from any thread."""


class BlockingClient(Protocol):
    """See client.sync.Client."""

    def execute(self, request: Op, *, settled: bool = False, timeout: float | None = None) -> Result:
        """Any one operation; a range is read whole, at one revision. settled: see client.sync.Client."""

    def watch(self, key: bytes, end: bytes = b"", *, start_revision: int = 0) -> Watch:
        """What happens to [key, end) from that revision on."""


class AsyncWatch(Protocol):
    """See client.watches.AsyncWatch."""

    async def get(self, timeout: float | None = None) -> Batch:
        """As Watch.get."""

    async def close(self) -> None:
        """Ends it."""


class AwaitingClient(Protocol):
    """See client.aio.AsyncClient."""

    async def execute(self, request: Op, *, settled: bool = False, timeout: float | None = None) -> Result:
        """As BlockingClient.execute."""

    def watch(self, key: bytes, end: bytes = b"", *, start_revision: int = 0) -> AsyncWatch:
        """As BlockingClient.watch."""

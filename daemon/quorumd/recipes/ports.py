"""What the drivers need of a client: `quorumd.client`'s two have it, and the tests' have it on a model of the store."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from quorumd.commands import Op, Result
from quorumd.recipes.effects import Event


class Watch(Protocol):
    """Events of one range, in order."""

    def next(self, timeout: float | None = None) -> tuple[int, Sequence[Event]] | None:
        """The next revision's events; None if none came within `timeout` seconds.

        Raises Compacted, and ConnectionLost once the watch or its client is closed, by any thread.
        """

    def close(self) -> None:
        """Ends it, from any thread."""


class BlockingClient(Protocol):
    """A client that blocks."""

    def execute(self, request: Op, *, timeout: float | None = None) -> Result:
        """Any one operation; a range is read whole, at one revision."""


@runtime_checkable
class BlockingWatcher(Protocol):
    """A client that blocks and has watches; for others, polling.py makes them of reads."""

    def watch(self, key: bytes, end: bytes = b"", *, start_revision: int = 0) -> Watch:
        """Watches [key, end) from that revision on."""


class AsyncWatch(Protocol):
    """As Watch."""

    async def next(self, timeout: float | None = None) -> tuple[int, Sequence[Event]] | None:
        """As Watch.next."""

    async def close(self) -> None:
        """Ends it."""


class AwaitingClient(Protocol):
    """A client that awaits."""

    async def execute(self, request: Op, *, timeout: float | None = None) -> Result:
        """As BlockingClient.execute."""


@runtime_checkable
class AwaitingWatcher(Protocol):
    """As BlockingWatcher."""

    async def watch(self, key: bytes, end: bytes = b"", *, start_revision: int = 0) -> AsyncWatch:
        """As BlockingWatcher.watch."""

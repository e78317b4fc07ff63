"""Watches made of reads, for clients that have none of their own: what changed since the last look.

Several revisions between two looks come together, and a key that was put and deleted in between does not show; no
recipe here minds. The first look is at the revision that the watch begins after, so nothing since is missed.
"""

import asyncio
import threading
from time import monotonic

from quorumd.commands import KeyValue, Range, RangeResult
from quorumd.errors import ConnectionLost
from quorumd.limits import RECIPE_POLL_S, RECIPE_SLOWEST_POLL_S
from quorumd.recipes.effects import TRANSIENT, Event, expect
from quorumd.recipes.ports import AwaitingClient, BlockingClient

Batch = tuple[int, tuple[Event, ...]]


class Looks:
    """Which read comes next, and what its answer tells."""

    def __init__(self, key: bytes, end: bytes, after: int) -> None:
        self._range = Range(key, end)
        self._after = after
        self._known: dict[bytes, KeyValue] | None = None
        self.pause_s = 0.0
        """Until the next look."""

    def next(self) -> Range:
        """The read to do."""
        if self._known is None and self._after > 0:
            return Range(self._range.key, self._range.end, revision=self._after)
        return self._range

    def note(self, result: RangeResult) -> Batch | None:
        """What is new in the answer."""
        fresh = {kv.key: kv for kv in result.kvs}
        known = self._known if self._known is not None or self._after > 0 else {}
        self._known = fresh
        if known is None:
            return None
        gone = (KeyValue(key, b"", 0, result.revision, 0, 0) for key in sorted(known.keys() - fresh.keys()))
        events = (
            *(Event(kv, True) for kv in gone),
            *(Event(kv, False) for key, kv in fresh.items() if kv != known.get(key)),
        )
        if not events:
            self.pause_s = min(max(2 * self.pause_s, RECIPE_POLL_S), RECIPE_SLOWEST_POLL_S)
            return None
        self.pause_s = 0.0
        return result.revision, events


class PollingWatch:
    """See ports.Watch."""

    def __init__(self, client: BlockingClient, key: bytes, end: bytes, after: int) -> None:
        self._client = client
        self._looks = Looks(key, end, after)
        self._closed = threading.Event()

    def next(self, timeout: float | None = None) -> Batch | None:
        """See ports.Watch.next."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - monotonic()
            if self._closed.wait(self._looks.pause_s if left is None else max(min(self._looks.pause_s, left), 0.0)):
                raise ConnectionLost("the watch is closed")
            if left is not None and left <= self._looks.pause_s:
                return None
            try:
                result = expect(RangeResult, self._client.execute(self._looks.next(), timeout=left))
            except TRANSIENT:
                self._looks.pause_s = RECIPE_SLOWEST_POLL_S
                continue
            batch = self._looks.note(result)
            if batch is not None:
                return batch

    def close(self) -> None:
        """See ports.Watch.close."""
        self._closed.set()


class AsyncPollingWatch:
    """See ports.AsyncWatch."""

    def __init__(self, client: AwaitingClient, key: bytes, end: bytes, after: int) -> None:
        self._client = client
        self._looks = Looks(key, end, after)

    async def next(self, timeout: float | None = None) -> Batch | None:
        """See ports.AsyncWatch.next."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - monotonic()
            await asyncio.sleep(self._looks.pause_s if left is None else max(min(self._looks.pause_s, left), 0.0))
            if left is not None and left <= self._looks.pause_s:
                return None
            try:
                result = expect(RangeResult, await self._client.execute(self._looks.next(), timeout=left))
            except TRANSIENT:
                self._looks.pause_s = RECIPE_SLOWEST_POLL_S
                continue
            batch = self._looks.note(result)
            if batch is not None:
                return batch

    async def close(self) -> None:
        """See ports.AsyncWatch.close: there is nothing to end."""

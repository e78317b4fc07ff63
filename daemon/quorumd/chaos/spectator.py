"""One watcher of everything, from the first revision to the last, through every fault; and what it was told, judged.

Once the cluster is whole again a second watch, begun anew, tells every revision there was. That is the truth which the
spectator is held to (checker.watches), and it is held itself to the history of operations: an acknowledged write must
be in it at the revision that its client was told, and nothing may be in it that nobody asked for.
"""

import asyncio
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from quorumd.checker.history import Operation
from quorumd.checker.invariants import Violation
from quorumd.checker.timeline import Effects, branches
from quorumd.checker.watches import Account, Change, Past
from quorumd.client.aio import AsyncClient
from quorumd.client.watches import AsyncWatch
from quorumd.commands import ALL
from quorumd.errors import Compacted
from quorumd.limits import CHAOS_LIVENESS_S, CHAOS_WATCH_BATCHES
from quorumd.watchcodec import PREV_KV, Event

FIRST: Final = b"\0"
POLL_S: Final = 0.02

# Why what it was told is not judged.
ENDED_BEFORE: Final = "the run ended before that"
TOO_MANY: Final = f"there were more than {CHAOS_WATCH_BATCHES:,}"
COMPACTED: Final = "the nodes no longer keep the first"
NO_TRUTH: Final = "a second watch, that it was to be held to, was told wrong itself"


class Spectator:
    """See the module's docstring. `new_client` makes a client that nobody else uses."""

    def __init__(self, new_client: Callable[[], AsyncClient]) -> None:
        self._new_client = new_client
        self._told: list[tuple[int, tuple[Event, ...]]] = []
        self._task: asyncio.Task[None] | None = None
        self.past = Past()
        self.unjudged = ENDED_BEFORE
        """Why it is not held to the whole history; empty: it is, and `past` is that history."""

    @property
    def batches(self) -> int:
        """That it was told."""
        return sum(bool(events) for _, events in self._told)

    def start(self) -> None:
        """It watches until stop()."""
        self._task = asyncio.create_task(self._watch(), name="spectator")

    async def _watch(self) -> None:
        # Where so little history is kept that a compaction overtakes it, judge() finds the beginning gone as well.
        with suppress(Compacted):
            async with self._new_client() as client, _everything(client) as watch:
                async for batch in watch:
                    self._told.append((batch.revision, batch.events))
                    if len(self._told) > CHAOS_WATCH_BATCHES:
                        self._told.clear()
                        self.unjudged = TOO_MANY
                        return

    def check(self) -> None:
        """Raises what the watch ended with, while the run goes on."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Ends the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def judge(self) -> list[str]:
        """What it was told wrong, once everything is healed and nobody writes. Raises QuorumdError."""
        if self.unjudged == TOO_MANY:
            return []
        async with self._new_client() as client:
            last = (await client.range(FIRST, ALL, count_only=True, timeout=CHAOS_LIVENESS_S)).revision
            try:
                await self._learn(client, last)
            except Compacted:
                self.unjudged = COMPACTED
                return []
            except Violation as violation:
                self.unjudged = NO_TRUTH
                return [f"a watch of the whole history: {violation}"]
        if self.unjudged == TOO_MANY:
            return []
        self.unjudged = ""
        account = Account(self.past, "the spectator", FIRST, ALL, PREV_KV, 1)
        try:
            await self._catch_up(last)
            if self.unjudged:  # it was told too many meanwhile
                return []
            tell(account, self._told)
        except Violation as violation:
            return [str(violation)]
        return [] if not account.behind else [f"watch-behind: the spectator never was told revision {account.behind}"]

    async def _learn(self, client: AsyncClient, last: int) -> None:
        """Every revision up to `last`, from a watch of its own, which must agree with what its events amount to."""
        account = Account(self.past, "the second watch", FIRST, ALL, PREV_KV, 1)
        async with _everything(client) as watch:
            while self.past.revision < last:
                batch = await watch.get(timeout=CHAOS_LIVENESS_S)
                if batch.events:
                    self.past.add(batch.revision, map(_change, batch.events))
                    account.batch(batch.revision, batch.events)
                else:
                    self.past.reaches(batch.revision)

    async def _catch_up(self, last: int) -> None:
        """Waits until the spectator was told of `last`. Raises Violation if that takes too long."""
        try:
            async with asyncio.timeout(CHAOS_LIVENESS_S):
                while not self.unjudged and (not self._told or self._told[-1][0] < last):
                    self.check()
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            reached = self._told[-1][0] if self._told else 0
            raise Violation(
                "watch-behind", f"the spectator is at revision {reached} of {last} after {CHAOS_LIVENESS_S:g} s"
            ) from None


def _change(event: Event) -> Change:
    return event.key, None if event.deleted else event.value, event.kv.lease


def _everything(client: AsyncClient) -> AsyncWatch:
    return client.watch(FIRST, ALL, start_revision=1, prev_kv=True, progress=True)


def tell(account: Account, told: Iterable[tuple[int, tuple[Event, ...]]]) -> None:
    """Goes through what a watcher was told, batches and progress. Raises Violation."""
    for revision, events in told:
        if events:
            account.batch(revision, events)
        else:
            account.progress(revision)


def contradictions(made: Mapping[int, Effects], operations: Iterable[Operation]) -> Iterator[str]:
    """Where what each revision changed, as a watch told, and a history of operations cannot both be right."""
    acknowledged, possible = _asked_for(operations)
    present: set[str] = set()
    for revision in sorted({*made, *acknowledged}):
        changes, written = made.get(revision, {}), acknowledged.get(revision, [])
        effects = [_effect(each, present) for each in written]
        present.update(changes)
        present.difference_update(key for key, token in changes.items() if token is None)
        # One that only deletes may also have come after that, and found nothing.
        wrong = [
            each for each, effect in zip(written, effects, strict=True)
            if effect != changes and (set(each.values()) != {None} or not present.isdisjoint(each))
        ]
        what = f"is {changes}" if changes else "is not"
        yield from (
            f"revision {revision} was acknowledged as {each}, and {what} in a watch of the whole history"
            for each in wrong
        )
        if not wrong and changes not in effects and not possible.issuperset(changes.items()):
            yield f"revision {revision} is {changes} in a watch of the whole history, which nobody may have written"


def _asked_for(operations: Iterable[Operation]) -> tuple[dict[int, list[Effects]], set[tuple[str, str | None]]]:
    """By the revision that their clients were told: what operations changed, those included that then deleted what was
    not there; and what operations of unknown outcome may have changed."""
    acknowledged: dict[int, list[Effects]] = {}
    possible: set[tuple[str, str | None]] = set()
    for operation in operations:
        if operation.outcome == "info":
            possible.update(pair for branch in branches(operation) for pair in branch.items())
        elif operation.outcome == "ok" and operation.revision is not None:
            (written,) = branches(operation)
            if written:
                acknowledged.setdefault(operation.revision, []).append(written)
    return acknowledged, possible


def _effect(written: Effects, present: Container[str]) -> Effects:
    """What an operation changes among the keys that are there: a delete of another one makes no event."""
    return {key: token for key, token in written.items() if token is not None or key in present}

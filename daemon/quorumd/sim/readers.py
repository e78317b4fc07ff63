"""Simulated users of the store's history: they read ranges at past revisions and at the newest, cut, sorted and
filtered, and every answer is worked out anew from the events since the store's beginning (checker.answers).

What they do is in no history: a read changes nothing, and theirs would only slow the search for an order.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from quorumd import limits
from quorumd.checker.invariants import Violation
from quorumd.checker.watches import Past
from quorumd.client.calls import operation_for
from quorumd.client.operation import Operation
from quorumd.commands import ALL, Order, Range, Result, SortTarget
from quorumd.errors import Compacted, Definite, QuorumdError
from quorumd.sim.clients import Program, Surroundings
from quorumd.sim.workload import Mix

FARTHEST_BACK: Final = 300  # revisions
SORTS: Final[Sequence[SortTarget]] = ("key", "key", "version", "create", "mod", "value")
ORDERS: Final[Sequence[Order]] = ("none", "ascend", "descend")


class Reader(Program):
    """One client program with one read under way. past: what is true, known before anybody can be told of it."""

    def __init__(
        self,
        name: str,
        around: Surroundings,
        mix: Mix,
        rng: random.Random,
        past: Past,
    ) -> None:
        super().__init__(name, around, mix, rng, workers=0, per_second=1.0)
        self.past = past
        self.compacted = 0  # reads refused for it
        self.judged = 0
        # With the revision below which it must be refused, and the one below which no answer may be.
        self._asked: tuple[Range, int, int] | None = None
        self._pause_then_ask()

    def _pause_then_ask(self) -> None:
        self.world.after(int(self.rng.expovariate(self.per_second) * limits.SECOND), self._ask_one)

    def _ask_one(self) -> None:
        if not self.running:
            return
        request, stale = self._draw(), self.rng.random() < 0.2
        compacted = 0 if stale else self.past.compacted  # a stale read knows no compaction
        self._asked = request, compacted, self.answers.asked(request, stale=stale)
        operation = operation_for(request, self.world.now + self.timeout, stale=stale, settled=False)
        try:
            self.protocol.submit(operation, self.world.now)
        except QuorumdError as error:
            operation.error = error
            self._completed(operation)
        self._after()

    def _draw(self) -> Range:
        rng, newest = self.rng, self.past.revision
        key = f"k{rng.randrange(self.mind.mix.keys)}".encode()
        start, end = rng.choice(((key, b""), (b"k", b"l"), (key, ALL), (b"\0", ALL)))
        revision = rng.choice((0, 1, max(1, newest - rng.randint(0, FARTHEST_BACK))))
        wanted = Range(
            start, end, revision=revision, limit=rng.choice((0, 0, 1, 3)), skip=rng.choice((0, 0, 2)),
            sort_target=rng.choice(SORTS), order=rng.choice(ORDERS), keys_only=rng.random() < 0.2,
            count_only=rng.random() < 0.1, uncounted=rng.random() < 0.1,
        )  # fmt: skip
        since = max(1, newest - rng.randint(0, FARTHEST_BACK))
        match rng.randrange(8):
            case 0:
                return replace(wanted, min_mod_revision=since)
            case 1:
                return replace(wanted, max_mod_revision=since)
            case 2:
                return replace(wanted, min_create_revision=since)
            case 3:
                return replace(wanted, max_create_revision=since)
        return wanted

    def _completed(self, operation: Operation) -> None:
        if self._asked is None:
            return
        (request, compacted, since), self._asked = self._asked, None
        error = operation.error
        if isinstance(error, Compacted):
            self._refused(request, error)
        elif error is None:
            self._judge(request, operation.result(), compacted, since)
        elif isinstance(error, Definite) and "future" in str(error):
            raise Violation("range-differs", f"{self.name}: {request}: {error}, but {self.past.revision} is known")
        if self.running:
            self._pause_then_ask()

    @property
    def idle(self) -> bool:
        """Whether no read is under way."""
        return self._asked is None

    def _refused(self, request: Range, error: Compacted) -> None:
        if not request.revision or request.revision >= self.past.compacted:
            raise Violation("range-differs", f"{self.name}: {request}: {error}, but {self.past.compacted} is compacted")
        self.compacted += 1

    def _judge(self, request: Range, result: Result, compacted: int, since: int) -> None:
        if 0 < request.revision < compacted:
            raise Violation("range-differs", f"{self.name}: {request} was answered, but {compacted} was compacted")
        self.answers.told(request, result, since)
        self.judged += 1

"""Simulated users of the store's history: they read ranges at past revisions and at the newest, cut, sorted and
filtered, and every answer is worked out anew from the events since the store's beginning (checker.watches.Past).

What they do is in no history: a read changes nothing, and theirs would only slow the search for an order.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from quorumd import limits
from quorumd.checker.invariants import Violation
from quorumd.checker.watches import Past
from quorumd.client.calls import operation_for
from quorumd.client.operation import Operation
from quorumd.commands import ALL, KeyValue, Order, Range, RangeResult, SortTarget
from quorumd.errors import Compacted, Definite, QuorumdError
from quorumd.sim.clients import Program, Surroundings
from quorumd.sim.workload import Mix

FARTHEST_BACK: Final = 300  # revisions
SORTS: Final[Sequence[SortTarget]] = ("key", "key", "version", "create", "mod", "value")
ORDERS: Final[Sequence[Order]] = ("none", "ascend", "descend")
TARGETS: Final[Mapping[str, Callable[[KeyValue], Any]]] = {
    "key": lambda kv: kv.key, "version": lambda kv: kv.version, "create": lambda kv: kv.create_revision,
    "mod": lambda kv: kv.mod_revision, "value": lambda kv: kv.value,
}  # fmt: skip


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
        self._asked: tuple[Range, int] | None = None  # with the revision below which it must be refused
        self._pause_then_ask()

    def _pause_then_ask(self) -> None:
        self.world.after(int(self.rng.expovariate(self.per_second) * limits.SECOND), self._ask_one)

    def _ask_one(self) -> None:
        if not self.running:
            return
        request, stale = self._draw(), self.rng.random() < 0.2
        self._asked = request, 0 if stale else self.past.compacted  # a stale read knows no compaction
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
        (request, compacted), self._asked = self._asked, None
        error = operation.error
        if isinstance(error, Compacted):
            self._refused(request, error)
        elif error is None:
            result = operation.result()
            if not isinstance(result, RangeResult):
                raise Violation("range-differs", f"{self.name}: {request} brought {result}")
            self._judge(request, result, compacted)
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

    def _judge(self, request: Range, result: RangeResult, compacted: int) -> None:
        if result.revision > self.past.revision:
            raise Violation("range-differs", f"{self.name}: {request} at {result.revision}, which nobody has applied")
        if 0 < request.revision < compacted:
            raise Violation("range-differs", f"{self.name}: {request} was answered, but {compacted} was compacted")
        right = answer(request, self.past.state(request.revision or result.revision))
        # A reply may be cut for its size, too: then it is the beginning of what is right.
        told = right if right.more == result.more else replace(right, kvs=right.kvs[: len(result.kvs)], more=True)
        if replace(result, revision=0) != told:
            raise Violation("range-differs", f"{self.name}: {request}: {result}, and not {right}")
        self.judged += 1


def answer(request: Range, state: Mapping[bytes, KeyValue]) -> RangeResult:
    """What a range must bring, by etcd's rules, of a state; with revision 0 and never cut for its size."""
    inside = [kv for _, kv in sorted(state.items()) if _in_range(request, kv.key)]
    count = 0 if request.uncounted else len(inside)
    if request.count_only:
        return RangeResult(0, (), False, count)
    kvs = [kv for kv in inside if _passes(request, kv)]
    kvs.sort(key=TARGETS[request.sort_target], reverse=request.order == "descend")  # what is equal stays in key order
    kvs = kvs[request.skip :]
    more = 0 < request.limit < len(kvs)
    kvs = kvs[: request.limit or None]
    return RangeResult(0, tuple(replace(kv, value=b"") if request.keys_only else kv for kv in kvs), more, count)


def _in_range(request: Range, key: bytes) -> bool:
    if not request.end:
        return key == request.key
    return key >= request.key and (request.end == ALL or key < request.end)


def _passes(request: Range, kv: KeyValue) -> bool:
    return (
        request.min_mod_revision <= kv.mod_revision <= (request.max_mod_revision or kv.mod_revision)
        and request.min_create_revision <= kv.create_revision <= (request.max_create_revision or kv.create_revision)
    )

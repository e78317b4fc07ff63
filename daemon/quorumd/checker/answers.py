"""Whether clients are told what happened: every field of every answer, against the true past (checker.watches.Past).

A history keeps values and revisions, which is what decides on linearizability. Here is the rest: create and mod
revisions, versions and leases of what is read, how many keys went, what holders of leases and readers of the past are
told, who are in no history.

- `answer-stale`: a linearizable answer is as new as the newest change that any node had applied when it was asked for.
- `answer-invented`: nobody has applied that revision yet.
- `answer-differs`: a read brings what was there; a change that is answered made what was asked for, at its revision.
- `executed-more`: nothing is written more often than somebody asked for it, nor what was refused for good.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from quorumd.checker.invariants import Violation
from quorumd.checker.watches import Past, covers
from quorumd.commands import (
    DeleteRange,
    DeleteResult,
    KeyValue,
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseRevoke,
    LeaseRevokeResult,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Op,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    Txn,
    TxnResult,
)
from quorumd.errors import Definite, QuorumdError
from quorumd.watchcodec import Event

TARGETS: Final[Mapping[str, Any]] = {
    "key": lambda kv: kv.key, "version": lambda kv: kv.version, "create": lambda kv: kv.create_revision,
    "mod": lambda kv: kv.mod_revision, "value": lambda kv: kv.value,
}  # fmt: skip


class Answers:
    """What was asked for and is answered. Values that are put must be told apart: each is written by one request."""

    def __init__(self, past: Past) -> None:
        self.judged = 0
        self._past = past
        self._asked: Counter[tuple[bytes, bytes]] = Counter()  # how often a key may be given a value, at most

    def asked(self, request: Op, *, stale: bool = False) -> int:
        """Somebody asks for it now; the revision below which no answer may be, 0 if a stale one will do."""
        self._asked.update(_puts(request))
        return 0 if stale else self._past.revision

    def refused(self, request: Op, error: QuorumdError) -> None:
        """It ended so."""
        if isinstance(error, Definite):
            self._asked.subtract(_puts(request))

    def told(self, request: Op, result: Result, since: int) -> None:
        """It is answered; `since` is what asked() said. Raises Violation."""
        if result.revision < since:
            raise Violation("answer-stale", f"{request} at {result.revision}, asked for when {since} was applied")
        if result.revision > self._past.revision:
            raise Violation("answer-invented", f"{request} at {result.revision}; {self._past.revision} is the newest")
        self._compare(request, result, result.revision)
        self.judged += 1

    def executed(self) -> None:
        """All is over: whether something was written too often. Raises Violation."""
        written = Counter(
            (event.key, event.kv.value)
            for _, events in self._past.between(0, self._past.revision) for event in events if not event.deleted
        )
        for (key, value), times in written.items():
            if times > self._asked[key, value]:
                asked = f"{self._asked[key, value]} times it may have been"
                raise Violation("executed-more", f"{key!r} became {value[:40]!r} {times} times, {asked}")

    def _compare(self, request: Op, result: Result, revision: int) -> None:
        match request, result:
            case Range(), RangeResult():
                self._read(request, result, request.revision or revision)
            case Put(), PutResult():
                made = [event for event in self._events(revision) if event.key == request.key and not event.deleted]
                right = [(request.value, request.lease)]
                self._hold(request, result, [(event.kv.value, event.kv.lease) for event in made] == right)
            case DeleteRange(key, end), DeleteResult(deleted=deleted):
                gone = [event for event in self._events(revision) if event.deleted and covers(key, end, event.key)]
                self._hold(request, result, deleted in (0, len(gone)) and not self._past.state(revision, key, end))
            case Txn(), TxnResult():
                branch = request.then if result.succeeded else request.orelse
                self._hold(request, result, len(branch) == len(result.responses))
                for each, response in zip(branch, result.responses, strict=True):
                    self._compare(each, response, revision)
            case LeaseGrant(ttl_ms, lease), LeaseGrantResult():
                self._hold(request, result, (result.id, result.ttl_ms) == (lease, ttl_ms))
            case LeaseRevoke(lease), LeaseRevokeResult(deleted=deleted):
                gone = [event for event in self._events(revision) if _belonged(event, lease)]
                self._hold(request, result, deleted in (0, len(gone)) and not self._keys(lease, revision))
            case LeaseTimeToLive(lease), LeaseTimeToLiveResult():
                keys = self._keys(lease, revision)
                told = keys[request.skip :] if request.keys else ()
                cut = result.keys == told[: len(result.keys)] if result.more else result.keys == told
                self._hold(request, result, result.count == len(keys) and cut)
            case LeaseKeepAlive(), LeaseKeepAliveResult():
                pass  # leases.py knows how long it lives
            case _:
                self._hold(request, result, False)

    def _read(self, request: Range, result: RangeResult, revision: int) -> None:
        right = answer(request, self._past.state(revision, request.key, request.end))
        # A reply may be cut for its size, too: then it is the beginning of what is right.
        told = right if right.more == result.more else replace(right, kvs=right.kvs[: len(result.kvs)], more=True)
        if replace(result, revision=0) != told:
            raise Violation("answer-differs", f"{request}: {result}, and not {right}")

    def _events(self, revision: int) -> list[Event]:
        return [event for _, events in self._past.between(revision - 1, revision) for event in events]

    def _keys(self, lease: int, revision: int) -> tuple[bytes, ...]:
        return tuple(sorted(key for key, kv in self._past.state(revision).items() if kv.lease == lease))

    def _hold(self, request: Op, result: Result, right: bool) -> None:
        if not right:
            happened = "; ".join(f"{event}" for event in self._events(result.revision)[:4])
            raise Violation("answer-differs", f"{request}: {result}; at that revision: {happened or 'nothing'}")


def answer(request: Range, state: Mapping[bytes, KeyValue]) -> RangeResult:
    """What a range must bring, by etcd's rules, if it holds `state`; with revision 0 and never cut for its size."""
    inside = [kv for _, kv in sorted(state.items())]
    count = 0 if request.uncounted else len(inside)
    if request.count_only:
        return RangeResult(0, (), False, count)
    kvs = [kv for kv in inside if _passes(request, kv)]
    kvs.sort(key=TARGETS[request.sort_target], reverse=request.order == "descend")  # what is equal stays in key order
    kvs = kvs[request.skip :]
    more = 0 < request.limit < len(kvs)
    kvs = kvs[: request.limit or None]
    return RangeResult(0, tuple(replace(kv, value=b"") if request.keys_only else kv for kv in kvs), more, count)


def _passes(request: Range, kv: KeyValue) -> bool:
    return (
        request.min_mod_revision <= kv.mod_revision <= (request.max_mod_revision or kv.mod_revision)
        and request.min_create_revision <= kv.create_revision <= (request.max_create_revision or kv.create_revision)
    )


def _belonged(event: Event, lease: int) -> bool:
    return event.deleted and event.prev_kv is not None and event.prev_kv.lease == lease


def _puts(request: Op) -> Iterator[tuple[bytes, bytes]]:
    """What it writes, whichever branch it takes."""
    if isinstance(request, Put):
        yield request.key, request.value
    elif isinstance(request, Txn):
        for each in (*request.then, *request.orelse):
            yield from _puts(each)

"""What holders of leases make of the answers they get: each rule has an answer that breaks it."""

import asyncio
import random
from itertools import count

import pytest

from quorumd import limits
from quorumd.chaos import holders
from quorumd.chaos.holders import DEEDS, Holder, Lease, all_ended, hold_leases
from quorumd.chaos.spectator import contradictions
from quorumd.chaos.workload import Workload
from quorumd.checker.history import pair
from quorumd.checker.linearizability import check
from quorumd.commands import (
    KeyValue,
    LeaseGrantResult,
    LeaseKeepAliveResult,
    LeaseListResult,
    LeaseRevokeResult,
    LeaseTimeToLiveResult,
    PutResult,
    RangeResult,
)
from quorumd.errors import DiskFull, LeaseExists, LeaseNotFound, ProtocolError, Timeout

TTL = 2_000
GRANTED, KEPT = LeaseGrantResult(1, 1, TTL), LeaseKeepAliveResult(2, TTL)
LOOKED, REVOKED = LeaseTimeToLiveResult(2, TTL, TTL, 1), LeaseRevokeResult(3, 1)
PUT = PutResult(2)
THERE, ABSENT = RangeResult(2, (KeyValue(b"lease/1", b"1.1", 2, 2, 1, 1),), False, 1), RangeResult(3, (), False, 0)


class Script:
    """An AsyncClient whose answers are given, and take no time or so long."""

    def __init__(self, clock, *answers):
        self.clock = clock
        self.answers = list(answers)
        self.asked = []

    async def submit(self, request, *, stale=False, timeout):
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, tuple):
            took_ms, answer = answer
            self.clock.now += took_ms * limits.MILLISECOND
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def range(self, key, end, *, timeout):
        return await self.submit((key, end), timeout=timeout)


class Clock:
    def __init__(self):
        self.now = 1_000 * limits.SECOND

    def __call__(self):
        return self.now

    def monotonic(self):
        return self.now / 1e9

    def monotonic_ns(self):
        return 0  # of the history: a machine that was suspended all the time


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(holders, "time", found)
    monkeypatch.setattr(holders, "since_boot", found)
    monkeypatch.setattr(holders, "TTL_MS", (TTL, TTL))
    return found


@pytest.fixture
def holder():
    workload = Workload(["127.0.0.1:1"], key=None, clients=1, rate=1, seed=1)
    return Holder(workload, None, random.Random(1), count(1))


def play(holder, clock, monkeypatch, *moves):
    """moves: (deed or pause in ms, answers)."""
    for deed, *answers in moves:
        if isinstance(deed, int):
            clock.now += deed * limits.MILLISECOND
            continue
        monkeypatch.setattr(holders, "DEEDS", {deed: 1})
        holder.worker.client = Script(clock, *answers)
        asyncio.run(holder.step())
        assert holder.worker.client.answers == []
    return holder._tally.nonsense


BEGIN = ("grant", GRANTED, PUT)
GONE, LEFT = (ABSENT, LeaseNotFound()), (THERE, LeaseNotFound())  # asked for once a lease has ended: its key, and it


@pytest.mark.parametrize(
    "moves",
    [
        [BEGIN, (2_001,), ("keep", LeaseNotFound(), *GONE)],
        [BEGIN, (1_500,), ("keep", KEPT), (1_999,), ("read", THERE), (2,), ("look", LeaseNotFound(), *GONE)],
        [BEGIN, (2_001,), ("read", ABSENT), ("put", LeaseNotFound(), *GONE)],
        [BEGIN, (500,), ("keep", (1_800, LeaseNotFound()), *GONE)],  # it may have ended just before the answer
        [BEGIN, ("revoke", Timeout())],
        [BEGIN, ("revoke", REVOKED, *GONE)],
        [BEGIN, ("look", LOOKED), ("look", DiskFull()), (2_001,), ("look", LeaseNotFound(), Timeout(), Timeout())],
        [("grant", GRANTED, Timeout()), (10,), ("read", ABSENT)],  # nobody knows whether it was put
        [("grant", Timeout())],
        [BEGIN, ("abandon",)],
    ],
)
def test_what_may_happen_is_no_violation(holder, clock, monkeypatch, moves):
    assert play(holder, clock, monkeypatch, *moves) == []


@pytest.mark.parametrize(
    ("moves", "objection"),
    [
        (
            [BEGIN, (1_990,), ("keep", LeaseNotFound(), *GONE)],
            "lease-early: lease 1, TTL 2000 ms, was kept alive, and it was gone 10 ms before it could end",
        ),
        ([BEGIN, (1_500,), ("keep", KEPT), (1_990,), ("look", LeaseNotFound(), *GONE)], "it was gone 10 ms before"),
        ([BEGIN, (1_990,), ("put", LeaseNotFound(), *GONE)], "it was gone 10 ms before"),
        ([BEGIN, (1_990,), ("read", ABSENT)], "and its key was gone 10 ms before"),
        ([BEGIN, (2_001,), ("keep", LeaseNotFound(), *LEFT)], "lease-keys: lease 1, TTL 2000 ms, has ended"),
        ([BEGIN, ("revoke", REVOKED, *LEFT)], "lease-keys: lease 1, TTL 2000 ms, has ended"),
        ([BEGIN, ("revoke", REVOKED, ABSENT, LOOKED)], "lease-lives-on: lease 1, TTL 2000 ms, has ended"),
        ([BEGIN, (2_001,), ("put", LeaseNotFound(), ABSENT, LOOKED)], "lease-lives-on: lease 1"),
        ([BEGIN, (1_990,), ("revoke", LeaseNotFound(), *GONE)], "it was gone 10 ms before"),
        ([("grant", (400, GRANTED), PUT), (1_590,), ("look", LeaseNotFound(), *GONE)], "it was gone 10 ms before"),
        ([("grant", LeaseExists())], "lease-lives-on: lease 1, TTL 2000 ms, was granted before"),
        ([("grant", LeaseGrantResult(1, 2, TTL))], "lease 1, TTL 2000 ms, was asked for with LeaseGrant"),
        ([("grant", LeaseGrantResult(1, 1, 1))], "lease-lives-on: lease 1"),
        ([BEGIN, ("keep", LeaseKeepAliveResult(1, 1))], "lease-lives-on: lease 1"),
        ([BEGIN, ("look", LeaseTimeToLiveResult(2, 1, 1_999, 1))], "lease-lives-on: lease 1"),
        ([BEGIN, (100,), ("look", LeaseTimeToLiveResult(2, TTL, 1_899, 1))], "1899 ms left, and has 1900"),
        ([BEGIN, ("look", LeaseTimeToLiveResult(2, TTL, TTL, 0))], "lease-keys: lease 1, TTL 2000 ms, is said to have"),
        ([BEGIN, ("look", LeaseTimeToLiveResult(2, TTL, TTL, 2))], "lease-keys: lease 1, TTL 2000 ms, is said to have"),
        ([BEGIN, ("keep", ProtocolError("bad bytes"))], "LeaseKeepAlive: ProtocolError: bad bytes"),
        ([BEGIN, ("keep", PUT)], "was asked for with LeaseKeepAlive(id=1), and the answer is PutResult"),
    ],
)
def test_what_may_not_happen_is_named(holder, clock, monkeypatch, moves, objection):
    (found,) = play(holder, clock, monkeypatch, *moves)
    assert objection in found


def test_a_keep_alive_counts_from_when_it_was_asked_for(holder, clock, monkeypatch):
    moves = [BEGIN, (1_500,), ("keep", (400, KEPT)), (1_601,), ("look", LeaseNotFound(), *GONE)]
    assert play(holder, clock, monkeypatch, *moves) == []
    assert holder._tally.leases == {"granted": 1, "kept alive": 1, "expired": 1}
    assert holder.lease is None  # another one is next


def test_one_without_an_answer_counts_for_nothing(holder, clock, monkeypatch):
    moves = [BEGIN, (1_500,), ("keep", Timeout()), (501,), ("look", LeaseNotFound(), *GONE)]
    assert play(holder, clock, monkeypatch, *moves) == []


def test_the_history_explains_what_the_end_of_a_lease_deletes(holder, clock, monkeypatch):
    play(holder, clock, monkeypatch, BEGIN, (2_001,), ("keep", LeaseNotFound(), *GONE))
    operations = pair(holder.worker.workload.recorder.events)
    told = {2: {"lease/1": "1.1"}, 3: {"lease/1": None}}
    assert list(contradictions(told, operations)) == []
    assert check(operations, changes=told).ok is True
    operations = [operation for operation in operations if operation.outcome != "info"]
    assert list(contradictions(told, operations)) != []
    assert check(operations, changes=told).ok is False


@pytest.mark.parametrize(
    ("answers", "late"),
    [
        ([LeaseListResult(9, ()), ABSENT], False),
        ([LeaseListResult(9, (4,)), ABSENT, LeaseListResult(9, ()), THERE, LeaseListResult(9, ()), ABSENT], False),
        ([LeaseListResult(9, (4,)), (17_001, ABSENT)], True),
        ([LeaseListResult(9, ()), (17_001, THERE)], True),
    ],
)
def test_leases_that_do_not_end_are_named(clock, monkeypatch, answers, late):
    monkeypatch.setattr(holders, "POLL_S", 0)
    found = asyncio.run(all_ended(lambda: Script(clock, *answers)))
    assert [each.partition(":")[0] for each in found] == ["lease-late"] * late


def test_every_deed_is_one_that_step_knows(holder, clock, monkeypatch):
    asked = []
    for deed in DEEDS:
        holder.lease = Lease(1, "lease/1", 2_000)
        play(holder, clock, monkeypatch, (deed, *[Timeout()] * (deed != "abandon")))
        asked += [type(request).__name__ for request in holder.worker.client.asked]
    assert asked == ["LeaseKeepAlive", "LeaseTimeToLive", "Range", "Put", "LeaseRevoke"]


def test_pauses_reach_beyond_the_ttl(holder, clock):
    holder.lease = Lease(1, "lease/1", 2_000)
    holder.lease.lives_until_ns = clock.now + 2_000 * limits.MILLISECOND
    pauses = [holder._pause_s() for _ in range(500)]
    assert min(pauses) > 0 and max(pauses) > 2.1
    assert sum(1.9 <= pause <= 2.1 for pause in pauses) > 25


def test_holders_are_clients_like_the_others():
    async def begin_and_stop():
        workload = Workload(["127.0.0.1:1"], key=None, clients=2, rate=1, seed=1)
        workload.start()
        hold_leases(workload)
        names = [task.get_name() for task in workload._tasks]
        await workload.stop()
        return names

    assert asyncio.run(begin_and_stop()) == [f"client {number}" for number in range(1, 3 + holders.HOLDERS)]

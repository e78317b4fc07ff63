"""What the clients record and count, on answers that a script gives."""

import asyncio
import random

import pytest

from quorumd.chaos import calls
from quorumd.chaos.workload import Worker, Workload
from quorumd.checker.history import pair
from quorumd.commands import KeyValue, PutResult, RangeResult, TxnResult
from quorumd.errors import DiskFull, NotLeader, ProtocolError, SessionExpired, Timeout

HANGS = object()
THREE = TxnResult(7, True, (RangeResult(7, (KeyValue(b"counter/0", b"3", 2, 7, 1, 0),), False, 1),))
ABSENT = TxnResult(7, True, (RangeResult(7, (), False, 0),))
DONE, LOST_RACE = TxnResult(8, True, (PutResult(8),)), TxnResult(8, False, ())


class Script:
    """An AsyncClient whose answers are given."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def submit(self, request, *, stale, timeout):
        self.asked.append(request)
        answer = self.answers.pop(0)
        if answer is HANGS:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def worker():
    workload = Workload(["127.0.0.1:1"], key=None, clients=1, rate=1, seed=1)
    return Worker(workload, None, random.Random(1))


def play(worker, act, *answers):
    worker.client = Script(*answers)
    asyncio.run(act())
    return pair(worker.workload.recorder.events)


@pytest.mark.parametrize(
    ("call", "answer", "outcome", "retired"),
    [
        (calls.write("a", "1"), PutResult(2), "ok", False),
        (calls.write("a", "1"), DiskFull(), "fail", False),
        (calls.write("a", "1"), NotLeader(), "fail", False),
        (calls.write("a", "1"), Timeout(), "info", True),
        (calls.write("a", "1"), SessionExpired(), "info", True),
        (calls.cas("a", None, "1"), Timeout(), "info", True),
        (calls.read("a"), Timeout(), "fail", False),
        (calls.txn([], [("read", "a")]), Timeout(), "fail", False),
    ],
)
def test_definite_errors_fail_and_indefinite_writes_retire_the_process(worker, call, answer, outcome, retired):
    (operation,) = play(worker, lambda: worker.perform(call), answer)
    assert operation.outcome == outcome
    assert worker.workload.tally.outcomes == {outcome: 1}
    assert (worker.process != operation.process) is retired
    assert worker.workload.tally.nonsense == []


def test_an_answer_that_makes_no_sense_is_a_violation(worker):
    play(worker, lambda: worker.perform(calls.read("a")), ProtocolError("bad bytes"))
    assert worker.workload.tally.nonsense == ["read of a: ProtocolError: bad bytes"]


@pytest.mark.parametrize(
    ("answers", "acknowledged", "unknown", "operations"),
    [
        ([ABSENT, DONE], 1, 0, 2),
        ([THREE, LOST_RACE, THREE, DONE], 1, 0, 4),
        ([THREE, Timeout()], 0, 1, 2),
        ([THREE, DiskFull()], 0, 0, 2),
        ([Timeout()], 0, 0, 1),
    ],
)
def test_increments_are_counted_by_what_is_known_of_them(worker, answers, acknowledged, unknown, operations):
    found = play(worker, lambda: worker.increment("counter/0"), *answers)
    tally = worker.workload.tally
    assert (tally.acknowledged["counter/0"], tally.unknown["counter/0"]) == (acknowledged, unknown)
    assert len(found) == operations


def accounts(one, other):
    kvs = (KeyValue(b"account/a", one, 2, 7, 1, 0), KeyValue(b"account/b", other, 2, 7, 1, 0))
    return TxnResult(7, True, tuple(RangeResult(7, (kv,), False, 1) for kv in kvs))


@pytest.mark.parametrize(
    ("act", "answer", "nonsense"),
    [
        (
            lambda worker: worker.increment("counter/0"),
            TxnResult(7, True, (RangeResult(7, (KeyValue(b"counter/0", b"3\xff", 2, 7, 1, 0),), False, 1),)),
            r"""counter/0 holds "corrupt, 2 bytes that begin with b'3\\xff'" where a number was written""",
        ),
        (
            lambda worker: worker.transfer(), accounts(b"100:1.1", b"1x0:1.2"),
            "account/b holds '1x0' where a number was written",
        ),
    ],
)
def test_a_number_that_was_damaged_is_a_violation_and_kills_no_client(worker, act, answer, nonsense):
    (operation,) = play(worker, lambda: act(worker), answer)
    assert operation.outcome == "ok"
    assert worker.workload.tally.nonsense == [nonsense]
    assert not worker.workload.tally.sums


def test_a_transfer_keeps_the_sum(worker):
    play(worker, worker.transfer, accounts(b"97:1.1", b"103:1.2"), TxnResult(8, True, (PutResult(8), PutResult(8))))
    change = worker.client.asked[1]
    assert sum(int(put.value.partition(b":")[0]) for put in change.then) == 200
    assert worker.workload.tally.sums == {200: 1}


def test_an_increment_under_way_when_the_clients_stop_is_unknown(worker):
    async def stopped():
        task = asyncio.create_task(worker.increment("counter/0"))
        while len(worker.client.asked) < 2:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    operations = play(worker, stopped, THREE, HANGS)
    assert [operation.outcome for operation in operations] == ["ok", "info"]
    assert worker.workload.tally.unknown["counter/0"] == 1


def test_padding_is_in_the_token_so_that_compares_can_follow_it(worker):
    worker.workload.padding = 100
    call = worker._draw("write")
    play(worker, lambda: worker.perform(call), PutResult(2))
    assert call.value.endswith("~100") and len(call.request.value) > 100
    assert worker.workload.newest[call.key] == call.value

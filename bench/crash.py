"""All nodes killed at once, under full load, and nothing that was acknowledged may be missing or done twice.

    python bench/crash.py --rounds 20

Beside the load (1000 clients, 256-byte values, as fast as they are answered) clients of the library increment
counters by transaction: one counter each, and one that they share. They retry through the crash; one of them gives up
early, so that there are operations whose outcome it never learns. After each round, before the load goes on:

- key i of the load holds at least what client i was told of, and at most one operation more;
- a counter is at least the number of acknowledged increments, and at most that plus the unknown ones;
- an increment of a counter that only one client writes never meets a value it does not know.

Must show 3, first half.
"""

import random
import signal
import sys
import threading
from collections import Counter
from typing import Any

from harness import Cluster, Failed, LoadProcess, arguments, reported, say

from quorumd.client import Client, Compare, Put, Range, RangeResult
from quorumd.errors import Definite, Indefinite, QuorumdError
from quorumd_fastpath.load import LoadGenerator

# Half a second down: long enough that what was answered before the kill is taken in before a node is back.
SETTINGS = "supervisor: {restart_backoff_ms: [500, 500], crash_loop: {restarts: 1000, within_s: 1}}"
CLIENTS, VALUE_BYTES = 1000, 256
INCREMENTERS = 4
PATIENT_S, HASTY_S = 60.0, 0.25
SHARED = b"counter/shared"


class Incrementer:
    """One client on a thread of its own that adds one to its counter and to the shared one, in turn."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.own = b"counter/%d" % number
        self.timeout_s = HASTY_S if number == 0 else PATIENT_S
        self.acknowledged: Counter[bytes] = Counter()
        self.unknown: Counter[bytes] = Counter()
        self.surprises: list[str] = []
        self._client = Client.connect(list(cluster.endpoints.values()), timeout=PATIENT_S)
        self._go = threading.Event()
        self._idle = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def resume(self) -> None:
        self._idle.clear()
        self._go.set()

    def pause(self) -> None:
        """Waits until what is under way has an outcome, or was given up."""
        self._go.clear()
        if not self._idle.wait(2 * PATIENT_S):
            raise Failed(f"{self.own.decode()}: an increment has no outcome")

    def stop(self) -> None:
        self._stopping = True
        self.resume()
        self._thread.join(2 * PATIENT_S)
        self._client.close()

    def _run(self) -> None:
        turn = 0
        while not self._stopping:
            if not self._go.is_set():
                self._idle.set()
                self._go.wait()
                continue
            self._increment(self.own if turn % 2 else SHARED)
            turn += 1

    def _increment(self, counter: bytes) -> None:
        try:
            found = self._client.get(counter, timeout=PATIENT_S)
        except QuorumdError:
            return  # a read: nothing happened
        value, revision = (int(found.value), found.mod_revision) if found else (0, 0)
        known = self.acknowledged[counter]
        if counter == self.own and not known <= value <= known + self.unknown[counter]:
            self.surprises.append(f"{counter.decode()} is {value}, {known} were acknowledged")
        compares = [Compare.mod_revision(counter, "=", revision)]
        try:
            done = self._client.txn(compares, [Put(counter, b"%d" % (value + 1))], timeout=self.timeout_s)
        except Indefinite:
            self.unknown[counter] += 1
        except Definite:
            return
        else:
            self.acknowledged[counter] += done.succeeded
            if counter == self.own and not done.succeeded and not self.unknown[counter]:
                self.surprises.append(f"{counter.decode()} was changed after {value} by somebody else")


def check_load(client: Client, acknowledged: list[int]) -> list[str]:
    """What is wrong with the load's keys."""
    namer = LoadGenerator([(1, bytes(28))], 1, clients=1)
    problems = []
    with client.pipeline() as pipeline:
        for number in range(len(acknowledged)):
            pipeline.add(Range(namer.key_of(number)))
    for number, (told, result) in enumerate(zip(acknowledged, pipeline.results, strict=True)):
        if not isinstance(result, RangeResult):
            raise Failed(f"key {number} cannot be read: {result!r}")
        value = result.kvs[0].value if result.kvs else b""
        held = int.from_bytes(value[:8], "little")
        whole = not value or value[8:] == b"v" * (VALUE_BYTES - 8)
        if not told <= held <= told + 1 or not whole:
            problems.append(f"key {number} holds operation {held}, {told} was acknowledged")
    return problems


def check_counters(client: Client, incrementers: list[Incrementer]) -> list[str]:
    """What is wrong with the counters; nothing of the patient clients is under way."""
    problems = [surprise for each in incrementers for surprise in each.surprises]
    for counter in (SHARED, *(each.own for each in incrementers)):
        acknowledged = sum(each.acknowledged[counter] for each in incrementers)
        unknown = sum(each.unknown[counter] for each in incrementers)
        found = client.get(counter, timeout=PATIENT_S)
        value = int(found.value) if found else 0
        if not acknowledged <= value <= acknowledged + unknown:
            problems.append(f"{counter.decode()} is {value}: {acknowledged} acknowledged, {unknown} unknown")
    return problems


def kill_all(cluster: Cluster) -> None:
    """Every node, as nearly at once as one process can."""
    restarts = cluster.restarts()
    for node in cluster.processes():
        cluster.signal(node, signal.SIGKILL)
    cluster.until(
        lambda: all(cluster.restarts()[node] > restarts[node] for node in restarts), "every killed node starts again"
    )


def run(rounds: int, seconds: float, seed: int, engine: str) -> tuple[list[str], dict[str, Any]]:
    """(what was wrong, figures)"""
    rng = random.Random(seed)
    problems: list[str] = []
    with (
        Cluster(SETTINGS, engine=engine) as cluster,
        LoadProcess(cluster, clients=CLIENTS, value_bytes=VALUE_BYTES) as load,
        cluster.client(PATIENT_S) as client,
    ):
        incrementers = [Incrementer(cluster, number) for number in range(INCREMENTERS)]
        acknowledged: list[int] = []
        for number in range(rounds):
            for each in incrementers:
                each.resume()
            load.ask("resume")
            speed = load.measure(seconds * rng.uniform(0.5, 1.5))
            kill_all(cluster)
            acknowledged = load.pause()
            cluster.until(cluster.leader, "a leader after the crash")
            for each in incrementers:
                each.pause()
            found = check_load(client, acknowledged) + check_counters(client, incrementers)
            problems += found
            say(f"  {number + 1}: {speed:.0f}/s before, {sum(acknowledged)} acknowledged, {len(found)} problems")
            for problem in found[:5]:
                say(f"     {problem}")
        figures = {
            "rounds": rounds,
            "writes_acknowledged": sum(acknowledged),
            "increments_acknowledged": sum(sum(each.acknowledged.values()) for each in incrementers),
            "increments_unknown": sum(sum(each.unknown.values()) for each in incrementers),
            "load": load.ask("figures"),
            "problems": problems[:20],
        }
        for each in incrementers:
            each.stop()
    return problems, figures


def main() -> int:
    options = arguments(__doc__ or "", rounds=20, seconds=2.0, seed=1)
    with reported("crash") as report:
        say(f"kill -9 of all nodes under full load: {options.rounds} rounds")
        problems, figures = run(options.rounds, options.seconds, options.seed, options.engine)
        report.judge("lost, wrong or repeated writes after kill -9 of all nodes", len(problems), most=0)
        report.judge("writes acknowledged meanwhile", figures["writes_acknowledged"], least=1)
        report.judge("increments acknowledged meanwhile", figures["increments_acknowledged"], least=1)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())

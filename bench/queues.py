"""One queue under attack: every item is taken once, by one consumer.

    python bench/queues.py --seconds 120

Four producers put numbered items, four consumers take them; each writes what it is certain of to a file of its own, a
line at a time. Meanwhile producers and consumers are killed (kill -9) and started again, and the leader is killed,
stopped, or cut off from the other nodes, in turns. At the end what is left is taken too.

Must show: no item is told of twice; every item whose put was acknowledged is told of, but for at most one for each
consumer that was killed, or whose `take` ended without saying what it did: it may have died between the take and the
telling, which a queue cannot know (`hold` and `ack` are for that); nothing is taken that nobody put.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from harness import Failed, reported, say
from locks import strike_leaders
from relayed import RelayedCluster

from quorumd.client import Client
from quorumd.errors import Definite, Indefinite, QuorumdError
from quorumd.recipes import Queue
from quorumd.types import ENGINES

NODES, PRODUCERS, CONSUMERS = 3, 4, 4
QUEUE = "bench"
PUT_EVERY_S = 0.01
KILL_EVERY_S = 1.5
WAIT_S = 5.0
END_S = 60.0
ASKED, DONE, UNKNOWN = "asked", "done", "unknown"
ROLES = ("produce", "consume")


# -- one worker -----------------------------------------------------------------------------------------------------


class Diary:
    """What a worker is certain of, a line at a time; it outlives kill -9."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, item: str = "-") -> None:
        os.write(self._file, f"{word} {item}\n".encode())


def produce(queue: Queue, diary: Diary, name: str, end_s: float) -> None:
    """Puts one item after the other."""
    number = 0
    while time.monotonic() < end_s:
        number += 1
        item = f"{name}.{number}"
        diary.note(ASKED, item)
        try:
            queue.put(item.encode(), timeout=WAIT_S)
        except QuorumdError:
            continue  # it may be in the queue or not
        diary.note(DONE, item)
        time.sleep(random.uniform(0, 2 * PUT_EVERY_S))


def consume(queue: Queue, diary: Diary, _: str, end_s: float) -> None:
    """Takes one item after the other."""
    while time.monotonic() < end_s:
        try:
            item = queue.take(timeout=min(WAIT_S, max(0.0, end_s - time.monotonic())))
        except Definite:
            continue
        except Indefinite:
            diary.note(UNKNOWN)
            continue
        if item is not None:
            diary.note(DONE, item.decode())


def work(role: str, endpoints: list[str], path: str, end_s: float) -> None:
    """One life of a worker. end_s: of the monotonic clock, which all processes of a machine share."""
    with Client.connect(endpoints) as client:
        {"produce": produce, "consume": consume}[role](Queue(client, QUEUE), Diary(path), Path(path).name, end_s)


# -- the attack -----------------------------------------------------------------------------------------------------


class Workers:
    """The processes, each life of each with a diary of its own."""

    def __init__(self, base: Path, endpoints: list[str], end_s: float) -> None:
        self.killed: Counter[str] = Counter()
        self._base, self._endpoints, self._end_s = base, endpoints, end_s
        self._lives: Counter[str] = Counter()
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        for role, count in zip(ROLES, (PRODUCERS, CONSUMERS), strict=True):
            for _ in range(count):
                self._running.append((role, self._start(role)))

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        self._lives[role] += 1
        path = self._base / f"{role}-{self._lives[role]}"
        given = json.dumps([role, self._endpoints, str(path), self._end_s])
        return subprocess.Popen([sys.executable, __file__, "--work", given])

    async def strike(self) -> None:
        """Kills one after the other, and starts another in its place."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * KILL_EVERY_S)
            if time.monotonic() >= self._end_s - KILL_EVERY_S:
                return
            at = random.randrange(len(self._running))
            role, process = self._running[at]
            process.kill()
            process.wait()
            self.killed[role] += 1
            self._running[at] = role, self._start(role)

    async def end(self) -> None:
        """Waits for all of them. Raises Failed if one came to a bad end."""
        for role, process in self._running:
            if await asyncio.to_thread(process.wait, END_S):
                raise Failed(f"a process that was to {role} ended with exit code {process.returncode}")

    def kill(self) -> None:
        """Leaves none behind."""
        for _, process in self._running:
            process.kill()
            process.wait()

    def told(self, role: str, word: str) -> Counter[str]:
        """How often each item was noted so, in the diaries of all lives."""
        lines = [line.split() for path in self._base.glob(f"{role}-*") for line in path.read_text().splitlines()]
        return Counter(item for said, item in lines if said == word)


def drain(endpoints: list[str]) -> Counter[str]:
    """Takes what is left."""
    taken: Counter[str] = Counter()
    with Client.connect(endpoints) as client:
        queue = Queue(client, QUEUE)
        while (item := queue.take(timeout=0.0)) is not None:
            taken[item.decode()] += 1
    return taken


async def run(engine: str, seconds: float) -> dict[str, Any]:
    """One attack; what came of it."""
    async with RelayedCluster(engine, NODES) as nodes:
        endpoints, end_s = nodes.cluster.endpoints, time.monotonic() + seconds
        diaries = nodes.base / "diaries"
        diaries.mkdir()
        workers = Workers(diaries, endpoints, end_s)
        try:
            struck, _ = await asyncio.gather(strike_leaders(nodes, end_s), workers.strike())
            await workers.end()
        finally:
            workers.kill()
        await nodes.agree()
        left = await asyncio.to_thread(drain, endpoints)
        asked, put = workers.told("produce", ASKED), workers.told("produce", DONE)
        taken = workers.told("consume", DONE) + left
        unknown = workers.told("consume", UNKNOWN).total()
    return {
        "put": len(put), "put_unknown": len(asked) - len(put), "taken": len(taken), "left": len(left),
        "killed": dict(workers.killed), "leader": struck, "takes_unknown": unknown,
        "taken_twice": taken.total() - len(taken), "never_put": len(taken.keys() - asked.keys()),
        "not_told": len(put.keys() - taken.keys()), "may_be_untold": workers.killed["consume"] + unknown,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="with each engine (120)")
    parser.add_argument("--engine", choices=ENGINES, help="only this one (both)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*json.loads(options.work))
        return 0
    with reported("queues") as report:
        figures = {}
        for engine in [options.engine] if options.engine else ENGINES:
            say(f"{engine}: one queue, {PRODUCERS} producers, {CONSUMERS} consumers, {options.seconds:g} s")
            found = figures[engine] = asyncio.run(run(engine, options.seconds))
            report.judge(f"{engine}: items taken twice", found["taken_twice"], most=0)
            report.judge(f"{engine}: items taken that nobody put", found["never_put"], most=0)
            report.judge(f"{engine}: items put and not told of", found["not_told"], most=found["may_be_untold"])
            report.judge(f"{engine}: items put", found["put"], least=options.seconds)
            report.judge(f"{engine}: roles killed", len(found["killed"]), least=len(ROLES))
            report.judge(f"{engine}: kinds of leader fault", sum(map(bool, found["leader"].values())), least=3)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())

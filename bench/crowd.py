"""What watchers and leases cost: 10,000 watchers on one node, 2,000 leases kept alive, three nodes on this machine.

    python bench/crowd.py

One client watches so many keys, one watcher each, another writes those keys in turn at a steady rate with the time in
the value; the latency of an event is from before the write was begun to when the watcher's task has it. A third client
keeps the leases alive, each once a third of its TTL. Then nothing is written any more, and what the leases alone cost
is taken: CPU, and growth of the log.

Must show: every event reaches its watcher, p99 within 100 ms; the log does not grow for leases that are kept alive, and
none of them ends.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import psutil
from harness import Cluster, Failed, number, percentile, reported, say
from idle import cpu_s

from quorumd.client import AsyncClient
from quorumd.types import ENGINES

MOST_P99_MS = 100.0
TTL_S = 10.0
ATONCE = 200  # calls under way while watchers and leases are made
DEADLINE_S = 120.0
LAST_EVENTS_S = 5.0


class Usage:
    """CPU and memory of the nodes over the length of a `with`."""

    def __init__(self, cluster: Cluster) -> None:
        self.pids = {node: each.pid for node, each in cluster.processes().items()}
        self.figures: dict[str, dict[str, float]] = {}

    def __enter__(self) -> "Usage":
        self.begun_s = time.monotonic()
        self.begun = {node: cpu_s(pid) for node, pid in self.pids.items()}
        return self

    def __exit__(self, *error: object) -> None:
        took_s = time.monotonic() - self.begun_s
        for node, pid in self.pids.items():
            share = 100 * (cpu_s(pid) - self.begun[node]) / took_s
            rss_mb = psutil.Process(pid).memory_info().rss / 1e6
            self.figures[str(node)] = {"cpu_percent": round(share, 1), "rss_mb": round(rss_mb, 1)}


def key_of(watcher: int) -> bytes:
    return b"crowd/%06d" % watcher


async def watch(client: AsyncClient, watcher: int, begun: asyncio.Event, latencies: list[float]) -> None:
    """One watcher: notes how old each event is when it has it."""
    async with client.watch(key_of(watcher)) as watching:
        begun.set()
        async for batch in watching:
            now_ns = time.monotonic_ns()
            latencies += [(now_ns - int(event.kv.value)) / 1e6 for event in batch.events]


async def begin_watchers(client: AsyncClient, count: int, latencies: list[float]) -> list["asyncio.Task[None]"]:
    """All of them, begun."""
    tasks: list[asyncio.Task[None]] = []
    for first in range(0, count, ATONCE):
        begun = [asyncio.Event() for _ in range(first, min(first + ATONCE, count))]
        for watcher, event in enumerate(begun, first):
            tasks.append(asyncio.create_task(watch(client, watcher, event, latencies)))
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(event.wait() for event in begun))
    return tasks


async def write(client: AsyncClient, watchers: int, rate: float, seconds: float) -> int:
    """Puts at a steady rate, whatever the answers; how many."""
    begun_s = time.monotonic()
    puts = []
    while (passed_s := time.monotonic() - begun_s) < seconds:
        while len(puts) < passed_s * rate:
            value = b"%d" % time.monotonic_ns()
            puts.append(asyncio.create_task(client.put(key_of(len(puts) * 7919 % watchers), value)))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*puts)
    return len(puts)


async def keep_alive(client: AsyncClient, leases: list[int], lost: list[int]) -> None:
    """Every lease once a third of its TTL, spread evenly."""
    calls: set[asyncio.Task[None]] = set()
    begun_s, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begun_s) * len(leases) / (TTL_S / 3))
        for turn in range(done, due):
            call = asyncio.create_task(keep_one(client, leases[turn % len(leases)], lost))
            calls.add(call)
            call.add_done_callback(calls.discard)
        done = due
        await asyncio.sleep(0.01)


async def keep_one(client: AsyncClient, lease: int, lost: list[int]) -> None:
    try:
        await client.lease_keep_alive(lease)
    except Exception as error:
        say(f"  lease {lease}: {type(error).__name__}: {error}")
        lost.append(lease)


async def grant(client: AsyncClient, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        wave = min(ATONCE, count - len(found))
        found += [each.id for each in await asyncio.gather(*(client.lease_grant(TTL_S) for _ in range(wave)))]
    return found


def last(cluster: Cluster) -> int:
    """The end of the leader's log."""
    figures = cluster.figures()
    return number(figures[cluster.leader(figures)], "last")


def watchers_of(figures: Mapping[int, Mapping[str, object]]) -> int:
    """The most that one node serves."""
    return max(number(each, "watchers") for each in figures.values())


async def run(engine: str, options: argparse.Namespace) -> dict[str, Any]:
    with Cluster(engine=engine) as cluster:
        async with AsyncExitStack() as stack:
            endpoints = list(cluster.endpoints.values())
            watching, writing, keeping = [
                await stack.enter_async_context(await AsyncClient.connect(endpoints, timeout=30.0)) for _ in range(3)
            ]
            latencies: list[float] = []
            tasks = await begin_watchers(watching, options.watchers, latencies)
            say(f"  {options.watchers} watchers")
            leases, lost = await grant(keeping, options.leases), []
            tasks.append(asyncio.create_task(keep_alive(keeping, leases, lost)))
            say(f"  {len(leases)} leases")
            served = watchers_of(cluster.figures())
            with Usage(cluster) as busy:
                puts = await write(writing, options.watchers, options.rate, options.seconds)
            deadline_s = time.monotonic() + LAST_EVENTS_S
            while len(latencies) < puts and time.monotonic() < deadline_s:
                await asyncio.sleep(0.01)
            before = last(cluster)
            with Usage(cluster) as calm:
                await asyncio.sleep(options.seconds)
            grown = last(cluster) - before
            alive = len(await keeping.leases())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if not latencies:
        raise Failed("no watcher heard of anything")
    return {
        "watchers_on_one_node": served, "leases": alive, "keep_alives_failed": len(lost), "puts": puts,
        "events": len(latencies), "event_p50_ms": round(percentile(latencies, 0.5), 2),
        "event_p99_ms": round(percentile(latencies, 0.99), 2), "event_max_ms": round(max(latencies), 2),
        "nodes_with_writes": busy.figures, "nodes_with_leases_only": calm.figures, "log_growth": grown,
        "log_growth_s": options.seconds,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, help="only this one (both)")
    parser.add_argument("--watchers", type=int, default=10_000, help="(10000)")
    parser.add_argument("--leases", type=int, default=2_000, help="(2000)")
    parser.add_argument("--rate", type=float, default=200.0, help="puts a second (200)")
    parser.add_argument("--seconds", type=float, default=20.0, help="with writes, and as long without (20)")
    options = parser.parse_args()
    with reported("crowd") as report:
        figures = {}
        for engine in [options.engine] if options.engine else ENGINES:
            say(f"{engine}: {options.watchers} watchers, {options.leases} leases")
            found = figures[engine] = asyncio.run(run(engine, options))
            report.judge(f"{engine}: watchers on one node", found["watchers_on_one_node"], least=options.watchers)
            report.judge(f"{engine}: events that are missing", found["puts"] - found["events"], most=0)
            report.judge(f"{engine}: latency of an event, p99, ms", found["event_p99_ms"], most=MOST_P99_MS)
            report.judge(f"{engine}: leases that ended", options.leases - found["leases"], most=0)
            report.judge(f"{engine}: entries of the log for idle leases", found["log_growth"], most=options.seconds)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())

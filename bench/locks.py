"""One lock under attack: no fenced write is ever out of order, and unfenced ones are.

    python bench/locks.py --seconds 300

Eight processes contend for one lock with sessions of a second. Whoever holds it decides to write, and writes twice:
once guarded by its fencing token, once not. Meanwhile holders are stopped (SIGSTOP) for longer than their session
lasts, and the leader is killed, stopped, or cut off from the other nodes, in turns.

Must show: the guarded writes are in the order of their tokens, all of them; the unguarded ones are not, which is what a
token is for; every kind of fault struck; the lock's keys are gone at the end.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

from harness import Failed, reported, say
from relayed import CUT, RelayedCluster

from quorumd.client import AsyncClient, Client, Put
from quorumd.errors import QuorumdError
from quorumd.recipes import Lock, NotHeld, Session, SessionLost
from quorumd.types import ENGINES

TTL_S = 1.0
STOPS_S = (0.2, 1.8, 3.0)  # of holders: within their session, beyond it, far beyond it
LEADER_FAULTS = ("kill", "stop", "cut off")
LEADER_FAULT_S = 2.0
CALM_S = 5.0  # between faults of the leader
CLEANUP_S = 30.0
NODES, PROCESSES = 3, 8
LOCK, FENCED, UNFENCED = b"bench", b"bench/fenced", b"bench/unfenced"
KEYS = (b"quorumd/lock/bench/", b"quorumd/lock/bench0")


# -- one contender --------------------------------------------------------------------------------------------------


def contend(endpoints: list[str], seconds: float) -> dict[str, int]:
    """Takes the lock over and over; how often it held it, lost it, and could not say."""
    end_s = time.monotonic() + seconds
    told = {"held": 0, "lost": 0, "failed": 0}
    with Client.connect(endpoints) as client:
        while time.monotonic() < end_s:
            try:
                with Session(client, ttl=TTL_S) as session:
                    while time.monotonic() < end_s:
                        hold(client, session)
                        told["held"] += 1
            except (SessionLost, NotHeld):
                told["lost"] += 1
            except QuorumdError:
                told["failed"] += 1
    return told


def hold(client: Client, session: Session) -> None:
    """Takes the lock once, and writes both ways if it believes that it has it."""
    with Lock(session, LOCK, value=b"%d" % os.getpid()) as lock:
        token = lock.token
        if lock.holds():
            time.sleep(random.random() / 20)  # it has decided to write; here it may be stopped
            client.put(UNFENCED, b"%d" % token)
            client.txn([token.guard()], [Put(FENCED, b"%d" % token)])


# -- the attack -----------------------------------------------------------------------------------------------------


async def stop_holders(client: AsyncClient, pids: set[int], end_s: float) -> int:
    """Stops whoever holds the lock, for some time; how often."""
    stopped = 0
    while time.monotonic() < end_s:
        await asyncio.sleep(0.2)
        try:
            found = await client.range(*KEYS, limit=1, sort_target="create", order="ascend", timeout=TTL_S)
        except QuorumdError:
            continue
        pid = int(found.kvs[0].value) if found.kvs else 0
        if pid in pids:
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(random.choice(STOPS_S))
            finally:
                os.kill(pid, signal.SIGCONT)
            stopped += 1
    return stopped


async def strike_leaders(nodes: RelayedCluster, end_s: float) -> dict[str, int]:
    """The faults in turns; how often each struck."""
    struck = dict.fromkeys(LEADER_FAULTS, 0)
    for number, fault in enumerate(itertools.cycle(LEADER_FAULTS), 1):
        await asyncio.sleep(CALM_S)
        if time.monotonic() >= end_s - LEADER_FAULT_S:
            return struck
        leader, cluster = nodes.leader, nodes.cluster
        if not leader:
            continue
        if fault == "kill":
            await cluster.stop([leader], number)
            await asyncio.sleep(LEADER_FAULT_S)
            await cluster.release([leader], number)
        elif fault == "stop":
            cluster.pause([leader], number)
            await asyncio.sleep(LEADER_FAULT_S)
            cluster.resume([leader], number)
        else:
            cluster.set_links({link: CUT for link in cluster.links if leader in link}, number)
            await asyncio.sleep(LEADER_FAULT_S)
            cluster.clear_links(number)
        struck[fault] += 1
        say(f"  {fault}: node {leader}, {max(0.0, end_s - time.monotonic()):.0f} s left")
    return struck


async def written(client: AsyncClient, key: bytes, since: int) -> list[int]:
    """Every value that the key has had since that revision, in order."""
    newest = await client.get(key)
    values: list[int] = []
    if newest is None:
        return values
    async with client.watch(key, start_revision=since) as watch:
        while watch.revision < newest.mod_revision or not values:
            values += [int(event.kv.value) for event in (await watch.get(CLEANUP_S)).events]
    return values


def disorder(values: list[int]) -> int:
    """How often a token came after a higher one."""
    return sum(before > after for before, after in itertools.pairwise(values))


async def run(engine: str, seconds: float) -> dict[str, Any]:
    """One attack; what came of it."""
    async with RelayedCluster(engine, NODES) as nodes, await AsyncClient.connect(nodes.cluster.endpoints) as client:
        since = (await client.put(b"bench/start", b"")).revision
        end_s = time.monotonic() + seconds
        command = [sys.executable, __file__, "--contend", json.dumps([nodes.cluster.endpoints, seconds])]
        contenders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
        told = []
        try:
            stopped, struck = await asyncio.gather(
                stop_holders(client, {each.pid for each in contenders}, end_s), strike_leaders(nodes, end_s)
            )
            for each in contenders:
                printed, _ = await asyncio.to_thread(each.communicate, timeout=4 * CLEANUP_S)
                if each.returncode:
                    raise Failed(f"a contender ended with exit code {each.returncode}")
                told.append(json.loads(printed))
        finally:
            for each in contenders:
                each.kill()
                each.wait()
        await nodes.agree()
        fenced, unfenced = await written(client, FENCED, since), await written(client, UNFENCED, since)
        left = (await client.range(*KEYS, count_only=True)).count
    return {
        **{what: sum(each[what] for each in told) for what in ("held", "lost", "failed")},
        "holders_stopped": stopped, "leader": struck, "keys_left": left,
        "fenced": len(fenced), "fenced_out_of_order": disorder(fenced),
        "unfenced": len(unfenced), "unfenced_out_of_order": disorder(unfenced),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="with each engine (300)")
    parser.add_argument("--engine", choices=ENGINES, help="only this one (both)")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        print(json.dumps(contend(*json.loads(options.contend))))
        return 0
    with reported("locks") as report:
        figures = {}
        for engine in [options.engine] if options.engine else ENGINES:
            say(f"{engine}: one lock, {PROCESSES} processes, {options.seconds:g} s")
            found = figures[engine] = asyncio.run(run(engine, options.seconds))
            report.judge(f"{engine}: fenced writes out of order", found["fenced_out_of_order"], most=0)
            report.judge(f"{engine}: unfenced writes out of order", found["unfenced_out_of_order"], least=1)
            report.judge(f"{engine}: fenced writes", found["fenced"], least=options.seconds)
            report.judge(f"{engine}: holders stopped", found["holders_stopped"], least=1)
            report.judge(f"{engine}: kinds of leader fault", sum(map(bool, found["leader"].values())), least=3)
            report.judge(f"{engine}: keys left", found["keys_left"], most=0)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())

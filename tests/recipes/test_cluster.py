"""Locks and queues on real processes, while the leader is killed: nobody notices but by waiting."""

import collections
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from quorumd.client import Client, Put
from quorumd.errors import Indefinite, NotLeader
from quorumd.recipes import Lock, Queue, Session

WORKERS, TURNS, ITEMS = 3, 12, 40
DEADLINE = 60.0  # seconds, of the whole test


@pytest.fixture
def kill_leader(cluster):
    def kill():
        nodes = json.loads(cluster.run("status", "--json").stdout)["nodes"]
        (leader,) = (node["pid"] for node in nodes if node["role"] == "leader")
        os.kill(leader, signal.SIGKILL)

    return kill


def test_locks_and_queues_outlive_a_leader(cluster, kill_leader):
    begun = threading.Event()
    tokens, taken, unsure = [], [], []

    def own():
        with Client(cluster.endpoints, timeout=DEADLINE) as client, Session(client, ttl=30.0) as session:
            for turn in range(TURNS):
                with Lock(session, b"cluster/lock", timeout=DEADLINE) as lock:
                    tokens.append(int(lock.token))
                    done = client.txn([lock.token.guard()], [Put(b"cluster/token", b"%d" % lock.token)])
                    assert done.succeeded and lock.holds()
                if turn == TURNS // 3:
                    begun.set()
            assert session.alive

    def produce(number):
        with Client(cluster.endpoints, timeout=DEADLINE) as client:
            queue = Queue(client, b"cluster/queue")
            for n in range(ITEMS):
                queue.put(b"%d-%d" % (number, n))

    def consume():
        with Client(cluster.endpoints, timeout=DEADLINE) as client:
            queue = Queue(client, b"cluster/queue")
            while len(taken) + len(unsure) < 2 * ITEMS:
                try:
                    value = queue.take(0.5)
                except Indefinite as error:
                    unsure.append(error)
                except NotLeader:
                    continue
                else:
                    taken.extend([] if value is None else [value])

    with ThreadPoolExecutor(WORKERS + 4) as pool:
        running = [pool.submit(own) for _ in range(WORKERS)]
        running += [pool.submit(produce, number) for number in range(2)]
        running += [pool.submit(consume) for _ in range(2)]
        assert begun.wait(DEADLINE)
        kill_leader()
        for future in running:
            future.result(DEADLINE)
    assert tokens == sorted(set(tokens)) and len(tokens) == WORKERS * TURNS
    assert max(collections.Counter(taken).values()) == 1
    assert len(taken) + len(unsure) >= 2 * ITEMS
    with Client(cluster.endpoints, timeout=DEADLINE) as client:
        assert int(client.get(b"cluster/token").value) == tokens[-1]
        assert client.range(b"quorumd/lock/cluster", b"quorumd/lock/clustes").count == 0
        assert not client.leases()

"""A simulated computer stops its process amid a turn as Linux does: the clock was read, the sockets were not."""

import pytest

from quorumd import limits
from quorumd.consensus.engine import Role
from quorumd.sim.cluster import Cluster
from quorumd.sim.scenario import Scenario

MS = limits.MILLISECOND
HALF_HEARTBEAT_MS = 20


@pytest.fixture
def stopped():
    """(the cluster, a follower whose process a pause has stopped amid a turn, the times that its turns end with)."""
    cluster = Cluster(Scenario(1, 3, clients=1, workers=1, per_second=20.0))
    advance(cluster, 2_000)
    machine = next(m for m in cluster.machines.values() if m.core.engine.role is not Role.LEADER)
    times, finish = [], machine.core.finish
    machine.core.finish = lambda now, latest: (times.append((now, latest)), finish(now, latest))
    machine.pause(amid_turn=True)
    assert not machine.paused
    while not machine.paused:
        advance(cluster, 1)
    times.clear()
    return cluster, machine, times


def advance(cluster, ms):
    cluster.world.run(cluster.world.now + ms * MS)


def test_the_turn_goes_on_with_the_time_at_which_it_began(stopped):
    cluster, machine, times = stopped
    advance(cluster, 35)
    assert times == []
    resumed = machine.clock
    machine.resume()
    advance(cluster, 1)
    now, latest = times[0]
    assert resumed - 37 * MS <= now <= resumed - 35 * MS < resumed <= latest <= resumed + MS


@pytest.mark.parametrize("ms", [HALF_HEARTBEAT_MS - 5, HALF_HEARTBEAT_MS + 5])
def test_what_a_pause_amid_a_turn_cost_is_a_stall_of_the_next_however_early_that_comes(stopped, ms):
    cluster, machine, times = stopped
    told = []
    machine.on_event = lambda node, what, detail: told.append(what)
    advance(cluster, ms)
    machine.resume()
    while len(times) < 2:
        advance(cluster, 1)
    assert ("stalled" in told) == (ms > HALF_HEARTBEAT_MS)


def test_a_socket_that_woke_nobody_is_not_read_in_that_turn(stopped):
    """What comes while a process is stopped waits for the turn after: poll had named the sockets before."""
    cluster, machine, _ = stopped
    machine._interrupted = machine._interrupted[0], False, False
    advance(cluster, HALF_HEARTBEAT_MS - 5)
    heard, on_peers = [], machine.core.on_peers
    machine.core.on_peers = lambda slab, now: (heard.append(machine.turns), on_peers(slab, now))
    machine._peer_queue.append((b"noise", b"peer1"))
    turn = machine.turns + 1
    machine.resume()
    while not heard:
        advance(cluster, 1)
    assert heard[0] == turn + 1


def test_a_process_killed_amid_a_turn_does_not_end_it(stopped):
    cluster, machine, times = stopped
    machine.stop()
    machine.disk.killed()
    assert machine.start()
    advance(cluster, 200)
    assert times == []

"""A disk that is full to the last sector stops a node, by no defect, and only until there is room."""

import re

import pytest
from world import MS, Caller, World, fill_disk

from quorumd import limits
from quorumd.commands import PutResult
from quorumd.errors import NoRoom
from quorumd.storage import RECORD_OVERHEAD

pytestmark = pytest.mark.usefixtures("either_engine")

RESTART_MS = 500


class Supervised(World):
    """Starts a node again that stopped for want of room, as the supervisor does."""

    def __init__(self, *arguments, **settings):
        self.stopped = []  # (node, reason)
        self.restarts = {}
        super().__init__(*arguments, **settings)

    def _turn(self, i, member):
        try:
            super()._turn(i, member)
        except NoRoom as error:
            self._stopped(i, error)

    def _stopped(self, i, error):
        self.stopped.append((i, str(error)))
        self.stop(i)
        self.restarts[i] = self.now + RESTART_MS * MS

    def step(self, ms=1):
        for _ in range(ms):
            super().step()
            for i in [i for i, when in self.restarts.items() if when <= self.now]:
                del self.restarts[i]
                try:
                    self.start(i)
                except NoRoom as error:
                    self._stopped(i, error)


def use_up(member):
    """Fills the disk to the margin that is kept for hard states, with hard states."""
    fill_disk(member)
    core, storage = member.core, member.core.storage
    while storage._room_here() >= 0:
        storage.write(core._last_seq, storage.hard_state, [], core.applier.commit)
        if len(member.disk.unsynced) > limits.WAL_QUEUE_BATCHES:
            member.disk.sync()


def test_elections_that_use_up_a_full_disk_stop_nodes_that_go_on_once_there_is_room():
    world = Supervised(3, seed=51)
    world.elect()
    caller = Caller(world).open()
    assert isinstance(caller.put(b"k", b"v"), PutResult)
    world.step(200)
    for member in world.members.values():
        use_up(member)
    for _ in range(100):
        if len({i for i, _ in world.stopped}) > 1:
            break
        leader = world.leader()
        if leader is not None:
            world.isolate(leader.settings.node)
        world.step(1500)
        world.heal()
        world.step(500)
    assert len({i for i, _ in world.stopped}) > 1
    assert re.search(r"wal-0+1\.seg is full.*\(ENOSPC\).*make room", world.stopped[0][1])
    for member in world.members.values():
        member.disk.prepare_errno = 0
    stopped = len(world.stopped)
    world.until(lambda: not world.restarts and world.leader(), 5000)
    assert caller.get(b"k") == b"v"
    assert isinstance(caller.put(b"k", b"w"), PutResult)
    assert len(world.stopped) == stopped


def test_an_idle_node_leaves_the_margin_of_a_full_disk_to_hard_states():
    world = World(1, seed=52)
    world.elect()
    assert isinstance(Caller(world).open().put(b"k", b"v"), PutResult)
    world.step(200)
    member = world.members[1]
    use_up(member)
    core, storage = member.core, member.core.storage
    for _ in range(12):  # each calls for another idle batch
        before = storage._offset
        storage.write(core._last_seq, storage.hard_state, [], core.applier.commit)
        world.step(200)
        assert storage._offset == before + limits.SECTOR_BYTES


def test_a_log_without_room_for_a_vote_is_given_its_next_segment_before_the_node_speaks():
    """In the background it would be begun anew with every start, each ended by the first vote asked for."""
    world = World(1, seed=53)
    world.elect()
    member = world.members[1]
    use_up(member)
    core, storage = member.core, member.core.storage
    while storage._fits(RECORD_OVERHEAD):
        storage.write(core._last_seq, storage.hard_state, [], core.applier.commit)
    world.stop(1)
    with pytest.raises(NoRoom):
        world.start(1)
    member.disk.prepare_errno = 0
    world.start(1)
    assert member.disk.segments() == [1, 2] and member.core.storage._ahead == [2]
    world.elect()

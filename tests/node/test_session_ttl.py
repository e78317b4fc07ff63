"""Who may end a session, and when: a full TTL after the leader's own election at the earliest (DESIGN 7)."""

import pytest
from world import MS, Caller, World

from quorumd.commands import Kind, PutResult

pytestmark = pytest.mark.usefixtures("either_engine")

TTL_MS = 2000


def restart_all(world, after_ms):
    world.step(200)  # until an idle batch has told every disk what is committed
    for i in world.ids:
        world.stop(i)
    world.now += after_ms * MS
    for i in world.ids:
        world.start(i)
    world.elect()


def test_a_restart_longer_than_the_ttl_ends_no_session():
    world = World(session_ttl=TTL_MS * MS)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"1")
    for _ in range(5):
        restart_all(world, 3 * TTL_MS)
        assert isinstance(caller.put(b"k", b"2"), PutResult)


def test_a_leader_that_heard_of_no_keep_alives_before_its_election_ends_no_session():
    world = World(session_ttl=TTL_MS * MS)
    caller = Caller(world)
    first = world.elect()
    caller.target = first
    caller.open()
    for _ in range(3):
        for _ in range(3):  # the session lives on keep-alives that only the leader hears of
            world.step(TTL_MS // 2)
            caller.request(Kind.KEEP_ALIVE, 1, b"")
        world.isolate(world.elect())
        world.step(1000)
        world.until(lambda: world.leader() is not None)
        world.heal()
        world.step(500)
        assert isinstance(caller.put(b"k", b"v"), PutResult)

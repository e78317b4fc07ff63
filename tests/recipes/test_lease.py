"""Leases and names, each rule for itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_world import CALM, MS, QUICK, SECOND, Faults, World

from quorumd.commands import LeaseGrant, LeaseKeepAliveResult, Put, TxnResult
from quorumd.errors import ConnectionLost, DiskFull, LeaseNotFound, NotLeader, Timeout
from quorumd.limits import MAX_KEY_BYTES, RECIPE_NAME_BYTES, SESSION_ATTEMPT
from quorumd.recipes.effects import Call, Clock, Pause
from quorumd.recipes.errors import SessionLost
from quorumd.recipes.fencing import Token
from quorumd.recipes.keys import end_of, escaped, prefix_of, unescaped
from quorumd.recipes.lease import Lease, grant, keep, revoke, sweep
from quorumd.recipes.lock import Lock

KINDS = ("lock", "rwlock", "queue")
NAMES = st.binary(max_size=12) | st.text("a/%2F", max_size=6).map(str.encode)


@given(NAMES, NAMES)
def test_no_names_keys_are_among_anothers(one, other):
    first, second = prefix_of("lock", one), prefix_of("lock", other)
    assert unescaped(escaped(one)) == one
    assert second.startswith(first) is (one == other)
    assert (first <= second + b"x" < end_of(first)) is (one == other)


def test_names_that_are_none():
    assert prefix_of("lock", "\u00e4/b") == b"quorumd/lock/\xc3\xa4%2Fb/"
    with pytest.raises(TypeError):
        prefix_of("lock", 7)
    with pytest.raises(ValueError, match="bytes"):
        prefix_of("lock", b"x" * (RECIPE_NAME_BYTES + 1))
    assert len(prefix_of("doublebarrier", b"/" * RECIPE_NAME_BYTES)) < MAX_KEY_BYTES


def test_locks_of_nested_names_do_not_contend():
    world = World(1)
    actor = world.actor("one")

    def script():
        lease = yield from actor.session()
        for name in (b"", b"a", b"a/b", b"a/", b"%2F", b"/", b"\x00\xff"):
            assert (yield from Lock(lease, name).try_acquire()) is not None, name
        lease.lose("the process ends")

    world.finish(actor.spawn(script()))


def test_a_token_is_a_number_that_knows_its_key():
    token = Token(7, b"k")
    assert token == 7 and f"{token}" == "7" and token < Token(8, b"k")
    assert token.guard().key == b"k" and token.guard().operand == 7
    assert repr(token) == "Token(7, b'k')"


def drive(script, now, answer):
    """The script's first effect that is not Clock, once `answer` was given to the effect before."""
    effect = script.send(answer) if answer is not None else next(script)
    while isinstance(effect, Clock):
        effect = script.send(now)
    return effect


def test_keep_alives_count_from_when_they_were_sent():
    lease = Lease(9, 9 * SECOND, sent=0)
    script = keep(lease)
    pause = drive(script, SECOND, None)
    assert pause == Pause(3 * SECOND, interruptible=True)
    call = drive(script, 3 * SECOND, 0)
    assert isinstance(call, Call) and call.until == 4 * SECOND
    assert lease.safe_until == 9 * SECOND - 9 * SECOND // 10


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (LeaseNotFound("gone"), True), (ConnectionLost("closed"), True), (Timeout("no answer"), False),
        (NotLeader("nobody"), False), (DiskFull("full"), False),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_only_two_errors_end_a_lease_at_once(error, lost):
    lease = Lease(9, 9 * SECOND, sent=0)
    script = keep(lease)
    drive(script, 3 * SECOND, None)
    if lost:
        with pytest.raises(StopIteration):
            script.throw(error)
    else:
        effect = script.throw(error)
        while isinstance(effect, Clock):
            effect = script.send(3 * SECOND + 1)
        assert isinstance(effect, Pause)
    assert bool(lease.lost) is lost


def test_a_lease_that_nobody_confirms_is_lost_a_margin_early():
    lease = Lease(9, 10 * SECOND, sent=0)
    assert lease.alive(9 * SECOND - 1)
    with pytest.raises(SessionLost, match="in time"):
        lease.require(9 * SECOND)
    lease.confirmed(8 * SECOND, 10 * SECOND, 8 * SECOND)
    assert not lease.alive(9 * SECOND), "what is lost stays lost"
    assert not lease.close()


def test_an_answer_that_is_read_too_late_revives_nothing():
    """The process stood still with the answer in its socket: it may have told somebody that the lease is lost."""
    lease = Lease(9, 9 * SECOND, sent=0)
    script = keep(lease)
    drive(script, 3 * SECOND, None)
    with pytest.raises(StopIteration):
        drive(script, lease.safe_until, LeaseKeepAliveResult(1, 9_000))
    assert "in time" in lease.lost and lease.sent == 0


def test_who_loses_a_lease_wakes_its_keeper():
    lease = Lease(9, 9 * SECOND, sent=0)
    woken = []
    lease.nudge = lambda: woken.append(lease.lost)
    lease.lose("the cluster ended the lease")
    assert woken == ["the cluster ended the lease"]


def test_closing_twice_is_no_loss_and_revokes_until_it_is_revoked():
    lease = Lease(9, 9 * SECOND, sent=0)
    assert lease.close() and lease.close() and lease.closed
    for error in (Timeout("no answer"), LeaseNotFound("gone")):
        assert lease.close()
        script = revoke(lease, SECOND)
        next(script)
        with pytest.raises((Timeout, StopIteration)):
            script.throw(error)
    assert lease.closed and not lease.close()


def test_errands_do_not_hold_off_the_keep_alive():
    lease = Lease(9, 60 * SECOND, sent=0)
    for key in (b"a", b"b"):
        lease.drop(key)
    script = keep(lease)
    calls = [drive(script, SECOND, None), drive(script, SECOND, TxnResult(2, True, ()))]
    assert [call.until for call in calls] == [SECOND + SESSION_ATTEMPT] * 2


def test_a_session_is_not_born_lost():
    """Its TTL counts from when the grant was sent: while nobody leads it is sent again and again."""
    world = World(1, QUICK)
    world.unreachable.append((0, 4 * SECOND))

    def script():
        lease = yield from grant(2 * SECOND, world.now + 10 * SECOND)
        assert lease.alive((yield Clock()))
        assert world.now < 5 * SECOND
        lease.lose("the process ends")

    world.finish(world.actor("one").spawn(script()))


def test_errands_spare_what_is_anothers():
    world = World(1, CALM)
    actor = world.actor("one")

    def script():
        mine = yield from actor.session(ttl=60 * SECOND)
        other = (yield Call(LeaseGrant(60_000))).id
        for key, owner in ((b"mine", mine.id), (b"theirs", other), (b"nobodys", 0)):
            yield Call(Put(key, b"", owner))
            mine.drop(key)
        mine.drop(b"never was")
        while mine.errands:
            yield Pause((yield Clock()) + 10 * MS)
        assert sorted(world.model.kvs) == [b"nobodys", b"theirs"]
        mine.close()

    world.finish(actor.spawn(script()))


def test_errands_are_tried_until_they_are_done(seed):
    world = World(seed, Faults(lost_request=0.5))
    actor = world.actor("one")

    def script():
        lease = yield from actor.session(ttl=60 * SECOND)
        world.model.execute(Put(b"k", b"", lease.id))
        lease.drop(b"k")
        while not (yield from sweep(lease, (yield Clock()) + SECOND)):
            continue
        assert b"k" not in world.model.kvs
        lease.close()

    world.finish(actor.spawn(script()))

"""Restart policy: pure decisions."""

import signal

import pytest

from quorumd import node
from quorumd.config import CrashLoop
from quorumd.supervisor.policy import NOT_STARTED, NodeExit, RestartPolicy, describe_exit


def policy(shortest=100, longest=5000, restarts=5, within_s=30) -> RestartPolicy:
    return RestartPolicy((shortest, longest), CrashLoop(restarts=restarts, within_s=within_s))


def test_the_wait_doubles_up_to_the_longest():
    subject = policy(restarts=100)
    assert [subject.on_exit(1, 0.0).delay_s for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_the_wait_starts_over_after_a_steady_life():
    subject = policy()
    subject.on_exit(1, 0.0)
    assert subject.on_exit(1, 10.0, 0.9).delay_s == 0.2
    assert subject.on_exit(1, 20.0, 1.0).delay_s == 0.1


@pytest.mark.parametrize("code", [-9, NOT_STARTED])
def test_kills_from_outside_are_no_crash_loop(code):
    subject = policy(restarts=3)
    assert all(subject.on_exit(code, 0.1 * i, 0.0).delay_s is not None for i in range(50))
    assert subject.on_exit(code, 10.0, 1.0).delay_s == 0.1
    assert all(subject.on_exit(1, now).delay_s is not None for now in (11.0, 12.0, 13.0))
    assert subject.on_exit(1, 14.0).delay_s is None


def test_a_full_disk_is_waited_for_with_growing_waits():
    """Nothing is broken, and each try reads the whole log."""
    subject = policy(restarts=3)
    assert [subject.on_exit(NodeExit.NO_ROOM, 2.0 * i, 1.5).delay_s for i in range(8)] == [
        0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0
    ]  # fmt: skip
    assert subject.on_exit(1, 20.0, 2.0).delay_s == 0.1


@pytest.mark.parametrize(("code", "word"), [(2, "config"), (4, "disk error")])
def test_some_ends_are_final(code, word):
    delay_s, reason = policy().on_exit(code, 0.0)
    assert delay_s is None
    assert word in reason


@pytest.mark.parametrize("code", [0, 1, 6, -9, -15])
def test_others_are_not(code):
    assert policy().on_exit(code, 0.0).delay_s == 0.1


def test_a_crash_loop_is_stopped_with_its_reason():
    subject = policy(restarts=3, within_s=30)
    assert all(subject.on_exit(1, now).delay_s is not None for now in (0.0, 1.0, 2.0))
    assert subject.on_exit(-11, 3.0) == (None, "crash loop: 3 restarts in 30 s, last: killed by SIGSEGV")


def test_restarts_that_are_spread_out_are_no_crash_loop():
    subject = policy(restarts=3, within_s=30)
    assert all(subject.on_exit(1, 11.0 * i).delay_s is not None for i in range(50))


def test_a_wait_of_zero_is_allowed():
    assert policy(0, 0).on_exit(1, 0.0).delay_s == 0.0


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "stopped cleanly"), (-signal.SIGKILL, "killed by SIGKILL"), (-100, "killed by signal 100"),
     (6, "a defect stopped it (exit code 6)"), (4, "disk error (exit code 4)"), (77, "exit code 77"),
     (5, "no room on its disk (exit code 5)"),
     (NOT_STARTED, "no process")],
)  # fmt: skip
def test_exit_codes_in_words(code, words):
    assert describe_exit(code) == words


def test_a_node_ends_with_the_codes_that_its_supervisor_knows():
    named = {name.removeprefix("EXIT_"): code for name, code in vars(node).items() if name.startswith("EXIT_")}
    assert named == {
        "OK": NodeExit.CLEAN, "CONFIG": NodeExit.CONFIG, "DISK": NodeExit.DISK, "NO_ROOM": NodeExit.NO_ROOM,
        "HALTED": NodeExit.INVARIANT,
    }

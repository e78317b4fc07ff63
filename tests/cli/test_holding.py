"""How long a command may live on once what protected it is lost."""

import signal
import time
from types import SimpleNamespace

import pytest

from quorumd.cli import holding
from quorumd.limits import SECOND
from quorumd.recipes.lease import Lease

SENT = 100 * SECOND  # when the last keep-alive left that was answered


@pytest.mark.parametrize(
    ("now_s", "ttl_s", "grace_s", "left_s"),
    [
        (109.0, 10, 5.0, 1.0),  # a tenth of the TTL early, as it should be: then others may hold it
        (109.75, 10, 5.0, 0.25),  # noticed late
        (145.0, 50, 5.0, 5.0),
        (145.0, 50, 600.0, 5.0),
        (3700.0, 10, 5.0, 0.0),  # it stood still meanwhile
        (101.0, 10, 5.0, 0.0),  # before its time: the cluster ended it
    ],
)
def test_a_command_is_killed_before_others_may_hold_what_it_held(monkeypatch, now_s, ttl_s, grace_s, left_s):
    done, delays = [], []

    class Timer:
        def __init__(self, interval, function):
            delays.append(interval)
            self.function = function

        def start(self):
            self.function()

        def cancel(self):
            done.append("cancel")

    process = SimpleNamespace(
        returncode=None, terminate=lambda: done.append("terminate"), kill=lambda: done.append("kill"),
        wait=lambda: done.append("wait"),
    )  # fmt: skip
    lease = Lease(1, ttl_s * SECOND, SENT)
    held = holding.Holding(SimpleNamespace(session=SimpleNamespace(lease=lease)), ["true"], grace_s)
    held._process = process
    monkeypatch.setattr(holding.threading, "Timer", Timer)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: int(now_s * SECOND))
    held._end(lease.lost)
    assert delays == [left_s]
    assert done == ["terminate", "kill", "wait", "cancel"]


def test_ignored_signals_are_left_alone():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN), signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        assert holding.handle(holding.leave_the_line, signal.SIGUSR1, signal.SIGUSR2) == {
            signal.SIGUSR2: signal.SIG_DFL
        }
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGUSR2, before[1])

"""`quorumd lock`, `elect`, `lease` and `txn` against a real cluster, as a shell script would use them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quorumd.client import Client
from quorumd.commands import Put
from quorumd.recipes import Observer, Token

GUARDED = f"{sys.executable} -m quorumd txn --guard --then 'put shell/guarded yes'"


@pytest.fixture
def client(cluster):
    with Client.connect(cluster.endpoints) as connected:
        yield connected


def test_a_command_runs_under_a_lock_and_its_code_is_the_exit_code(cluster, client):
    done = cluster.run("lock", "shell/a", "--", "sh", "-c", f'{GUARDED}; echo "$QUORUMD_FENCING_TOKEN"; exit 7')
    assert done.returncode == 7, done.stderr
    *_, token = done.stdout.split()
    assert int(token) < client.get(b"shell/guarded").mod_revision
    assert client.range(b"quorumd/lock/shell", b"quorumd/lock/shelm").count == 0


@pytest.mark.parametrize(("command", "code"), [(["sh", "-c", "kill -9 $$"], 137), (["/nonesuch"], 127), (["/"], 126)])
def test_a_command_that_dies_or_is_none(cluster, command, code):
    assert cluster.run("elect", "shell/b", "--", *command).returncode == code


def test_who_does_not_get_it_runs_nothing(cluster):
    inner = f"{sys.executable} -m quorumd lock --wait 0 shell/c -- echo twice"
    done = cluster.run("lock", "shell/c", "--", "sh", "-c", inner)
    assert done.returncode == 1
    assert "twice" not in done.stdout and "somebody else has it" in done.stderr
    assert cluster.run("lock", "shell/c").returncode == 2


def holding(cluster, *command, stubborn=False):
    """A command that leads, says so, and waits for the end of its stdin."""
    script = "trap '' TERM; " if stubborn else ""
    process = cluster.start(
        *command, "--", "sh", "-c", f"{script}echo leading; cat >/dev/null",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "leading\n"
    return process


@pytest.mark.parametrize("stubborn", [False, True], ids=["polite", "stubborn"])
def test_a_command_is_ended_when_what_it_holds_is_lost(cluster, client, stubborn):
    """At once, whatever the grace: somebody else may hold it."""
    process = holding(cluster, "elect", "--ttl", "2", "--grace", "600", "--value", "me", "shell/d", stubborn=stubborn)
    try:
        assert Observer(client, b"shell/d").leader().value == b"me"
        lease = client.get(Observer(client, b"shell/d").leader().token.key).lease
        assert lease in client.leases()
        client.lease_revoke(lease)
        assert process.wait(30) == 4
        _, complaint = process.communicate()  # whose end of stdin would have ended the command
    finally:
        process.kill()
        process.wait()
    assert "was lost" in complaint


def test_who_stops_for_longer_than_its_session_loses_the_lock_to_the_next(cluster, client):
    """No revocation here: the session ends by its time to live, while its holder cannot know. No grace is left then."""
    first, end = b"quorumd/lock/shell", b"quorumd/lock/shelm"
    stopped = holding(cluster, "lock", "--ttl", "1", "--grace", "600", "shell/g", stubborn=True)
    try:
        mine = client.range(first, end).kvs[0]
        stopped.send_signal(signal.SIGSTOP)
        after = cluster.run("lock", "--wait", "30", "shell/g", "--", "sh", "-c", GUARDED)
        assert after.returncode == 0, after.stderr
        taken = client.get(b"shell/guarded").mod_revision
        assert taken > mine.create_revision and client.get(mine.key) is None
        guard = Token(mine.create_revision, mine.key).guard()
        late = client.txn([guard], [Put(b"shell/guarded", b"late")])
        assert not late.succeeded
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(30) == 4
        _, complaint = stopped.communicate()
    finally:
        stopped.kill()
        stopped.wait()
    assert "was lost" in complaint
    assert client.get(b"shell/guarded").mod_revision == taken


def test_sigterm_is_passed_on_and_the_lock_is_released(cluster, client):
    process = holding(cluster, "lock", "shell/e")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + 15
    assert client.range(b"quorumd/lock/shell", b"quorumd/lock/shelm").count == 0


def ignored(status):
    """The signals that a process ignores, by its /proc/PID/status."""
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")), 16)
    return {number for number in signal.Signals if mask >> number - 1 & 1}


def test_a_command_inherits_no_signals_that_only_python_ignores(cluster):
    done = cluster.run("lock", "shell/h", "--", "cat", "/proc/self/status")
    assert done.returncode == 0, done.stderr
    assert not ignored(done.stdout) & {signal.SIGPIPE, signal.SIGXFSZ}


def test_signals_that_were_ignored_at_the_start_stay_so(cluster):
    """As under nohup, and in the background of a shell without job control."""
    unheard = {signal.SIGHUP, signal.SIGINT}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in unheard}
    try:
        process = cluster.start(
            "lock", "shell/i", "--", "sh", "-c", "cat /proc/$$/status; echo; cat >/dev/null",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert unheard <= ignored("".join(iter(process.stdout.readline, "\n")))
    assert unheard <= ignored(Path(f"/proc/{process.pid}/status").read_text())
    for number in unheard:
        process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_while_it_waits_leaves_the_line(cluster, client, number):
    first, end = b"quorumd/lock/shell", b"quorumd/lock/shelm"
    holder = holding(cluster, "lock", "shell/f")
    with client.watch(first, end, start_revision=client.range(first, end).revision + 1) as changes:
        waiter = cluster.start("lock", "shell/f", "--", "true")
        assert not changes.get(30.0).events[0].deleted
        waiter.send_signal(number)
        assert waiter.wait(30) == 128 + number
        assert changes.get(30.0).events[0].deleted
    holder.communicate(timeout=30)
    assert holder.returncode == 0


def test_leases(cluster, client):
    granted = cluster.run("lease", "grant", "60").stdout.split()
    assert granted[1] == "60"
    put = cluster.run("txn", "--if", "create shell/k = 0", "--then", f"put --lease {granted[0]} shell/k v")
    assert (put.returncode, put.stdout) == (0, "SUCCESS\nOK\n")
    assert granted[0] in cluster.run("lease", "list").stdout.split()
    left, ttl, key = cluster.run("lease", "ttl", "--keys", granted[0]).stdout.split()
    assert 0 < float(left) <= 60 == float(ttl) and key == "shell/k"
    assert cluster.run("lease", "keep-alive", "--once", granted[0]).stdout == "60\n"
    assert cluster.run("lease", "revoke", granted[0]).stdout == "1\n"
    assert cluster.run("lease", "keep-alive", granted[0]).returncode == 1
    assert client.get(b"shell/k") is None
    assert cluster.run("lease", "revoke", "xyz").returncode == 2

"""Every command of the README is run, in the order in which it stands there, and says what the README says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quorumd.chaos.verdict import Report, human

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
# What differs from run to run: numbers, paths, the columns that depend on them.
VARIES = re.compile(r"\d[\d,.]*|~?/[^\s,;]*|follower|leader")


def commands():
    """(command, expected output) of every console block."""
    for block in re.findall(r"```console\n(.*?)```", README, re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def shape(text):
    return [VARIES.sub("#", " ".join(line.split())) for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The built-in cluster, moved to an address of our own."""
    directory = tmp_path_factory.mktemp("readme")
    pid = os.getpid()
    host = f"127.{200 + pid // 65536 % 50}.{pid // 256 % 256}.{pid % 254 + 1}"
    text = (ROOT / "daemon/quorumd/default.yaml").read_text().replace("127.0.0.1", host)
    config = directory / "local-3.yaml"
    config.write_text(text)
    found = {**os.environ, "QUORUMD_CONFIG": str(config), "XDG_STATE_HOME": str(directory), "COLUMNS": "200"}
    found["PATH"] = f"{BIN}:{found['PATH']}"
    found["HOST"] = host
    yield found
    subprocess.run(["quorumd", "down"], env=found, capture_output=True, timeout=60, check=False)


def run(command, environment):
    return subprocess.run(
        shlex.split(command), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_tour(environment):
    for command, expected in commands():
        if command.startswith("make "):
            continue
        done = run(command, environment)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if command.startswith("quorumd chaos"):
            assert shape(done.stdout)[-1] == shape(expected)[-1]
        elif expected.strip():
            assert shape(done.stdout) == shape(expected), command


def test_the_sample_of_a_chaos_run_ends_with_a_report():
    """Which errors clients meet differs from run to run: those of the sample are put in."""
    (sample,) = (output for command, output in commands() if command.startswith("quorumd chaos"))
    leases = {name: int(count) for count, name in re.findall(r"(\d+) ([a-z ]+)", sample.splitlines()[-4])}
    words = [re.findall(r"(\S+) (\d+)", line) for line in sample.splitlines()[-3:-1]]
    injected, errors = ({name: int(count) for name, count in pairs} for pairs in words)
    faults = ("loss", "kill", "partition")
    report = Report(
        10, faults, 3, rounds=1, injected={name: injected[name] for name in faults}, leases=leases, errors=errors,
        linearizable=True,
    )
    assert shape("\n".join(sample.splitlines()[-5:])) == shape(human(report))


def test_make_up_runs_in_the_foreground_until_interrupted(environment):
    """`make up` with everything built: a leader, then an orderly end on Ctrl-C."""
    process = subprocess.Popen(
        ["make", "up"], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )
    try:
        assert any("ready: node" in line for line in process.stdout)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)


def test_make_test_is_this_suite():
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "-m pytest" in done.stdout


def test_the_python_example(environment):
    run("quorumd up --detach", environment)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    code = example.replace("127.0.0.1", environment["HOST"])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    fresh, stale = done.stdout.splitlines()[:2]
    assert fresh == "b'hello'"
    assert stale in ("b'hello'", "b'good morning'")  # a node that lags still has what the tour left there
    assert run("quorumd down", environment).returncode == 0


def test_the_python_of_operating_md(environment, tmp_path):
    """A client by the config file, and all data saved and put into another cluster: here the same one, emptied."""
    connecting, restoring = re.findall(r"```python\n(.*?)```", (ROOT / "OPERATING.md").read_text(), re.S)
    for name in ("lan-3.yaml", "new.yaml"):
        (tmp_path / name).write_bytes(Path(environment["QUORUMD_CONFIG"]).read_bytes())

    def python(code):
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr

    run("quorumd up --detach --fresh", environment)
    python(connecting)
    lease = run("quorumd lease grant 60", environment).stdout.split()[0]
    put = shlex.join(["quorumd", "txn", "--then", f"put --lease {lease} held 1", "--then", "put 'two words' 'a\nb'"])
    assert run(put, environment).returncode == 0
    (tmp_path / "backup.jsonl").write_text(run("quorumd range --json", environment).stdout)
    assert run("quorumd del --prefix t", environment).stdout == "1\n"
    run(f"quorumd lease revoke {lease}", environment)
    python(restoring)
    assert run("quorumd range", environment).stdout == "greeting\thello\ntwo words\ta\nb\n"
    assert run("quorumd down", environment).returncode == 0


def test_every_sample_config_is_good(environment):
    for path in sorted((ROOT / "configs").glob("local-*.yaml")):
        assert run(f"quorumd check-config {path}", environment).returncode == 0

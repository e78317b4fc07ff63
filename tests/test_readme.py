"""Every command of the README is run, in the order in which it stands there, and says what the README says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
        elif expected.strip() and not command.startswith("quorumd bench"):
            assert shape(done.stdout) == shape(expected), command
        elif expected.strip():
            assert len(shape(done.stdout)) == len(shape(expected))


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
    assert done.stdout.splitlines()[:2] == ["b'hello'", "b'hello'"]
    assert run("quorumd down", environment).returncode == 0


def test_every_sample_config_is_good(environment):
    for path in sorted((ROOT / "configs").glob("local-*.yaml")):
        assert run(f"quorumd check-config {path}", environment).returncode == 0

"""Bad configs and directories: one line with file, line, key and remedy; exit code 2; nothing started or written."""

import json
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import quorumd.supervisor.launch
import quorumd.supervisor.loop  # noqa: F401 - whoever names Popen must be loaded before it is taken away
from quorumd.cli.main import run
from quorumd.errors import UNUSABLE_LOG

GOOD = """\
cluster: three
engine: raft
data_dir: state
nodes:
  - {id: 1, peer: 127.0.0.1:7101, client: 127.0.0.1:7201}
  - {id: 2, peer: 127.0.0.1:7102, client: 127.0.0.1:7202}
  - {id: 3, peer: 127.0.0.1:7103, client: 127.0.0.1:7203}
timing:
  heartbeat_ms: 40
  election_timeout_ms: 120
supervisor:
  crash_loop:
    restarts: 5
"""

MAKE = "openssl rand -hex 32 > {key}; chmod 600 {key}"

# (name, what to replace in GOOD, by what, the complaint after "FILE:")
BAD = [
    (
        "unknown key", "  heartbeat_ms", "  hartbeat_ms",
        "9: timing.hartbeat_ms: unknown key; did you mean heartbeat_ms?",
    ),
    ("unknown key at the top", "engine: raft", "engin: raft", "2: engin: unknown key; did you mean engine?"),
    (
        "unknown key like no other", "    restarts: 5", "    zzz: 5",
        "13: supervisor.crash_loop.zzz: unknown key; known here: restarts, within_s",
    ),
    (
        "retain of another mode", "engine: raft", "engine: raft\ncompaction: {mode: age, retain: 5}",
        "3: compaction.retain: must be a time with mode: age; write retain: 1h; the units are s, m, h and d",
    ),
    (
        "retain of another type", "engine: raft", "engine: raft\ncompaction: {retain: 1.5}",
        "3: compaction.retain: expected a whole number or text, got a number with a fraction 1.5; "
        "write for example `retain: 100000`",
    ),
    (
        "unknown key of a section", "engine: raft", "heartbeat_ms: 40",
        "2: heartbeat_ms: unknown key; it belongs under timing:",
    ),
    (
        "unknown key of two sections", "engine: raft", "max_inflight_kib: 64",
        "2: max_inflight_kib: unknown key; it belongs under raft: or paxos:",
    ),
    ("nodes by another word", "nodes:", "members:", "4: members: unknown key; did you mean nodes?"),
    (
        "a word that is true to YAML", "cluster: three", "cluster: yes",
        '1: cluster: expected text, got true or false yes; put it in quotes: cluster: "yes"',
    ),
    (
        "a word that is a number to YAML", "cluster: three", "cluster: 007",
        '1: cluster: expected text, got a whole number 007; put it in quotes: cluster: "007"',
    ),
    (
        "a word that is true to YAML and would not do as text", "cluster: three", "cluster: Yes",
        "1: cluster: expected text, got true or false Yes; write for example `cluster: local-3`",
    ),
    (
        "a port for an address", "peer: 127.0.0.1:7102", "peer: 7102",
        "6: nodes[1].peer: expected text, got a whole number 7102; write for example `peer: 127.0.0.1:7101`",
    ),
    (
        "an address for a node", "{id: 2, peer: 127.0.0.1:7102, client: 127.0.0.1:7202}", "127.0.0.1:7102",
        "6: nodes[1]: expected keys and values, got text 127.0.0.1:7102; write for example "
        "`- {id: 1, peer: 127.0.0.1:7101, client: 127.0.0.1:7201}`",
    ),
    (
        "not one of the choices", "engine: raft", "engine: raft\ncompaction: {mode: periodic}",
        "3: compaction.mode: periodic is not allowed; use one of: age, off, revisions",
    ),
    (
        "a choice that is true to YAML", "engine: raft", "engine: raft\ncompaction: {mode: on}",
        "3: compaction.mode: expected text, got true or false on; use one of: age, off, revisions",
    ),
    (
        "retain with mode off", "engine: raft", "engine: raft\ncompaction: {mode: off, retain: 5}",
        "3: compaction.retain: says nothing with mode: off; leave it out",
    ),
    (
        "missing key", "id: 2, ", "",
        "6: nodes[1].id: is missing; add for example `id: 1`",
    ),
    (
        "key given twice", "engine: raft", "engine: raft\nengine: raft",
        "3: engine: the key is given twice; remove one of them",
    ),
    (
        "duplicate id", "id: 2", "id: 1",
        "6: nodes[1].id: id 1 is already used by nodes[0]; give every node its own id",
    ),
    (
        "port clash", "127.0.0.1:7102", "127.0.0.1:7101",
        "6: nodes[1].peer: port 7101 is already used by nodes[0].peer; give every address its own port",
    ),
    (
        "port clash under another name", "127.0.0.1:7203", "localhost:7101",
        "7: nodes[2].client: port 7101 is already used by nodes[0].peer; give every address its own port",
    ),
    (
        "wrong type deep inside", "    restarts: 5", "    restarts: often",
        "13: supervisor.crash_loop.restarts: expected a whole number, got text often; write for example `restarts: 5`",
    ),
    (
        "wrong type of a section", "timing:\n  heartbeat_ms: 40\n  election_timeout_ms: 120", "timing: fast",
        "8: timing: expected keys and values, got text fast; put its keys below it: heartbeat_ms, "
        "election_timeout_ms, disk_stall_ms, session_ttl_ms",
    ),
    (
        "no value", "engine: raft", "engine:",
        "2: engine: has no value; write for example `engine: raft`",
    ),
    (
        "unknown engine", "engine: raft", "engine: zab",
        "2: engine: this version has no engine zab; use one of: raft, paxos",
    ),
    (
        "flexible quorums with raft", "engine: raft", "engine: raft\nquorums: {phase1: 3, phase2: 1}",
        "3: quorums: raft knows majorities only; write engine: paxos, or leave quorums out",
    ),
    (
        "quorums that do not intersect", "engine: raft", "engine: paxos\nquorums: {phase1: 1, phase2: 2}",
        "3: quorums: a phase-1 quorum of 1 and a phase-2 quorum of 2 of 3 nodes need not share a node, so a new leader "
        "could miss what was committed; make them at least 4 together, for example phase1: 2",
    ),
    (
        "half of the quorums", "engine: raft", "engine: paxos\nquorums: {phase1: 3}",
        "3: quorums.phase2: is missing; add for example `phase2: 1`",
    ),
    (
        "the other half of the quorums", "engine: raft", "engine: paxos\nquorums: {phase2: 1}",
        "3: quorums.phase1: is missing; add for example `phase1: 3`",
    ),
    (
        "half of the quorums, and too large", "engine: raft", "engine: paxos\nquorums: {phase1: 4}",
        "3: quorums.phase2: is missing; add for example `phase2: 2`",
    ),
    (
        "quorums of another name", "engine: raft", "engine: paxos\nquorums: {phase1: 2, second: 2}",
        "3: quorums.second: unknown key; known here: phase1, phase2",
    ),
    (
        "one number for the quorums", "engine: raft", "engine: paxos\nquorums: 2",
        "3: quorums: expected keys and values, got a whole number 2; write for example "
        "`quorums: {phase1: 2, phase2: 2}`",
    ),
    (
        "a quorum of more nodes than there are", "engine: raft", "engine: paxos\nquorums: {phase1: 4, phase2: 2}",
        "3: quorums.phase1: 4 of 3 nodes; give at most 3",
    ),
    (
        "out of range", "heartbeat_ms: 40", "heartbeat_ms: 0",
        "9: timing.heartbeat_ms: 0 is out of range; give 1 to 10000",
    ),
    (
        "election timeout too short", "election_timeout_ms: 120", "election_timeout_ms: 80",
        "10: timing.election_timeout_ms: 80 is less than three heartbeats of 40 ms; give at least 120 or lower "
        "timing.heartbeat_ms",
    ),
    (
        "no port", "127.0.0.1:7103", "127.0.0.1",
        "7: nodes[2].peer: '127.0.0.1' has no port; write host:port, such as 127.0.0.1:7101",
    ),
    (
        "IPv6 without brackets", "127.0.0.1:7103", "'::1:7103'",
        "7: nodes[2].peer: '::1:7103' is no IPv6 address; write it in brackets and quotes, such as \"[::1]:7101\"",
    ),
    (
        "mixed families", "127.0.0.1:7103", "'[::1]:7103'",
        "7: nodes[2].peer: IPv6, but nodes[0].peer is IPv4; use one family for all",
    ),
    (
        "non-loopback without a key", "127.0.0.1:7102", "192.0.2.7:7102",
        "6: nodes[1].peer: 192.0.2.7 is not loopback and there is no key_file, so anybody could write to the cluster; "
        "make a key (openssl rand -hex 32 > cluster.key; chmod 600 cluster.key), add key_file: cluster.key",
    ),
    (
        "wildcard address", "127.0.0.1:7102", "0.0.0.0:7102",
        "6: nodes[1].peer: 0.0.0.0 is no address that others can send to; give the host's own address",
    ),
    (
        "bad cluster name", "cluster: three", "cluster: ../etc",
        "1: cluster: ../etc is not allowed; use small letters, digits and dashes, at most 63",
    ),
    (
        "mtu", "engine: raft", "mtu: jumbo",
        "2: mtu: jumbo is not allowed; give 576 to 65000 or auto",
    ),
    (
        "no nodes", GOOD, "cluster: three\nnodes: []\n",
        "2: nodes: the list has 0 items; give 1 to 9",
    ),
    (
        "broken YAML", "engine: raft", "engine: [raft",
        "3: not valid YAML: expected ',' or ']', but got ':'; check indentation, colons and brackets (an IPv6 address "
        'needs quotes: "[::1]:7101")',
    ),
    (
        "the home of nobody", "data_dir: state", "data_dir: ~nosuchuser/state",
        "3: data_dir: there is no home directory ~nosuchuser; give the path without ~",
    ),
    (
        "a key in the home of nobody", "engine: raft", "key_file: ~nosuchuser",
        "2: key_file: there is no home directory ~nosuchuser; give the path without ~",
    ),
    ("empty file", GOOD, "# nothing\n", "1: the file is empty; start with `cluster: NAME` and `nodes:`"),
    (
        "backwards back-off", "supervisor:", "supervisor:\n  restart_backoff_ms: [500, 100]",
        "12: supervisor.restart_backoff_ms: the first wait (500) is above the longest (100); write the smaller one "
        "first: [100, 5000]",
    ),
]  # fmt: skip


def tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path below `root` with its mode and content."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Runs a command that must be refused; gives back its one line."""

    def no_process(*args: object, **options: object) -> None:
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    monkeypatch.setattr(os, "fork", no_process)
    monkeypatch.delenv("QUORUMD_CONFIG", raising=False)

    def call(arguments: list[str]) -> str:
        before = tree(tmp_path)
        code = run(arguments)
        output = capsys.readouterr()
        assert code == 2, output
        assert output.out == ""
        assert output.err.startswith("quorumd: ")
        assert output.err.count("\n") == 1
        assert output.err.endswith("\n")
        assert tree(tmp_path) == before
        return output.err.removeprefix("quorumd: ").rstrip("\n")

    return call


@pytest.mark.parametrize("command", ["up", "node", "check-config", "get"])
@pytest.mark.parametrize(("old", "new", "complaint"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_config_is_one_line_and_nothing_else(tmp_path, refuse, command, old, new, complaint):
    assert GOOD.count(old) == 1
    file = tmp_path / "bad.yaml"
    file.write_text(GOOD.replace(old, new))
    arguments = {
        "up": ["up", str(file), "--fresh"],
        "node": ["node", str(file), "--id", "1"],
        "check-config": ["check-config", str(file)],
        "get": ["--config", str(file), "get", "x"],
    }
    assert refuse(arguments[command]) == f"{file}:{complaint}"


def test_there_are_twenty_of_them():
    assert len(BAD) >= 20


# -- directories and files around the config -------------------------------------------------------------------------


def stamp(path: Path, node: int, cluster: str = "00000000000000aa", **other: object) -> None:
    path.mkdir(parents=True, exist_ok=True)
    content = {"format": 4, "cluster": cluster, "node": node, "incarnation": 1} | other
    (path / "meta.json").write_text(json.dumps(content))


def a_file_in_the_way(state: Path) -> str:
    state.write_text("")
    return f"{state} is not a directory; name a directory"


def below_a_file(state: Path) -> str:
    state.mkdir()
    (state / "node-1").write_text("")
    return f"{state}/node-1 cannot be used (Not a directory); change its owner or data_dir"


def another_cluster(state: Path) -> str:
    stamp(state / "node-1", 1)
    stamp(state / "node-2", 2, "00000000000000bb")
    return (
        f"{state}/node-1 belongs to cluster 00000000000000aa, {state}/node-2 to cluster 00000000000000bb; "
        "name another data_dir, or remove the directory that does not belong here"
    )


def another_node(state: Path) -> str:
    stamp(state / "node-1", 2)
    return (
        f"{state}/node-1 belongs to node 2 of cluster 00000000000000aa, not to node 1; "
        "put the directories back in their places or name another data_dir"
    )


def newer_format(state: Path) -> str:
    stamp(state / "node-1", 1, format=5, created_by="quorumd 9.0", shape="unheard of")
    return (
        f"{state}/node-1 has format 5 (made by quorumd 9.0), this version reads 4; "
        "use the newer version or name another data_dir"
    )


def older_format(state: Path) -> str:
    stamp(state / "node-1", 1, format=2, created_by="quorumd 0.0", shape="unheard of")
    return (
        f"{state}/node-1 has format 2 (made by quorumd 0.0), this version reads 4; "
        "use the older version or name another data_dir"
    )


def damaged_stamp(state: Path) -> str:
    stamp(state / "node-1", 1, "not hex")
    return (
        f"{state}/node-1/meta.json is damaged (cluster is 'not hex'); "
        f"{UNUSABLE_LOG}"
    )


def log_without_stamp(state: Path) -> str:
    (state / "node-1").mkdir(parents=True)
    (state / "node-1" / "wal-0000000000000001.seg").write_bytes(bytes(512))
    return (
        f"{state}/node-1 holds a log and no meta.json; {UNUSABLE_LOG}"
    )


def somebody_elses(state: Path) -> str:
    (state / "node-1").mkdir(parents=True)
    (state / "node-1" / "thesis.tex").write_text("")
    return (
        f"{state}/node-1 is no node's directory (it holds thesis.tex); name another data_dir or empty that directory"
    )


PLACES = [
    a_file_in_the_way, below_a_file, another_cluster, another_node, newer_format, older_format, damaged_stamp,
    log_without_stamp, somebody_elses,
]  # fmt: skip


@pytest.mark.parametrize("command", [["up"], ["up", "--fresh"], ["check-config"]], ids=" ".join)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_directory_that_does_not_fit_is_refused_untouched(tmp_path, refuse, place, command):
    file = tmp_path / "cluster.yaml"
    file.write_text(GOOD)
    complaint = place(tmp_path / "state")
    assert refuse([command[0], str(file), *command[1:]]) == f"{file}:3: data_dir: {complaint}"


@pytest.mark.parametrize("command", ["up", "check-config"])
def test_the_log_of_another_engine_is_refused_untouched(tmp_path, refuse, command):
    file = tmp_path / "cluster.yaml"
    file.write_text(GOOD)
    stamp(tmp_path / "state" / "node-1", 1, engine="raft")
    stamp(tmp_path / "state" / "node-2", 2, engine="paxos")
    assert refuse([command, str(file)]) == (
        f"{file}:2: engine: {tmp_path}/state/node-2 holds the log of engine 'paxos', which 'raft' cannot read; "
        "set engine: paxos again, or name another data_dir"
    )


def test_a_directory_without_permission(tmp_path, refuse):
    if os.geteuid() == 0:
        pytest.skip("root may do everything; see the next test")
    file = tmp_path / "cluster.yaml"
    file.write_text(GOOD)
    (tmp_path / "state").mkdir(mode=0o500)
    line = refuse(["up", str(file)])
    assert line.startswith(f"{file}:3: data_dir: {tmp_path}/state cannot be written by user")


def test_a_directory_that_access_denies(tmp_path, refuse, monkeypatch):
    """The same for root, by the answer that the kernel gives to everybody else."""
    file = tmp_path / "cluster.yaml"
    file.write_text(GOOD)
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(os, "access", lambda path, *args, **options: Path(path) != tmp_path / "state")
    assert refuse(["up", str(file)]) == (
        f"{file}:3: data_dir: {tmp_path}/state cannot be written by user {os.geteuid()}; "
        "name another directory or change its owner"
    )


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (None, 0, "{key} cannot be read (No such file or directory); make one: " + MAKE),
        (b"ab" * 32, 0o644, "others can read {key}; run: chmod 600 {key}"),
        (b"ab" * 4, 0o600, "{key} holds 4 bytes, and a key has 32 to 4096; make one: " + MAKE),
    ],
    ids=["missing", "readable by others", "too short"],
)  # fmt: skip
def test_a_bad_key_file(tmp_path, refuse, content, mode, complaint):
    file, key = tmp_path / "cluster.yaml", tmp_path / "cluster.key"
    file.write_text(GOOD.replace("engine: raft", "key_file: cluster.key"))
    if content is not None:
        key.write_bytes(content)
        key.chmod(mode)
    assert refuse(["up", str(file)]) == f"{file}:2: key_file: {complaint.format(key=key)}"


def test_a_node_that_the_config_does_not_have(tmp_path, refuse):
    file = tmp_path / "cluster.yaml"
    file.write_text(GOOD)
    assert refuse(["node", str(file), "--id", "9"]) == f"{file}:4: nodes: no node has the id 9; use one of: 1, 2, 3"


def test_addresses_of_other_hosts_are_not_for_up(tmp_path, refuse):
    file, key = tmp_path / "cluster.yaml", tmp_path / "cluster.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    text = GOOD.replace("engine: raft", "key_file: cluster.key")
    for port in (7101, 7102, 7103):
        text = text.replace(f"127.0.0.1:{port}", f"192.0.2.{port % 10}:{port}")
    file.write_text(text)
    assert refuse(["up", str(file)]) == (
        f"{file}:5: nodes[0].peer: 192.0.2.1 is not an address of this machine (Cannot assign requested address); "
        "start each node on its own host: `quorumd node CONFIG --id N`"
    )


def test_a_default_directory_without_a_home(tmp_path, refuse, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    file = tmp_path / "cluster.yaml"
    file.write_text(GOOD.replace("data_dir: state\n", ""))
    assert refuse(["check-config", str(file)]) == (
        f"{file}:1: data_dir: there is no home directory, where the default lies; "
        "give a path, or set HOME or XDG_STATE_HOME"
    )


def test_a_config_that_is_not_there(tmp_path, refuse):
    file = tmp_path / "none.yaml"
    assert refuse(["up", str(file)]) == f"{file}: no such file; name a cluster config, or none for the built-in one"

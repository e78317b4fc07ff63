"""A supervisor over tiny stand-ins for nodes: real processes, real sockets, no consensus."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from addresses import free_ports, private_host

from quorumd import config as configs
from quorumd import limits
from quorumd.client.probe import StatusProbe
from quorumd.supervisor.loop import Supervisor

# argv: node directory, node id, host, port, cluster id (hex or empty), behaviour as JSON
STAND_IN = """
import json, os, pathlib, signal, socket, sys
from quorumd.types import STAMP_FORMAT
from quorumd_fastpath import wire
directory, node, host, port, cluster, behaviour = sys.argv[1:]
directory, node, behaviour = pathlib.Path(directory), int(node), json.loads(behaviour)
lives = directory / "lives.tmp"
life = int(lives.read_text()) + 1 if lives.exists() else 1
lives.write_text(str(life))
(directory / f"argument-{life}.tmp").write_text(cluster)
if life <= behaviour.get("crashes", 0):
    print(behaviour["words"], file=sys.stderr, flush=True)
    sys.exit(behaviour["code"])
if cluster:
    stamp = {"format": STAMP_FORMAT, "cluster": cluster, "node": node, "incarnation": life}
    (directory / "meta.json").write_text(json.dumps(stamp))
if behaviour.get("stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((host, int(port)))
role = "leader" if node == behaviour.get("leader", 1) else "follower"
while True:
    datagram, asker = server.recvfrom(65536)
    for frame, payload in wire.parse_datagram(datagram):
        if frame.kind == wire.KIND_STATUS:
            status = {"node": node, "role": role, "term": 1, "leader": 1, "commit": 1, "applied": 1, "durable": 512,
                      "first": 1, "last": 1, "executed": 7, "fsync_p99_us": 900, "auth": False, "incarnation": life}
            body = json.dumps(status).encode()
            reply = wire.encode_frame(wire.KIND_STATUS_REPLY, 0, 1, node, 0, life, 0, 0, frame.index, 0, 0, body)
            server.sendto(reply, asker)
"""


@pytest.fixture
def make_config(tmp_path) -> Callable[..., configs.Config]:
    def make(nodes: int = 3, extra: str = "") -> configs.Config:
        host = private_host()
        ports = free_ports(host, 2 * nodes)
        lines = [
            f"  - {{id: {i + 1}, peer: '{host}:{ports[2 * i]}', client: '{host}:{ports[2 * i + 1]}'}}"
            for i in range(nodes)
        ]
        path = tmp_path / "cluster.yaml"
        path.write_text("\n".join(["cluster: test", "data_dir: state", "nodes:", *lines, extra]))
        return configs.load_config(path)

    return make


@pytest.fixture
def quick(monkeypatch):
    """A live table that is redrawn often enough for a test to look at."""
    monkeypatch.setattr(limits, "REFRESH_S", 0.02)
    monkeypatch.setattr(limits, "STARTING_POLL_S", 0.01)


class Watcher:
    """A display that lets a test act on what it sees, and stops the supervisor in the end come what may."""

    def __init__(self, step: Callable[["Watcher"], bool]) -> None:
        self.step = step  # True: the test has seen what it wanted
        self.notes: list[str] = []
        self.rows: list[dict] = []
        self.troubles: dict[int, str] = {}
        self.supervisor: Supervisor | None = None
        self.looks = 0
        self.satisfied = False

    def note(self, text: str) -> None:
        self.notes.append(text)

    def show(self, rows, notes, now_s) -> None:
        self.rows, self.troubles = list(rows), dict(notes)
        self.looks += 1
        self.satisfied = self.satisfied or self.step(self)
        if self.satisfied or self.looks > 3000:
            self.supervisor.stop()

    def close(self) -> None:
        pass


@pytest.fixture
def supervise(quick) -> Callable[..., tuple[int, Watcher]]:
    """Runs a supervisor over stand-ins until `step` is satisfied."""

    def call(config: configs.Config, step: Callable[[Watcher], bool], behaviours=None, **options):
        def command(config: configs.Config, node_id: int, bootstrap: int | None) -> list[str]:
            endpoint = config.node(node_id).client_endpoint
            cluster = "" if bootstrap is None else f"{bootstrap:016x}"
            behaviour = json.dumps((behaviours or {}).get(node_id, {}))
            where = [str(config.node_path(node_id)), str(node_id), endpoint.host, str(endpoint.port)]
            return [sys.executable, "-c", STAND_IN, *where, cluster, behaviour]

        watcher = Watcher(step)
        probe = StatusProbe(config, None).open()
        try:
            watcher.supervisor = Supervisor(config, probe, watcher, command=command, **options)
            code = watcher.supervisor.run()
        finally:
            probe.close()
        assert watcher.satisfied, (watcher.notes, watcher.rows)
        return code, watcher

    return call


def events(config: configs.Config) -> list[dict]:
    return [json.loads(line) for line in (config.data_path / "supervisor.log").read_text().splitlines()]


def argument(config: configs.Config, node_id: int, life: int) -> str:
    """The cluster id that a stand-in was started with in its n-th life."""
    return (Path(config.node_path(node_id)) / f"argument-{life}.tmp").read_text()

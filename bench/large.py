"""Values of 1 MiB over a network of 1400-byte datagrams that loses one in twenty.

    python bench/large.py --rounds 20 --loss 0.05

Every datagram between nodes passes the relay of `quorumd chaos`, which drops it with the given chance, in either
direction; with --client-loss those between the client and the nodes too. Each node has a config of its own in which its
peers' addresses are the relay's. Each value is put, then read back through the leader; at the end all nodes must have
applied the same.

Must show 9: every value commits and is read back whole. A change of leader is not expected.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from harness import DEADLINE_S, POLL_S, Failed, number, own_addresses, parser_of, percentile, reported, say

from quorumd import config as configs
from quorumd.chaos.links import LinkState
from quorumd.chaos.relay import LaneSettings, Relay
from quorumd.client import Client
from quorumd.client.probe import Status, StatusProbe, sample
from quorumd.errors import QuorumdError

NODES = (1, 2, 3)
VALUE_BYTES = 1 << 20
MTU = 1400
PUT_S = 60.0


class LossyCluster:
    """Three nodes that this process starts, one config each, and the relay between them."""

    def __init__(self, loss: float, client_loss: float, seed: int, engine: str) -> None:
        self.engine = engine
        self._directory = tempfile.TemporaryDirectory(prefix="quorumd-bench-")
        self.base = Path(self._directory.name)
        host, ports = own_addresses(4 * len(NODES))
        at = {node: [(host, port) for port in ports[4 * i : 4 * i + 4]] for i, node in enumerate(NODES)}
        self.peers = {node: (at[node][0], at[node][1]) for node in NODES}  # its own address, the relay's for it
        self.clients = {node: (at[node][2], at[node][3]) for node in NODES}
        lanes = [
            LaneSettings(f"peer {node}", relayed, own, seed + node, state=LinkState(loss=loss))
            for node, (own, relayed) in self.peers.items()
        ]
        lanes += [
            LaneSettings(f"client {node}", relayed, own, seed + 100 + node, True, LinkState(loss=client_loss))
            for node, (own, relayed) in self.clients.items()
        ]
        self.relay = Relay(lanes)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._probe = StatusProbe(configs.load_config(self.config(1)), None)

    def config(self, owner: int) -> Path:
        """The config file of one node, in which only its own addresses are not the relay's."""
        nodes = []
        for node in NODES:
            peer, client = (f"{host}:{port}" for host, port in (
                self.peers[node][node != owner], self.clients[node][node != owner]
            ))
            nodes.append(f"  - {{id: {node}, peer: '{peer}', client: '{client}'}}")
        path = self.base / f"node-{owner}.yaml"
        lines = ["cluster: lossy", "data_dir: data", f"engine: {self.engine}", f"mtu: {MTU}", "nodes:", *nodes, ""]
        path.write_text("\n".join(lines))
        return path

    def __enter__(self) -> Self:
        founded = secrets.randbits(64) | 1
        for node in NODES:
            command = [sys.executable, "-P", "-m", "quorumd", "node", str(self.config(node)), "--id", str(node)]
            command += ["--bootstrap", f"{founded:x}", "--parent-pid", str(os.getpid())]
            with (self.base / f"stderr-{node}").open("ab") as stderr:
                self.processes[node] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        self._probe.open()
        self.settle()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._probe.close()
        self.relay.close()
        self._directory.cleanup()

    def figures(self) -> dict[int, Status]:
        """Every node's STATUS. The questions may be lost on their way, too."""
        found: dict[int, Status] = {}
        deadline_s = time.monotonic() + DEADLINE_S
        while len(found) < len(NODES) and time.monotonic() < deadline_s:
            found.update(sample(self._probe, len(NODES), 0.2))
        return found

    def settle(self) -> dict[int, Status]:
        """Waits for one leader whom all follow, with equal stores; their figures."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            figures = self.figures()
            states = [[each.get(key) for key in ("leader", "term", "applied", "digest")] for each in figures.values()]
            if len(figures) == len(NODES) and states.count(states[0]) == len(NODES) and states[0][0]:
                return figures
            time.sleep(POLL_S)
        raise Failed(f"the nodes do not agree within {DEADLINE_S:g} s: {figures}")


def one_value(client: Client, rng: random.Random, key: bytes) -> tuple[float, float, bool]:
    """(seconds to put, seconds to get, whether it came back as it was)"""
    value = rng.randbytes(VALUE_BYTES)
    begun_s = time.monotonic()
    try:
        client.put(key, value, timeout=PUT_S)
        put_s = time.monotonic()
        found = client.get(key, timeout=PUT_S)
    except QuorumdError as error:
        say(f"  {key.decode()}: {type(error).__name__}: {error}")
        return time.monotonic() - begun_s, 0.0, False
    return put_s - begun_s, time.monotonic() - put_s, found is not None and found.value == value


def run(rounds: int, loss: float, client_loss: float, seed: int, engine: str) -> dict[str, Any]:
    rng = random.Random(seed)
    puts, gets, failed = [], [], 0
    with LossyCluster(loss, client_loss, seed, engine) as cluster:
        endpoints = [f"{host}:{port}" for _, (host, port) in cluster.clients.values()]
        before = cluster.figures()
        with Client.connect(endpoints, timeout=DEADLINE_S) as client:
            for turn in range(rounds):
                put_s, get_s, good = one_value(client, rng, b"value/%d" % turn)
                puts.append(put_s)
                gets.append(get_s)
                failed += not good
                say(f"  {turn + 1}: put {put_s * 1000:.0f} ms, get {get_s * 1000:.0f} ms{'' if good else ', FAILED'}")
        after = cluster.settle()
        counts = cluster.relay.counts()
    terms = [number(figures[node], "term") for figures in (before, after) for node in NODES]
    return {
        "rounds": rounds, "value_bytes": VALUE_BYTES, "mtu": MTU, "loss": loss, "client_loss": client_loss,
        "failed": failed, "elections": max(terms) - min(terms),
        "leader_changed": before[1]["leader"] != after[1]["leader"],
        "put_s": {"p50": percentile(puts, 0.5), "p90": percentile(puts, 0.9), "max": max(puts)},
        "get_s": {"p50": percentile(gets, 0.5), "p90": percentile(gets, 0.9), "max": max(gets)},
        "datagrams_between_nodes": _total(counts, "peer"), "datagrams_of_clients": _total(counts, "client"),
    }


def _total(counts: dict[str, tuple[int, int]], plane: str) -> dict[str, int]:
    lanes = [each for name, each in counts.items() if name.startswith(plane)]
    return {"passed": sum(passed for passed, _ in lanes), "dropped": sum(dropped for _, dropped in lanes)}


def main() -> int:
    parser = parser_of(__doc__ or "", rounds=20, loss=0.05, client_loss=0.0, seed=1)
    options = parser.parse_args()
    with reported("large") as report:
        say(f"{options.rounds} values of 1 MiB, mtu {MTU}, {options.loss:.0%} loss between nodes")
        figures = run(options.rounds, options.loss, options.client_loss, options.seed, options.engine)
        say(f"  {figures}")
        report.judge("values that did not commit, or came back changed", figures["failed"], most=0)
        report.judge("elections meanwhile", figures["elections"], most=0)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())

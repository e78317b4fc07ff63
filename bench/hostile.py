"""A million hostile datagrams at each socket of a node under load.

    python bench/hostile.py --datagrams 1000000 [--target follower] [--key] [--asan]

Three real nodes and two loads. A relay on the path lets an enemy (enemy.py) record what the other nodes and one of the
loads say to node 1. A third of what it sends to each socket of node 1 is random bytes and genuine datagrams with bits
flipped; a third is genuine datagrams replayed, duplicated, reordered; a third is mutated, its CRC right again. In
`--rounds` rounds, each sort by itself, so that what happens can be put down to it.

Without a key the last third is a peer gone mad, which may depose a leader and worse; the other two thirds must change
nothing. It can even be believed, if it is quick: with --live the enemy mutates what it heard a moment ago, and about
one in a million such appends lands just behind the log's end with entries that are none; the replica then stops at the
next digest that differs, as it should. Only a key keeps that out: with --key everything but replays must fail at the
MAC. With --asan node 1 runs the sanitized build (tests/asan.sh).

Must show 5: it stays up, nothing is over-read, memory does not grow, drops are counted by reason.
"""

import contextlib
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from enemy import PLANES, Actor, Lane, Place, Volley, enemy, relay
from harness import DEADLINE_S, POLL_S, Failed, LoadProcess, Report, parser_of, reported, say

from quorumd import commands, limits
from quorumd.auth import Mac
from quorumd.client import Client
from quorumd.client.probe import Status, StatusProbe, sample
from quorumd.commands import Kind
from quorumd.config import load_config
from quorumd.errors import QuorumdError
from quorumd.fragments import Fragmenter
from quorumd_fastpath import wire

ROOT = Path(__file__).parents[1]
ASAN = ROOT / "tests" / "asan.sh"
TARGET = 1
NODES = (1, 2, 3)
LARGE_BYTES = 1_000_000
MOVED_S = 2.0  # for leadership to move on request
MTU = 4_096  # so that large values travel in fragments, on loopback too
SORTS = ("noise", "replay", "mutated")
COUNTED, RECORDED = "counted", "recorded"  # the two loads: what the enemy knows of a session it can end
GROWTH_MIB = 24.0  # in the second half, besides what the store holds; fixed buffers have been touched by then
NOISE_COUNTED = 0.9  # of the noise that arrived; a flipped bit in a datagram's last frame spares those before it
SYMPTOMS = ("Traceback", "AddressSanitizer", "runtime error:", "InvariantBroken", '"halted"')


def free_places(host: str, count: int) -> list[Place]:
    """UDP places on `host` that nobody uses."""
    from addresses import free_ports

    return [(host, port) for port in free_ports(host, count)]


class Target:
    """The cluster: three processes of our own, node 1 behind the relay, and where everything listens."""

    def __init__(self, base: Path, *, key: bool, asan: bool, engine: str) -> None:
        from addresses import private_host

        self.base = base
        self.host = private_host()
        places = iter(free_places(self.host, 15))
        self.peers = {node: next(places) for node in NODES}
        self.clients = {node: next(places) for node in NODES}
        self.peer_relay = next(places)
        self.client_relays = {name: {node: next(places) for node in NODES} for name in (COUNTED, RECORDED)}
        self.taps = (next(places), next(places))
        self.key = secrets.token_bytes(32) if key else None
        self.asan = asan
        self.engine = engine
        self.cluster_id = secrets.randbits(63) | 1
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for node in NODES:
            self._write_config(node)
        self.config = load_config(base / "node-1.yaml")
        self.probe = StatusProbe(self.config, self.key)

    def _write_config(self, node: int) -> None:
        peers = dict(self.peers)
        if node != TARGET:
            peers[TARGET] = self.peer_relay
        members = [
            "  - {id: %d, peer: '%s:%d', client: '%s:%d'}" % (each, *peers[each], *self.clients[each])  # noqa: UP031
            for each in NODES
        ]
        lines = ["cluster: hostile", "data_dir: data", f"engine: {self.engine}", f"mtu: {MTU}", "nodes:", *members]
        if self.key:
            secret = self.base / "cluster.key"
            secret.write_bytes(self.key)
            secret.chmod(0o600)
            lines.append(f"key_file: {secret}")
        (self.base / f"node-{node}.yaml").write_text("\n".join([*lines, ""]))

    def lanes(self) -> list[Lane]:
        """What the relay carries."""
        lanes = [Lane(self.peer_relay, self.peers[TARGET], self.taps[0])]
        for name, relays in self.client_relays.items():
            for node, listen in relays.items():
                tap = self.taps[1] if (name, node) == (RECORDED, TARGET) else None
                lanes.append(Lane(listen, self.clients[node], tap, self.key))
        return lanes

    def start(self) -> None:
        """Starts the three nodes."""
        self.probe.open()
        for node in NODES:
            command = [sys.executable, "-P", "-m", "quorumd", "node", str(self.base / f"node-{node}.yaml")]
            command += ["--id", str(node), "--bootstrap", f"{self.cluster_id:x}", "--parent-pid", str(os.getpid())]
            if self.asan and node == TARGET:
                command = [str(ASAN), "exec", *command]
            with (self.base / f"node-{node}.out").open("wb") as out:
                self.processes[node] = subprocess.Popen(command, stdout=out, stderr=out)

    def stop(self) -> None:
        """Stops them, those that hang with SIGKILL."""
        self.probe.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(limits.STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- what it says of itself

    def figures(self) -> dict[int, Status]:
        """Every node's STATUS, of those that answer."""
        return sample(self.probe, len(NODES), 2.0 if self.asan else 0.5)

    def status(self) -> dict[str, Any]:
        """The target's own. Raises Failed if it does not answer."""
        return dict(self.until(lambda: self.figures().get(TARGET), "the target answers STATUS"))

    def within(self, seconds: float, condition: Callable[[], Any]) -> Any:
        """Asks `condition` until it is true or the time is up; its last value. Raises Failed when a node dies."""
        deadline_s = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < deadline_s:
            for node, process in self.processes.items():
                if process.poll() is not None:
                    raise Failed(f"node {node} died with exit code {process.returncode}: {self.last_words(node)}")
            time.sleep(POLL_S)
        return value

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """As `within`, and raises Failed when the time is up."""
        value = self.within(DEADLINE_S, condition)
        if not value:
            raise Failed(f"not within {DEADLINE_S:g} s: {what}; {self.brief()}")
        return value

    def last_words(self, node: int) -> str:
        """The end of what a node wrote."""
        paths = (self.base / f"node-{node}.out", *self.base.glob(f"data/node-{node}/node.log"))
        return " | ".join(line for path in paths for line in path.read_text(errors="replace").splitlines()[-3:])

    def brief(self) -> dict[int, dict[str, object]]:
        """For people."""
        keys = ("role", "term", "leader", "commit", "applied", "last", "digest", "reason")
        return {node: {key: status.get(key) for key in keys} for node, status in self.figures().items()}

    def agreed(self, *keys: str) -> Status | None:
        """A status if all nodes answer and have the same of `keys`, else None."""
        known = self.figures()
        same = len({tuple(str(status.get(key)) for key in keys) for status in known.values()}) == 1
        return next(iter(known.values())) if same and len(known) == len(NODES) else None

    def settle(self) -> Status:
        """Waits until all follow one leader."""

        def settled() -> Status | None:
            status = self.agreed("leader", "term")
            return status if status and status["leader"] else None

        found: Status = self.until(settled, "one leader")
        return found

    def client(self) -> Client:
        """The library's, straight to the nodes."""
        return Client.connect([f"{host}:{port}" for host, port in self.clients.values()], key=self.key, timeout=10.0)

    def symptoms(self) -> dict[str, int]:
        """Signs of a defect in the nodes' logs, how often."""
        logs = (*self.base.glob("*.out"), *self.base.glob("data/*/*.log"))
        texts = [path.read_text(errors="replace") for path in logs]
        return {sign: count for sign in SYMPTOMS if (count := sum(text.count(sign) for text in texts))}


class View:
    """The cluster as a load sees it (what harness.LoadProcess asks of one): through the relay."""

    def __init__(self, target: Target, relays: Mapping[int, Place]) -> None:
        self.endpoints = {node: f"{host}:{port}" for node, (host, port) in relays.items()}
        self.cluster_id = target.cluster_id
        self.host = target.host


def load_on(target: Target, name: str, **options: Any) -> LoadProcess:
    """A load through its own lanes, in datagrams that leave room for the MAC."""
    view: Any = View(target, target.client_relays[name])
    return LoadProcess(view, mtu=MTU - limits.MAC_BYTES, seed=random.getrandbits(48), **options)


def rare_frames(target: Target) -> list[bytes]:
    """Genuine client datagrams that no load sends: hello, status, admin, stale reads, keep-alives, fragments."""
    session = secrets.token_bytes(16)
    ask = commands.encode(commands.Range(b"key"))
    put = commands.encode_record(Kind.COMMAND, session, 1, 1, commands.encode(commands.Put(b"large", bytes(20_000))))
    records = [
        commands.encode_record(Kind.OPEN_SESSION, session, 0, 1, b""),
        commands.encode_record(Kind.STALE_READ, session, 7, 1, ask),
        commands.encode_record(Kind.READ, session, 8, 1, ask),
        commands.encode_record(Kind.KEEP_ALIVE, session, 9, 1, b""),
        commands.encode_record(Kind.CLOSE_SESSION, session, 10, 1, b""),
    ]

    def frame(kind: int, payload: bytes = b"", term: int = 0, index: int = 7, commit: int = 0, count: int = 0) -> bytes:
        return wire.encode_frame(kind, 0, target.cluster_id, 0, 0, 0, 0, term, index, commit, count, payload)

    frames = [frame(wire.KIND_CLIENT_HELLO), frame(wire.KIND_STATUS), frame(wire.KIND_FRAGMENT_ACK, b"\1", 5, 0, 0, 2)]
    frames += [frame(wire.KIND_ADMIN, b'{"command": "transfer-leader", "to": %d}' % to) for to in (9, 65_535)]
    frames += [frame(wire.KIND_REQUEST, record, count=1) for record in records]
    fragmenter: Fragmenter[int] = Fragmenter(MTU, first_id=secrets.randbits(48))
    fragmenter.send(0, frame(wire.KIND_REQUEST, put, count=1), 0)
    for _, (message, number, total, total_bytes, payload) in fragmenter.poll(0):
        frames.append(frame(wire.KIND_FRAGMENT, payload, message, number, total_bytes, total))
    mac = Mac(target.key, b"client") if target.key else None
    return [mac.seal(each) if mac else each for each in frames]


class Attack:
    """The rounds, and what was seen in them."""

    def __init__(self, target: Target, actor: Actor, counted: LoadProcess, options: Any) -> None:
        self.target = target
        self.actor = actor
        self.counted = counted
        self.options = options
        self.process = psutil.Process(target.processes[TARGET].pid)
        self.peer_kinds = {wire.KIND_APPEND_ENTRIES, wire.KIND_HEARTBEAT, wire.KIND_FRAGMENT}
        if options.target == "leader":
            self.peer_kinds = {wire.KIND_APPEND_ENTRIES_REPLY, wire.KIND_HEARTBEAT_REPLY, wire.KIND_FRAGMENT_ACK}
        self.sent = {sort: dict.fromkeys(PLANES, 0) for sort in SORTS}
        self.seconds = dict.fromkeys(SORTS, 0.0)
        self.terms = dict.fromkeys(SORTS, 0)
        self.drops: dict[str, dict[str, dict[str, int]]] = {sort: {plane: {} for plane in PLANES} for sort in SORTS}
        self.kernel_drops = dict.fromkeys(PLANES, 0)
        self.acknowledged: dict[str, list[int]] = {sort: [] for sort in SORTS}  # operations, by volley
        self.errors = 0
        self.memory: list[tuple[int, int]] = []  # (rss, bytes in the store) between rounds

    def run(self) -> None:
        """Every round, a third of each."""
        share = -(-self.options.datagrams // (self.options.rounds * len(SORTS)))
        self.fill_ring()
        self.measure()
        for number in range(self.options.rounds):
            self.take_place()
            with load_on(self.target, RECORDED, clients=16, value_bytes=64, reads_percent=25, rate=400.0):
                self.actor.ask("forget", rare_frames(self.target))
                with self.target.client() as client:
                    client.put(b"large", secrets.token_bytes(20_000))  # peers send it in fragments
                self.target.until(self.heard_enough, "the enemy has recorded what it needs")
                if not self.options.live:
                    self.actor.ask("enough")
                for sort in SORTS:
                    self.volley(sort, share)
            self.measure()
            acknowledged = {sort: counts[-1] for sort, counts in self.acknowledged.items()}
            rss_mib = self.memory[-1][0] >> 20
            say(f"  round {number + 1}: {rss_mib} MiB, term changes {self.terms}, acknowledged {acknowledged}")

    def fill_ring(self) -> None:
        """Touches all of the memory that holds the newest entries, so that it is not taken for growth later."""
        with self.target.client() as client:
            for _ in range(limits.RING_BYTES // LARGE_BYTES + 1):
                client.put(b"large", bytes(LARGE_BYTES))

    def take_place(self) -> None:
        """Before each round node 1 leads, or does not, as asked for. What moved the leadership was mutated."""
        wanted = TARGET if self.options.target == "leader" else NODES[TARGET]
        for _ in range(20):
            leader = int(str(self.target.settle()["leader"]))
            if (leader == TARGET) == (self.options.target == "leader"):
                return
            with self.target.client() as client, contextlib.suppress(QuorumdError):
                client.transfer_leader(wanted)
            # It may go elsewhere, or not go: then it is asked again.
            self.target.within(MOVED_S, lambda: self.target.settle()["leader"] == wanted)
        raise Failed(f"node {TARGET} is not made {self.options.target}")

    def heard_enough(self) -> bool:
        known = self.actor.ask("listen")
        return self.peer_kinds <= set(known["peer"]) and wire.KIND_REQUEST in known["client"]

    def volley(self, sort: str, count: int) -> None:
        before, done = self.target.status(), self.counted.ask("figures")["done"]
        volley: Volley = self.actor.ask("volley", sort, count, self.options.rate)
        self.target.settle()
        after = self.target.status()
        figures = self.counted.ask("figures")
        self.acknowledged[sort].append(figures["done"] - done)
        self.errors = figures["errors"]
        self.terms[sort] += after["term"] != before["term"]
        self.seconds[sort] += volley.seconds
        for plane in PLANES:
            self.sent[sort][plane] += getattr(volley, plane)
            self.kernel_drops[plane] += after["kernel_drops"][plane] - before["kernel_drops"][plane]
            counts = self.drops[sort][plane]
            for reason, number in after["drops"][plane].items():
                counts[reason] = counts.get(reason, 0) + number - before["drops"][plane].get(reason, 0)

    def measure(self) -> None:
        self.memory.append((self.process.memory_info().rss, int(self.target.status()["store_bytes"])))

    def counted_share(self, sorts: Sequence[str], reason: str | None = None) -> float:
        """Of the datagrams of these sorts, how many were counted as dropped (for that reason)."""
        sent = sum(number for sort in sorts for number in self.sent[sort].values()) - sum(self.kernel_drops.values())
        counts = [counts for sort in sorts for counts in self.drops[sort].values()]
        return sum(number for each in counts for why, number in each.items() if reason in (None, why)) / max(sent, 1)

    def grown_mib(self, since: int) -> float:
        """Resident memory gained since measurement number `since`, less what the store gained."""
        (rss, store), (rss_now, store_now) = self.memory[since], self.memory[-1]
        return (rss_now - rss - max(0, store_now - store)) / limits.MIB


def judge(report: Report, target: Target, attack: Attack) -> None:
    """The criteria of the attack itself."""
    alive = sum(process.poll() is None for process in target.processes.values())
    same = target.status()["pid"] == target.processes[TARGET].pid
    report.judge("nodes still running", alive, least=len(NODES))
    report.judge("the target is the process that was started", float(same), least=1)
    for plane in PLANES:
        sent = sum(attack.sent[sort][plane] for sort in SORTS)
        report.judge(f"hostile datagrams at the {plane} socket", sent, least=attack.options.datagrams)
    elections = attack.terms["noise"] + attack.terms["replay"]
    report.judge("volleys of noise and replays that changed the term", elections, most=0)
    for sort in SORTS[:2]:
        least = min(attack.acknowledged[sort])
        report.judge(f"operations acknowledged in every volley of {sort}", least, least=1)
    report.judge("operations acknowledged during mutations", sum(attack.acknowledged["mutated"]), least=1)
    if target.key:
        share = attack.counted_share(("noise", "mutated"), "bad_mac")
        report.judge("noise and mutations dropped as bad_mac, share", share, least=0.99)
        report.judge("volleys of mutations that changed the term", attack.terms["mutated"], most=0)
    else:
        share = attack.counted_share(("noise",))
        report.judge("noise dropped and counted by reason, share", share, least=NOISE_COUNTED)
    if not target.asan:  # the sanitizer keeps what was freed for a while
        half = len(attack.memory) // 2
        report.judge("memory gained in the second half, MiB", attack.grown_mib(half), most=GROWTH_MIB)


def judge_after(report: Report, target: Target) -> None:
    """The criteria of the cluster that is left."""
    status = target.until(lambda: target.agreed("applied", "digest", "leader"), "all nodes come to the same state")
    report.judge("nodes that agree on the state afterwards", len(NODES), least=len(NODES))
    with target.client() as client:
        client.put(b"afterwards", b"served")
        found = client.get(b"afterwards")
    report.judge("a write and a read afterwards", float(found is not None and found.value == b"served"), least=1)
    say(f"  state {status['digest']} at index {status['applied']}, term {status['term']}")


@contextlib.contextmanager
def attacked(options: Any) -> Iterator[tuple[Target, Attack]]:
    """Cluster, relay, enemy and the load that counts, all running."""
    with tempfile.TemporaryDirectory(prefix="quorumd-hostile-", ignore_cleanup_errors=True) as directory:
        target = Target(Path(directory), key=options.key, asan=options.asan, engine=options.engine)
        targets = (target.peers[TARGET], target.clients[TARGET])
        path = Actor(relay, target.lanes())
        actor = Actor(enemy, target.taps, targets, options.seed, options.key)
        with path, actor:
            path.ask("ready?")
            try:
                target.start()
                target.settle()
                with load_on(target, COUNTED, clients=options.clients, rate=options.load) as counted:
                    yield target, Attack(target, actor, counted, options)
            finally:
                target.stop()


def main() -> int:
    counts = {"datagrams": 1_000_000, "rounds": 20, "clients": 64, "seed": 1}
    parser = parser_of(__doc__ or "", **counts, rate=40_000.0, load=2_000.0)
    parser.add_argument("--target", choices=("leader", "follower"), default="leader", help="which node is attacked")
    parser.add_argument("--live", action="store_true", help="the enemy goes on recording while it attacks")
    parser.add_argument("--key", action="store_true", help="with a cluster key")
    parser.add_argument("--asan", action="store_true", help="the target under the sanitizers")
    options = parser.parse_args()
    if options.asan:
        subprocess.run([str(ASAN), "build"], check=True)
    with reported("hostile") as report, attacked(options) as (target, attack):
        attack.run()
        judge(report, target, attack)
        attack.counted.pause()
        judge_after(report, target)
        symptoms = target.symptoms()
        report.judge(f"signs of a defect in the logs {symptoms or ''}", sum(symptoms.values()), most=0)
    return report.finish({
        "target": options.target, "live": options.live, "key": options.key, "asan": options.asan,
        "rounds": options.rounds,
        "sent": attack.sent,
        "seconds": {sort: round(value, 1) for sort, value in attack.seconds.items()},
        "drops": attack.drops, "kernel_drops": attack.kernel_drops, "term_changes": attack.terms,
        "acknowledged": attack.acknowledged, "load_errors": attack.errors,
        "rss_mib": [rss >> 20 for rss, _ in attack.memory], "store_bytes": [store for _, store in attack.memory],
    })


if __name__ == "__main__":
    sys.exit(main())

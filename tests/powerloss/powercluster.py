"""Three real nodes on real files that can lose power, a load that remembers what it was promised, and the verdict.

One round: load, the power fails at a random moment, the nodes start again, the load finishes what it had under way,
and everything that was ever acknowledged must be there, once. For the power cut see quorumd/chaos: powerloss.c and
platter.py.

Nothing here waits by the clock: `Load.pump` moves datagrams until a condition holds, up to a deadline.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from quorumd.chaos.platter import Platter
from quorumd.client.operation import Operation, Plane
from quorumd.client.protocol import ClientProtocol
from quorumd.commands import Compare, Kind, Op, Put, PutResult, Range, RangeResult, Result, Txn, TxnResult, encode
from quorumd.errors import QuorumdError
from quorumd.supervisor.sandbox import free_ports, private_host
from quorumd_fastpath import wire

NODES = (1, 2, 3)
SYNC_US = "500-3000"
CLIENTS = 3
WRITERS = 6  # of each client
INCREMENTERS = 2  # of each client
COUNTERS = 3  # shared by all incrementers
START_S = 30.0  # for three nodes to be up and to vote, on a busy machine
FINISH_S = 30.0  # for a cluster that is up to answer everything
CUT_IN_RECOVERY = 0.3  # share of the rounds in which the power fails again while the nodes start

T = TypeVar("T")
Steps = Generator[Op, Result, None]


class Broken(Exception):
    """A promise was not kept; the message says which."""


# -- the nodes ------------------------------------------------------------------------------------------------------


class PowerCluster:
    """The processes. `shadows`: directories with packages that the nodes import instead of the installed ones."""

    def __init__(self, base: Path, library: Path, shadows: Sequence[Path] = (), engine: str = "raft") -> None:
        self.base = base
        self.platter = Platter(base)
        self.host = private_host()
        ports = free_ports(self.host, 2 * len(NODES))
        self.clients = {node: f"{self.host}:{ports[2 * i]}" for i, node in enumerate(NODES)}
        nodes = [
            f"  - {{id: {node}, peer: '{self.host}:{ports[2 * i + 1]}', client: '{self.clients[node]}'}}\n"
            for i, node in enumerate(NODES)
        ]
        self.config = base / "cluster.yaml"
        self.config.write_text(
            f"cluster: powerloss\nengine: {engine}\ndata_dir: {self.platter.cache}/data\nsocket_buffer_kib: 4096\n"
            "timing: {heartbeat_ms: 50, election_timeout_ms: 250, session_ttl_ms: 600000}\n"
            "storage: {segment_mib: 4}\nnodes:\n" + "".join(nodes)
        )
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, **self.platter.environment(library, SYNC_US)}
        if shadows:
            self.environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in shadows)

    def start(self, bootstrap: int = 0) -> None:
        """Starts all nodes; bootstrap: the id of the cluster to found."""
        for node in NODES:
            command = [sys.executable, "-m", "quorumd", "node", str(self.config), "--id", str(node)]
            command += ["--parent-pid", str(os.getpid())]
            command += ["--bootstrap", f"{bootstrap:x}"] if bootstrap else []
            with (self.base / f"stderr-{node}").open("ab") as stderr:
                self.processes[node] = subprocess.Popen(
                    command, env=self.environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
                )

    def cut_power(self, rng: random.Random) -> Counter[str]:
        """All nodes are gone at once, and with them what was not durable."""
        self.kill()
        return self.platter.cut(rng)

    def kill(self) -> None:
        """SIGKILL to all, then waits for them."""
        for process in self.processes.values():
            process.send_signal(signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        self.processes.clear()

    def check_alive(self) -> None:
        """Raises Broken if a node ended by itself."""
        for node, process in self.processes.items():
            if process.poll() is not None:
                said = (self.base / f"stderr-{node}").read_text(errors="replace").splitlines()[-5:]
                raise Broken(f"node {node} ended by itself with exit code {process.returncode}: {' | '.join(said)}")


# -- the clients ----------------------------------------------------------------------------------------------------


class PowerClient:
    """One client of the library, its socket and its session. Calls are Operations; nothing blocks."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.protocol = ClientProtocol(endpoints, entropy=os.urandom, resolve=address_of)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.protocol.start(time.monotonic_ns())

    def receive(self) -> None:
        """Takes in every datagram that is there."""
        while True:
            try:
                datagram, source = self.socket.recvfrom(65536)
            except BlockingIOError:
                return
            self.protocol.receive(datagram, source, time.monotonic_ns())

    def turn(self) -> None:
        """Timers, then whatever may leave."""
        self.protocol.tick(time.monotonic_ns())
        for address, datagram in self.protocol.take_datagrams():
            assert isinstance(address, tuple)
            try:
                self.socket.sendto(datagram, address)
            except OSError:
                continue  # as good as lost on the way

    def submit(self, op: Op) -> Operation:
        """A write, or a linearizable read if `op` is a Range. It has no other deadline than the run's."""
        deadline = time.monotonic_ns() + 3600 * 10**9
        plane, kind = (Plane.READ, Kind.READ) if isinstance(op, Range) else (Plane.WRITE, Kind.COMMAND)
        operation = Operation(plane, kind, encode(op), deadline, request=op)
        self.protocol.submit(operation, time.monotonic_ns())
        return operation


def address_of(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


@dataclass
class Promises:
    """What the load was told, and so may count on."""

    unique: dict[bytes, bytes] = field(default_factory=dict)  # keys written once: acknowledged, with their values
    issued: dict[bytes, bytes] = field(default_factory=dict)  # and all that were ever asked for
    registers: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # overwritten: highest acknowledged, issued
    increments: Counter[bytes] = field(default_factory=Counter)  # by counter: transactions that said they succeeded
    acknowledged: int = 0


class Load:
    """Writers and incrementers, each with one operation under way, as generators of operations."""

    def __init__(self, endpoints: Mapping[int, str], seed: int) -> None:
        self.endpoints = endpoints
        self.rng = random.Random(seed)
        self.promises = Promises()
        self.round = 0
        self.paused = True
        self.clients = [PowerClient(list(endpoints.values())) for _ in range(CLIENTS + 1)]
        self.reader = self.clients[-1]
        self.waiting: list[tuple[PowerClient, Steps]] = []
        self.under_way: dict[Operation, tuple[PowerClient, Steps]] = {}
        for number, client in enumerate(self.clients[:-1]):
            for worker in range(WRITERS):
                self.waiting.append((client, self.write(number * WRITERS + worker)))
            for worker in range(INCREMENTERS):
                name = number * INCREMENTERS + worker
                self.waiting.append((client, self.increment(b"counter/%d" % (name % COUNTERS), name)))

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()

    # -- what the workers do -------------------------------------------------------------------------------------------

    def write(self, worker: int) -> Steps:
        """Keys of its own, each written once, and a register that it overwrites in between."""
        promises = self.promises
        register = b"register/%02d" % worker
        for number in range(1 << 30):
            size = 65536 if self.rng.random() < 0.01 else self.rng.randrange(4096)
            key, value = b"unique/%04d/%02d/%06d" % (self.round, worker, number), self.rng.randbytes(size)
            promises.issued[key] = value
            yield Put(key, value)
            promises.unique[key] = value
            if number % 4 == 0:
                acknowledged, _ = promises.registers.get(register, (-1, -1))
                promises.registers[register] = (acknowledged, number)
                yield Put(register, b"%d" % number)
                promises.registers[register] = (number, number)

    def increment(self, counter: bytes, worker: int) -> Steps:
        """Read, then compare and put; a transaction that lost the race is tried again with what is there now."""
        while True:
            found = yield Range(counter)
            assert isinstance(found, RangeResult)
            revision, number = (found.kvs[0].mod_revision, int(found.kvs[0].value)) if found.kvs else (0, 0)
            witness, name = b"witness/" + counter + b"/%06d" % (number + 1), b"%d" % worker
            done = yield Txn(
                [Compare.mod_revision(counter, "=", revision)],
                [Put(counter, b"%d" % (number + 1)), Put(witness, name)],
            )
            assert isinstance(done, TxnResult)
            if done.succeeded:
                self.promises.increments[counter] += 1
                self.promises.issued[witness] = self.promises.unique[witness] = name

    # -- moving --------------------------------------------------------------------------------------------------------

    def pump(self, until: Callable[[], T], seconds: float, what: str, watch: PowerCluster | None = None) -> T:
        """Runs the load until `until()` is true, and returns that. Raises Broken after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            self.turn()
            found = until()
            if found:
                return found
            if watch is not None:
                watch.check_alive()
            now = time.monotonic()
            if now >= deadline:
                raise Broken(f"not within {seconds} s: {what}")
            due = [client.protocol.next_deadline() for client in self.clients]
            wait = min([at / 1e9 - now for at in due if at is not None] + [0.02, deadline - now])
            select.select([client.socket for client in self.clients], [], [], max(wait, 0))

    def turn(self) -> None:
        for client in self.clients:
            client.receive()
            self.advance(client)
        if not self.paused:
            waiting, self.waiting = self.waiting, []
            for client, steps in waiting:
                self.step(client, steps, None)
        for client in self.clients:
            client.turn()

    def advance(self, client: PowerClient) -> None:
        """Hands the workers their answers."""
        for operation in client.protocol.take_completed():
            owner = self.under_way.pop(operation, None)
            if owner is None:
                continue
            try:
                result = operation.result()
            except QuorumdError as error:
                raise Broken(f"{operation.request!r:.80}: {type(error).__name__}: {error}") from error
            if isinstance(result, PutResult | TxnResult):
                self.promises.acknowledged += 1
            self.step(*owner, result)

    def step(self, client: PowerClient, steps: Steps, result: Result | None) -> None:
        """One worker goes on; in a pause it stops before it asks for something new."""
        if result is None:
            op = next(steps)
            self.under_way[client.submit(op)] = (client, steps)
            return
        op = steps.send(result)
        if self.paused:
            self.waiting.append((client, resumed(op, steps)))
        else:
            self.under_way[client.submit(op)] = (client, steps)

    def receive_all(self) -> None:
        """What was on its way when the power failed was still promised."""
        for client in self.clients:
            client.receive()
            self.advance(client)

    def read(self, op: Range) -> RangeResult:
        """A linearizable read."""
        operation = self.reader.submit(op)
        self.pump(lambda: operation.done, FINISH_S, "a linearizable read")
        result = operation.result()
        assert isinstance(result, RangeResult)
        return result

    def read_all(self, prefix: bytes) -> dict[bytes, bytes]:
        """Every key that begins with `prefix`, page by page."""
        found: dict[bytes, bytes] = {}
        begin, end = prefix, prefix[:-1] + bytes([prefix[-1] + 1])
        while True:
            page = self.read(Range(begin, end))
            found.update((kv.key, kv.value) for kv in page.kvs)
            if not page.more:
                return found
            begin = page.kvs[-1].key + b"\0"

    def figures(self) -> dict[int, dict[str, object]]:
        """One STATUS to every node; the replies of those that answer at once."""
        found: dict[int, dict[str, object]] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            question = wire.encode_frame(wire.KIND_STATUS, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0)
            for endpoint in self.endpoints.values():
                probe.sendto(question, address_of(endpoint))
            while len(found) < len(self.endpoints) and select.select([probe], [], [], 0.1)[0]:
                for frame, payload in wire.parse_datagram(probe.recv(65536)):
                    if frame.kind == wire.KIND_STATUS_REPLY:
                        found[frame.sender] = json.loads(payload)
        return found


def resumed(op: Op, steps: Steps) -> Steps:
    """A worker that was stopped with `op` on its lips."""
    result = yield op
    while True:
        result = yield steps.send(result)


# -- the verdict ----------------------------------------------------------------------------------------------------


def everyone_votes(load: Load) -> bool:
    """Whether every node is up and a member of the quorum. Raises Broken if one says that it must stay out."""
    figures = load.figures()
    if len(figures) < len(NODES):
        return False
    out = {node: status["reason"] for node, status in sorted(figures.items()) if status["reason"]}
    if out:
        kept = "the others still hold" if len(out) <= len(NODES) // 2 else "no quorum is left of"
        raise Broken(f"{kept} {load.promises.acknowledged} acknowledged writes, out of the quorum: {out}")
    return all(status["voter"] for status in figures.values())


def check_keys(promises: Promises, found: Mapping[bytes, bytes], prefix: bytes) -> None:
    """Every acknowledged key is there, and no key has a value that nobody asked for."""
    lost = sorted(key for key in promises.unique if key.startswith(prefix) and key not in found)
    if lost:
        expected = sum(key.startswith(prefix) for key in promises.unique)
        raise Broken(f"{len(lost)} of {expected} acknowledged writes are lost, the first is {lost[0].decode()}")
    wrong = sorted(key for key, value in found.items() if promises.issued.get(key) != value)
    if wrong:
        raise Broken(f"{len(wrong)} keys have a value that nobody wrote, the first is {wrong[0].decode()}")


def check_overwritten(load: Load) -> None:
    """Registers hold their last acknowledged value or a later one; counters what was added to them, once each.

    Nothing may be under way.
    """
    promises = load.promises
    found = load.read_all(b"register/")
    for register, (acknowledged, issued) in promises.registers.items():
        number = int(found.get(register, b"-1"))
        if not acknowledged <= number <= issued:
            raise Broken(f"{register.decode()} is {number}, but {acknowledged} was acknowledged, {issued} asked for")
    counters = load.read_all(b"counter/")
    for counter, succeeded in promises.increments.items():
        number = int(counters.get(counter, b"0"))
        if number != succeeded:
            raise Broken(f"{counter.decode()} is {number} after {succeeded} increments were acknowledged")


def agreement(load: Load) -> bool:
    """Whether all nodes have applied the same entries with the same results."""
    figures = load.figures().values()
    return len(figures) == len(NODES) and len({(each["applied"], each["digest"]) for each in figures}) == 1


@dataclass
class Outcome:
    """What a run showed. `broken` is the first promise that was not kept, or empty."""

    rounds: int = 0
    cuts: int = 0
    acknowledged: int = 0
    increments: int = 0
    under_way_at_cut: int = 0
    seconds: float = 0.0
    losses: Counter[str] = field(default_factory=Counter)
    broken: str = ""


class Trial:
    """Rounds of power loss on one cluster."""

    def __init__(
        self, base: Path, library: Path, *, seed: int, shadows: Sequence[Path] = (), engine: str = "raft"
    ) -> None:
        self.rng = random.Random(seed)
        self.cluster = PowerCluster(base, library, shadows, engine)
        self.load = Load(self.cluster.clients, self.rng.getrandbits(64))
        self.outcome = Outcome(losses=self.cluster.platter.losses)

    def run(
        self, rounds: int, *, cut_at_founding: bool = True, tell: Callable[[str], None] = lambda line: None
    ) -> Outcome:
        """Stops at the first promise that is not kept.

        cut_at_founding: the power also fails once before anything was logged.
        """
        outcome, load = self.outcome, self.load
        began = time.monotonic()
        try:
            self.cluster.start(bootstrap=self.rng.getrandbits(64) | 1)
            load.pump(lambda: everyone_votes(load), START_S, "the cluster is founded", self.cluster)
            if cut_at_founding:  # the nodes may have logged nothing yet, and must still know whose they are
                self.cut()
                self.cluster.start()
                load.pump(lambda: everyone_votes(load), START_S, "every node is back", self.cluster)
            for _ in range(rounds):
                self.round()
                tell(f"{outcome.rounds} rounds, {load.promises.acknowledged} acknowledged, {dict(outcome.losses)}")
            check_keys(load.promises, {**load.read_all(b"unique/"), **load.read_all(b"witness/")}, b"")
            load.pump(lambda: agreement(load), FINISH_S, "all nodes agree", self.cluster)
        except Broken as broken:
            outcome.broken = str(broken)
        finally:
            self.cluster.kill()
            load.close()
        outcome.acknowledged = load.promises.acknowledged
        outcome.increments = sum(load.promises.increments.values())
        outcome.seconds = round(time.monotonic() - began, 1)
        return outcome

    def round(self) -> None:
        """Load, cut, start, finish, compare."""
        load, cluster, outcome, promises = self.load, self.cluster, self.outcome, self.load.promises
        load.round += 1
        enough = promises.acknowledged + self.rng.randrange(100, 1000)
        load.paused = False
        load.pump(lambda: promises.acknowledged >= enough, FINISH_S, "the load gets its answers", cluster)
        load.paused = True
        self.cut()
        load.receive_all()
        outcome.under_way_at_cut += len(load.under_way)
        cluster.start()
        if self.rng.random() < CUT_IN_RECOVERY:
            moment = time.monotonic() + self.rng.uniform(0.1, 1.0)
            load.pump(lambda: time.monotonic() >= moment, START_S, "a moment in recovery")
            self.cut()
            load.receive_all()
            cluster.start()
        load.pump(lambda: everyone_votes(load), START_S, "every node is back", cluster)
        load.pump(lambda: not load.under_way, FINISH_S, "what was under way is answered", cluster)
        for prefix in (b"unique/%04d/" % load.round, b"unique/%04d/" % (load.round - 1), b"witness/"):
            check_keys(promises, load.read_all(prefix), prefix)
        check_overwritten(load)
        outcome.rounds += 1

    def cut(self) -> None:
        self.outcome.cuts += 1
        self.cluster.cut_power(self.rng)

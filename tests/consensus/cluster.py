"""A cluster of engines in memory: simulated clock, network and disks, one thread, everything from one seed.

No bytes: an entry is (term, payload). What it keeps to the letter is the contract of consensus/engine.py: messages
parked until Durable, sources that die with the turn unless retained, restarts from what was on disk and nothing else.
`Checker` watches every Ready and raises as soon as a property of the thesis's figure 3.2 is violated.

Nodes run Raft here; `paxoscluster.py` has those that run Multi-Paxos, for the same clusters.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from quorumd.consensus.engine import (
    NOOP,
    Append,
    Durable,
    HardState,
    Propose,
    ReadIndex,
    Ready,
    Role,
    Stalled,
    Tick,
    TransferLeadership,
)
from quorumd.consensus.messages import AppendEntries
from quorumd.consensus.raft import Raft, RaftConfig
from quorumd.consensus.termlog import TermLog

MS = 1_000_000
ENTRY_BYTES = 100
CONFIG = RaftConfig(
    heartbeat_ns=30 * MS,
    election_timeout_ns=100 * MS,
    max_append_bytes=10 * ENTRY_BYTES,
    max_inflight_bytes=40 * ENTRY_BYTES,
    max_inflight_messages=8,
)

Entry = tuple[int, object]

FAULTS = ("second-leader-refused", "committed-entry-contradicted", "verified-entry-contradicted")
"""Events that tell of a peer that no correct node is."""


class Violation(AssertionError):
    """A safety property does not hold."""


def check(condition: object, what: str) -> None:
    """Raises Violation unless `condition` holds (pytest does not rewrite asserts of helper modules)."""
    if not condition:
        raise Violation(what)


class Borrowed:
    """The source of a delivered AppendEntries: gone when the turn ends, unless the engine retained it."""

    def __init__(self, payloads: list[object]) -> None:
        self.payloads: list[object] | None = payloads

    @property
    def size_bytes(self) -> int:
        return ENTRY_BYTES * len(self.payloads or ())

    def retain(self) -> "Borrowed":
        check(self.payloads is not None, "retained after the turn in which it was delivered")
        return Borrowed(list(self.payloads or ()))


class Sizes:
    """Every entry has the same size."""

    def fit(self, first: int, last: int, max_bytes: int) -> tuple[int, int]:
        upto = min(last, first + max(max_bytes // ENTRY_BYTES, 1) - 1)
        return upto, (upto - first + 1) * ENTRY_BYTES


class Checker:
    """Figure 3.2 of the thesis, checked from outside on every change; so are reads and durability."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.entries: dict[tuple[int, int], tuple[object, int]] = {}
        self.committed: list[Entry] = []
        self.read_floor: dict[int, int] = {}
        self.reads_done = 0

    def on_leader(self, node: "Node") -> None:
        term, engine = node.engine.term, node.engine
        check(self.leaders.setdefault(term, node.id) == node.id, f"election safety: two leaders in term {term}")
        for index, entry in enumerate(self.committed, 1):
            check(
                index <= engine.last and node.log[index - 1] == entry,
                f"leader completeness: leader {node.id} of term {term} lacks committed entry {index}",
            )

    def on_append(self, node: "Node", first: int) -> None:
        for index in range(first, len(node.log) + 1):
            term, payload = node.log[index - 1]
            before = node.log[index - 2][0] if index > 1 else 0
            seen = self.entries.setdefault((index, term), (payload, before))
            check(seen == (payload, before), f"log matching: entry {index} of term {term} differs at node {node.id}")

    def on_committed(self, node: "Node", first: int, last: int, nodes: Iterable["Node"]) -> None:
        for index in range(first, last + 1):
            entry = node.log[index - 1]
            if index <= len(self.committed):
                check(self.committed[index - 1] == entry, f"state machine safety: node {node.id} differs at {index}")
                continue
            check(index == len(self.committed) + 1, "entries commit in order")
            everyone = list(nodes)
            holders = sum(len(n.disk_log) >= index and n.disk_log[index - 1] == entry for n in everyone)
            check(holders > len(everyone) // 2, f"entry {index} committed, durable on {holders} of {len(everyone)}")
            self.committed.append(entry)

    def on_write(self, node: "Node", first: int, entries: list[Entry]) -> None:
        """Entries have reached a node's disk. Raft's properties need no more than `on_committed` asks of it."""

    def on_send(self, node: "Node", message: Any) -> None:
        """A message leaves."""

    def on_read_asked(self, read_id: int) -> None:
        self.read_floor[read_id] = len(self.committed)

    def on_read(self, read_id: int, index: int) -> None:
        check(index >= self.read_floor[read_id], f"stale read {read_id}: {index} < {self.read_floor[read_id]}")
        self.reads_done += 1


class Node:
    """One engine with its disk. `pending` is what was handed to the disk and is not yet durable."""

    checker = Checker
    config = CONFIG
    carriers: tuple[type, ...] = (AppendEntries,)  # messages whose source borrows bytes from the turn

    def __init__(self, cluster: "Cluster", node: int, config: Any) -> None:
        self.cluster = cluster
        self.id = node
        self.config = config
        self.lives = 0
        self.disk_hard = HardState(0, 0)
        self.disk_log: Any = self.empty()
        self.disk_commit = 0
        self.alive = False
        self.start()

    def start(self) -> None:
        """(Re)starts from the disk."""
        self.lives += 1
        self.alive = True
        self.log = self.disk_log.copy()
        self.pending: deque[tuple[int, HardState | None, list[tuple[int, list[Entry]]], int]] = deque()
        self.parked: deque[tuple[int, Iterable[object]]] = deque()
        self.proposals: deque[object] = deque()
        self.borrowed: list[Borrowed] = []
        self.reads: dict[int, int] = {}
        self.reads_failed: list[int] = []
        self.events: list[str] = []
        self.applied = 0
        self.was_leader = 0
        self.engine = self.make_engine(random.Random(f"{self.cluster.seed}/{self.id}/{self.lives}"))

    def empty(self) -> Any:
        """A log without entries."""
        return []

    def make_engine(self, seed: random.Random) -> Any:
        """An engine with what is on the disk."""
        terms = TermLog()
        for index, (term, _) in enumerate(self.log, 1):
            terms.append(index, index, term)
        members, now = self.cluster.members, self.cluster.now
        return Raft(self.id, members, self.config, self.disk_hard, terms, Sizes(), seed, now, commit=self.disk_commit)

    def crash(self, keep: int = 0) -> None:
        """Loses what is not durable; the first `keep` pending Readys happen to have reached the disk."""
        for _ in range(min(keep, len(self.pending))):
            self._write(self.pending.popleft())
        self.alive = False
        self.pending.clear()
        self.parked.clear()

    def step(self, message: object) -> None:
        """One input."""
        if isinstance(message, self.carriers):
            source = Borrowed(list(message.source))
            self.borrowed.append(source)
            message = message._replace(source=source)
        if isinstance(message, ReadIndex):
            self.cluster.checker.on_read_asked(message.read_id)
        self.engine.step(message)

    def propose(self, *payloads: object) -> None:
        self.proposals.extend(payloads)
        self.engine.step(Propose(len(payloads), ENTRY_BYTES * len(payloads)))

    def wait_anew(self, now: int) -> None:
        """Its timer starts over, as after a stall, but as often as wanted."""
        self.engine._s.spared = False
        self.engine.step(Stalled(now))

    def turn(self) -> list[Ready]:
        """Ends a turn: tick, then every Ready is acted upon in the order of the contract."""
        self.engine.step(Tick(self.cluster.now))
        readys = []
        while (ready := self.engine.ready()) is not None:
            readys.append(ready)
            self._perform(ready)
        for source in self.borrowed:
            source.payloads = None
        self.borrowed.clear()
        self._inspect()
        return readys

    def durable(self, seq: int) -> None:
        """The disk has finished everything up to Ready `seq`."""
        while self.pending and self.pending[0][0] <= seq:
            self._write(self.pending.popleft())
        self.engine.step(Durable(seq))
        while self.parked and self.parked[0][0] <= seq:
            for message in self.parked.popleft()[1]:
                self.cluster.send(message)

    def _write(self, job: tuple[int, HardState | None, list[tuple[int, list[Entry]]], int]) -> None:
        _, hard_state, appends, commit = job
        self.disk_hard = hard_state or self.disk_hard
        for first, entries in appends:
            self.put(self.disk_log, first, entries)
            self.cluster.checker.on_write(self, first, entries)
        self.disk_commit = max(self.disk_commit, commit)

    @staticmethod
    def put(log: Any, first: int, entries: list[Entry]) -> None:
        """Appends entries; whatever was at `first` and after goes."""
        check(first <= len(log) + 1, "the log has no holes")
        del log[first - 1 :]
        log += entries

    def _perform(self, ready: Ready) -> None:
        jobs = [(item.first, self._append(item)) for item in ready.append]
        self.pending.append((ready.seq, ready.hard_state, jobs, self.applied))
        for message in ready.messages:
            self.cluster.send(self._fill(message))
        self.parked.append((ready.seq, [self._fill(m) for m in ready.messages_after_durable]))
        if ready.committed:
            first, last = ready.committed
            check(first == self.applied + 1 and last >= first, "committed ranges are handed out once and in order")
            self.applied = last
            self.cluster.checker.on_committed(self, first, last, self.cluster.nodes.values())
        for read in ready.reads:
            self.reads[read.read_id] = read.read_index
            self.cluster.checker.on_read(read.read_id, read.read_index)
        self.reads_failed += ready.reads_failed
        for event in ready.events:
            check(event.what not in FAULTS, f"node {self.id}: {event}")
            self.events.append(event.what)
        self.cluster.on_ready(self, ready)

    def payloads(self, item: Append) -> list[object]:
        """The values an append item names."""
        count = item.last - item.first + 1
        if item.source is None:
            payloads: list[object] = [self.proposals.popleft() for _ in range(count)]
        elif item.source is NOOP:
            payloads = [f"noop{item.term}"] * count
        else:
            held = item.source.payloads
            check(held is not None, "an append names a source that was not retained")
            payloads = held[item.skip : item.skip + count]
        check(len(payloads) == count, "an append has as many entries as it says")
        return payloads

    def _append(self, item: Append) -> list[Entry]:
        entries = [(item.term, payload) for payload in self.payloads(item)]
        self.put(self.log, item.first, entries)
        self.cluster.checker.on_append(self, item.first)
        return entries

    def _fill(self, message: object) -> object:
        if isinstance(message, AppendEntries):
            entries = self.log[message.prev_index : message.prev_index + message.entries]
            check(len(entries) == message.entries, "sent entries are in the log")
            check(all(term == message.entries_term for term, _ in entries), "a message carries one term")
            return message._replace(source=tuple(payload for _, payload in entries))
        return message

    def agree(self) -> None:
        """Engine and log say the same."""
        engine = self.engine
        check(engine.last == len(self.log), "engine and log agree on the last index")
        check(not self.log or engine.term_at(len(self.log)) == self.log[-1][0], "engine and log agree on the last term")

    def _inspect(self) -> None:
        engine = self.engine
        self.agree()
        if engine.role == Role.LEADER and self.was_leader != engine.term:
            self.was_leader = engine.term
            self.cluster.checker.on_leader(self)


class Cluster:
    """Nodes, clock and network. Without `chaos` the caller moves messages and durability by hand."""

    def __init__(self, size: int = 3, seed: int = 0, config: Any = None, node: type[Node] = Node) -> None:
        self.seed = seed
        self.now = 0
        self.members = list(range(1, size + 1))
        self.checker = node.checker()
        self.wire: deque[Any] = deque()  # sent and not delivered, oldest first
        self.cut: set[tuple[int, int]] = set()  # (from, to) links that drop everything
        self.auto_durable = True
        self.nodes: dict[int, Node] = {}
        self.on_send: Callable[[Any], None] = self.wire.append
        for member in self.members:
            self.nodes[member] = node(self, member, config or node.config)

    def send(self, message: Any) -> None:
        """A message leaves its sender."""
        self.checker.on_send(self.nodes[message.sender], message)
        if (message.sender, message.to) not in self.cut:
            self.on_send(message)

    def on_ready(self, node: Node, ready: Ready) -> None:
        """A disk that is never slow, unless the test says so."""
        if self.auto_durable:
            node.durable(ready.seq)

    # -- by hand ------------------------------------------------------------------------------------------------

    def isolate(self, *nodes: int) -> None:
        """Cuts these nodes off from all others (not from each other)."""
        for a in nodes:
            for b in self.members:
                if b not in nodes:
                    self.cut |= {(a, b), (b, a)}

    def heal(self) -> None:
        self.cut.clear()

    def settle(self, limit: int = 10_000) -> None:
        """Delivers everything until nobody has anything left to say; time stands still."""
        for node in self.nodes.values():
            if node.alive:
                node.turn()
        while self.wire:
            limit -= 1
            check(limit, "the cluster does not come to rest")
            message = self.wire.popleft()
            if (message.sender, message.to) in self.cut or not self.nodes[message.to].alive:
                continue
            self.nodes[message.to].step(message)
            self.nodes[message.to].turn()

    def advance(self, milliseconds: int, step: int = 5) -> None:
        """Lets time pass, everything delivered at once."""
        end = self.now + milliseconds * MS
        while self.now < end:
            self.now = min(self.now + step * MS, end)
            self.settle()

    def elect(self, node: int) -> Node:
        """Makes `node` the leader: by transfer, or by letting only its clock run out."""
        chosen = self.nodes[node]
        leader = self.leader
        if leader is chosen:
            return chosen
        if leader:
            leader.step(TransferLeadership(node))
            self.settle()
            if chosen.engine.role == Role.LEADER:
                return chosen
        for _ in range(20):
            self.now += 200 * MS  # T < 200 ms <= 2T: the others no longer refuse to vote
            for other in self.nodes.values():
                if other.alive and other is not chosen:
                    other.wait_anew(self.now)
            self.settle()
            if chosen.engine.role == Role.LEADER:
                return chosen
        raise Violation(f"node {node} was not elected")

    @property
    def leader(self) -> Node | None:
        """The live leader of the highest term."""
        leaders = [n for n in self.nodes.values() if n.alive and n.engine.role == Role.LEADER]
        return max(leaders, key=lambda n: n.engine.term) if leaders else None


class Chaos(Cluster):
    """The cluster under a random network, random disks and crashes, all from the seed."""

    def __init__(self, seed: int, size: int, config: Any = None, node: type[Node] = Node) -> None:
        self.random = rng = random.Random(seed)
        self.queue: list[tuple[int, int, int, int, object]] = []  # (at, order, node, life, input)
        self.order = 0
        self.loss = rng.choice((0, 0.02, 0.1, 0.3))
        self.duplication = rng.choice((0, 0.05, 0.4))
        self.delay = rng.choice((1, 5, 30, 80))
        self.disk = rng.choice((0, 2, 20, 60))
        self.rate = rng.choice((0.01, 0.03, 0.06))  # faults in a millisecond
        self.faults = True
        self.proposed = 0
        self.asked = 0
        self.wakes: dict[int, int] = {}
        super().__init__(size, seed, config, node)
        self.on_send = self._transmit

    def _push(self, delay: int, node: int, item: object) -> None:
        self.order += 1
        heapq.heappush(self.queue, (self.now + delay * MS, self.order, node, self.nodes[node].lives, item))

    def _transmit(self, message: Any) -> None:
        rng = self.random
        if self.faults and rng.random() < self.loss:
            return
        copies = 2 if self.faults and rng.random() < self.duplication else 1
        for _ in range(copies):
            delay = 1 + int(rng.random() ** 4 * self.delay) if self.faults else 1
            self._push(delay, message.to, message)

    def on_ready(self, node: Node, ready: Ready) -> None:
        """Completes in order, later; sometimes inside the turn, as an idle disk would."""
        if self.disk == 0:
            node.durable(ready.seq)
        else:
            self._push(int(self.random.random() * self.disk), node.id, Durable(ready.seq))

    def run(self, milliseconds: int) -> None:
        """Runs that long; inputs of one node that fall into one millisecond make one turn."""
        end = self.now + milliseconds * MS
        while self.now < end:
            self.now += MS
            if self.faults:
                self._trouble()
            self._traffic()
            due: dict[int, list[object]] = {}
            while self.queue and self.queue[0][0] <= self.now:
                _, _, to, life, item = heapq.heappop(self.queue)
                if self.nodes[to].alive and (life == self.nodes[to].lives or not isinstance(item, Durable)):
                    due.setdefault(to, []).append(item)
            for node in self.nodes.values():
                if node.alive and (node.id in due or node.engine.deadline() <= self.now):
                    self._turn(node, due.get(node.id, ()))

    def _turn(self, node: Node, items: Iterable[object]) -> None:
        done = 0
        for item in items:
            if isinstance(item, Durable):
                done = max(done, item.seq)
            elif not (isinstance(item, tuple) and (getattr(item, "sender", 0), node.id) in self.cut):
                node.step(item)
        if done:
            node.durable(done)
        node.turn()

    def _traffic(self) -> None:
        rng = self.random
        if rng.random() < 0.15:
            for node in self.nodes.values():
                if node.alive and node.engine.role == Role.LEADER:
                    if node.engine.accepts_proposals:
                        count = rng.choice((1, 1, 2, 12))
                        node.propose(*range(self.proposed, self.proposed + count))
                        self.proposed += count
                    if rng.random() < 0.3:
                        self.asked += 1
                        node.step(ReadIndex(self.asked))
                    self._push(0, node.id, Tick(self.now))

    def _trouble(self) -> None:
        rng = self.random
        if rng.random() > self.rate:
            return
        node = self.nodes[rng.choice(self.members)]
        leader = self.leader or node
        match rng.randrange(12):
            case 0:
                self._crash(node)
            case 1 | 2:
                self._crash(leader)
            case 3 | 4 if not node.alive:
                node.start()
            case 5 if len(self.members) > 1:
                a, b = rng.sample(self.members, 2)
                self.cut.add((a, b))
            case 6:
                self.isolate(node.id)
            case 7:
                self.isolate(leader.id)
            case 8 | 9:
                self.heal()
            case 10 if node.alive:
                node.step(TransferLeadership(rng.choice([0, *self.members])))
            case 11 if node.alive:
                node.step(Stalled(self.now))

    def _crash(self, node: Node) -> None:
        """Power loss; half of the nodes are back at once, before the messages they sent have all arrived."""
        if node.alive:
            node.crash(keep=self.random.randrange(3))
            if self.random.random() < 0.5:
                node.start()

    def recover(self) -> None:
        """The liveness phase: no more faults, everyone is back."""
        self.faults = False
        self.disk = min(self.disk, 2)
        self.heal()
        for node in self.nodes.values():
            if not node.alive:
                node.start()

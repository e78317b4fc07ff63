"""The command language of the golden transcripts: a file of commands, each followed by what the cluster did.

A command is one line; below it stands `----` and the output up to an empty line. `#` begins a comment, kept as it is.

    nodes 3 [lease]         a new cluster; timeouts are seeded, disks are fast
    paxos 3 [Q1 Q2]         one that runs Multi-Paxos, perhaps with quorums of these sizes; ballots are ROUND.NODE
    elect N                 node N becomes the leader; not shown
    timeout N               node N's election timer runs out, nobody else's
    tick MS [NODES..]       time passes for everyone (or these), then each of them ends a turn
    deliver [A->B ..]       what waits on these links (or on all) is delivered, one turn for each message
    batch A->B ..           the same, but each receiver takes all of it in one turn
    settle                  deliver until nobody has anything to say
    drop A->B [COUNT]       the oldest COUNT waiting messages (or all) of the link are lost
    duplicate A->B          the waiting messages of the link are there twice
    reverse A->B            and arrive in the opposite order
    propose N NAME ..       entries for leader N
    read N ID               a linearizable read at node N
    transfer N TO           leadership transfer asked of node N
    stall N                 node N did not run for a while
    slow N, fast N          N's disk finishes only on `durable N [SEQ]`, or at once
    crash N [KEEP], restart N   the first KEEP unfinished Readys made it to the disk
    cut A B, heal           both directions of a link; all links
    isolate N               all links of a node
    log, status             what everyone holds, what the leaders know
"""

from collections.abc import Iterable, Iterator
from typing import Any

from cluster import CONFIG, ENTRY_BYTES, MS, Cluster, Node
from paxoscluster import PAXOS_CONFIG, PaxosNode

from quorumd.consensus.engine import KEPT, NOOP, ReadIndex, Ready, Stalled, Tick, TransferLeadership
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
)
from quorumd.consensus.paxos import PaxosStatus
from quorumd.consensus.paxos.ballots import node_of, round_of
from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Run, Values

SOURCES = {NOOP: "noop", KEPT: "kept", None: "staged"}


def describe(m: Any) -> str:
    """One message in one line."""
    match m:
        case RequestVote():
            kind = "PreVote" if m.pre else "RequestVote"
            body = f"{kind} t{m.term} last={m.last_index}/t{m.last_term}{' transfer' if m.transfer else ''}"
        case RequestVoteReply():
            body = f"{'PreVote' if m.pre else 'RequestVote'}Reply t{m.term} {'granted' if m.granted else 'refused'}"
        case AppendEntries():
            entries = ",".join(str(payload) for payload in m.source or ())
            body = f"Append t{m.term} prev={m.prev_index}/t{m.prev_term} commit={m.commit}"
            body += f" [{entries}]/t{m.entries_term}" if m.entries else " []"
        case AppendEntriesReply(rejected=True):
            body = f"AppendReply t{m.term} rejected prev={m.prev_index} hint={m.hint_index}/t{m.hint_term}"
            body += f" refused={m.refused}" if m.refused else ""
        case AppendEntriesReply():
            body = f"AppendReply t{m.term} match={m.match}"
        case Heartbeat():
            body = f"Heartbeat t{m.term} commit={m.commit} round={m.round}"
        case HeartbeatReply():
            body = f"HeartbeatReply t{m.term} round={m.round} last={m.last}"
        case _:
            body = f"{type(m).__name__} t{m.term}"
    return f"{m.sender}->{m.to} {body}"


def number(ballot: int) -> str:
    """A ballot as its pair."""
    return f"{round_of(ballot)}.{node_of(ballot)}"


def runs(held: Iterable[Run]) -> str:
    """Runs of accepted slots."""
    return " ".join(f"{run.first}-{run.last}/{number(run.ballot)}" for run in held) or "-"


def describe_paxos(m: Any) -> str:
    """One message of Multi-Paxos in one line."""
    kind, ballot = type(m).__name__, number(m.term)
    match m:
        case Prepare():
            body = f"{'PrePrepare' if m.pre else kind} {ballot} from {m.first}{' transfer' if m.transfer else ''}"
        case Promise(granted=False):
            body = f"{'PrePromise' if m.pre else kind} refused, promised {ballot}"
        case Promise():
            body = f"{'Pre' * m.pre}Promise {ballot} chosen={m.chosen} retained={m.retained} {runs(m.accepted)}"
        case Accept():
            values = ",".join(str(payload) for payload in m.source or ())
            body = f"Accept {ballot} slot={m.first} [{values}] chosen={m.chosen}"
        case Accepted():
            above = "".join(f" {first}-{last}" for first, last in m.above)
            body = f"Accepted {ballot} match={m.match}{above}"
        case Fetch():
            what = f"accepted in {number(m.accepted_in)}" if m.accepted_in else "chosen"
            body = f"Fetch {m.first}-{m.last} {what}"
        case Values():
            values = ",".join(str(payload) for payload in m.source or ())
            body = f"Values slot={m.first} [{values}] of {number(m.accepted_in)}{' chosen' if m.is_chosen else ''}"
        case Heartbeat():
            body = f"Heartbeat {ballot} chosen={m.commit} round={m.round}"
        case HeartbeatReply():
            body = f"HeartbeatReply {ballot} round={m.round} received={m.last}"
        case _:
            body = f"{kind} {ballot}"
    return f"{m.sender}->{m.to} {body}"


def describe_ready(node: Node, ready: Ready) -> Iterator[str]:
    """One Ready, a line for each thing in it, in the order of the contract."""
    yield f"{node.id}: Ready {ready.seq}"
    paxos = isinstance(node, PaxosNode)
    tell = describe_paxos if paxos else describe
    if hard := ready.hard_state:
        yield f"  promise {number(hard.term)}" if paxos else f"  hard state t{hard.term} vote={hard.vote}"
    for item in ready.append:
        what = SOURCES.get(item.source, "received")
        skipped = f" skip={item.skip}" if item.skip else ""
        term = number(item.term) if paxos else f"t{item.term}"
        yield f"  append {item.first}-{item.last} {term} {what}{skipped}"
    for message in ready.messages:
        yield f"  send {tell(node._fill(message))}"
    for message in ready.messages_after_durable:
        yield f"  after durable {tell(node._fill(message))}"
    if ready.committed:
        yield f"  committed {ready.committed[0]}-{ready.committed[1]}"
    for read in ready.reads:
        yield f"  read {read.read_id} at {read.read_index}"
    for read_id in ready.reads_failed:
        yield f"  read {read_id} failed"
    for event in ready.events:
        detail = {k: number(v) if paxos and k in ("term", "by") else v for k, v in event.detail.items()}
        yield f"  event {event.what} " + " ".join(f"{k}={v}" for k, v in detail.items())


class RecordedCluster(Cluster):
    """A cluster that writes down what happens; disks are slow only where the transcript says so."""

    def __init__(self, size: int, config: Any, node: type[Node] = Node) -> None:
        self.out: list[str] = []
        self.slow: set[int] = set()
        self.tell = describe if node is Node else describe_paxos
        super().__init__(size, config=config, node=node)

    def on_ready(self, node: Node, ready: Ready) -> None:
        self.out += describe_ready(node, ready)
        if node.id not in self.slow:
            node.durable(ready.seq)


class Transcript:
    """Runs commands against a cluster and collects the output."""

    def __init__(self) -> None:
        self.cluster = RecordedCluster(3, CONFIG)

    def run(self, line: str) -> list[str]:
        """Output of one command."""
        name, *words = line.split()
        self.cluster.out = []
        getattr(self, f"do_{name}")(*words)
        return self.cluster.out or ["ok"]

    def _node(self, word: str) -> Node:
        return self.cluster.nodes[int(word)]

    def _link(self, word: str) -> tuple[int, int]:
        sender, to = word.split("->")
        return int(sender), int(to)

    def _take(self, links: tuple[str, ...], count: int = 1 << 30) -> list[Any]:
        wanted = {self._link(word) for word in links}
        wire = self.cluster.wire
        taken = [m for m in wire if not wanted or (m.sender, m.to) in wanted][:count]
        for message in taken:
            wire.remove(message)
        return taken

    def do_nodes(self, size: str, lease: str = "") -> None:
        self.cluster = RecordedCluster(int(size), CONFIG._replace(lease_reads=lease == "lease"))

    def do_paxos(self, size: str, phase1: str = "0", phase2: str = "0") -> None:
        config = PAXOS_CONFIG._replace(phase1=int(phase1), phase2=int(phase2))
        self.cluster = RecordedCluster(int(size), config, PaxosNode)

    def do_timeout(self, node: str) -> None:
        self.cluster.now += 200 * MS
        for other in self.cluster.nodes.values():
            if other.alive and other is not self._node(node):
                other.wait_anew(self.cluster.now)
                other.engine.step(Tick(self.cluster.now))
        self._node(node).turn()

    def do_elect(self, node: str) -> None:
        self.cluster.elect(int(node))
        term = self._node(node).engine.term
        paxos = isinstance(self._node(node), PaxosNode)
        self.cluster.out = [f"{node} leads {number(term)}" if paxos else f"{node} leads t{term}"]

    def do_tick(self, milliseconds: str, *nodes: str) -> None:
        self.cluster.now += int(milliseconds) * MS
        for node in self.cluster.nodes.values():
            if node.alive and (not nodes or str(node.id) in nodes):
                node.turn()

    def do_deliver(self, *links: str) -> None:
        for message in self._take(links):
            self._deliver([message])

    def do_batch(self, *links: str) -> None:
        taken = self._take(links)
        for to in sorted({m.to for m in taken}):
            self._deliver([m for m in taken if m.to == to])

    def _deliver(self, messages: list[Any]) -> None:
        node = self.cluster.nodes[messages[0].to]
        for message in messages:
            if not node.alive or (message.sender, message.to) in self.cluster.cut:
                self.cluster.out.append(f"{self.cluster.tell(message)} (lost)")
                continue
            self.cluster.out.append(self.cluster.tell(message))
            node.step(message)
        if node.alive:
            node.turn()

    def do_settle(self) -> None:
        for node in self.cluster.nodes.values():
            if node.alive:
                node.turn()
        while self.cluster.wire:
            self.do_deliver()

    def do_drop(self, link: str, count: str = "") -> None:
        for message in self._take((link,), int(count or 1 << 30)):
            self.cluster.out.append(f"{self.cluster.tell(message)} (lost)")

    def do_duplicate(self, link: str) -> None:
        self.cluster.wire.extend([m for m in self.cluster.wire if (m.sender, m.to) == self._link(link)])

    def do_reverse(self, link: str) -> None:
        self.cluster.wire.extend(reversed(self._take((link,))))

    def do_propose(self, node: str, *names: str) -> None:
        if not self._node(node).engine.accepts_proposals:
            self.cluster.out.append("refused")
            return
        self._node(node).propose(*names)
        self._node(node).turn()

    def do_read(self, node: str, read_id: str) -> None:
        self._node(node).step(ReadIndex(int(read_id)))
        self._node(node).turn()

    def do_transfer(self, node: str, to: str) -> None:
        self._node(node).step(TransferLeadership(int(to)))
        self._node(node).turn()

    def do_stall(self, node: str) -> None:
        self._node(node).step(Stalled(self.cluster.now))
        self._node(node).turn()

    def do_slow(self, node: str) -> None:
        self.cluster.slow.add(int(node))

    def do_fast(self, node: str) -> None:
        self.cluster.slow.discard(int(node))
        self.do_durable(node)

    def do_durable(self, node: str, seq: str = "") -> None:
        target = self._node(node)
        if target.pending or target.parked:
            target.durable(int(seq) if seq else max(target.pending[-1][0], target.parked[-1][0]))
        target.turn()

    def do_crash(self, node: str, keep: str = "0") -> None:
        self._node(node).crash(int(keep))

    def do_restart(self, node: str) -> None:
        self._node(node).start()
        self._node(node).turn()

    def do_cut(self, a: str, b: str) -> None:
        self.cluster.cut |= {(int(a), int(b)), (int(b), int(a))}

    def do_isolate(self, node: str) -> None:
        self.cluster.isolate(int(node))

    def do_heal(self) -> None:
        self.cluster.heal()

    def do_log(self) -> None:
        for node in self.cluster.nodes.values():
            if isinstance(node, PaxosNode):
                entries = " ".join(f"{slot}:{value}/{number(b)}" for slot, (b, value) in sorted(node.log.items()))
            else:
                entries = " ".join(f"{payload}/t{term}" for term, payload in node.log)
            self.cluster.out.append(f"{node.id}: commit={node.engine.commit} {entries}")

    def do_status(self) -> None:
        for node in self.cluster.nodes.values():
            s = node.engine.status()
            if isinstance(node, PaxosNode):
                self._paxos_status(s)
                continue
            self.cluster.out.append(
                f"{s.node}: {s.role.name.lower()} t{s.term} vote={s.vote} leader={s.leader} last={s.last}"
                f" commit={s.commit} verified={s.verified} own={s.own_match} held={s.held_messages}"
            )
            for p in s.peers:
                self.cluster.out.append(
                    f"  {p.node}: {'replicating' if p.replicating else 'probing'} match={p.match} next={p.next}"
                    f" inflight={p.inflight_messages}/{p.inflight_bytes // ENTRY_BYTES} active={int(p.active)}"
                )

    def _paxos_status(self, s: PaxosStatus) -> None:
        self.cluster.out.append(
            f"{s.node}: {s.role.name.lower()} promised={number(s.term)} leader={s.leader} last={s.last}"
            f" chosen={s.commit} received={s.received} own={s.own_match} missing={s.missing}"
        )
        for p in s.peers:
            above = "".join(f" {first}-{last}" for first, last in p.above)
            self.cluster.out.append(
                f"  {p.node}: match={p.match}{above} next={p.next} inflight={p.inflight_messages}"
                f" live={int(p.replicating)}"
            )


def play(text: str) -> str:
    """The transcript of the commands in `text`, whatever output it held before."""
    transcript = Transcript()
    lines: list[str] = []
    in_output = False
    for line in text.splitlines():
        if in_output:
            in_output = bool(line.strip())
            continue
        if line.strip() == "----":
            in_output = True
        elif not line.strip() or line.startswith("#"):
            if line.strip() or (lines and lines[-1]):
                lines.append(line)
        else:
            lines += [line, "----", *transcript.run(line), ""]
    return "\n".join(lines).rstrip() + "\n"

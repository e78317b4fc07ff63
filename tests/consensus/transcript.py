"""The command language of the golden transcripts: a file of commands, each followed by what the cluster did.

A command is one line; below it stands `----` and the output up to an empty line. `#` begins a comment, kept as it is.

    nodes 3 [lease]         a new cluster; timeouts are seeded, disks are fast
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

from collections.abc import Iterator
from typing import Any

from cluster import CONFIG, ENTRY_BYTES, MS, Cluster, Node

from quorumd.consensus.engine import NOOP, ReadIndex, Ready, Stalled, Tick, TransferLeadership
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
)


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
        case AppendEntriesReply():
            body = f"AppendReply t{m.term} match={m.match}"
        case Heartbeat():
            body = f"Heartbeat t{m.term} commit={m.commit} round={m.round}"
        case HeartbeatReply():
            body = f"HeartbeatReply t{m.term} round={m.round} last={m.last}"
        case _:
            body = f"{type(m).__name__} t{m.term}"
    return f"{m.sender}->{m.to} {body}"


def describe_ready(node: Node, ready: Ready) -> Iterator[str]:
    """One Ready, a line for each thing in it, in the order of the contract."""
    yield f"{node.id}: Ready {ready.seq}"
    if ready.hard_state:
        yield f"  hard state t{ready.hard_state.term} vote={ready.hard_state.vote}"
    for item in ready.append:
        what = "noop" if item.source is NOOP else "staged" if item.source is None else "received"
        skipped = f" skip={item.skip}" if item.skip else ""
        yield f"  append {item.first}-{item.last} t{item.term} {what}{skipped}"
    for message in ready.messages:
        yield f"  send {describe(node._fill(message))}"
    for message in ready.messages_after_durable:
        yield f"  after durable {describe(node._fill(message))}"
    if ready.committed:
        yield f"  committed {ready.committed[0]}-{ready.committed[1]}"
    for read in ready.reads:
        yield f"  read {read.read_id} at {read.read_index}"
    for read_id in ready.reads_failed:
        yield f"  read {read_id} failed"
    for event in ready.events:
        yield f"  event {event.what} " + " ".join(f"{k}={v}" for k, v in event.detail.items())


class RecordedCluster(Cluster):
    """A cluster that writes down what happens; disks are slow only where the transcript says so."""

    def __init__(self, size: int, lease: bool) -> None:
        self.out: list[str] = []
        self.slow: set[int] = set()
        super().__init__(size, config=CONFIG._replace(lease_reads=lease))

    def on_ready(self, node: Node, ready: Ready) -> None:
        self.out += describe_ready(node, ready)
        if node.id not in self.slow:
            node.durable(ready.seq)


class Transcript:
    """Runs commands against a cluster and collects the output."""

    def __init__(self) -> None:
        self.cluster = RecordedCluster(3, lease=False)

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
        self.cluster = RecordedCluster(int(size), lease == "lease")

    def do_timeout(self, node: str) -> None:
        self.cluster.now += 200 * MS
        for other in self.cluster.nodes.values():
            if other.alive and other is not self._node(node):
                other.engine.step(Stalled(self.cluster.now))
                other.engine.step(Tick(self.cluster.now))
        self._node(node).turn()

    def do_elect(self, node: str) -> None:
        self.cluster.elect(int(node))
        self.cluster.out = [f"{node} leads t{self._node(node).engine.term}"]

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
                self.cluster.out.append(f"{describe(message)} (lost)")
                continue
            self.cluster.out.append(describe(message))
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
            self.cluster.out.append(f"{describe(message)} (lost)")

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
            entries = " ".join(f"{payload}/t{term}" for term, payload in node.log)
            self.cluster.out.append(f"{node.id}: commit={node.engine.commit} {entries}")

    def do_status(self) -> None:
        for node in self.cluster.nodes.values():
            s = node.engine.status()
            self.cluster.out.append(
                f"{s.node}: {s.role.name.lower()} t{s.term} vote={s.vote} leader={s.leader} last={s.last}"
                f" commit={s.commit} verified={s.verified} own={s.own_match} held={s.held_messages}"
            )
            for p in s.peers:
                self.cluster.out.append(
                    f"  {p.node}: {'replicating' if p.replicating else 'probing'} match={p.match} next={p.next}"
                    f" inflight={p.inflight_messages}/{p.inflight_bytes // ENTRY_BYTES} active={int(p.active)}"
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



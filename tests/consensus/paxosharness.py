"""One Multi-Paxos engine under the tests' hand: its inputs one by one, and everything it has said."""

from random import Random

from cluster import ENTRY_BYTES, Sizes
from hand import Hand
from paxoscluster import PAXOS_CONFIG

from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import KEPT, NOOP, HardState, Propose, Role
from quorumd.consensus.paxos import Paxos
from quorumd.consensus.paxos.ballots import ballot, node_of
from quorumd.consensus.paxos.messages import Accept, Accepted, Prepare, Promise, Values

T = PAXOS_CONFIG.election_timeout_ns
H = PAXOS_CONFIG.heartbeat_ns
LATE = 2 * T  # later than any first election timeout drawn
B1, B2, B3 = ballot(1, 2), ballot(2, 3), ballot(3, 2)
LATER = ballot(8, 2)  # promised by whoever is to lead above what others accepted
FLEXIBLE = PAXOS_CONFIG._replace(phase1=4, phase2=2)
FIVE = (1, 2, 3, 4, 5)


class Harness(Hand):
    """One engine, node 1 of three unless told otherwise, and everything it has said."""

    def __init__(self, accepted=(), promised=None, members=(1, 2, 3), commit=0, base=0, config=PAXOS_CONFIG):
        log = BallotLog(base)
        for run in accepted:
            log.accept(*run)
        newest = max((run[2] for run in accepted), default=0)
        hard = HardState(newest if promised is None else promised, node_of(newest if promised is None else promised))
        self.paxos = Paxos(1, members, config, hard, log, Sizes(), Random(1), 0, commit=commit, applied=base)
        super().__init__(self.paxos)
        self.others = [member for member in members if member != 1]
        self.quorum = config.quorums(len(members))[0]

    def wait(self, span=LATE):
        return super().wait(span)

    def said(self, *kinds):
        """Everything the coming Ready says, at once or after the sync."""
        ready = self.ready()
        return [m for m in (*ready.messages, *ready.messages_after_durable) if not kinds or type(m) in kinds]

    def candidate(self):
        """Has asked, and prepares; the promise is not durable yet."""
        self.wait()
        asked = next(m for m in self.said(Prepare) if m.pre).ballot
        for other in self.others[: self.quorum - 1]:
            self.step(Promise(other, 1, asked, True, True, 0, 1, 0, 1, ()))
        assert self.paxos.role == Role.CANDIDATE
        self.ready()
        return self

    def promise(self, sender, *runs, chosen=0, retained=1, part=0, parts=1):
        """A promise of the ballot under way."""
        return Promise(sender, 1, self.paxos.term, True, False, chosen, retained, part, parts, tuple(runs))

    def leader(self, *promises):
        """Leads with promises that report nothing accepted, or with these; what it proposed is not durable yet."""
        self.candidate().durable()
        for m in promises or [self.promise(other) for other in self.others[: self.quorum - 1]]:
            self.step(m._replace(ballot=self.paxos.term))
        assert self.paxos.role == Role.LEADER
        self.won = self.ready()
        return self

    def settled(self):
        """Leads, and everything proposed so far is chosen."""
        self.leader().durable()
        self.ack(self.paxos.last, *self.others).ready()
        assert self.paxos.commit == self.paxos.last
        return self

    def ack(self, match, *nodes, above=()):
        for node in nodes:
            self.step(Accepted(node, 1, self.paxos.term, match, tuple(above)))
        return self

    def propose(self, count=1):
        return self.step(Propose(count, count * ENTRY_BYTES))

    def held(self, upto):
        return [self.paxos.term_at(slot) for slot in range(1, upto + 1)]


def accept(number, first=1, entries=1, chosen=0):
    return Accept(node_of(number), 1, number, first, entries, chosen, [None] * entries)


def prepare(number, first=1, pre=False, transfer=False):
    return Prepare(node_of(number), 1, number, first, pre, transfer)


def values(number, first, entries, chosen=True, sender=2):
    return Values(sender, 1, B1, first, entries, number, chosen, [None] * entries)


def items(ready):
    """(first, last, ballot, source) of what a Ready appends; a message's source is "theirs"."""
    names = {id(NOOP): "noop", id(KEPT): "kept", id(None): "staged"}
    return [(a.first, a.last, a.term, names.get(id(a.source), "theirs")) for a in ready.append]


def of_type(messages, *kinds):
    return [m for m in messages if type(m) in kinds]

"""One Raft engine under the tests' hand: its inputs one by one, and everything it has said."""

from random import Random

from cluster import CONFIG, ENTRY_BYTES, Sizes
from hand import Hand

from quorumd.consensus.engine import (
    HardState,
    Propose,
    Role,
)
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    RequestVote,
    RequestVoteReply,
)
from quorumd.consensus.raft import Raft
from quorumd.consensus.termlog import TermLog

T = CONFIG.election_timeout_ns
H = CONFIG.heartbeat_ns
LATE = 2 * T  # later than any election timeout drawn


class Harness(Hand):
    """One engine, node 1 of three unless told otherwise, and everything it has said."""

    def __init__(self, terms=(), term=None, vote=0, members=(1, 2, 3), commit=0, config=CONFIG, now=0, promised=0):
        log = TermLog()
        for index, entry_term in enumerate(terms, 1):
            log.append(index, index, entry_term)
        term = log.last_term if term is None else term
        self.raft = Raft(
            1, members, config, HardState(term, vote), log, Sizes(), Random(1), now, commit=commit, promised=promised
        )
        super().__init__(self.raft, now)

    def wait(self, span=LATE):
        return super().wait(span)

    def candidate(self):
        """Runs in the next term, vote not durable yet."""
        self.wait()
        others = [m for m in self.raft._s.members if m != 1]
        for other in others[: len(others) // 2 + 1]:
            if self.raft.role == Role.PRE_CANDIDATE:
                self.step(RequestVoteReply(other, 1, self.raft.term + 1, True, True))
        assert self.raft.role == Role.CANDIDATE
        self.ready()
        return self

    def leader(self, *granting):
        """Leads the next term; its no-op is durable here and nowhere else."""
        self.candidate().durable()
        for other in granting or [m for m in self.raft._s.members if m != 1]:
            self.step(RequestVoteReply(other, 1, self.raft.term, True, False))
        assert self.raft.role == Role.LEADER
        self.ready()
        return self.durable()

    def ack(self, match, *nodes):
        for node in nodes or (2, 3):
            self.step(AppendEntriesReply(node, 1, self.raft.term, match, False, 0, 0, 0))
        return self

    def propose(self, count=1):
        return self.step(Propose(count, count * ENTRY_BYTES))

    def terms(self):
        return [self.raft.term_at(i) for i in range(1, self.raft.last + 1)]


def append(term, prev=(0, 0), entries=0, entries_term=0, commit=0, sender=2, source=None):
    return AppendEntries(sender, 1, term, prev[0], prev[1], commit, entries_term, entries, source)


def vote_request(term, last=(0, 0), sender=2, pre=False, transfer=False):
    return RequestVote(sender, 1, term, last[0], last[1], pre, transfer)


def of_type(messages, kind):
    return [m for m in messages if type(m) is kind]


def reads_of(ready):
    return [(r.read_id, r.read_index) for r in ready.reads] if ready else []

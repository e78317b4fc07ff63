"""One test per sentence of the paper. Sections are of Ongaro's thesis, "Consensus: Bridging Theory and Practice"."""

from random import Random

import pytest
from cluster import CONFIG, ENTRY_BYTES, MS, Cluster, Sizes

from quorumd.consensus.engine import (
    NOOP,
    Append,
    Durable,
    HardState,
    Propose,
    ReadIndex,
    Role,
    Stalled,
    Tick,
    TransferLeadership,
)
from quorumd.consensus.messages import (
    REFUSED,
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.consensus.raft import Raft, following
from quorumd.consensus.raft.table import PEER_MESSAGES, TABLE
from quorumd.consensus.termlog import TermLog
from quorumd.invariants import InvariantBroken
from quorumd.limits import MAX_INFLIGHT_MESSAGES, REORDER_WINDOW_MESSAGES

T = CONFIG.election_timeout_ns
H = CONFIG.heartbeat_ns
LATE = 2 * T  # later than any election timeout drawn


class Harness:
    """One engine, node 1 of three unless told otherwise, and everything it has said."""

    def __init__(self, terms=(), term=None, vote=0, members=(1, 2, 3), commit=0, config=CONFIG, now=0, promised=0):
        log = TermLog()
        for index, entry_term in enumerate(terms, 1):
            log.append(index, index, entry_term)
        term = log.last_term if term is None else term
        self.raft = Raft(
            1, members, config, HardState(term, vote), log, Sizes(), Random(1), now, commit=commit, promised=promised
        )
        self.now = now
        self.readys = []

    def step(self, *messages):
        for message in messages:
            self.raft.step(message)
        return self

    def ready(self):
        ready = self.raft.ready()
        if ready is not None:
            self.readys.append(ready)
        return ready

    def durable(self):
        self.raft.step(Durable(self.readys[-1].seq))
        return self

    def wait(self, span=LATE):
        self.now += span
        return self.step(Tick(self.now))

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


# -- 3.3, figure 3.1 "Rules for servers" ------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["follower", "pre_candidate", "candidate", "leader"])
@pytest.mark.parametrize(
    "message",
    [
        append(9),
        Heartbeat(2, 1, 9, 0, 1),
        AppendEntriesReply(2, 1, 9, 0, True, 0, 0, 0),
        HeartbeatReply(2, 1, 9, 0, 0),
        RequestVoteReply(2, 1, 9, False, False),
        RequestVoteReply(2, 1, 9, False, True),
        vote_request(9, (9, 9), transfer=True),
    ],
    ids=lambda m: type(m).__name__,
)
def test_if_rpc_contains_a_newer_term_convert_to_follower(make, message):
    """3.3: "if one server's current term is smaller than the other's, it updates ...; [it] reverts to follower"."""
    h = Harness([1])
    {"follower": lambda: h, "pre_candidate": h.wait, "candidate": h.candidate, "leader": h.leader}[make]()
    h.ready()
    h.step(message)
    assert (h.raft.role, h.raft.term) == (Role.FOLLOWER, 9)
    ready = h.ready()
    assert ready.hard_state == HardState(9, 2 if isinstance(message, RequestVote) else 0)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (append(3, (1, 1), 1, 3), AppendEntriesReply(1, 2, 5, 0, True, 1, 0, 0)),
        (Heartbeat(2, 1, 3, 1, 7), HeartbeatReply(1, 2, 5, 0, 1)),
        (vote_request(3, (9, 9)), RequestVoteReply(1, 2, 5, False, False)),
        (vote_request(4, (9, 9), pre=True), RequestVoteReply(1, 2, 5, False, True)),
        (AppendEntriesReply(2, 1, 3, 1, False, 0, 0, 0), None),
        (HeartbeatReply(2, 1, 3, 1, 1), None),
        (RequestVoteReply(2, 1, 3, True, False), None),
        (TimeoutNow(2, 1, 3), None),
    ],
    ids=lambda m: type(m).__name__,
)
def test_requests_with_a_stale_term_are_rejected(message, answer):
    """3.3: "If a server receives a request with a stale term number, it rejects the request"."""
    h = Harness([1], term=5).step(message)
    ready = h.ready()
    assert h.raft.term == 5 and h.terms() == [1]
    assert (list(ready.messages) if ready else []) == ([answer] if answer else [])


def test_strangers_and_misdirected_messages_are_ignored():
    h = Harness([1])
    h.step(append(9, sender=7), append(9)._replace(to=3), append(9, sender=1))
    assert h.ready() is None and h.raft.term == 1


# -- 3.4 leader election ----------------------------------------------------------------------------------------


def test_servers_start_as_followers_and_begin_an_election_after_an_election_timeout():
    """3.4: "If a follower receives no communication over ... the election timeout, [it] begins an election"."""
    h = Harness()
    assert h.raft.role == Role.FOLLOWER
    assert T <= h.raft.deadline() < 2 * T
    h.step(Tick(h.raft.deadline() - 1))
    assert h.ready() is None
    h.step(Tick(h.raft.deadline()))
    assert h.raft.role == Role.PRE_CANDIDATE


def test_heartbeats_and_appends_of_the_leader_reset_the_timer():
    """3.4: "A server remains in follower state as long as it receives valid RPCs from a leader"."""
    h = Harness([1])
    for _ in range(10):
        h.step(Heartbeat(2, 1, 1, 0, 1)).wait(T * 2 // 3).step(append(1, (1, 1))).wait(T * 2 // 3)
        assert h.raft.role == Role.FOLLOWER


def test_a_granted_vote_resets_the_timer_and_a_refused_one_does_not():
    """Figure 3.1: election timeout elapses "without receiving AppendEntries ... or granting vote to candidate"."""
    for last, expected in (((1, 1), Role.FOLLOWER), ((0, 0), Role.PRE_CANDIDATE)):
        h = Harness([1]).wait(T - 1)
        h.step(vote_request(2, last)).wait(0)
        h.wait(T - 1)
        assert h.raft.role == expected


def test_timeouts_are_random_within_a_fixed_interval_and_drawn_afresh():
    """3.4: "election timeouts are chosen randomly from a fixed interval"."""
    h = Harness()
    drawn = set()
    for _ in range(30):
        h.now = h.raft._s.election_deadline
        h.step(Tick(h.now))
        drawn.add(h.raft._s.timeout_ns)
    assert len(drawn) > 20 and all(T <= d < 2 * T for d in drawn)


def test_to_begin_an_election_a_follower_increments_its_term_votes_for_itself_and_asks_all_others():
    """3.4: "increments its current term and transitions to candidate state. It votes for itself and issues ..."."""
    h = Harness([1, 2]).candidate()
    ready = h.readys[-1]
    assert ready.hard_state == HardState(3, 1)
    assert list(ready.messages_after_durable) == [RequestVote(1, n, 3, 2, 2, False, False) for n in (2, 3)]
    assert all(m.pre for m in of_type(ready.messages, RequestVote))


def test_a_candidate_wins_with_votes_of_a_majority():
    """3.4: "wins an election if it receives votes from a majority of the servers in the full cluster"."""
    h = Harness(members=(1, 2, 3, 4, 5)).candidate().durable()
    h.step(RequestVoteReply(2, 1, 1, True, False))
    h.step(RequestVoteReply(2, 1, 1, True, False))  # a duplicate is no second vote
    assert h.raft.role == Role.CANDIDATE
    h.step(RequestVoteReply(3, 1, 1, True, False))
    assert h.raft.role == Role.LEADER


def test_votes_of_another_term_or_of_the_pre_vote_do_not_count():
    h = Harness([4], members=(1, 2, 3)).candidate().durable()
    assert h.raft.term == 5
    h.step(RequestVoteReply(2, 1, 4, True, False), RequestVoteReply(3, 1, 5, True, True))
    h.step(RequestVoteReply(2, 1, 6, True, True))
    assert h.raft.role == Role.CANDIDATE


def test_the_candidates_own_vote_counts_only_once_it_is_durable():
    """3.8: "[The] vote must be persisted before responding" - to itself as well."""
    h = Harness().candidate()
    h.step(RequestVoteReply(2, 1, 1, True, False))
    assert h.raft.role == Role.CANDIDATE
    h.durable()
    assert h.raft.role == Role.LEADER


def test_each_server_votes_for_at_most_one_candidate_in_a_term_first_come_first_served():
    """3.4: "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis"."""
    h = Harness()
    h.step(vote_request(1, sender=2), vote_request(1, sender=3), vote_request(1, sender=2))
    replies = of_type(h.ready().messages_after_durable, RequestVoteReply)
    assert [(r.to, r.granted) for r in replies] == [(2, True), (3, False), (2, True)]


def test_the_vote_survives_a_restart():
    """3.8: "[the vote] prevents the server from voting more than once in the same term"."""
    h = Harness(term=3, vote=2)
    h.step(vote_request(3, sender=3), vote_request(3, sender=2))
    ready = h.ready()
    assert [(m.to, m.granted) for m in (*ready.messages, *ready.messages_after_durable)] == [(3, False), (2, True)]
    assert ready.hard_state is None


def test_the_vote_leaves_only_after_it_is_durable():
    """3.8: "persistently store its current term and vote ... before responding to RPCs"."""
    ready = Harness().step(vote_request(1)).ready()
    assert ready.hard_state == HardState(1, 2) and not ready.messages
    assert ready.messages_after_durable == [RequestVoteReply(1, 2, 1, True, False)]


def test_a_candidate_that_meets_the_leader_of_its_term_follows_it():
    """3.4: "If the leader's term ... is at least as large as the candidate's current term, ... returns to follower"."""
    for message in (append(1), Heartbeat(2, 1, 1, 0, 1)):
        h = Harness().candidate()
        h.step(message)
        assert (h.raft.role, h.raft.leader) == (Role.FOLLOWER, 2)


def test_a_candidate_without_outcome_starts_a_new_election():
    """3.4: "each candidate will time out and start a new election"."""
    h = Harness().candidate().durable()
    h.wait()
    assert h.raft.role == Role.PRE_CANDIDATE
    h.step(RequestVoteReply(2, 1, 2, True, True))
    assert (h.raft.role, h.raft.term) == (Role.CANDIDATE, 2)


def test_a_candidate_repeats_requests_that_were_lost_to_those_who_did_not_answer():
    """4.2.3 / 3.3: "Servers retry RPCs if they do not receive a response in a timely manner"."""
    h = Harness(members=(1, 2, 3, 4, 5)).candidate().durable()
    h.step(RequestVoteReply(2, 1, 1, True, False)).wait(CONFIG.heartbeat_ns)
    assert [m.to for m in of_type(h.ready().messages_after_durable, RequestVote)] == [3, 4, 5]


def test_a_candidate_refused_by_a_majority_becomes_a_follower():
    h = Harness().candidate().durable()
    h.step(RequestVoteReply(2, 1, 1, False, False), RequestVoteReply(3, 1, 1, False, False))
    assert h.raft.role == Role.FOLLOWER


def test_a_single_server_elects_itself_and_commits_when_durable():
    h = Harness(members=(1,))
    h.wait()
    assert h.raft.role == Role.CANDIDATE
    h.ready()
    h.durable()
    assert h.raft.role == Role.LEADER
    assert h.ready().committed is None
    h.durable()
    assert h.ready().committed == (1, 1)
    h.step(ReadIndex(7))
    assert [r.read_id for r in h.ready().reads] == [7]


# -- 3.5 log replication ----------------------------------------------------------------------------------------


def test_the_leader_appends_and_sends_in_parallel():
    """3.5: "appends the command to its log ..., then issues AppendEntries RPCs in parallel to each of the others"."""
    h = Harness().leader().ack(1)
    h.ready()
    ready = h.propose(3).ready()
    assert ready.append == [Append(2, 4, 1, None)]
    assert list(ready.messages) == [AppendEntries(1, n, 1, 1, 1, 1, 1, 3) for n in (2, 3)]


def test_several_proposals_of_a_turn_make_one_message():
    """10.2.2 batching."""
    h = Harness().leader().ack(1)
    h.ready()
    ready = h.propose(2).propose(3).ready()
    assert [(a.first, a.last) for a in ready.append] == [(2, 3), (4, 6)]
    assert [(m.prev_index, m.entries) for m in of_type(ready.messages, AppendEntries)] == [(1, 5), (1, 5)]


def test_messages_are_pipelined_within_the_window():
    """10.2.2: "the leader ... updates [nextIndex] optimistically"; our windows bound how far."""
    h = Harness().leader().ack(1)
    h.ready()
    sent = [of_type(h.propose().ready().messages, AppendEntries) for _ in range(12)]
    assert [len(messages) for messages in sent[:8]] == [2] * 8  # max_inflight_messages
    assert not sent[8] and not sent[11]
    h.ack(5)
    more = of_type(h.ready().messages, AppendEntries)
    assert [(m.to, m.prev_index, m.entries) for m in more] == [(2, 9, 4), (3, 9, 4)]


def test_a_message_stays_within_its_size_and_one_term():
    h = Harness([1, 1, 2, 2]).leader()
    h.propose(25)
    h.step(AppendEntriesReply(2, 1, 3, 0, True, 4, 0, 0))  # node 2 has nothing
    h.ready()
    h.ack(2, 2)
    sent = [m for m in of_type(h.ready().messages, AppendEntries) if m.to == 2]
    assert [(m.prev_index, m.prev_term, m.entries_term, m.entries) for m in sent] == [
        (2, 1, 2, 2),
        (4, 2, 3, 10),
        (14, 3, 3, 10),
        (24, 3, 3, 6),
    ]


def test_an_entry_is_committed_once_the_leader_has_replicated_it_on_a_majority():
    """3.5: "A log entry is committed once the leader that created the entry has replicated it on a majority"."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader().ack(1, 2, 3, 4, 5)
    h.ready()
    h.propose(2).ready()
    h.durable()
    assert h.ack(3, 2).ready() is None
    assert h.ack(2, 3).ready().committed == (2, 2)
    assert h.ack(3, 4).ready().committed == (3, 3)


def test_the_leaders_own_disk_is_one_of_the_majority_and_need_not_be_in_it():
    """10.2.1: "the leader may even commit an entry before it has been written to its own disk"."""
    h = Harness().leader().ack(1)
    h.ready()
    h.propose().ready()
    assert h.ack(2, 2).ready() is None  # one follower, and not the own disk
    assert h.ack(2, 3).ready().committed == (2, 2)
    h = Harness().leader().ack(1)
    h.ready()
    h.propose().ready()
    h.ack(2, 2)
    assert h.durable().ready().committed == (2, 2)


def test_duplicated_acknowledgements_of_one_follower_are_one():
    h = Harness(members=(1, 2, 3, 4, 5)).leader().ack(1, 2, 3)
    h.ready()
    h.propose().ready()
    h.durable()
    assert h.ack(2, 2, 2, 2).ready() is None


def test_late_acknowledgements_and_rejections_change_nothing():
    """3.3: RPCs are idempotent; a reordered answer must not take back what a later one said."""
    h = Harness().leader().ack(1)
    h.ready()
    h.propose(4).ready()
    h.ack(5)
    before = h.raft.status().peers
    h.ack(3)
    h.step(AppendEntriesReply(2, 1, 1, 0, True, 4, 2, 1), AppendEntriesReply(2, 1, 1, 0, True, 9, 8, 1))
    h.step(AppendEntriesReply(2, 1, 1, 99, False, 0, 0, 0))
    assert h.raft.status().peers == before


def test_followers_learn_the_commit_index_from_appends_and_heartbeats():
    """3.5: "includes that index in future AppendEntries RPCs (including heartbeats)"."""
    h = Harness()
    assert h.step(append(1, (0, 0), 3, 1, commit=1)).ready().committed == (1, 1)
    assert h.step(append(1, (3, 1), commit=2)).ready().committed == (2, 2)
    assert h.step(Heartbeat(2, 1, 1, 3, 1)).ready().committed == (3, 3)


def test_the_commit_index_is_bounded_by_what_was_verified():
    """Figure 3.1: "commitIndex = min(leaderCommit, index of last new entry)"."""
    h = Harness([1, 1, 1, 1], term=2)
    assert h.step(append(2, (2, 1), commit=4)).ready().committed == (1, 2)
    h = Harness([1])
    h.step(append(2, (1, 1), 1, 2, commit=9))
    assert h.ready().committed == (1, 2)
    h.step(Heartbeat(2, 1, 2, 9, 1))  # acknowledged by nobody: our disk lost something, or the leader errs
    assert h.raft.commit == 2


def test_reply_false_if_the_log_does_not_contain_prev_with_its_term():
    """Figure 3.1 AppendEntries 2; the hint is the last entry that could match (3.5, fast back-up)."""
    h = Harness([1, 1, 2, 2, 2], term=4)
    h.step(append(4, (5, 3), 1, 4))
    assert list(h.ready().messages_after_durable or h.readys[-1].messages) == [
        AppendEntriesReply(1, 2, 4, 0, True, 5, 5, 2)
    ]
    h.step(append(4, (4, 1), 1, 4))
    assert list(h.ready().messages) == [AppendEntriesReply(1, 2, 4, 0, True, 4, 2, 1)]
    h.step(append(4, (9, 1), 1, 4))
    assert list(h.ready().messages) == [AppendEntriesReply(1, 2, 4, 0, True, 9, 2, 1)]
    assert h.terms() == [1, 1, 2, 2, 2]


def test_an_existing_entry_that_conflicts_is_deleted_with_all_that_follow():
    """Figure 3.1 AppendEntries 3."""
    h = Harness([1, 1, 2, 2, 2], term=3)
    ready = h.step(append(3, (2, 1), 2, 3, source="s")).ready()
    assert ready.append == [Append(3, 4, 3, "s", 0)]
    assert h.terms() == [1, 1, 3, 3]


def test_matching_entries_stay_and_only_new_ones_are_appended():
    """Figure 3.1 AppendEntries 4: "Append any new entries not already in the log"."""
    h = Harness([1, 1, 1], term=1)
    ready = h.step(append(1, (1, 1), 4, 1, source="s")).ready()
    assert ready.append == [Append(4, 5, 1, "s", 2)]
    assert h.terms() == [1] * 5


def test_a_late_shorter_message_does_not_shorten_the_log():
    """3.5: RPCs are idempotent: what matches is kept."""
    h = Harness().step(append(1, (0, 0), 4, 1))
    h.ready()
    ready = h.step(append(1, (0, 0), 2, 1)).ready()
    assert not ready.append and h.terms() == [1] * 4


def test_a_committed_entry_is_never_overwritten():
    """3.6.3 leader completeness: no correct leader asks for it; whoever does is not obeyed, and the operator told."""
    for message in (append(5, (1, 1), 1, 5), append(5, (2, 4)), append(5, (0, 0), 2, 5)):
        h = Harness([1, 1, 1], commit=2).step(message)
        ready = h.ready()
        assert not ready.append and h.terms() == [1, 1, 1]
        assert not of_type(ready.messages_after_durable, AppendEntriesReply)
        assert "committed-entry-contradicted" in [e.what for e in ready.events]


def test_within_a_term_nothing_verified_is_overwritten():
    """Figure 3.2 leader append-only: the leader's log of this term does not change."""
    h = Harness().step(append(2, (0, 0), 3, 1))
    h.ready()
    h.step(append(2, (1, 1), 1, 2))
    assert h.terms() == [1, 1, 1]
    assert [e.what for e in h.ready().events] == ["verified-entry-contradicted"]


def test_a_leader_never_overwrites_or_deletes_its_own_log():
    """Figure 3.2 leader append-only: whatever a peer of the same term sends."""
    h = Harness([1]).leader()
    h.step(append(2, (0, 0), 1, 2), Heartbeat(2, 1, 2, 1, 1))
    assert h.raft.role == Role.LEADER and h.terms() == [1, 2]
    assert "second-leader-refused" in [e.what for e in h.ready().events]


def test_a_deposed_leader_sends_nothing_that_the_next_one_overwrites_in_the_same_turn():
    """A message's bytes are read from the log when it is sent: after the appends of its Ready."""
    h = Harness().leader().ack(1)
    h.ready()
    h.propose(3).ready()
    h.step(AppendEntriesReply(2, 1, 1, 0, True, 3, 1, 1))  # asks for entry 2 again
    h.step(append(3, (1, 1), 3, 3, sender=3))
    ready = h.ready()
    assert [(a.first, a.last, a.term) for a in ready.append] == [(2, 4, 3)]
    assert of_type(ready.messages, AppendEntries) == []


def test_acknowledgements_coalesce_and_wait_for_the_disk():
    """3.8: entries are durable before the server responds; one answer a Ready covers all."""
    h = Harness().step(*(append(1, (i, min(i, 1)), 1, 1) for i in range(5)))
    ready = h.ready()
    assert ready.messages_after_durable == [AppendEntriesReply(1, 2, 1, 5, False, 0, 0, 0)]
    assert not of_type(ready.messages, AppendEntriesReply)


def test_an_acknowledgement_asserts_only_what_was_verified_in_this_term():
    """Figure 3.2 log matching: entries beyond the checked prefix may be a deposed leader's."""
    h = Harness([1, 1, 1, 1], term=2).step(append(2, (2, 1)))
    assert h.ready().messages_after_durable == [AppendEntriesReply(1, 2, 2, 2, False, 0, 0, 0)]
    h.step(append(3, (1, 1), sender=3))
    assert h.ready().messages_after_durable == [AppendEntriesReply(1, 3, 3, 1, False, 0, 0, 0)]


def test_an_acknowledgement_of_an_older_term_is_void_for_the_new_leader():
    h = Harness([1]).leader()
    h.step(AppendEntriesReply(2, 1, 1, 2, False, 0, 0, 0))
    assert h.raft.status().peers[0].match == 0


def test_what_followers_hold_is_known_anew_after_each_election():
    """Figure 3.1, matchIndex, "reinitialized after election": another leader may have cut what was acknowledged here.

    Node 2 held 1..5 of term 1. By term 3 its log may end at 1, and this leader's 2..5 are not the entries it held.
    """
    h = Harness().leader().propose(4)
    h.ready()
    h.durable().ack(5, 2)
    assert [peer.match for peer in h.raft.status().peers] == [5, 0]
    h.step(Heartbeat(3, 1, 2, 0, 1))
    h.ready()
    h.wait().leader()
    assert h.raft.term == 3
    assert [peer.match for peer in h.raft.status().peers] == [0, 0]


def test_messages_that_arrive_before_their_predecessor_are_held():
    """10.2.2: reordering only costs the consistency check; a small window makes it cost nothing."""
    h = Harness()
    h.step(append(1, (2, 1), 2, 1, source="b"), append(1, (4, 1), 1, 1, source="c"))
    ready = h.ready()
    assert ready.messages == [AppendEntriesReply(1, 2, 1, 0, True, 4, 0, 0)] or ready.messages_after_durable
    h.step(append(1, (0, 0), 2, 1, source="a"))
    ready = h.ready()
    assert [a.source for a in ready.append] == ["a", "b", "c"]
    assert ready.messages_after_durable == [AppendEntriesReply(1, 2, 1, 5, False, 0, 0, 0)]


def test_all_that_a_leader_has_under_way_may_overtake_one_message():
    """As small ones do one that goes in fragments."""
    h = Harness([1])
    last = 2 + MAX_INFLIGHT_MESSAGES
    h.step(*(append(1, (i, 1), 1, 1) for i in range(2, last)))
    h.step(append(1, (1, 1), 1, 1))
    assert h.raft.last == last
    assert h.raft.status().held_messages == 0


def test_the_reorder_window_is_bounded_and_dies_with_the_term():
    h = Harness([1])
    h.step(*(append(1, (i, 1), 1, 1) for i in range(2, REORDER_WINDOW_MESSAGES + 50)))
    assert h.raft.status().held_messages == REORDER_WINDOW_MESSAGES
    h.step(Heartbeat(3, 1, 2, 0, 1))
    assert h.raft.status().held_messages == 0


def test_in_a_full_window_the_messages_that_come_soonest_stay():
    h = Harness([1])
    far = REORDER_WINDOW_MESSAGES + 2
    h.step(*(append(1, (i, 1), 1, 1) for i in reversed(range(2, far + 40))))
    assert h.raft.status().held_messages == REORDER_WINDOW_MESSAGES
    h.step(append(1, (1, 1), 1, 1))
    assert h.raft.last == far


def test_nonsense_of_a_peer_is_ignored():
    h = Harness([1])
    h.step(append(1, (1, 1), 1, 9), append(2, (1, 1), 1, 0))
    ready = h.ready()
    assert not ready.append and h.terms() == [1]


# -- 3.6 safety -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "last", "granted"),
    [
        ([1, 1], (1, 1), False),
        ([1, 1], (2, 1), True),
        ([1, 1], (3, 1), True),
        ([1, 1], (1, 2), True),
        ([1, 2], (9, 1), False),
        ([], (0, 0), True),
    ],
)
def test_a_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(mine, last, granted):
    """3.6.1: "If the logs have last entries with different terms, ... the later term is more up-to-date"."""
    for pre in (False, True):
        h = Harness(mine, term=2).step(vote_request(3, last, pre=pre))
        ready = h.ready()
        replies = of_type([*ready.messages, *ready.messages_after_durable], RequestVoteReply)
        assert [r.granted for r in replies] == [granted]


def test_only_entries_of_the_leaders_own_term_are_committed_by_counting_replicas():
    """3.6.2: "Raft never commits log entries from previous terms by counting replicas" (figure 3.7)."""
    h = Harness([1, 2], members=(1, 2, 3, 4, 5)).leader()
    assert h.raft.term == 3
    assert h.ack(2, 2, 3, 4, 5).ready().committed is None
    assert h.ack(3, 2, 3).ready().committed == (1, 3)


def test_a_new_leader_appends_a_noop_of_its_term():
    """6.4: "the leader commits a blank no-op entry into the log at the start of its term"."""
    h = Harness([1, 1]).candidate().durable().step(RequestVoteReply(2, 1, 2, True, False))
    ready = h.ready()
    assert ready.append == [Append(3, 3, 2, NOOP)]
    assert list(ready.messages) == [AppendEntries(1, n, 2, 2, 1, 0, 2, 1) for n in (2, 3)]


def test_the_own_log_counts_for_a_new_leader_only_as_far_as_it_is_durable():
    """3.8 with a slow disk: entries appended before the election may still be on their way to it."""
    h = Harness().step(append(1, (0, 0), 2, 1))
    h.ready()  # not durable
    h.wait().wait()
    h.step(RequestVoteReply(2, 1, 2, True, True))
    h.ready()
    h.step(RequestVoteReply(2, 1, 2, True, False), RequestVoteReply(3, 1, 2, True, False))
    assert h.raft.role == Role.LEADER and h.raft.status().own_match == 0
    h.durable()
    assert h.raft.status().own_match == 2


# -- 3.5 / 10.2 back-up and losses --------------------------------------------------------------------------------


def test_after_a_rejection_next_index_backs_up_by_the_hint():
    """3.5: "the follower can include the term of the conflicting entry and the first index it stores for that term"."""
    h = Harness([1, 1, 1, 4, 4, 5, 5, 5]).leader()
    h.step(AppendEntriesReply(2, 1, 6, 0, True, 8, 8, 3))  # the follower: 1 1 1 2 2 3 3 3
    assert h.raft.status().peers[0].next == 4
    sent = [m for m in h.ready().messages if m.to == 2]
    assert [(m.prev_index, m.prev_term, m.entries, m.entries_term) for m in sent] == [(3, 1, 2, 4)]


def test_while_probing_one_message_is_out_at_a_time():
    h = Harness([1]).leader()
    h.propose(2)
    assert not of_type(h.ready().messages, AppendEntries)
    h.ack(2)
    assert [(m.prev_index, m.entries) for m in of_type(h.ready().messages, AppendEntries)] == [(2, 2), (2, 2)]


def test_a_rejection_of_an_older_probe_is_ignored():
    h = Harness([1, 1, 1, 1]).leader()
    h.step(AppendEntriesReply(2, 1, 2, 0, True, 4, 1, 1))
    h.ready()
    h.step(AppendEntriesReply(2, 1, 2, 0, True, 4, 3, 1))
    assert h.raft.status().peers[0].next == 2


def test_a_loss_is_resent_once_until_there_is_newer_evidence():
    h = Harness().leader().ack(1)
    h.ready()
    for _ in range(3):
        h.propose().ready()
    gap = AppendEntriesReply(2, 1, 1, 0, True, 3, 1, 1)
    sent = of_type(h.step(gap).ready().messages, AppendEntries)
    assert [(m.to, m.prev_index, m.entries) for m in sent] == [(2, 1, 1)]
    assert h.step(gap).ready() is None
    h.propose().ready()
    later = gap._replace(prev_index=4)  # refers to a message that left after the retransmission
    assert h.step(later).ready() is None, "but not before its time"
    h.wait(CONFIG.heartbeat_ns // 4).ready()
    assert [(m.to, m.prev_index) for m in of_type(h.step(later).ready().messages, AppendEntries)] == [(2, 1)]


def test_an_entry_that_travels_in_fragments_is_not_resent_on_first_suspicion():
    h = Harness(config=CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader().ack(1)
    h.ready()
    h.propose().ready()
    h.propose().ready()
    assert h.step(AppendEntriesReply(2, 1, 1, 0, True, 2, 1, 1)).ready() is None


def test_hole_after_hole_is_resent_in_growing_bursts():
    h = Harness().leader().ack(1)
    h.ready()
    for _ in range(8):
        h.propose().ready()
    counts, have = [], 1
    while have < 8:
        sent = [m for m in h.step(AppendEntriesReply(2, 1, 1, 0, True, 8, have, 1)).ready().messages if m.to == 2]
        entries = sum(m.entries for m in sent)
        counts.append(entries)
        have += entries
    assert counts == [1, 2, 4] and have == 8


def test_large_entries_lost_one_after_the_other_cost_one_wait_and_not_one_each():
    """What is resent leaves last: once it is there, what left before it and is missing was lost."""
    h = Harness(config=CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader().ack(1)
    h.ready()
    for _ in range(8):
        h.propose().ready()

    def resent(message):
        ready = h.step(message).ready()
        return sum(m.entries for m in ready.messages if type(m) is AppendEntries and m.to == 2) if ready else 0

    began, counts = h.now, [0]
    while not counts[-1] and h.now - began < 9 * T:  # its fragments may still be on their way
        ready = h.wait(CONFIG.heartbeat_ns).ready()
        beat = next(m for m in ready.messages if type(m) is Heartbeat and m.to == 2)
        h.step(HeartbeatReply(3, 1, 1, beat.round, 9))
        counts.append(resent(HeartbeatReply(2, 1, 1, beat.round, 1)))
    waited = h.now - began
    assert 2 * T <= waited < 3 * T
    have = 1 + counts[-1]
    while have < 8 and counts[-1]:
        counts.append(resent(AppendEntriesReply(2, 1, 1, 0, True, 9, have, 1)))
        have += counts[-1]
    assert [count for count in counts if count] == [1, 2, 4]


def test_what_was_refused_for_want_of_room_is_not_waited_for_as_if_it_travelled():
    h = Harness(config=CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader().ack(1)
    h.ready()
    for _ in range(4):
        h.propose().ready()
    gap = AppendEntriesReply(2, 1, 1, 0, True, 3, 1, 1)
    assert h.step(gap).ready() is None, "it may yet come"
    assert h.step(gap._replace(refused=3)).ready() is None, "what came before it in the same breath may yet come"
    ready = h.wait(CONFIG.heartbeat_ns).ready()
    beat = next(m for m in ready.messages if type(m) is Heartbeat and m.to == 2)
    sent = of_type(h.step(HeartbeatReply(2, 1, 1, beat.round, 1)).ready().messages, AppendEntries)
    assert [(m.to, m.prev_index) for m in sent] == [(2, 1)]


def resent_after(h, beats, have):
    """Entries sent again to node 2, whose log ends at `have`, until it has answered so many heartbeats."""
    counts = []
    for _ in range(beats):
        ready = h.wait(CONFIG.heartbeat_ns).ready()
        beat = next(m for m in ready.messages if type(m) is Heartbeat and m.to == 2)
        h.step(HeartbeatReply(3, 1, 1, beat.round, 9))
        ready = h.step(HeartbeatReply(2, 1, 1, beat.round, have)).ready()
        messages = ready.messages if ready else ()
        counts.append(sum(m.entries for m in messages if type(m) is AppendEntries and m.to == 2))
    return counts


@pytest.mark.parametrize(
    ("refused", "soon"),
    [
        (0, False),
        (1, True),  # what comes next there, and only that
        (3, True),
        (9, False),  # that was never sent
        (1 << 62, False),
    ],
)
def test_a_first_rejection_may_say_already_that_there_was_no_room(refused, soon):
    h = Harness(config=CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader().ack(1)
    h.ready()
    for _ in range(4):
        h.propose().ready()
    assert h.step(AppendEntriesReply(2, 1, 1, 0, True, 3, 1, 1, refused)).ready() is None
    assert any(resent_after(h, 2, 1)) is soon


@pytest.mark.parametrize("window", [True, False])
def test_a_follower_says_what_it_had_no_room_for(window, monkeypatch):
    h = Harness()
    if window:
        monkeypatch.setattr(following, "REORDER_WINDOW_MESSAGES", 1)
        h.step(append(1, (2, 1), 1, 1), append(1, (4, 1), 1, 1))
    else:
        h.step(append(1, (2, 1), 1, 1), append(1, (4, 1), 0, 1, source=REFUSED))
    ready = h.ready()
    assert [*ready.messages, *ready.messages_after_durable] == [AppendEntriesReply(1, 2, 1, 0, True, 4, 0, 0, 4)]


def test_a_follower_names_the_farthest_that_it_gave_up_and_forgets_it_in_the_next_term(monkeypatch):
    monkeypatch.setattr(following, "REORDER_WINDOW_MESSAGES", 1)
    h = Harness()
    h.step(append(1, (6, 1), 1, 1), append(1, (2, 1), 1, 1))  # 7 makes room for 3
    ready = h.ready()
    assert [*ready.messages, *ready.messages_after_durable] == [AppendEntriesReply(1, 2, 1, 0, True, 6, 0, 0, 6)]
    h.step(append(2, (3, 1), 1, 1, sender=3))
    ready = h.ready()
    assert [*ready.messages, *ready.messages_after_durable] == [AppendEntriesReply(1, 3, 2, 0, True, 3, 0, 0, 0)]


# -- 3.10 leadership transfer -------------------------------------------------------------------------------------


def test_transfer_stops_proposals_catches_up_the_target_and_sends_timeout_now():
    """3.10 steps 1 to 3."""
    h = Harness().leader().ack(1)
    h.ready()
    h.propose().ready()
    h.step(TransferLeadership(2))
    assert not h.raft.accepts_proposals
    with pytest.raises(InvariantBroken):
        h.propose()
    assert not of_type(h.ready().messages, TimeoutNow)
    assert of_type(h.ack(2, 2).ready().messages, TimeoutNow) == [TimeoutNow(1, 2, 1)]


def test_transfer_is_aborted_after_an_election_timeout():
    """3.10: "If leadership transfer does not complete after about an election timeout, the prior leader aborts"."""
    h = Harness().leader().ack(1)
    h.step(TransferLeadership(2)).ack(1)
    h.wait(T)
    assert h.raft.role == Role.LEADER and h.raft.accepts_proposals


def test_timeout_now_starts_an_election_at_once_without_pre_vote():
    """3.10: "The target server ... starts a new election (incrementing its term and becoming a candidate)"."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1), TimeoutNow(2, 1, 1))
    ready = h.ready()
    assert (h.raft.role, h.raft.term) == (Role.CANDIDATE, 2)
    assert all(m.transfer for m in of_type(ready.messages_after_durable, RequestVote))


@pytest.mark.parametrize("target", [1, 7])
def test_transfer_to_oneself_or_a_stranger_is_refused(target):
    h = Harness().leader()
    h.step(TransferLeadership(target))
    assert h.raft.accepts_proposals
    assert "transfer-refused" in [e.what for e in h.ready().events]


# -- 6.2, 4.2.3 check-quorum and disruptive servers -----------------------------------------------------------------


def test_a_leader_steps_down_without_a_round_of_heartbeats_to_a_majority_within_an_election_timeout():
    """6.2: "a leader ... steps down if an election timeout elapses without a successful round ... to a majority"."""
    h = Harness().leader().ack(1, 2)
    h.wait(T)
    assert h.raft.role == Role.LEADER  # node 2 was heard in this window
    h.wait(T)
    assert (h.raft.role, h.raft.leader, h.raft.term) == (Role.FOLLOWER, 0, 1)


def test_who_still_answers_gets_the_rest_of_the_log_before_a_leader_steps_down():
    """DIVERGENCE.md: a candidate that needs the vote of the leader that stepped down can have it."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader(2, 3).ack(1, 2, 3)
    h.wait(T)
    h.propose().ready()
    h.step(HeartbeatReply(2, 1, 1, 0, 1)).wait(T)
    assert h.raft.role == Role.LEADER
    assert not h.raft.accepts_proposals
    h.wait(H)
    assert (h.raft.role, h.raft.term) == (Role.FOLLOWER, 1)


def test_a_majority_that_answers_again_meanwhile_keeps_its_leader():
    h = Harness(members=(1, 2, 3, 4, 5)).leader(2, 3).ack(1, 2, 3)
    h.wait(T)
    h.propose().ready()
    h.step(HeartbeatReply(2, 1, 1, 0, 1)).wait(T)
    h.step(HeartbeatReply(2, 1, 1, 0, 2), HeartbeatReply(3, 1, 1, 0, 2)).wait(H)
    assert h.raft.role == Role.LEADER
    assert h.raft.accepts_proposals


def test_a_stalled_leader_gets_a_window_to_read_its_socket_first():
    h = Harness().leader()
    h.now += 50 * T
    h.step(Stalled(h.now), Tick(h.now))
    assert h.raft.role == Role.LEADER
    h.step(HeartbeatReply(2, 1, 1, 0, 1)).wait(T)
    assert h.raft.role == Role.LEADER


def test_a_stalled_follower_waits_a_full_timeout_again():
    h = Harness()
    h.now += 50 * T
    h.step(Stalled(h.now), Tick(h.now))
    assert h.raft.role == Role.FOLLOWER and h.raft.deadline() >= h.now + T


def test_a_follower_whose_every_wake_up_is_late_campaigns_all_the_same():
    h = Harness()
    for _ in range(2):
        h.now = h.raft.deadline() + H
        h.step(Stalled(h.now), Tick(h.now))
    assert h.raft.role == Role.PRE_CANDIDATE


def test_a_leader_whose_every_wake_up_is_late_still_misses_its_followers():
    h = Harness().leader()
    for _ in range(4):
        h.now += T
        h.step(Stalled(h.now), Tick(h.now))
    assert h.raft.role == Role.FOLLOWER


@pytest.mark.parametrize("pre", [False, True])
def test_votes_are_refused_within_the_minimum_election_timeout_of_hearing_a_leader(pre):
    """4.2.3: "if a server receives a RequestVote ... within the minimum election timeout of hearing from a current
    leader, it does not update its term or grant its vote"."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.ready()
    h.step(vote_request(9, (9, 9), sender=3, pre=pre)).wait(T - 1)
    assert h.raft.term == 1 and h.ready() is None


def test_the_lease_is_judged_by_the_tick_that_follows_not_by_an_old_clock():
    """Between two ticks `now` stands still: a request is refused only if it is still too early at the next tick."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.ready()
    h.step(vote_request(2, (1, 1), sender=3))
    assert h.raft.deadline() == h.now
    h.wait(T)
    assert [m.granted for m in h.ready().messages_after_durable] == [True]


@pytest.mark.parametrize(("asked", "granted"), [(H + T - 1, []), (H + T, [True])])
def test_the_lease_lasts_from_the_time_after_the_leader_was_heard(asked, granted):
    """A process stopped amid a turn for H hears what was sent meanwhile: its sender is promised T from then on."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1), Tick(0, H))
    h.ready()
    h.step(vote_request(2, (1, 1), sender=3)).wait(asked)
    ready = h.ready()
    assert [m.granted for m in of_type(ready.messages_after_durable if ready else (), RequestVoteReply)] == granted


def test_who_promised_a_leader_not_to_vote_does_not_run_either():
    """6.4.1: an election within T of the leader's heartbeat breaks its lease, whoever asks for it."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1), Tick(0, H))
    assert h.raft.deadline() >= H + T
    h.wait(H + T - 1)
    assert h.raft.role == Role.FOLLOWER


def test_no_timer_runs_out_by_the_time_after_the_sockets_were_read():
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.step(Tick(h.now, h.now + LATE))
    assert h.raft.role == Role.FOLLOWER


def test_the_lease_does_not_stop_an_election_the_leader_asked_for():
    """4.2.3 / 3.10: "include a special flag ... : it is okay to disrupt the leader"."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.step(vote_request(2, (1, 1), sender=3, transfer=True))
    assert [m.granted for m in h.ready().messages_after_durable] == [True]


def test_a_sitting_leader_is_not_disrupted_by_vote_requests():
    h = Harness([1]).leader()
    h.step(vote_request(9, (9, 9)), vote_request(9, (9, 9), pre=True)).wait(1)
    assert (h.raft.role, h.raft.term) == (Role.LEADER, 2)


# -- 9.6 pre-vote ---------------------------------------------------------------------------------------------------


def test_a_pre_candidate_increments_its_term_only_if_it_learns_that_it_could_win():
    """9.6: "a candidate only increments its term if it first learns from a majority ... that they would be willing"."""
    h = Harness([1, 1], members=(1, 2, 3, 4, 5)).wait()
    ready = h.ready()
    assert [(m.term, m.last_index, m.pre) for m in ready.messages] == [(2, 2, True)] * 4
    assert ready.hard_state is None and not ready.messages_after_durable
    h.step(RequestVoteReply(2, 1, 2, True, True), RequestVoteReply(2, 1, 2, True, True))
    assert (h.raft.role, h.raft.term) == (Role.PRE_CANDIDATE, 1)
    h.step(RequestVoteReply(3, 1, 2, True, True))
    assert (h.raft.role, h.raft.term) == (Role.CANDIDATE, 2)


def test_a_granted_pre_vote_promises_nothing():
    """9.6: the term and the vote of the asked do not change, and both candidates may be told yes."""
    h = Harness([1]).step(vote_request(2, (1, 1), sender=2, pre=True), vote_request(2, (1, 1), sender=3, pre=True))
    ready = h.ready()
    assert [(m.to, m.term, m.granted) for m in ready.messages] == [(2, 2, True), (3, 2, True)]
    assert ready.hard_state is None and h.raft.term == 1


def test_a_pre_candidate_that_is_refused_learns_the_newer_term():
    h = Harness([1]).wait().step(RequestVoteReply(2, 1, 5, False, True))
    assert (h.raft.role, h.raft.term) == (Role.FOLLOWER, 5)


def test_a_pre_candidate_follows_a_leader_of_its_term_again():
    h = Harness([1]).wait().step(Heartbeat(2, 1, 1, 0, 1))
    assert (h.raft.role, h.raft.leader, h.raft.term) == (Role.FOLLOWER, 2, 1)


# -- 6.4 reads ------------------------------------------------------------------------------------------------------


def reads_of(ready):
    return [(r.read_id, r.read_index) for r in ready.reads] if ready else []


def test_a_read_waits_for_the_commit_of_the_terms_first_entry():
    """6.4 step 1: "If the leader has not yet marked an entry from its current term committed, it waits"."""
    h = Harness([1]).leader().step(ReadIndex(7))
    assert not of_type(h.ready().messages if h.readys[-1] is None else [], Heartbeat)
    h.ack(2)
    beats = of_type(h.ready().messages, Heartbeat)
    assert [m.round for m in beats] == [1, 1]
    assert reads_of(h.step(HeartbeatReply(2, 1, 2, 1, 2)).ready()) == [(7, 2)]


def test_a_read_is_confirmed_by_a_round_that_began_after_it():
    """6.4 steps 2 and 3: "saves its current commit index [as] readIndex", "issues a new round of heartbeats"."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader().ack(1, 2, 3, 4, 5)
    h.wait(CONFIG.heartbeat_ns).ready()  # round 1
    h.step(ReadIndex(7)).ready()  # round 2
    for node in (2, 3, 4, 5):
        assert not reads_of(h.step(HeartbeatReply(node, 1, 1, 1, 1)).ready())
    h.step(HeartbeatReply(2, 1, 1, 2, 1), HeartbeatReply(2, 1, 1, 2, 1))
    assert not reads_of(h.ready())
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 2, 1)).ready()) == [(7, 1)]


def test_reads_that_come_during_a_round_share_the_next_one():
    """6.4: "accumulate any number of read-only queries" for a round."""
    h = Harness().leader().ack(1)
    h.step(ReadIndex(1)).ready()
    for read_id in (2, 3, 4):
        assert not of_type((h.step(ReadIndex(read_id)).ready() or h.readys[0]).messages, Heartbeat)
    ready = h.step(HeartbeatReply(2, 1, 1, 1, 1)).ready()
    assert reads_of(ready) == [(1, 1)] and [m.round for m in of_type(ready.messages, Heartbeat)] == [2, 2]
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 1, 1)).ready()) == []
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 2, 1)).ready()) == [(2, 1), (3, 1), (4, 1)]


def test_reads_of_a_deposed_leader_fail():
    h = Harness().leader().ack(1)
    h.step(ReadIndex(1)).ready()
    h.step(ReadIndex(2), append(5))
    assert sorted(h.ready().reads_failed) == [1, 2]


def test_reads_elsewhere_fail_at_once():
    assert list(Harness().step(ReadIndex(1)).ready().reads_failed) == [1]


def test_a_lost_round_is_repeated_long_before_the_next_heartbeat():
    h = Harness().leader().ack(1)
    h.step(ReadIndex(1)).ready()
    h.wait(CONFIG.heartbeat_ns // 4)
    assert [m.round for m in of_type(h.ready().messages, Heartbeat)] == [2, 2]
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 2, 1)).ready()) == [(1, 1)]


def test_leases_are_off_unless_asked_for():
    """6.4.1: "the lease approach assumes a bound on clock drift"."""
    for lease, expected in ((False, []), (True, [(9, 1)])):
        h = Harness(config=CONFIG._replace(lease_reads=lease)).leader().ack(1)
        h.wait(CONFIG.heartbeat_ns).ready()
        h.step(HeartbeatReply(2, 1, 1, 1, 1)).ready()
        assert reads_of(h.step(ReadIndex(9)).wait(0).ready()) == expected


@pytest.mark.parametrize(("passed", "expected"), [(T - T // 4 - 1, [(9, 1)]), (T - T // 4, [])])
def test_a_lease_is_judged_by_the_time_after_the_sockets_were_read(passed, expected):
    """6.4.1: a leader stopped between its first look at the clock and the read may have a successor by then."""
    h = Harness(config=CONFIG._replace(lease_reads=True)).leader().ack(1)
    h.wait(CONFIG.heartbeat_ns).ready()
    h.step(HeartbeatReply(2, 1, 1, 1, 1)).ready()
    assert reads_of(h.step(ReadIndex(9), Tick(h.now, h.now + passed)).ready()) == expected


def test_no_read_is_answered_by_a_lease_between_two_ticks():
    """What piled up while this process was stopped is stepped before the tick that tells how long that was."""
    h = Harness(config=CONFIG._replace(lease_reads=True)).leader().ack(1)
    h.wait(CONFIG.heartbeat_ns).ready()
    h.step(ReadIndex(9), HeartbeatReply(2, 1, 1, 1, 1))
    assert reads_of(h.ready()) == []


def test_a_node_alone_answers_reads_at_once_lease_or_not():
    for lease in (False, True):
        h = Harness(members=(1,), config=CONFIG._replace(lease_reads=lease)).wait()
        h.ready()
        h.durable()
        assert h.raft.role == Role.LEADER
        h.ready()
        h.durable().ready()
        assert reads_of(h.step(ReadIndex(9)).wait(H).ready()) == [(9, 1)]


def test_a_restarted_voter_keeps_quiet_for_a_lease_it_may_have_promised():
    h = Harness([1], config=CONFIG._replace(lease_reads=True))
    h.step(vote_request(2, (1, 1))).wait(T - 1)
    assert h.ready() is None


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("lease", [False, True])
def test_it_keeps_what_a_former_life_promised_whatever_the_config_says_now(lease, stalls):
    h = Harness([1], config=CONFIG._replace(lease_reads=lease), promised=9 * T)
    if stalls:
        h.step(Stalled(h.now + H))
    h.step(vote_request(2, (1, 1))).wait(9 * T - 1)
    assert h.raft.role == Role.FOLLOWER
    if not stalls:
        assert h.ready() is None
    h.wait(1)
    assert h.raft.role == Role.PRE_CANDIDATE


# -- the engine contract --------------------------------------------------------------------------------------------


def test_every_cell_of_the_table_is_filled():
    kinds = {*PEER_MESSAGES, Tick, Propose, ReadIndex, Durable, TransferLeadership, Stalled}
    assert all(set(row) == kinds for row in TABLE.values()) and set(TABLE) == set(Role)


def test_forbidden_inputs_are_our_own_defects():
    for make in (Harness(), Harness().wait(), Harness().candidate()):
        with pytest.raises(InvariantBroken):
            make.propose()
    with pytest.raises(InvariantBroken):
        Harness().step(Durable(1))


def test_nothing_to_do_is_no_ready():
    h = Harness().leader().ack(1)
    h.ready()
    assert h.ready() is None
    assert h.wait(1).ready() is None


def test_restart_hands_out_what_was_committed_and_not_applied():
    h = Harness([1, 1, 1], commit=2)
    assert h.ready().committed == (1, 2)
    assert Harness([1, 1, 1], commit=9).ready().committed == (1, 3)


def test_a_restarted_follower_learns_the_commit_index_from_a_heartbeat():
    """The leader's bound is what this node acknowledged in this term, so it holds after a restart as well."""
    h = Harness([1, 1, 1]).step(Heartbeat(2, 1, 1, 3, 1))
    assert h.ready().committed == (1, 3)


def test_heartbeat_answers_of_a_term_that_is_not_durable_wait_for_it():
    h = Harness([1]).step(Heartbeat(2, 1, 5, 0, 1))
    ready = h.ready()
    assert not ready.messages and ready.messages_after_durable == [HeartbeatReply(1, 2, 5, 1, 1)]
    h.durable().step(Heartbeat(2, 1, 5, 0, 2))
    assert list(h.ready().messages) == [HeartbeatReply(1, 2, 5, 2, 1)]


def test_heartbeats_never_carry_a_commit_index_beyond_the_acknowledged():
    h = Harness().leader().ack(1)
    h.propose(3).ready()
    h.ack(4, 2).durable().wait(CONFIG.heartbeat_ns)
    assert {(m.to, m.commit) for m in of_type(h.ready().messages, Heartbeat)} == {(2, 4), (3, 1)}


def test_a_cluster_of_each_size_elects_and_commits():
    for size in (1, 2, 3, 4, 5, 7):
        cluster = Cluster(size)
        leader = cluster.elect(1)
        leader.propose("a", "b")
        cluster.settle()
        cluster.advance(60)
        assert {n.applied for n in cluster.nodes.values()} == {3}


def test_the_leader_does_not_tick_for_nothing():
    h = Harness().leader().ack(1)
    h.ready()
    assert h.raft.deadline() - h.now == CONFIG.heartbeat_ns
    h.propose().ready()
    assert h.raft.deadline() - h.now == CONFIG.heartbeat_ns // 4
    assert MS == 1_000_000

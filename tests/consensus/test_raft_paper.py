"""One test per sentence of the thesis; each names its sentence first, and test_named.py sees to that.

Thesis: Diego Ongaro, "Consensus: Bridging Theory and Practice", whose chapters 3, 4, 6, 9 and 10 contain and extend
what the paper of Ongaro and Ousterhout says. Words in quotation marks are the thesis's; the rest is said in ours. What
this engine does beyond it is in test_raft_rules.py.
"""

import pytest
from cluster import CONFIG, Cluster
from raftharness import H, Harness, T, append, of_type, reads_of, vote_request

from quorumd.consensus.engine import (
    NOOP,
    Append,
    HardState,
    ReadIndex,
    Role,
    Tick,
    TransferLeadership,
)
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.invariants import InvariantBroken

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
    """Thesis 3.3: "if one server's current term is smaller than the other's, then it updates its current term to the
    larger value. If a candidate or leader discovers that its term is out of date, it immediately reverts to
    follower state"."""
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
    """Thesis 3.3: "If a server receives a request with a stale term number, it rejects the request"."""
    h = Harness([1], term=5).step(message)
    ready = h.ready()
    assert h.raft.term == 5 and h.terms() == [1]
    assert (list(ready.messages) if ready else []) == ([answer] if answer else [])


# -- 3.4 leader election ----------------------------------------------------------------------------------------


def test_servers_start_as_followers_and_begin_an_election_after_an_election_timeout():
    """Thesis 3.4: "If a follower receives no communication over a period of time called the election timeout, then
    it assumes there is no viable leader and begins an election"."""
    h = Harness()
    assert h.raft.role == Role.FOLLOWER
    assert T <= h.raft.deadline() < 2 * T
    h.step(Tick(h.raft.deadline() - 1))
    assert h.ready() is None
    h.step(Tick(h.raft.deadline()))
    assert h.raft.role == Role.PRE_CANDIDATE


def test_heartbeats_and_appends_of_the_leader_reset_the_timer():
    """Thesis 3.4: "A server remains in follower state as long as it receives valid RPCs from a leader or candidate"."""
    h = Harness([1])
    for _ in range(10):
        h.step(Heartbeat(2, 1, 1, 0, 1)).wait(T * 2 // 3).step(append(1, (1, 1))).wait(T * 2 // 3)
        assert h.raft.role == Role.FOLLOWER


def test_a_granted_vote_resets_the_timer_and_a_refused_one_does_not():
    """Thesis figure 3.1: election timeout elapses "without receiving AppendEntries RPC from current leader or
    granting vote to candidate"."""
    for last, expected in (((1, 1), Role.FOLLOWER), ((0, 0), Role.PRE_CANDIDATE)):
        h = Harness([1]).wait(T - 1)
        h.step(vote_request(2, last)).wait(0)
        h.wait(T - 1)
        assert h.raft.role == expected


def test_timeouts_are_random_within_a_fixed_interval_and_drawn_afresh():
    """Thesis 3.4: "election timeouts are chosen randomly from a fixed interval"."""
    h = Harness()
    drawn = set()
    for _ in range(30):
        h.now = h.raft._s.election_deadline
        h.step(Tick(h.now))
        drawn.add(h.raft._s.timeout_ns)
    assert len(drawn) > 20 and all(T <= d < 2 * T for d in drawn)


def test_to_begin_an_election_a_follower_increments_its_term_votes_for_itself_and_asks_all_others():
    """Thesis 3.4: "a follower increments its current term and transitions to candidate state. It then votes for
    itself and issues RequestVote RPCs in parallel to each of the other servers"."""
    h = Harness([1, 2]).candidate()
    ready = h.readys[-1]
    assert ready.hard_state == HardState(3, 1)
    assert list(ready.messages_after_durable) == [RequestVote(1, n, 3, 2, 2, False, False) for n in (2, 3)]
    assert all(m.pre for m in of_type(ready.messages, RequestVote))


def test_a_candidate_wins_with_votes_of_a_majority():
    """Thesis 3.4: "A candidate wins an election if it receives votes from a majority of the servers in the full
    cluster"."""
    h = Harness(members=(1, 2, 3, 4, 5)).candidate().durable()
    h.step(RequestVoteReply(2, 1, 1, True, False))
    h.step(RequestVoteReply(2, 1, 1, True, False))  # a duplicate is no second vote
    assert h.raft.role == Role.CANDIDATE
    h.step(RequestVoteReply(3, 1, 1, True, False))
    assert h.raft.role == Role.LEADER


def test_votes_of_another_term_or_of_the_pre_vote_do_not_count():
    """Thesis 3.4: "... from a majority of the servers in the full cluster for the same term"."""
    h = Harness([4], members=(1, 2, 3)).candidate().durable()
    assert h.raft.term == 5
    h.step(RequestVoteReply(2, 1, 4, True, False), RequestVoteReply(3, 1, 5, True, True))
    h.step(RequestVoteReply(2, 1, 6, True, True))
    assert h.raft.role == Role.CANDIDATE


def test_the_candidates_own_vote_counts_only_once_it_is_durable():
    """Thesis 3.8: "each server persists its current term and vote; this is necessary to prevent the server from
    voting twice in the same term", for itself as well."""
    h = Harness().candidate()
    h.step(RequestVoteReply(2, 1, 1, True, False))
    assert h.raft.role == Role.CANDIDATE
    h.durable()
    assert h.raft.role == Role.LEADER


def test_each_server_votes_for_at_most_one_candidate_in_a_term_first_come_first_served():
    """Thesis 3.4: "Each server will vote for at most one candidate in a given term, on a first-come-first-served
    basis"."""
    h = Harness()
    h.step(vote_request(1, sender=2), vote_request(1, sender=3), vote_request(1, sender=2))
    replies = of_type(h.ready().messages_after_durable, RequestVoteReply)
    assert [(r.to, r.granted) for r in replies] == [(2, True), (3, False), (2, True)]


def test_the_vote_survives_a_restart():
    """Thesis 3.8: "... to prevent the server from voting twice in the same term"."""
    h = Harness(term=3, vote=2)
    h.step(vote_request(3, sender=3), vote_request(3, sender=2))
    ready = h.ready()
    assert [(m.to, m.granted) for m in (*ready.messages, *ready.messages_after_durable)] == [(3, False), (2, True)]
    assert ready.hard_state is None


def test_the_vote_leaves_only_after_it_is_durable():
    """Thesis figure 3.1: term and vote are "updated on stable storage before responding to RPCs"."""
    ready = Harness().step(vote_request(1)).ready()
    assert ready.hard_state == HardState(1, 2) and not ready.messages
    assert ready.messages_after_durable == [RequestVoteReply(1, 2, 1, True, False)]


def test_a_candidate_that_meets_the_leader_of_its_term_follows_it():
    """Thesis 3.4: if the leader's term is "at least as large as the candidate's current term, then the candidate
    recognizes the leader as legitimate and returns to follower state"."""
    for message in (append(1), Heartbeat(2, 1, 1, 0, 1)):
        h = Harness().candidate()
        h.step(message)
        assert (h.raft.role, h.raft.leader) == (Role.FOLLOWER, 2)


def test_a_candidate_without_outcome_starts_a_new_election():
    """Thesis 3.4: "each candidate will time out and start a new election"."""
    h = Harness().candidate().durable()
    h.wait()
    assert h.raft.role == Role.PRE_CANDIDATE
    h.step(RequestVoteReply(2, 1, 2, True, True))
    assert (h.raft.role, h.raft.term) == (Role.CANDIDATE, 2)


def test_a_candidate_repeats_requests_that_were_lost_to_those_who_did_not_answer():
    """Thesis 3.3: "it is the requester's responsibility to retry the RPC if it does not receive a response in a
    timely manner"."""
    h = Harness(members=(1, 2, 3, 4, 5)).candidate().durable()
    h.step(RequestVoteReply(2, 1, 1, True, False)).wait(CONFIG.heartbeat_ns)
    assert [m.to for m in of_type(h.ready().messages_after_durable, RequestVote)] == [3, 4, 5]


# -- 3.5 log replication ----------------------------------------------------------------------------------------


def test_the_leader_appends_and_sends_in_parallel():
    """Thesis 3.5: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in
    parallel to each of the other servers"."""
    h = Harness().leader().ack(1)
    h.ready()
    ready = h.propose(3).ready()
    assert ready.append == [Append(2, 4, 1, None)]
    assert list(ready.messages) == [AppendEntries(1, n, 1, 1, 1, 1, 1, 3) for n in (2, 3)]


def test_several_proposals_of_a_turn_make_one_message():
    """Thesis 10.2.2: "AppendEntries supports sending multiple consecutive entries in one RPC"."""
    h = Harness().leader().ack(1)
    h.ready()
    ready = h.propose(2).propose(3).ready()
    assert [(a.first, a.last) for a in ready.append] == [(2, 3), (4, 6)]
    assert [(m.prev_index, m.entries) for m in of_type(ready.messages, AppendEntries)] == [(1, 5), (1, 5)]


def test_messages_are_pipelined_within_the_window():
    """Thesis 10.2.2: "it updates the next index to send immediately after sending the previous entry, rather than
    waiting for the previous entry's acknowledgment"; our windows bound how far."""
    h = Harness().leader().ack(1)
    h.ready()
    sent = [of_type(h.propose().ready().messages, AppendEntries) for _ in range(12)]
    assert [len(messages) for messages in sent[:8]] == [2] * 8  # max_inflight_messages
    assert not sent[8] and not sent[11]
    h.ack(5)
    more = of_type(h.ready().messages, AppendEntries)
    assert [(m.to, m.prev_index, m.entries) for m in more] == [(2, 9, 4), (3, 9, 4)]


def test_an_entry_is_committed_once_the_leader_has_replicated_it_on_a_majority():
    """Thesis 3.5: "A log entry is committed once the leader that created the entry has replicated it on a majority
    of the servers"."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader().ack(1, 2, 3, 4, 5)
    h.ready()
    h.propose(2).ready()
    h.durable()
    assert h.ack(3, 2).ready() is None
    assert h.ack(2, 3).ready().committed == (2, 2)
    assert h.ack(3, 4).ready().committed == (3, 3)


def test_the_leaders_own_disk_is_one_of_the_majority_and_need_not_be_in_it():
    """Thesis 10.2.1: "The leader may even commit an entry before it has been written to its own disk"."""
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
    """Thesis 3.5: "... has replicated it on a majority of the servers", whatever number of answers they sent."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader().ack(1, 2, 3)
    h.ready()
    h.propose().ready()
    h.durable()
    assert h.ack(2, 2, 2, 2).ready() is None


def test_late_acknowledgements_and_rejections_change_nothing():
    """Thesis 3.3: "Raft does not assume the network preserves ordering between RPCs": a late answer must not take
    back what a later one said."""
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
    """Thesis 3.5: "it includes that index in future AppendEntries RPCs (including heartbeats) so that the other
    servers eventually find out"."""
    h = Harness()
    assert h.step(append(1, (0, 0), 3, 1, commit=1)).ready().committed == (1, 1)
    assert h.step(append(1, (3, 1), commit=2)).ready().committed == (2, 2)
    assert h.step(Heartbeat(2, 1, 1, 3, 1)).ready().committed == (3, 3)


def test_the_commit_index_is_bounded_by_what_was_verified():
    """Thesis figure 3.1, AppendEntries 5: "commitIndex = min(leaderCommit, index of last new entry)"."""
    h = Harness([1, 1, 1, 1], term=2)
    assert h.step(append(2, (2, 1), commit=4)).ready().committed == (1, 2)
    h = Harness([1])
    h.step(append(2, (1, 1), 1, 2, commit=9))
    assert h.ready().committed == (1, 2)
    h.step(Heartbeat(2, 1, 2, 9, 1))  # acknowledged by nobody: our disk lost something, or the leader errs
    assert h.raft.commit == 2


def test_reply_false_if_the_log_does_not_contain_prev_with_its_term():
    """Thesis figure 3.1, AppendEntries 2: refused if the log has no entry at prevLogIndex with prevLogTerm. The hint
    is the last entry that could match (3.5, fast back-up)."""
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
    """Thesis figure 3.1, AppendEntries 3: "delete the existing entry and all that follow it"."""
    h = Harness([1, 1, 2, 2, 2], term=3)
    ready = h.step(append(3, (2, 1), 2, 3, source="s")).ready()
    assert ready.append == [Append(3, 4, 3, "s", 0)]
    assert h.terms() == [1, 1, 3, 3]


def test_matching_entries_stay_and_only_new_ones_are_appended():
    """Thesis figure 3.1, AppendEntries 4: "Append any new entries not already in the log"."""
    h = Harness([1, 1, 1], term=1)
    ready = h.step(append(1, (1, 1), 4, 1, source="s")).ready()
    assert ready.append == [Append(4, 5, 1, "s", 2)]
    assert h.terms() == [1] * 5


def test_a_late_shorter_message_does_not_shorten_the_log():
    """Thesis 3.7: "if a follower receives an AppendEntries request that includes log entries already present in its
    log, it ignores those entries in the new request"."""
    h = Harness().step(append(1, (0, 0), 4, 1))
    h.ready()
    ready = h.step(append(1, (0, 0), 2, 1)).ready()
    assert not ready.append and h.terms() == [1] * 4


def test_a_committed_entry_is_never_overwritten():
    """Thesis figure 3.2, Leader Completeness: an entry committed in a term "will be present in the logs of the
    leaders for all higher-numbered terms". Who asks for less is not obeyed, and the operator told."""
    for message in (append(5, (1, 1), 1, 5), append(5, (2, 4)), append(5, (0, 0), 2, 5)):
        h = Harness([1, 1, 1], commit=2).step(message)
        ready = h.ready()
        assert not ready.append and h.terms() == [1, 1, 1]
        assert not of_type(ready.messages_after_durable, AppendEntriesReply)
        assert "committed-entry-contradicted" in [e.what for e in ready.events]


def test_within_a_term_nothing_verified_is_overwritten():
    """Thesis 3.5: once it is consistent with the leader's, a follower's log "will remain that way for the rest of
    the term"."""
    h = Harness().step(append(2, (0, 0), 3, 1))
    h.ready()
    h.step(append(2, (1, 1), 1, 2))
    assert h.terms() == [1, 1, 1]
    assert [e.what for e in h.ready().events] == ["verified-entry-contradicted"]


def test_a_leader_never_overwrites_or_deletes_its_own_log():
    """Thesis figure 3.2, Leader Append-Only: "A leader never overwrites or deletes entries in its log", whatever a
    peer of the same term sends."""
    h = Harness([1]).leader()
    h.step(append(2, (0, 0), 1, 2), Heartbeat(2, 1, 2, 1, 1))
    assert h.raft.role == Role.LEADER and h.terms() == [1, 2]
    assert "second-leader-refused" in [e.what for e in h.ready().events]


def test_acknowledgements_coalesce_and_wait_for_the_disk():
    """Thesis 3.8: "Each server also persists new log entries before they are counted towards the entries'
    commitment". One answer a Ready covers all."""
    h = Harness().step(*(append(1, (i, min(i, 1)), 1, 1) for i in range(5)))
    ready = h.ready()
    assert ready.messages_after_durable == [AppendEntriesReply(1, 2, 1, 5, False, 0, 0, 0)]
    assert not of_type(ready.messages, AppendEntriesReply)


def test_an_acknowledgement_asserts_only_what_was_verified_in_this_term():
    """Thesis 3.5: from a success "the leader knows that the follower's log is identical to its own log up through
    the new entries"; what lies beyond may be a deposed leader's."""
    h = Harness([1, 1, 1, 1], term=2).step(append(2, (2, 1)))
    assert h.ready().messages_after_durable == [AppendEntriesReply(1, 2, 2, 2, False, 0, 0, 0)]
    h.step(append(3, (1, 1), sender=3))
    assert h.ready().messages_after_durable == [AppendEntriesReply(1, 3, 3, 1, False, 0, 0, 0)]


def test_an_acknowledgement_of_an_older_term_is_void_for_the_new_leader():
    """Thesis 3.3: terms "allow servers to detect obsolete information"."""
    h = Harness([1]).leader()
    h.step(AppendEntriesReply(2, 1, 1, 2, False, 0, 0, 0))
    assert h.raft.status().peers[0].match == 0


def test_what_followers_hold_is_known_anew_after_each_election():
    """Thesis figure 3.1, matchIndex, "reinitialized after election": another leader may have cut what was
    acknowledged here. Node 2 held 1..5 of term 1. By term 3 its log may end at 1, and this leader's 2..5 are not
    the entries it held."""
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
    """Thesis 10.2.2: "buffering out-of-order requests temporarily until they could be appended to the log in order"."""
    h = Harness()
    h.step(append(1, (2, 1), 2, 1, source="b"), append(1, (4, 1), 1, 1, source="c"))
    ready = h.ready()
    assert ready.messages == [AppendEntriesReply(1, 2, 1, 0, True, 4, 0, 0)] or ready.messages_after_durable
    h.step(append(1, (0, 0), 2, 1, source="a"))
    ready = h.ready()
    assert [a.source for a in ready.append] == ["a", "b", "c"]
    assert ready.messages_after_durable == [AppendEntriesReply(1, 2, 1, 5, False, 0, 0, 0)]


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
    """Thesis 3.6.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate"."""
    for pre in (False, True):
        h = Harness(mine, term=2).step(vote_request(3, last, pre=pre))
        ready = h.ready()
        replies = of_type([*ready.messages, *ready.messages_after_durable], RequestVoteReply)
        assert [r.granted for r in replies] == [granted]


def test_only_entries_of_the_leaders_own_term_are_committed_by_counting_replicas():
    """Thesis 3.6.2: "Raft never commits log entries from previous terms by counting replicas" (figure 3.7)."""
    h = Harness([1, 2], members=(1, 2, 3, 4, 5)).leader()
    assert h.raft.term == 3
    assert h.ack(2, 2, 3, 4, 5).ready().committed is None
    assert h.ack(3, 2, 3).ready().committed == (1, 3)


def test_a_new_leader_appends_a_noop_of_its_term():
    """Thesis 6.4: "having each leader commit a blank no-op entry into the log at the start of its term"."""
    h = Harness([1, 1]).candidate().durable().step(RequestVoteReply(2, 1, 2, True, False))
    ready = h.ready()
    assert ready.append == [Append(3, 3, 2, NOOP)]
    assert list(ready.messages) == [AppendEntries(1, n, 2, 2, 1, 0, 2, 1) for n in (2, 3)]


def test_the_own_log_counts_for_a_new_leader_only_as_far_as_it_is_durable():
    """Thesis 10.2.1: "the leader uses its own match index to indicate the latest entry to have been durably written
    to its disk". Entries appended before the election may still be on their way to it."""
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
    """Thesis 3.5: "the follower can include the term of the conflicting entry and the first index it stores for that
    term"."""
    h = Harness([1, 1, 1, 4, 4, 5, 5, 5]).leader()
    h.step(AppendEntriesReply(2, 1, 6, 0, True, 8, 8, 3))  # the follower: 1 1 1 2 2 3 3 3
    assert h.raft.status().peers[0].next == 4
    sent = [m for m in h.ready().messages if m.to == 2]
    assert [(m.prev_index, m.prev_term, m.entries, m.entries_term) for m in sent] == [(3, 1, 2, 4)]


# -- 3.10 leadership transfer -------------------------------------------------------------------------------------


def test_transfer_stops_proposals_catches_up_the_target_and_sends_timeout_now():
    """Thesis 3.10, steps 1 to 3: "stops accepting new client requests", "fully updates the target server's log to
    match its own", "sends a TimeoutNow request to the target server"."""
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
    """Thesis 3.10: "If leadership transfer does not complete after about an election timeout, the prior leader
    aborts the transfer and resumes accepting client requests"."""
    h = Harness().leader().ack(1)
    h.step(TransferLeadership(2)).ack(1)
    h.wait(T)
    assert h.raft.role == Role.LEADER and h.raft.accepts_proposals


def test_timeout_now_starts_an_election_at_once_without_pre_vote():
    """Thesis 3.10: "the target server starts a new election (incrementing its term and becoming a candidate)"."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1), TimeoutNow(2, 1, 1))
    ready = h.ready()
    assert (h.raft.role, h.raft.term) == (Role.CANDIDATE, 2)
    assert all(m.transfer for m in of_type(ready.messages_after_durable, RequestVote))


# -- 6.2, 4.2.3 check-quorum and disruptive servers -----------------------------------------------------------------


def test_a_leader_steps_down_without_a_round_of_heartbeats_to_a_majority_within_an_election_timeout():
    """Thesis 6.2: "a leader in Raft steps down if an election timeout elapses without a successful round of
    heartbeats to a majority of its cluster"."""
    h = Harness().leader().ack(1, 2)
    h.wait(T)
    assert h.raft.role == Role.LEADER  # node 2 was heard in this window
    h.wait(T)
    assert (h.raft.role, h.raft.leader, h.raft.term) == (Role.FOLLOWER, 0, 1)


@pytest.mark.parametrize("pre", [False, True])
def test_votes_are_refused_within_the_minimum_election_timeout_of_hearing_a_leader(pre):
    """Thesis 4.2.3: "if a server receives a RequestVote request within the minimum election timeout of hearing from
    a current leader, it does not update its term or grant its vote"."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.ready()
    h.step(vote_request(9, (9, 9), sender=3, pre=pre)).wait(T - 1)
    assert h.raft.term == 1 and h.ready() is None


def test_who_promised_a_leader_not_to_vote_does_not_run_either():
    """Thesis 6.4.1: the leader assumes "that no other server will become leader for about an election timeout",
    whoever asks for it."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1), Tick(0, H))
    assert h.raft.deadline() >= H + T
    h.wait(H + T - 1)
    assert h.raft.role == Role.FOLLOWER


def test_the_lease_does_not_stop_an_election_the_leader_asked_for():
    """Thesis 4.2.3: "Those RequestVote requests can include a special flag to indicate this behavior"."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.step(vote_request(2, (1, 1), sender=3, transfer=True))
    assert [m.granted for m in h.ready().messages_after_durable] == [True]


def test_a_sitting_leader_is_not_disrupted_by_vote_requests():
    """Thesis 4.2.3: "servers should not be able to disrupt a leader whose cluster is receiving heartbeats"."""
    h = Harness([1]).leader()
    h.step(vote_request(9, (9, 9)), vote_request(9, (9, 9), pre=True)).wait(1)
    assert (h.raft.role, h.raft.term) == (Role.LEADER, 2)


# -- 9.6 pre-vote ---------------------------------------------------------------------------------------------------


def test_a_pre_candidate_increments_its_term_only_if_it_learns_that_it_could_win():
    """Thesis 9.6: "a candidate only increments its term if it first learns from a majority of the cluster that they
    would be willing to grant the candidate their votes"."""
    h = Harness([1, 1], members=(1, 2, 3, 4, 5)).wait()
    ready = h.ready()
    assert [(m.term, m.last_index, m.pre) for m in ready.messages] == [(2, 2, True)] * 4
    assert ready.hard_state is None and not ready.messages_after_durable
    h.step(RequestVoteReply(2, 1, 2, True, True), RequestVoteReply(2, 1, 2, True, True))
    assert (h.raft.role, h.raft.term) == (Role.PRE_CANDIDATE, 1)
    h.step(RequestVoteReply(3, 1, 2, True, True))
    assert (h.raft.role, h.raft.term) == (Role.CANDIDATE, 2)


def test_a_pre_candidate_follows_a_leader_of_its_term_again():
    """Thesis 9.6: "Once the server receives a heartbeat from the leader itself, it will return to the follower state
    (in the same term)"."""
    h = Harness([1]).wait().step(Heartbeat(2, 1, 1, 0, 1))
    assert (h.raft.role, h.raft.leader, h.raft.term) == (Role.FOLLOWER, 2, 1)


# -- 6.4 reads ------------------------------------------------------------------------------------------------------


def test_a_read_waits_for_the_commit_of_the_terms_first_entry():
    """Thesis 6.4, step 1: "If the leader has not yet marked an entry from its current term committed, it waits until
    it has done so"."""
    h = Harness([1]).leader().step(ReadIndex(7))
    assert not of_type(h.ready().messages if h.readys[-1] is None else [], Heartbeat)
    h.ack(2)
    beats = of_type(h.ready().messages, Heartbeat)
    assert [m.round for m in beats] == [1, 1]
    assert reads_of(h.step(HeartbeatReply(2, 1, 2, 1, 2)).ready()) == [(7, 2)]


def test_a_read_is_confirmed_by_a_round_that_began_after_it():
    """Thesis 6.4, step 3: "It issues a new round of heartbeats and waits for their acknowledgments from a majority
    of the cluster"."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader().ack(1, 2, 3, 4, 5)
    h.wait(CONFIG.heartbeat_ns).ready()  # round 1
    h.step(ReadIndex(7)).ready()  # round 2
    for node in (2, 3, 4, 5):
        assert not reads_of(h.step(HeartbeatReply(node, 1, 1, 1, 1)).ready())
    h.step(HeartbeatReply(2, 1, 1, 2, 1), HeartbeatReply(2, 1, 1, 2, 1))
    assert not reads_of(h.ready())
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 2, 1)).ready()) == [(7, 1)]


def test_reads_that_come_during_a_round_share_the_next_one():
    """Thesis 6.4: "it can use a single round of heartbeats for any number of read-only queries that it has
    accumulated"."""
    h = Harness().leader().ack(1)
    h.step(ReadIndex(1)).ready()
    for read_id in (2, 3, 4):
        assert not of_type((h.step(ReadIndex(read_id)).ready() or h.readys[0]).messages, Heartbeat)
    ready = h.step(HeartbeatReply(2, 1, 1, 1, 1)).ready()
    assert reads_of(ready) == [(1, 1)] and [m.round for m in of_type(ready.messages, Heartbeat)] == [2, 2]
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 1, 1)).ready()) == []
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 2, 1)).ready()) == [(2, 1), (3, 1), (4, 1)]


def test_reads_of_a_deposed_leader_fail():
    """Thesis 6.4, step 3: "The leader needs to make sure it hasn't been superseded by a newer leader": one that has
    been answers none."""
    h = Harness().leader().ack(1)
    h.step(ReadIndex(1)).ready()
    h.step(ReadIndex(2), append(5))
    assert sorted(h.ready().reads_failed) == [1, 2]


def test_reads_elsewhere_fail_at_once():
    """Thesis 6.2: if a server "is not the leader, that server rejects the request"."""
    assert list(Harness().step(ReadIndex(1)).ready().reads_failed) == [1]


def test_leases_are_off_unless_asked_for():
    """Thesis 6.4.1: "we do not recommend using it unless necessary to meet performance requirements"."""
    for lease, expected in ((False, []), (True, [(9, 1)])):
        h = Harness(config=CONFIG._replace(lease_reads=lease)).leader().ack(1)
        h.wait(CONFIG.heartbeat_ns).ready()
        h.step(HeartbeatReply(2, 1, 1, 1, 1)).ready()
        assert reads_of(h.step(ReadIndex(9)).wait(0).ready()) == expected


# -- 3.8, 3.5 restarts, and clusters of each size -----------------------------------------------------------------


def test_restart_hands_out_what_was_committed_and_not_applied():
    """Thesis 3.8: a volatile state machine "must be recovered after restarts by reapplying log entries"."""
    h = Harness([1, 1, 1], commit=2)
    assert h.ready().committed == (1, 2)
    assert Harness([1, 1, 1], commit=9).ready().committed == (1, 3)


def test_a_restarted_follower_learns_the_commit_index_from_a_heartbeat():
    """Thesis 3.8: after a restart the commit index "will only temporarily lag behind its true value". The leader's
    bound is what this node acknowledged in this term, so it holds after a restart as well."""
    h = Harness([1, 1, 1]).step(Heartbeat(2, 1, 1, 3, 1))
    assert h.ready().committed == (1, 3)


def test_heartbeat_answers_of_a_term_that_is_not_durable_wait_for_it():
    """Thesis figure 3.1: the current term is "updated on stable storage before responding to RPCs"."""
    h = Harness([1]).step(Heartbeat(2, 1, 5, 0, 1))
    ready = h.ready()
    assert not ready.messages and ready.messages_after_durable == [HeartbeatReply(1, 2, 5, 1, 1)]
    h.durable().step(Heartbeat(2, 1, 5, 0, 2))
    assert list(h.ready().messages) == [HeartbeatReply(1, 2, 5, 2, 1)]


def test_a_cluster_of_each_size_elects_and_commits():
    """Thesis 3.5: Raft "can accept, replicate, and apply new log entries as long as a majority of the servers are
    up"."""
    for size in (1, 2, 3, 4, 5, 7):
        cluster = Cluster(size)
        leader = cluster.elect(1)
        leader.propose("a", "b")
        cluster.settle()
        cluster.advance(60)
        assert {n.applied for n in cluster.nodes.values()} == {3}

"""One test per rule that is not the thesis's: of the engine's contract, of UDP, of clocks, of raft/DIVERGENCE.md.

Each names first where the rule is written: a paragraph of DIVERGENCE.md, or a module of the engine and what in it. The
thesis's sentences are in test_raft_paper.py.
"""

import pytest
from cluster import CONFIG, ENTRY_BYTES, MS
from raftharness import LATE, H, Harness, T, append, of_type, reads_of, vote_request

from quorumd.consensus.engine import (
    Durable,
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
    RequestVoteReply,
)
from quorumd.consensus.raft import following
from quorumd.consensus.raft.table import PEER_MESSAGES, TABLE
from quorumd.invariants import InvariantBroken
from quorumd.limits import MAX_INFLIGHT_MESSAGES, REORDER_WINDOW_MESSAGES

# -- whom it hears ------------------------------------------------------------------------------------------------


def test_strangers_and_misdirected_messages_are_ignored():
    """engine.py, `step`: what a peer says wrongly is ignored."""
    h = Harness([1])
    h.step(append(9, sender=7), append(9)._replace(to=3), append(9, sender=1))
    assert h.ready() is None and h.raft.term == 1


# -- elections ----------------------------------------------------------------------------------------------------


def test_a_candidate_refused_by_a_majority_becomes_a_follower():
    """election.py, `settle`: an election that cannot be won any more is over."""
    h = Harness().candidate().durable()
    h.step(RequestVoteReply(2, 1, 1, False, False), RequestVoteReply(3, 1, 1, False, False))
    assert h.raft.role == Role.FOLLOWER


def test_a_single_server_elects_itself_and_commits_when_durable():
    """DIVERGENCE.md, "The leader's own match index is what its disk has confirmed": alone, that is a majority."""
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


# -- the log ------------------------------------------------------------------------------------------------------


def test_a_message_stays_within_its_size_and_one_term():
    """messages.py, `AppendEntries`: all its entries are of one term; max_append_bytes bounds them."""
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


def test_a_deposed_leader_sends_nothing_that_the_next_one_overwrites_in_the_same_turn():
    """roles.py, `leave_leadership`: a message's bytes are read from the log when it is sent: after the appends of
    its Ready."""
    h = Harness().leader().ack(1)
    h.ready()
    h.propose(3).ready()
    h.step(AppendEntriesReply(2, 1, 1, 0, True, 3, 1, 1))  # asks for entry 2 again
    h.step(append(3, (1, 1), 3, 3, sender=3))
    ready = h.ready()
    assert [(a.first, a.last, a.term) for a in ready.append] == [(2, 4, 3)]
    assert of_type(ready.messages, AppendEntries) == []


def test_all_that_a_leader_has_under_way_may_overtake_one_message():
    """DIVERGENCE.md, "A reorder window": it holds as many, as small ones overtake one that goes in fragments."""
    h = Harness([1])
    last = 2 + MAX_INFLIGHT_MESSAGES
    h.step(*(append(1, (i, 1), 1, 1) for i in range(2, last)))
    h.step(append(1, (1, 1), 1, 1))
    assert h.raft.last == last
    assert h.raft.status().held_messages == 0


def test_the_reorder_window_is_bounded_and_dies_with_the_term():
    """DIVERGENCE.md, "A reorder window": of the current term, and so many messages."""
    h = Harness([1])
    h.step(*(append(1, (i, 1), 1, 1) for i in range(2, REORDER_WINDOW_MESSAGES + 50)))
    assert h.raft.status().held_messages == REORDER_WINDOW_MESSAGES
    h.step(Heartbeat(3, 1, 2, 0, 1))
    assert h.raft.status().held_messages == 0


def test_in_a_full_window_the_messages_that_come_soonest_stay():
    """DIVERGENCE.md, "A reorder window": in a full one those that come soonest are kept."""
    h = Harness([1])
    far = REORDER_WINDOW_MESSAGES + 2
    h.step(*(append(1, (i, 1), 1, 1) for i in reversed(range(2, far + 40))))
    assert h.raft.status().held_messages == REORDER_WINDOW_MESSAGES
    h.step(append(1, (1, 1), 1, 1))
    assert h.raft.last == far


def test_nonsense_of_a_peer_is_ignored():
    """following.py, `on_append`: no leader writes entries of a term above its own, or below that of their
    predecessor."""
    h = Harness([1])
    h.step(append(1, (1, 1), 1, 9), append(2, (1, 1), 1, 0))
    ready = h.ready()
    assert not ready.append and h.terms() == [1]


# -- back-up and losses -------------------------------------------------------------------------------------------


def test_while_probing_one_message_is_out_at_a_time():
    """DIVERGENCE.md, "Probe and pipeline": one message at a time until the logs meet."""
    h = Harness([1]).leader()
    h.propose(2)
    assert not of_type(h.ready().messages, AppendEntries)
    h.ack(2)
    assert [(m.prev_index, m.entries) for m in of_type(h.ready().messages, AppendEntries)] == [(2, 2), (2, 2)]


def test_a_rejection_of_an_older_probe_is_ignored():
    """replication.py, `on_rejected`: only that of the probe under way counts."""
    h = Harness([1, 1, 1, 1]).leader()
    h.step(AppendEntriesReply(2, 1, 2, 0, True, 4, 1, 1))
    h.ready()
    h.step(AppendEntriesReply(2, 1, 2, 0, True, 4, 3, 1))
    assert h.raft.status().peers[0].next == 2


def test_a_loss_is_resent_once_until_there_is_newer_evidence():
    """DIVERGENCE.md, "Datagrams are lost, so losses are looked for": again only on younger evidence."""
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
    """DIVERGENCE.md, "Datagrams are lost, so losses are looked for": the transport resends fragments itself."""
    h = Harness(config=CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader().ack(1)
    h.ready()
    h.propose().ready()
    h.propose().ready()
    assert h.step(AppendEntriesReply(2, 1, 1, 0, True, 2, 1, 1)).ready() is None


def test_hole_after_hole_is_resent_in_growing_bursts():
    """DIVERGENCE.md, "Datagrams are lost, so losses are looked for": in growing bursts while hole follows hole."""
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
    """replication.py, `resend`: what is resent leaves last: once it is there, what left before it and is missing was
    lost."""
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
    """DIVERGENCE.md, "Datagrams are lost, so losses are looked for": a quarter of a heartbeat, if there was no room."""
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
    """DIVERGENCE.md, "Datagrams are lost, so losses are looked for": `refused` is a hint and asserts nothing."""
    h = Harness(config=CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader().ack(1)
    h.ready()
    for _ in range(4):
        h.propose().ready()
    assert h.step(AppendEntriesReply(2, 1, 1, 0, True, 3, 1, 1, refused)).ready() is None
    assert any(resent_after(h, 2, 1)) is soon


@pytest.mark.parametrize("window", [True, False])
def test_a_follower_says_what_it_had_no_room_for(window, monkeypatch):
    """following.py, `hold`: a rejection tells what was given up, or came without its bytes."""
    h = Harness()
    if window:
        monkeypatch.setattr(following, "REORDER_WINDOW_MESSAGES", 1)
        h.step(append(1, (2, 1), 1, 1), append(1, (4, 1), 1, 1))
    else:
        h.step(append(1, (2, 1), 1, 1), append(1, (4, 1), 0, 1, source=REFUSED))
    ready = h.ready()
    assert [*ready.messages, *ready.messages_after_durable] == [AppendEntriesReply(1, 2, 1, 0, True, 4, 0, 0, 4)]


def test_a_follower_names_the_farthest_that_it_gave_up_and_forgets_it_in_the_next_term(monkeypatch):
    """following.py, `hold`: of all that was given up, in this term, the farthest is named."""
    monkeypatch.setattr(following, "REORDER_WINDOW_MESSAGES", 1)
    h = Harness()
    h.step(append(1, (6, 1), 1, 1), append(1, (2, 1), 1, 1))  # 7 makes room for 3
    ready = h.ready()
    assert [*ready.messages, *ready.messages_after_durable] == [AppendEntriesReply(1, 2, 1, 0, True, 6, 0, 0, 6)]
    h.step(append(2, (3, 1), 1, 1, sender=3))
    ready = h.ready()
    assert [*ready.messages, *ready.messages_after_durable] == [AppendEntriesReply(1, 3, 2, 0, True, 3, 0, 0, 0)]


# -- leadership transfer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, 7])
def test_transfer_to_oneself_or_a_stranger_is_refused(target):
    """handover.py, `on_transfer`: the target is a peer."""
    h = Harness().leader()
    h.step(TransferLeadership(target))
    assert h.raft.accepts_proposals
    assert "transfer-refused" in [e.what for e in h.ready().events]


# -- check-quorum, stalls and the lease ---------------------------------------------------------------------------


def test_who_still_answers_gets_the_rest_of_the_log_before_a_leader_steps_down():
    """DIVERGENCE.md, "Check-quorum always": a candidate that needs the vote of the leader that stepped down can have
    it."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader(2, 3).ack(1, 2, 3)
    h.wait(T)
    h.propose().ready()
    h.step(HeartbeatReply(2, 1, 1, 0, 1)).wait(T)
    assert h.raft.role == Role.LEADER
    assert not h.raft.accepts_proposals
    h.wait(H)
    assert (h.raft.role, h.raft.term) == (Role.FOLLOWER, 1)


def test_a_majority_that_answers_again_meanwhile_keeps_its_leader():
    """DIVERGENCE.md, "Check-quorum always": until the heartbeat after, a majority may answer again."""
    h = Harness(members=(1, 2, 3, 4, 5)).leader(2, 3).ack(1, 2, 3)
    h.wait(T)
    h.propose().ready()
    h.step(HeartbeatReply(2, 1, 1, 0, 1)).wait(T)
    h.step(HeartbeatReply(2, 1, 1, 0, 2), HeartbeatReply(3, 1, 1, 0, 2)).wait(H)
    assert h.raft.role == Role.LEADER
    assert h.raft.accepts_proposals


def test_a_stalled_leader_gets_a_window_to_read_its_socket_first():
    """clock.py, `on_stalled`: a leader does not step down for answers that wait in its socket."""
    h = Harness().leader()
    h.wake_late(h.now + 50 * T)
    assert h.raft.role == Role.LEADER
    h.step(HeartbeatReply(2, 1, 1, 0, 1)).wait(T)
    assert h.raft.role == Role.LEADER


def test_a_stalled_follower_waits_a_full_timeout_again():
    """clock.py, `on_stalled`: every wait starts afresh."""
    h = Harness()
    h.wake_late(h.now + 50 * T)
    assert h.raft.role == Role.FOLLOWER and h.raft.deadline() >= h.now + T


def test_a_follower_whose_every_wake_up_is_late_campaigns_all_the_same():
    """clock.py, `on_stalled`: a follower's wait is put off once only."""
    h = Harness()
    for _ in range(2):
        h.wake_late(h.raft.deadline() + H)
    assert h.raft.role == Role.PRE_CANDIDATE


def test_a_leader_whose_every_wake_up_is_late_still_misses_its_followers():
    """clock.py, `on_stalled`: a leader's wait is put off once only."""
    h = Harness().leader()
    for _ in range(4):
        h.wake_late(h.now + T)
    assert h.raft.role == Role.FOLLOWER


def test_the_lease_is_judged_by_the_tick_that_follows_not_by_an_old_clock():
    """DIVERGENCE.md, "The lease is judged at a tick": between two of them `now` stands still, and a request is
    refused only if it is still too early at the next one."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.ready()
    h.step(vote_request(2, (1, 1), sender=3))
    assert h.raft.deadline() == h.now
    h.wait(T)
    assert [m.granted for m in h.ready().messages_after_durable] == [True]


@pytest.mark.parametrize(("asked", "granted"), [(H + T - 1, []), (H + T, [True])])
def test_the_lease_lasts_from_the_time_after_the_leader_was_heard(asked, granted):
    """DIVERGENCE.md, "The lease is judged at a tick": a process stopped amid a turn for H hears what was sent
    meanwhile; its sender is promised T from then on."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1), Tick(0, H))
    h.ready()
    h.step(vote_request(2, (1, 1), sender=3)).wait(asked)
    ready = h.ready()
    assert [m.granted for m in of_type(ready.messages_after_durable if ready else (), RequestVoteReply)] == granted


def test_no_timer_runs_out_by_the_time_after_the_sockets_were_read():
    """DIVERGENCE.md, "The lease is judged at a tick": timers run out by the reading from before."""
    h = Harness([1]).step(Heartbeat(2, 1, 1, 0, 1)).wait(1)
    h.step(Tick(h.now, h.now + LATE))
    assert h.raft.role == Role.FOLLOWER


# -- pre-vote -----------------------------------------------------------------------------------------------------


def test_a_granted_pre_vote_promises_nothing():
    """DIVERGENCE.md, "Pre-vote always": the term and the vote of the asked do not change, and both candidates may be
    told yes."""
    h = Harness([1]).step(vote_request(2, (1, 1), sender=2, pre=True), vote_request(2, (1, 1), sender=3, pre=True))
    ready = h.ready()
    assert [(m.to, m.term, m.granted) for m in ready.messages] == [(2, 2, True), (3, 2, True)]
    assert ready.hard_state is None and h.raft.term == 1


def test_a_pre_candidate_that_is_refused_learns_the_newer_term():
    """DIVERGENCE.md, "Pre-vote always": a refusal of a newer term moves the asker to that term."""
    h = Harness([1]).wait().step(RequestVoteReply(2, 1, 5, False, True))
    assert (h.raft.role, h.raft.term) == (Role.FOLLOWER, 5)


# -- reads --------------------------------------------------------------------------------------------------------


def test_a_lost_round_is_repeated_long_before_the_next_heartbeat():
    """DIVERGENCE.md, "Numbered rounds": a lost one is repeated after a quarter of a heartbeat."""
    h = Harness().leader().ack(1)
    h.step(ReadIndex(1)).ready()
    h.wait(CONFIG.heartbeat_ns // 4)
    assert [m.round for m in of_type(h.ready().messages, Heartbeat)] == [2, 2]
    assert reads_of(h.step(HeartbeatReply(3, 1, 1, 2, 1)).ready()) == [(1, 1)]


@pytest.mark.parametrize(("passed", "expected"), [(T - T // 4 - 1, [(9, 1)]), (T - T // 4, [])])
def test_a_lease_is_judged_by_the_time_after_the_sockets_were_read(passed, expected):
    """DIVERGENCE.md, "The lease is judged at a tick": a leader stopped between its first look at the clock and the
    read may have a successor by then."""
    h = Harness(config=CONFIG._replace(lease_reads=True)).leader().ack(1)
    h.wait(CONFIG.heartbeat_ns).ready()
    h.step(HeartbeatReply(2, 1, 1, 1, 1)).ready()
    assert reads_of(h.step(ReadIndex(9), Tick(h.now, h.now + passed)).ready()) == expected


def test_no_read_is_answered_by_a_lease_between_two_ticks():
    """DIVERGENCE.md, "The lease is judged at a tick": what piled up while this process was stopped is stepped before
    the tick that tells how long that was."""
    h = Harness(config=CONFIG._replace(lease_reads=True)).leader().ack(1)
    h.wait(CONFIG.heartbeat_ns).ready()
    h.step(ReadIndex(9), HeartbeatReply(2, 1, 1, 1, 1))
    assert reads_of(h.ready()) == []


def test_a_node_alone_answers_reads_at_once_lease_or_not():
    """reads.py, `flush`: without others there is no round to wait for."""
    for lease in (False, True):
        h = Harness(members=(1,), config=CONFIG._replace(lease_reads=lease)).wait()
        h.ready()
        h.durable()
        assert h.raft.role == Role.LEADER
        h.ready()
        h.durable().ready()
        assert reads_of(h.step(ReadIndex(9)).wait(H).ready()) == [(9, 1)]


def test_a_restarted_voter_keeps_quiet_for_a_lease_it_may_have_promised():
    """DIVERGENCE.md, "Leases only by configuration": a restarted server keeps quiet for what it may have promised."""
    h = Harness([1], config=CONFIG._replace(lease_reads=True))
    h.step(vote_request(2, (1, 1))).wait(T - 1)
    assert h.ready() is None


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("lease", [False, True])
def test_it_keeps_what_a_former_life_promised_whatever_the_config_says_now(lease, stalls):
    """DIVERGENCE.md, "Leases only by configuration": the longest time that any of its lives promised."""
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
    """table.py, `TABLE`: which function takes which input in which role."""
    kinds = {*PEER_MESSAGES, Tick, Propose, ReadIndex, Durable, TransferLeadership, Stalled}
    assert all(set(row) == kinds for row in TABLE.values()) and set(TABLE) == set(Role)


def test_forbidden_inputs_are_our_own_defects():
    """base.py, `forbidden`: the core must not do this."""
    for make in (Harness(), Harness().wait(), Harness().candidate()):
        with pytest.raises(InvariantBroken):
            make.propose()
    with pytest.raises(InvariantBroken):
        Harness().step(Durable(1))


def test_nothing_to_do_is_no_ready():
    """engine.py, `ready`: the work that the inputs so far ask for, or None."""
    h = Harness().leader().ack(1)
    h.ready()
    assert h.ready() is None
    assert h.wait(1).ready() is None


def test_heartbeats_never_carry_a_commit_index_beyond_the_acknowledged():
    """DIVERGENCE.md, "Followers commit up to min(leader's commit, verified index)": so heartbeats carry no more than
    that follower acknowledged in this term."""
    h = Harness().leader().ack(1)
    h.propose(3).ready()
    h.ack(4, 2).durable().wait(CONFIG.heartbeat_ns)
    assert {(m.to, m.commit) for m in of_type(h.ready().messages, Heartbeat)} == {(2, 4), (3, 1)}


def test_the_leader_does_not_tick_for_nothing():
    """engine.py, `deadline`: a heartbeat, or a quarter of one while something is under way (replication.py,
    `scan_interval`)."""
    h = Harness().leader().ack(1)
    h.ready()
    assert h.raft.deadline() - h.now == CONFIG.heartbeat_ns
    h.propose().ready()
    assert h.raft.deadline() - h.now == CONFIG.heartbeat_ns // 4
    assert MS == 1_000_000

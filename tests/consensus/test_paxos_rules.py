"""One test per rule that is in no paper: of the engine's contract, of UDP, of paxos/DIVERGENCE.md.

Each names first where the rule is written: a paragraph of DIVERGENCE.md, or a module of the engine and what in it. The
papers' sentences are in test_paxos_paper.py.
"""

from random import Random

import pytest
from cluster import ENTRY_BYTES
from paxoscluster import PAXOS_CONFIG
from paxosharness import B1, B2, B3, FIVE, FLEXIBLE, LATE, LATER, H, Harness, T, accept, of_type, prepare, values

from quorumd import limits
from quorumd.consensus.engine import HardState, ReadIndex, Role, Stalled, Tick
from quorumd.consensus.messages import Heartbeat, HeartbeatReply, TimeoutNow
from quorumd.consensus.paxos.ballots import ballot, node_of
from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Refused, Run, Values
from quorumd.consensus.paxos.table import PEER_MESSAGES, TABLE
from quorumd.limits import OPEN_SLOTS

# -- ballots ------------------------------------------------------------------------------------------------------


def test_a_ballot_of_another_node_is_nobodys():
    """DIVERGENCE.md, "A ballot is one integer": it names its node; from another node it is dropped."""
    h = Harness()
    h.step(accept(B1)._replace(sender=3), Heartbeat(3, 1, B1, 0, 1), prepare(B1)._replace(sender=3))
    assert h.paxos.term == 0
    assert [e.what for e in h.ready().events] == ["second-leader-refused"]


# -- phase 1 ------------------------------------------------------------------------------------------------------


def test_a_promise_of_many_runs_is_complete_when_all_its_parts_are_there():
    """DIVERGENCE.md, "Runs and parts": no part counts for itself: a slot not heard of could be one that is chosen."""
    runs = [(slot, slot, B1 if slot % 4 else B2) for slot in range(2, 400, 2)]
    acceptor = Harness(runs).step(prepare(ballot(9, 2)))
    parts = acceptor.ready().messages_after_durable
    assert len(parts) > 3
    assert all(len(m.accepted) <= limits.PROMISE_RUNS for m in parts)
    assert [run for m in parts for run in m.accepted if run.ballot] == [Run(*run) for run in runs]
    h = Harness(promised=LATER).candidate().durable()
    parts = [m._replace(sender=2, to=1, ballot=h.paxos.term) for m in parts]
    for m in [*parts[1:], parts[1]]:
        h.step(m)
    assert h.paxos.role == Role.CANDIDATE
    h.step(parts[0])
    assert h.paxos.role == Role.LEADER
    assert h.paxos.last == 399


def test_parts_of_two_promises_that_leave_a_slot_unspoken_of_are_none():
    """DIVERGENCE.md, "Runs and parts": each part begins where its predecessor ended, or they are not of one promise."""
    h = Harness(promised=LATER).candidate().durable()
    first = h.promise(2, Run(1, 1, B1), Run(4, 4, B1), part=0, parts=2)
    late = h.promise(2, Run(7, 9, B1), part=1, parts=2)  # of an answer whose first part ended with slot 6
    h.step(first, late)
    assert h.paxos.role == Role.CANDIDATE
    h.step(first, late._replace(accepted=(Run(5, 6, 0), Run(7, 9, B1))))
    assert h.paxos.role == Role.LEADER


# -- what phase 1 obliges to ----------------------------------------------------------------------------------------


def test_nothing_new_is_proposed_before_all_that_may_be_chosen_is():
    """DIVERGENCE.md, "Bytes come later": until all that is adopted is here, a proposer takes no proposals."""
    h = Harness(promised=LATER).leader(Harness().promise(2, Run(1, 2, B1)))
    assert not h.paxos.accepts_proposals
    h.step(values(B1, 1, 1, chosen=False)).ready()
    assert not h.paxos.accepts_proposals
    h.step(values(B2, 2, 1, chosen=False)).ready()
    assert not h.paxos.accepts_proposals, "of another ballot"
    h.step(values(B1, 1, 2, chosen=False))
    ready = h.ready()
    assert [(a.first, a.last, a.skip) for a in ready.append] == [(2, 2, 1)]
    assert h.paxos.accepts_proposals
    assert {(m.to, m.first, m.entries) for m in of_type(ready.messages, Accept)} == {(2, 2, 2), (3, 2, 2)}


def test_what_a_leader_knew_to_be_chosen_before_its_election_does_not_overtake_what_it_has_to_propose():
    """phase1.py, `chosen_base`: slots 2..3 are chosen, in a ballot of which it has no values: they are proposed
    again, and counted, like all above the base of a promise; the watermark waits for that although slot 1, once
    it comes, closes the gap."""
    h = Harness(promised=B1)
    h.step(Heartbeat(node_of(B1), 1, B1, 3, 1)).wait(1)
    h.step(Values(node_of(B1), 1, B1, 2, 2, B1, True, "before"))
    h.ready()
    h.candidate().durable()
    h.step(h.promise(2, Run(2, 3, ballot(1, 3)), chosen=1))
    assert h.paxos.role == Role.LEADER
    h.ready()
    h.step(Values(2, 1, h.paxos.term, 1, 1, B1, True, "first")).wait(1)
    assert h.paxos.commit == 1
    h.step(Values(2, 1, h.paxos.term, 2, 2, ballot(1, 3), False, "again")).wait(1)
    h.ready()
    h.durable()
    h.step(Accepted(2, 1, h.paxos.term, 4, ())).ready()
    assert h.paxos.commit == 4


def test_a_missing_value_is_asked_of_those_who_have_it_again_and_again():
    """DIVERGENCE.md, "Bytes come later": what is adopted and not here is fetched from an acceptor that reported it."""
    h = Harness(promised=LATER, members=(1, 2, 3, 4, 5)).leader(
        Harness().promise(2, Run(1, 1, B1)), Harness().promise(3, Run(1, 1, B1))
    )
    asked = [h.wait(span).said(Fetch)[0].to for span in (0, H, H)]
    assert set(asked) == {2, 3}


def test_a_leader_that_cannot_get_a_value_gives_up():
    """DIVERGENCE.md, "Bytes come later": if nothing comes within an election timeout, leadership is given up."""
    h = Harness(promised=LATER).leader(Harness().promise(2, Run(1, 1, B1))).durable()
    for _ in range(12):
        h.wait(H).step(HeartbeatReply(3, 1, h.paxos.term, 1, 0)).ready()
    assert h.paxos.role != Role.LEADER
    assert "recovery-stuck" in [e.what for ready in h.readys for e in ready.events]


def test_a_promise_that_tells_of_more_than_any_node_holds_is_nobodys():
    """phase1.py, `too_far`: a forged promise would else have everything before it filled with no-ops."""
    h = Harness([(1, 1, B1)]).candidate().durable()
    far = Run(OPEN_SLOTS + 2, OPEN_SLOTS + 2, B1)
    h.step(h.promise(2, far, chosen=1))
    assert h.paxos.role == Role.CANDIDATE
    assert [event.what for event in h.ready().events] == ["promise-too-far"]
    h.step(h.promise(3, chosen=1))
    assert h.paxos.role == Role.LEADER
    assert h.paxos.last == 2


def test_what_lies_behind_the_base_is_counted_as_soon_as_that_is_learned():
    """proposer.py, `count`: nothing is counted until all up to the base is learned."""
    h = Harness(promised=LATER).leader(Harness().promise(2, chosen=3)).durable()
    assert h.ack(4, 2).ready() is None
    assert h.step(values(B2, 1, 3)).ready().committed == (1, 4)


def test_nothing_new_is_proposed_before_all_that_was_chosen_is_here():
    """DIVERGENCE.md, "Bytes come later": it could not be chosen, and would wait in memory, behind a hole."""
    h = Harness(promised=LATER).leader(Harness().promise(2, chosen=3)).durable()
    assert not h.paxos.accepts_proposals
    h.step(values(B2, 1, 2)).ready()
    assert (h.paxos.commit, h.paxos.accepts_proposals) == (2, False)
    h.step(values(B2, 3, 1)).ready()
    assert (h.paxos.commit, h.paxos.accepts_proposals) == (3, True)


def test_acceptances_below_the_base_are_not_counted():
    """proposer.py, `count`: what others have there may be chosen; what this leader has there may not be that."""
    h = Harness([(1, 3, B1)], promised=B2).leader(Harness().promise(2, chosen=3)).durable()
    h.ack(4, 2, 3)
    ready = h.ready()
    assert ready is None or ready.committed is None
    assert h.paxos.commit == 0


def test_reads_wait_until_all_that_may_have_been_chosen_is():
    """DIVERGENCE.md, "One more no-op": its index is what reads wait for."""
    h = Harness([(1, 3, B1)]).leader().durable()
    h.step(ReadIndex(5)).ready()
    h.ack(3, 2)
    assert of_type(h.ready().messages, Heartbeat) == []
    h.ack(4, 2)
    assert [m.round for m in of_type(h.ready().messages, Heartbeat)] == [1, 1]


# -- phase 2 ------------------------------------------------------------------------------------------------------


def test_one_acknowledgement_covers_a_turn():
    """acceptor.py, `flush`: one acknowledgement a Ready, of everything accepted in this ballot so far."""
    h = Harness(promised=B1).step(accept(B1, 1), accept(B1, 2), accept(B1, 3))
    assert h.said(Accepted) == [Accepted(1, 2, B1, 3, ())]


def test_a_chosen_slot_is_not_accepted_again():
    """DIVERGENCE.md, "Acceptors take slots in any order": one known to be chosen counts as accepted."""
    h = Harness([(1, 3, B1)], promised=B1, commit=3).step(accept(B2, 1, 4))
    ready = h.ready()
    assert [(a.first, a.last, a.skip) for a in ready.append] == [(4, 4, 3)]
    assert ready.messages_after_durable == [Accepted(1, 3, B2, 4, ())]


def test_the_number_of_open_runs_is_bounded_but_the_first_hole_can_always_be_closed():
    """DIVERGENCE.md, "Open runs are bounded": beyond, nothing is accepted but what closes the first hole."""
    h = Harness([(slot, slot, B1) for slot in range(3, 3 + 2 * limits.OPEN_RUNS, 2)], promised=B1)
    h.step(accept(B1, 5000))
    assert h.paxos.term_at(5000) is None
    h.step(accept(B1, 1, 2))
    assert h.held(3) == [B1, B1, B1]


def test_the_window_bounds_what_is_under_way():
    """DIVERGENCE.md, "No window on slots": bytes and messages under way are bounded instead."""
    h = Harness().settled()
    for _ in range(20):
        h.propose().ready()
    sent = [m for ready in h.readys for m in of_type(ready.messages, Accept) if m.to == 2]
    assert len(sent) == 1 + PAXOS_CONFIG.max_inflight_messages
    ready = h.ack(5, 2).ready()
    assert [(m.first, m.entries) for m in of_type(ready.messages, Accept)] == [(10, 10), (20, 2)]


# -- learning -----------------------------------------------------------------------------------------------------


def test_a_watermark_speaks_of_slots_accepted_in_its_own_ballot_only():
    """DIVERGENCE.md, "A watermark instead of decisions": what was accepted in another ballot may have lost."""
    h = Harness([(1, 3, B1)], promised=B1)
    h.step(Heartbeat(3, 1, B2, 3, 1))
    ready = h.ready()
    assert ready.committed is None
    h.step(accept(B2, 1, 2, chosen=3))
    assert h.ready().committed == (1, 2)


def test_the_watermark_of_a_former_leader_is_forgotten():
    """learner.py, `hear`: only the leader of the promised ballot says what is chosen."""
    h = Harness(promised=B1).step(accept(B1, 1, chosen=9), accept(B2, 2, chosen=0), accept(B2, 3))
    assert h.ready().committed == (1, 1)
    assert h.paxos.deadline() > 0
    assert of_type(h.wait(H).ready().messages if h.paxos.ready() else (), Fetch) == []


def test_a_learner_that_lacks_chosen_slots_asks_for_them_and_for_no_more():
    """DIVERGENCE.md, "A watermark instead of decisions": what is missing is fetched, one request at a time."""
    h = Harness([(1, 2, B1), (5, 6, B1)], promised=B1, commit=2).step(Heartbeat(2, 1, B1, 8, 1))
    h.ready()
    assert h.wait(H // 4).said(Fetch) == [Fetch(1, 2, B1, 3, 4, 0)]
    assert of_type((h.wait(H // 4).ready() or h.readys[0]).messages, Fetch) == [], "one request is under way"
    h.step(values(B1, 3, 2))
    assert h.ready().committed == (3, 6)
    h.step(Heartbeat(2, 1, B1, 8, 2))
    assert Fetch(1, 2, B1, 7, 8, 0) in h.wait(0).said(Fetch), "what comes next is asked for at once"
    assert Fetch(1, 2, B1, 7, 8, 0) in h.wait(H).said(Fetch), "and again if nothing comes"


def test_what_is_only_late_is_not_fetched():
    """learner.py, `grace`: what is missing may be on its way for a quarter of a heartbeat."""
    h = Harness(promised=B1)
    for slot in range(1, 9):
        h.step(Heartbeat(2, 1, B1, 20, slot), accept(B1, slot, chosen=20))
        assert of_type(h.ready().messages, Fetch) == []
        assert (ready := h.wait(H // 5).ready()) is None or of_type(ready.messages, Fetch) == []


def test_who_learns_a_value_chosen_in_a_higher_ballot_promises_that_ballot():
    """DIVERGENCE.md, "A chosen value raises the promise": a leader would otherwise tell acceptors of its own ballot
    that slots are chosen of which they hold what lost."""
    h = Harness().settled()
    h.propose().ready()
    h.step(values(B3, 2, 1))
    ready = h.ready()
    assert ready.hard_state == HardState(B3, 2)
    assert h.paxos.role == Role.FOLLOWER
    assert of_type(ready.messages, Accept, Heartbeat) == []


def test_fetches_are_answered_with_chosen_slots_up_to_the_own_watermark_by_runs():
    """DIVERGENCE.md, "Values known to be chosen are given to anybody": up to the own watermark."""
    h = Harness([(1, 3, B1), (4, 9, B2)], promised=B3, commit=6)
    h.step(Fetch(2, 1, B3, 2, 9, 0), Fetch(3, 1, B1, 8, 9, 0))
    sent = h.said(Values)
    assert [(m.to, m.first, m.entries, m.accepted_in, m.is_chosen) for m in sent] == [
        (2, 2, 2, B1, True),
        (2, 4, 3, B2, True),
    ]


def test_fetches_of_a_ballot_are_answered_with_exactly_that_ballot_or_what_is_chosen():
    """DIVERGENCE.md, "Values known to be chosen are given to anybody": others by exact ballot."""
    h = Harness([(1, 3, B1), (4, 6, B2), (7, 9, B1)], promised=B3, commit=4)
    h.step(Fetch(2, 1, B3, 4, 9, B1))
    assert [(m.first, m.entries, m.accepted_in, m.is_chosen) for m in h.said(Values)] == [
        (4, 1, B2, True),
        (7, 3, B1, False),
    ]


def test_an_answer_is_bounded_by_a_window():
    """learner.py, `answer_all`: everybody gets one window full for what it asked in a turn."""
    h = Harness([(1, 1000, B1)], commit=1000).step(Fetch(2, 1, B1, 1, 1000, 0), Fetch(2, 1, B1, 500, 1000, 0))
    sent = h.said(Values)
    assert sum(m.entries for m in sent) * ENTRY_BYTES == PAXOS_CONFIG.max_inflight_bytes
    assert all(m.entries * ENTRY_BYTES <= PAXOS_CONFIG.max_append_bytes for m in sent)


def test_a_value_that_travels_in_fragments_is_not_sent_twice_for_a_repeated_question():
    """learner.py, `travels`: fragments have timers of their own; a large value is sent again after two timeouts."""
    h = Harness([(1, 1, B1)], commit=1, config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1))
    h.ready()
    assert len(h.step(Fetch(2, 1, B1, 1, 1, 0)).said(Values)) == 1
    assert h.step(Fetch(2, 1, B1, 1, 1, 0)).ready() is None
    assert len(h.step(Fetch(3, 1, B1, 1, 1, 0)).said(Values)) == 1
    h.step(Heartbeat(2, 1, B1, 1, 1)).wait(T).ready()
    h.step(Heartbeat(2, 1, B1, 1, 2)).wait(T).ready()
    assert len(h.step(Fetch(2, 1, B1, 1, 1, 0)).said(Values)) == 1


def test_large_values_follow_each_other_within_the_window():
    """learner.py, `arrived`: what arrives gives the rest new time. Seeds 2082 and 2136 of the simulator: one large
    value an election timeout never caught up."""
    window = 40
    large = {"datagram_bytes": ENTRY_BYTES - 1, "max_append_bytes": ENTRY_BYTES, "max_inflight_bytes": 40 * ENTRY_BYTES}
    h = Harness([(1, 2 * window, B1)], commit=2 * window, config=PAXOS_CONFIG._replace(**large))
    h.ready()

    def ask(first):
        return h.step(Fetch(2, 1, B1, first, 2 * window, 0))

    assert [m.first for m in ask(1).said(Values)] == list(range(1, window + 1))
    assert ask(1).ready() is None
    assert [m.first for m in ask(3).said(Values)] == [window + 1, window + 2], "what travels is left alone"


def test_small_values_that_together_exceed_a_datagram_are_sent_at_every_question():
    """learner.py, `travels`: large values do. Small ones go in frames of their own, which nobody resends: a follower
    far behind would wait for each loss."""
    h = Harness([(1, 10, B1)], commit=10, config=PAXOS_CONFIG._replace(datagram_bytes=3 * ENTRY_BYTES))
    h.ready()
    for _ in range(2):
        assert [(m.first, m.entries) for m in h.step(Fetch(2, 1, B1, 1, 10, 0)).said(Values)] == [(1, 10)]


def test_large_values_that_an_earlier_leader_proposed_are_sent_at_the_first_question():
    """learner.py, `is_pushed`: they were never pushed in this ballot."""
    h = Harness([(1, 1, B1)], commit=1, config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader()
    h.durable().ack(h.paxos.last, 3).ready()
    assert [m.first for m in h.step(Fetch(2, 1, h.paxos.term, 1, 1, 0)).said(Values)] == [1]


def test_a_large_value_that_is_being_pushed_is_not_sent_at_the_first_question():
    """learner.py, `is_pushed`: one that was pushed counts as on its way when it is first asked for."""
    h = Harness(config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).settled()
    h.propose().ready()
    h.durable().ack(2, 3).ready()
    ask = Fetch(2, 1, h.paxos.term, 2, 2, 0)
    assert h.step(ask).ready() is None
    h.now += LATE
    h.step(Stalled(h.now)).ready()
    assert len(h.step(ask).said(Values)) == 1


def test_answers_are_put_together_when_nothing_can_overwrite_a_slot_any_more():
    """DIVERGENCE.md, "Bytes are read when a message leaves": from the log, after the appends of its Ready."""
    h = Harness([(1, 2, B1)], promised=B1).step(Fetch(3, 1, B1, 1, 2, B1), accept(B2, 1, 2))
    assert h.said(Values) == []
    h = Harness().settled()
    h.propose(2).ready()
    h.ack(1, 2, above=[(3, 3)])  # slot 2 is to be sent again
    h.step(accept(ballot(9, 2), 2, 2))
    assert h.said(Accept) == []


# -- losses -------------------------------------------------------------------------------------------------------


def test_only_holes_are_sent_again_and_only_on_newer_evidence():
    """DIVERGENCE.md, "Losses are looked for": only on evidence younger than the last retransmission."""
    h = Harness(members=(1, 2, 3, 4, 5)).settled()
    for _ in range(5):
        h.propose().ready()
    h.ack(1, 2, above=[(3, 3), (5, 5)])
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 2, 1), (2, 4, 1)]
    h.ack(1, 2, above=[(3, 3), (5, 6)])
    assert h.ready() is None, "sent before the retransmission"
    h.propose().ready()
    h.ack(1, 2, above=[(3, 3), (5, 7)])
    assert h.ready() is None, "after it, but not before its time"
    h.wait(H // 4).ready()
    h.ack(1, 2, above=[(3, 3), (5, 7)])
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 2, 1), (2, 4, 1)]


def test_chosen_slots_are_not_sent_again():
    """DIVERGENCE.md, "Losses are looked for": only open slots are sent again."""
    h = Harness().settled()
    for _ in range(3):
        h.propose().ready()
    h.durable().ack(2, 3).ready()
    h.ack(1, 2, above=[(4, 4)])
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 3, 1)]


def test_a_silent_acceptor_gets_nothing_until_it_speaks():
    """DIVERGENCE.md, "Losses are looked for": silence for two heartbeats ends pushing."""
    h = Harness().settled()
    h.propose().ready()
    for _ in range(4):
        h.wait(H).ready()
    assert [m.to for m in of_type(h.propose().ready().messages, Accept)] == []
    h.step(HeartbeatReply(2, 1, h.paxos.term, 1, 1))
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 2, 2)]


def test_a_value_that_travels_in_fragments_is_not_resent_on_first_suspicion():
    """DIVERGENCE.md, "Losses are looked for": a value in fragments is given two election timeouts."""
    h = Harness(members=(1, 2, 3, 4, 5), config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).settled()
    h.propose().ready()
    h.propose().ready()
    assert h.ack(1, 2, above=[(3, 3)]).ready() is None
    for _ in range(LATE // H + 2):
        h.wait(H).step(HeartbeatReply(3, 1, h.paxos.term, 99, 0), HeartbeatReply(4, 1, h.paxos.term, 99, 0)).ready()
    h.ack(1, 2).ready()
    h.propose().ready()
    assert [(m.to, m.first) for m in h.ack(1, 2, above=[(3, 4)]).said(Accept)] == [(2, 2)]


# -- elections ------------------------------------------------------------------------------------------------------


def test_the_lease_is_judged_by_the_tick_that_follows_not_by_an_old_clock():
    """DIVERGENCE.md, "A lease for the leader": what it would refuse is judged once more by the tick that follows."""
    h = Harness(promised=B1).step(Heartbeat(2, 1, B1, 0, 1)).wait(1)
    h.ready()
    h.step(prepare(B2))
    assert h.ready() is None
    assert h.paxos.deadline() <= h.now
    h.wait(T)
    assert [m.granted for m in h.said(Promise)] == [True]


def test_a_leader_is_its_own_lease_unless_it_asked_for_the_election():
    """DIVERGENCE.md, "A lease for the leader": it answers no Prepare itself, unless it asked for the election."""
    h = Harness().settled()
    own = h.paxos.term
    h.step(prepare(B2), prepare(B2, pre=True)).wait(1)
    assert h.ready() is None
    assert (h.paxos.role, h.paxos.term) == (Role.LEADER, own)
    h.step(prepare(B2, transfer=True))
    assert h.paxos.term == B2
    assert [m.granted for m in h.said(Promise)] == [True]


def test_a_node_that_no_quorum_answers_raises_no_ballot():
    """DIVERGENCE.md, "Pre-prepare": a node that is cut off raises no ballots."""
    h = Harness(promised=B1, members=(1, 2, 3, 4, 5))
    for _ in range(5):
        h.wait(4 * T).ready()
        asked = max(m.ballot for ready in h.readys for m in of_type(ready.messages, Prepare))
        h.step(Promise(2, 1, asked, True, True, 0, 1, 0, 1, ()), Promise(2, 1, asked, True, True, 0, 1, 0, 1, ()))
    assert h.paxos.term == B1
    assert all(ready.hard_state is None for ready in h.readys)


@pytest.mark.parametrize("seed", range(20))
def test_a_duel_is_over_when_a_leader_is_heard(seed):
    """DIVERGENCE.md, "Preemption and back-off": the range doubles until it hears a leader; from then on a failure is
    noticed as fast as ever."""
    h = Harness().candidate()
    h.paxos._s.random = Random(seed)
    h.step(Refused(2, 1, ballot(9, 2)), Refused(2, 1, ballot(11, 2)), Heartbeat(2, 1, ballot(11, 2), 0, 1))
    h.ready()
    h.step(Tick(h.now))
    assert T <= h.paxos.deadline() - h.now < 2 * T


def test_who_is_behind_waits_longer_for_as_long_as_it_is():
    """DIVERGENCE.md, "Preemption and back-off": a node that is behind what it knows to be chosen waits half a
    timeout longer."""
    h = Harness()
    waits = []
    for heard in (Heartbeat(2, 1, B1, 0, 1), Heartbeat(2, 1, B1, 1, 2), accept(B1, chosen=1)):
        h.step(heard, Tick(h.now))
        waits.append(h.paxos._s.election_deadline - h.now - h.paxos._s.timeout_ns)
    assert waits == [0, T // 2, 0]


def test_a_leader_that_no_phase_2_quorum_answers_steps_down():
    """DIVERGENCE.md, "Quorum loss": such a proposer steps down within two timeouts."""
    h = Harness(members=(1, 2, 3, 4, 5)).settled()
    h.wait(T).ready()
    for _ in range(2):
        h.step(HeartbeatReply(2, 1, h.paxos.term, 1, 0)).wait(T).ready()
    assert h.paxos.role == Role.FOLLOWER


def test_a_stalled_leader_gets_a_window_to_read_its_socket_first():
    """clock.py, `on_stalled`: every wait starts afresh, before the messages that piled up are judged by it."""
    h = Harness().settled()
    h.wake_late(h.now + 9 * T)
    assert h.paxos.role == Role.LEADER


def test_a_leader_whose_every_wake_up_is_late_still_misses_its_acceptors():
    """clock.py, `on_stalled`: a leader's wait is put off once only."""
    h = Harness().settled()
    for _ in range(4):
        h.wake_late(h.now + T)
    assert h.paxos.role == Role.FOLLOWER


def test_an_acceptor_whose_every_wake_up_is_late_prepares_all_the_same():
    """clock.py, `on_stalled`: an acceptor's wait is put off once only."""
    h = Harness()
    for _ in range(2):
        h.wake_late(h.paxos.deadline() + H)
    assert h.paxos.role == Role.PRE_CANDIDATE


def test_timeout_now_prepares_at_once_and_only_for_the_leader_of_the_ballot():
    """DIVERGENCE.md, "Transfer": the leader asks the target to prepare at once."""
    h = Harness(promised=B1).step(Heartbeat(2, 1, B1, 0, 1))
    h.ready()
    h.step(TimeoutNow(3, 1, B1))
    assert h.paxos.role == Role.FOLLOWER
    h.ready()
    h.step(TimeoutNow(2, 1, B1))
    assert h.paxos.role == Role.CANDIDATE
    assert all(m.transfer and not m.pre for m in h.said(Prepare))


# -- quorums of other sizes -----------------------------------------------------------------------------------------


def test_a_read_point_is_confirmed_by_a_phase_2_quorum():
    """DIVERGENCE.md, "Reads without log entries": it shares a node with every phase-1 quorum of a higher ballot."""
    for config, answers in ((FLEXIBLE, 1), (PAXOS_CONFIG, 2), (PAXOS_CONFIG._replace(phase1=2, phase2=4), 3)):
        h = Harness(members=FIVE, config=config).settled()
        h.step(ReadIndex(1))
        number = of_type(h.ready().messages, Heartbeat)[0].round
        for count, node in enumerate((2, 3, 4)[:answers], 1):
            assert h.ready() is None, count
            h.step(HeartbeatReply(node, 1, h.paxos.term, number, 1))
        assert [(r.read_id, r.read_index) for r in h.ready().reads] == [(1, 1)]


def test_an_answer_to_an_older_round_confirms_no_newer_read():
    """DIVERGENCE.md, "Reads without log entries": the watermark is that of the moment at which the round began."""
    h = Harness().settled()
    old = of_type(h.wait(H).ready().messages, Heartbeat)[0].round
    h.step(ReadIndex(1)).ready()
    h.step(HeartbeatReply(2, 1, h.paxos.term, old, 1))
    assert h.ready() is None
    h.step(HeartbeatReply(2, 1, h.paxos.term, old + 1, 1))
    assert len(h.ready().reads) == 1


def test_one_node_is_all_quorums():
    """DIVERGENCE.md, "Sizes by configuration": of one node it is every quorum, and leads, chooses and reads alone."""
    h = Harness(members=(1,)).wait()
    h.ready()
    h.durable()
    h.ready()
    assert h.paxos.role == Role.LEADER
    h.durable()
    assert h.ready().committed == (1, 1)
    h.step(ReadIndex(1))
    assert len(h.ready().reads) == 1


# -- the table ------------------------------------------------------------------------------------------------------


def test_every_cell_of_the_table_is_filled():
    """table.py, `TABLE`: which function takes which input in which role."""
    rows = [set(row) for row in TABLE.values()]
    assert set(TABLE) == set(Role)
    assert all(row == rows[0] and row >= PEER_MESSAGES for row in rows)

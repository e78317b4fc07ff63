"""One test per sentence of the papers; each names its sentence first, and test_named.py sees to that.

PMS: Leslie Lamport, "Paxos Made Simple". PMMC: Robbert van Renesse & Deniz Altinbuken, "Paxos Made Moderately Complex".
FPaxos: Heidi Howard, Dahlia Malkhi & Alexander Spiegelman, "Flexible Paxos". Words in quotation marks are the paper's;
the rest is said in ours. What this engine does beyond them is in test_paxos_rules.py.
"""

import pytest
from paxoscluster import PAXOS_CONFIG
from paxosharness import B1, B2, B3, FIVE, FLEXIBLE, LATER, H, Harness, T, accept, items, of_type, prepare, values

from quorumd.consensus.engine import HardState, Role
from quorumd.consensus.messages import Heartbeat, HeartbeatReply
from quorumd.consensus.paxos.ballots import ballot, node_of, round_of
from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Refused, Run

# -- ballots ------------------------------------------------------------------------------------------------------


def test_different_proposers_choose_their_numbers_from_disjoint_sets():
    """PMS 2.5: "Different proposers choose their numbers from disjoint sets of numbers"; PMMC 2.2: ballots are
    lexicographically ordered pairs of an integer and its leader's identifier."""
    h = Harness(promised=B3).candidate()
    assert (round_of(h.paxos.term), node_of(h.paxos.term)) == (4, 1)
    assert h.readys[-1].hard_state == HardState(ballot(4, 1), 1)


def test_a_proposer_begins_phase_1_with_a_higher_number_than_any_it_has_already_used():
    """PMS 2.5: "Each proposer remembers (in stable storage) the highest-numbered proposal it has tried to issue, and
    begins phase 1 with a higher proposal number than any it has already used"."""
    first = Harness().candidate()
    again = Harness(promised=first.readys[-1].hard_state.term).candidate()
    assert again.paxos.term > first.paxos.term


def test_a_new_ballot_is_above_every_one_heard_of():
    """PMS 2.4: "By abandoning a proposal and trying again if it learns about some request with a higher proposal
    number, the distinguished proposer will eventually choose a high enough proposal number"."""
    h = Harness(promised=B1).wait()
    h.ready()
    h.step(Promise(2, 1, ballot(8, 3), False, True, 0, 1, 0, 1, ()))
    asked = h.said(Prepare)
    assert {(m.pre, m.ballot) for m in asked} == {(True, ballot(9, 1))}, "a refused question is asked again at once"


# -- phase 1 ------------------------------------------------------------------------------------------------------


def test_an_acceptor_promises_a_number_greater_than_any_it_responded_to():
    """PMS 2.2, phase 1 (b): "... with a promise not to accept any more proposals numbered less than n"."""
    h = Harness(promised=B1).step(prepare(B2))
    ready = h.ready()
    assert ready.hard_state == HardState(B2, 3)
    assert ready.messages_after_durable == [Promise(1, 3, B2, True, False, 0, 1, 0, 1, ())]
    h.step(accept(B1))
    assert h.paxos.last == 0
    assert h.said() == [Refused(1, 2, B2)]


def test_an_acceptor_records_its_intended_response_in_stable_storage_before_sending_it():
    """PMS 2.5: "An acceptor records its intended response in stable storage before actually sending the response".
    Promises, acceptances and the proposer's own prepare: none leaves before Durable."""
    h = Harness().step(prepare(B1))
    assert h.ready().messages == ()
    h.step(accept(B1))
    assert h.ready().messages == ()
    h = Harness().candidate()
    assert of_type(h.readys[-1].messages, Prepare) == []
    assert len(of_type(h.readys[-1].messages_after_durable, Prepare)) == 2


def test_a_promise_that_is_not_durable_is_not_spoken_of_in_any_message():
    """PMS 2.5: "... before actually sending the response": a refusal names the promise, so it waits for it as well."""
    h = Harness().step(prepare(B2))
    h.ready()
    h.step(Heartbeat(2, 1, B1, 0, 1))
    ready = h.ready()
    assert (ready.messages, ready.messages_after_durable) == ((), [Refused(1, 2, B2)])


def test_a_promise_reports_the_highest_numbered_proposal_accepted_of_every_slot():
    """PMS 2.2, phase 1 (b): "... and with the highest-numbered proposal (if any) that it has accepted"."""
    h = Harness([(1, 4, B1), (3, 3, B2), (7, 9, B1)], commit=1).step(prepare(B3))
    (promise,) = h.ready().messages_after_durable
    assert (promise.chosen, promise.retained) == (1, 1)
    assert promise.accepted == (Run(2, 2, B1), Run(3, 3, B2), Run(4, 4, B1), Run(7, 9, B1))


def test_one_exchange_covers_all_instances():
    """PMS 3: "Using the same proposal number for all instances, it can do this by sending a single reasonably short
    message to the other servers"."""
    h = Harness([(1, 3, B1), (7, 9, B1)], commit=2).candidate()
    sent = of_type(h.readys[-1].messages_after_durable, Prepare)
    assert [(m.to, m.ballot, m.first) for m in sent] == [(2, h.paxos.term, 3), (3, h.paxos.term, 3)]


def test_a_promise_is_repeated_for_its_own_proposer_and_for_nobody_else():
    """PMMC 2.2, acceptor: every p1a is answered with the ballot number that the acceptor has adopted by then: its
    leader hears of it again, one of a lower ballot that it is preempted."""
    h = Harness().step(prepare(B2))
    (first,) = h.ready().messages_after_durable
    assert h.step(prepare(B2)).said() == [first]
    assert h.step(prepare(B1)).said() == [Promise(1, 2, B2, False, False, 0, 1, 0, 1, ())]


def test_duplicated_promises_of_one_acceptor_are_one():
    """PMS 2.2, phase 2 (a): a response "from a majority of acceptors", and not as many responses; PMMC's scouts wait
    for a set of acceptors."""
    h = Harness(members=(1, 2, 3, 4, 5)).candidate().durable()
    h.step(*[h.promise(2)] * 3)
    assert h.paxos.role == Role.CANDIDATE
    h.step(h.promise(4))
    assert h.paxos.role == Role.LEADER


def test_promises_of_another_ballot_or_to_the_pre_prepare_do_not_count():
    """PMS 2.2, phase 2 (a): "a response to its prepare requests (numbered n)"; 2.5: responses are tagged with the
    number "to prevent confusion"."""
    h = Harness().candidate().durable()
    h.step(h.promise(2)._replace(pre=True), h.promise(2)._replace(ballot=h.paxos.term - (1 << 16)))
    h.step(h.promise(2)._replace(ballot=h.paxos.term + (1 << 16)))
    h.step(h.promise(2, Run(1, 1, h.paxos.term)), h.promise(2, Run(3, 3, B1), Run(2, 2, B1)))  # nonsense
    assert h.paxos.role == Role.CANDIDATE


def test_the_own_promise_counts_only_once_it_is_durable():
    """PMS 2.5: "... records its intended response in stable storage before actually sending the response", to itself
    as well."""
    h = Harness().candidate()
    h.step(h.promise(2))
    assert h.paxos.role == Role.CANDIDATE
    h.durable()
    assert h.paxos.role == Role.LEADER


def test_an_acceptor_that_ignores_a_request_informs_the_proposer_who_abandons_it():
    """PMS 2.2: an acceptor that ignores a request because of a higher number "should probably inform the proposer,
    who should then abandon its proposal"; PMMC 2: preempted."""
    for refusal in (Refused(2, 1, ballot(9, 2)), Promise(2, 1, ballot(9, 2), False, False, 0, 1, 0, 1, ())):
        for h in (Harness().candidate(), Harness().leader()):
            own = h.paxos.term
            h.step(refusal)
            assert (h.paxos.role, h.paxos.term) == (Role.FOLLOWER, own)
            assert "preempted" in [e.what for e in h.ready().events]
            assert {m.ballot for m in h.wait(4 * T).said(Prepare)} == {ballot(10, 1)}


# -- what phase 1 obliges to ----------------------------------------------------------------------------------------


def test_the_value_of_the_highest_numbered_proposal_among_the_responses_is_proposed():
    """PMS 2.2, P2c (b): "v is the value of the highest-numbered proposal among all proposals numbered less than n
    accepted by the acceptors in S". The order in which promises come does not matter, nor whose they are."""
    low, high = ballot(1, 3), ballot(2, 2)
    for order in (1, -1):
        h = Harness(promised=LATER, members=(1, 2, 3, 4, 5)).leader(
            *[Harness().promise(4, Run(1, 1, high), Run(3, 3, low)), Harness().promise(5, Run(1, 3, low))][::order]
        )
        assert items(h.won) == [(4, 4, h.paxos.term, "noop")]
        fetched = {(m.first, m.last, m.accepted_in) for m in h.wait(0).said(Fetch)}
        assert fetched == {(1, 1, high), (2, 3, low)}


def test_the_own_acceptance_is_adopted_where_it_is_the_highest_and_only_there():
    """PMS 2.2, P2c (b): the proposer's own acceptor is one of "the acceptors in S", and no more than one."""
    high = ballot(2, 2)
    h = Harness([(1, 2, B1)], promised=B2).leader(Harness().promise(2, Run(2, 2, high)))
    assert items(h.won) == [(1, 1, h.paxos.term, "kept"), (3, 3, h.paxos.term, "noop")]
    assert h.held(3) == [h.paxos.term, B1, h.paxos.term]
    h.step(values(high, 2, 1, chosen=False))
    assert items(h.ready()) == [(2, 2, h.paxos.term, "theirs")]


def test_any_value_may_be_proposed_where_the_responses_reported_none():
    """PMS 3: a gap is filled "by proposing ... a special "no-op" command that leaves the state unchanged"."""
    h = Harness([(1, 1, B1), (4, 4, B1), (6, 6, B1)]).leader()
    number = h.paxos.term
    noops = [(2, 3, number, "noop"), (5, 5, number, "noop"), (7, 7, number, "noop")]
    assert items(h.won) == [(slot, slot, number, "kept") for slot in (1, 4, 6)] + noops
    assert h.paxos.accepts_proposals


@pytest.mark.parametrize(("chosen", "retained"), [(5, 1), (0, 6), (5, 6)])
def test_a_slot_that_an_acceptor_knows_to_be_chosen_or_has_trimmed_is_never_filled(chosen, retained):
    """PMMC 4, garbage collection: acceptors tell the leader up to which slot they have dropped what they accepted,
    so that it does not take those slots for empty."""
    h = Harness([(1, 1, B1)]).leader(Harness().promise(2, Run(8, 8, B1), chosen=chosen, retained=retained))
    number = h.paxos.term
    assert items(h.won) == [(6, 7, number, "noop"), (9, 9, number, "noop")]
    assert h.held(5) == [B1, None, None, None, None]
    assert Fetch(1, 2, number, 1, 5, 0) in h.wait(0).said(Fetch)


def test_what_is_learned_below_the_base_is_not_proposed():
    """PMMC 4, state reduction: a leader needs no commander for a slot that it knows to be decided."""
    h = Harness(promised=LATER).leader(Harness().promise(2, chosen=3)).durable()
    h.step(values(B2, 1, 3))
    ready = h.ready()
    assert items(ready) == [(1, 3, B2, "theirs")]
    assert ready.committed == (1, 3)
    assert of_type(ready.messages, Accept) == []


# -- phase 2 ------------------------------------------------------------------------------------------------------


def test_an_acceptor_accepts_unless_it_promised_a_greater_number():
    """PMS 2.2, P1a: "An acceptor can accept a proposal numbered n iff it has not responded to a prepare request
    having a number greater than n". An equal or greater one is accepted, and is a promise too."""
    for number, taken in ((B1, False), (B2, True), (B3, True)):
        h = Harness(promised=B2).step(accept(number, 1, 2))
        ready = h.ready()
        assert h.held(2) == [number if taken else None] * 2
        assert (ready.hard_state is not None) == (number == B3)
        answer = Accepted(1, node_of(number), number, 2, ()) if taken else Refused(1, 2, B2)
        assert answer in [*ready.messages, *ready.messages_after_durable]


def test_acceptors_accept_in_any_order():
    """PMS 3: commands are chosen by "a sequence of separate instances of the Paxos consensus algorithm"."""
    h = Harness(promised=B1)
    for first, match, above in (
        (5, 0, ((5, 5),)),
        (3, 0, ((3, 3), (5, 5))),
        (1, 1, ((3, 3), (5, 5))),
        (2, 3, ((5, 5),)),
    ):
        h.step(accept(B1, first))
        assert h.said(Accepted) == [Accepted(1, 2, B1, match, above)]
    h.step(accept(B1, 1, 5))
    ready = h.ready()
    assert [(a.first, a.last, a.skip) for a in ready.append] == [(4, 4, 3)], "what is accepted already stays"
    assert ready.messages_after_durable == [Accepted(1, 2, B1, 5, ())]


def test_what_was_accepted_in_another_ballot_is_not_acknowledged_in_this_one():
    """PMS 2.2: "a proposal consists of a proposal number and a value": what was accepted under another number is
    another proposal."""
    h = Harness([(1, 4, B1)], promised=B2).step(accept(B2, 3))
    assert h.said(Accepted) == [Accepted(1, 3, B2, 0, ((3, 3),))]


def test_a_higher_ballot_overwrites_a_lower_one_slot_by_slot():
    """PMMC 4, state reduction: an acceptor need only remember the most recently accepted pvalue of a slot."""
    h = Harness([(1, 5, B1)], promised=B1).step(accept(B2, 2, 2))
    assert items(h.ready()) == [(2, 3, B2, "theirs")]
    assert h.held(5) == [B1, B2, B2, B1, B1]


def test_the_leader_proposes_command_142_before_141_is_chosen():
    """PMS 3: "The leader can propose command 142 before it learns that its proposed command 141 has been chosen"."""
    h = Harness().settled()
    for slot in (2, 3, 4):
        sent = of_type(h.propose().ready().messages, Accept)
        assert {(m.to, m.first, m.entries, m.chosen) for m in sent} == {(2, slot, 1, 1), (3, slot, 1, 1)}


def test_a_value_is_chosen_when_a_quorum_of_acceptors_has_accepted_it():
    """PMS 2.2: "A value is chosen when a single proposal with that value has been accepted by a majority of the
    acceptors". The own acceptor is one of them, from the moment its disk has it."""
    h = Harness(members=(1, 2, 3, 4, 5)).settled()
    h.propose().ready()
    h.ack(2, 2)
    assert h.ready() is None
    h.ack(2, 2, 2, 2)
    assert h.ready() is None, "an acceptor counts once"
    h.ack(2, 3)
    assert h.ready() is None, "the own disk is not one of them yet"
    h.durable()
    assert h.ready().committed == (2, 2)
    h.propose().ready()
    h.ack(3, 2, 3, 4)
    assert h.ready().committed == (3, 3), "and need not be"


def test_slots_behind_holes_are_counted_one_by_one():
    """PMMC 2: each slot has a commander of its own, which waits for a majority of the acceptors in that slot."""
    h = Harness(members=(1, 2, 3, 4, 5)).settled()
    h.propose(4).ready()
    h.durable()
    h.ack(2, 2, above=[(4, 5)])
    h.ack(1, 3, above=[(3, 5)])
    assert h.ready().committed is None, "slots 2 and 3 are on two disks each"
    h.ack(1, 4, above=[(2, 2)])
    assert h.ready().committed == (2, 2)
    h.ack(1, 4, above=[(3, 3)])  # in another order than they were sent: both are facts
    assert h.ready().committed == (3, 5)


def test_acceptances_of_an_older_ballot_are_void():
    """PMMC 2, commander: a p2b of another ballot does not count; PMS 2.5: "Response messages are tagged with the
    corresponding proposal number to prevent confusion"."""
    h = Harness().settled()
    h.propose().ready()
    for number in (h.paxos.term - (1 << 16), h.paxos.term + (1 << 16), B1):
        h.step(Accepted(2, 1, number, 2, ()), Accepted(3, 1, number, 2, ()))
    h.durable()
    assert h.ready() is None


def test_acceptances_of_what_was_never_proposed_are_void():
    """PMS 2.1: "Only a value that has been proposed may be chosen"."""
    h = Harness().settled()
    h.ack(7, 2, 3)
    h.ack(1, 2, 3, above=[(5, 9)])
    assert h.ready() is None
    assert h.paxos.commit == 1


# -- learning -----------------------------------------------------------------------------------------------------


def test_a_watermark_stops_at_a_hole():
    """PMS 3: "it can't execute commands 138-140, which it also knows, because commands 136 and 137 have yet to be
    chosen"."""
    h = Harness(promised=B1).step(accept(B1, 1), accept(B1, 3, chosen=3))
    assert h.ready().committed == (1, 1)
    h.step(accept(B1, 2))
    assert h.ready().committed == (2, 3)


def test_a_chosen_value_is_taken_unless_the_slot_is_accepted_in_that_ballot_or_above():
    """PMS 2.2, P2b: once v is chosen, "every higher-numbered proposal issued by any proposer has value v": a slot
    accepted in that ballot or above has it already."""
    h = Harness([(1, 1, B1), (2, 2, B2), (3, 3, B3)], promised=B3)
    h.step(values(B2, 1, 4))
    ready = h.ready()
    assert [(a.first, a.last, a.term, a.skip) for a in ready.append] == [(1, 1, B2, 0), (4, 4, B2, 3)]
    assert ready.committed == (1, 4)


def test_chosen_values_behind_a_hole_are_kept_and_known():
    """PMS 3: "Suppose it knows commands 1-134, 138, and 139": once the gap is closed, those behind it can be
    executed."""
    h = Harness(promised=B2).step(values(B1, 3, 2))
    assert h.ready().committed is None
    h.step(values(B1, 1, 2))
    assert h.ready().committed == (1, 4)


def test_values_that_are_only_accepted_are_nothing_to_a_learner():
    """PMS 2.3: "a learner must find out that a proposal has been accepted by a majority of acceptors"."""
    h = Harness(promised=B2).step(values(B1, 1, 2, chosen=False))
    assert h.ready() is None


# -- losses -------------------------------------------------------------------------------------------------------


def test_a_lost_tail_shows_in_the_answer_to_a_heartbeat():
    """PMS 3: "When the leader fails to receive the expected response to its phase 2 messages in instance 141, it
    will retransmit those messages"."""
    h = Harness().settled()
    h.propose(3).ready()
    beats = of_type(h.wait(H).ready().messages, Heartbeat)
    h.step(HeartbeatReply(2, 1, h.paxos.term, beats[0].round, 2))
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 3, 2)]
    h.step(HeartbeatReply(3, 1, h.paxos.term, beats[0].round, 4))
    assert [(m.to, m.entries) for m in h.said(Accept)] == [(3, 0)], "arrived: only the acknowledgement is asked for"


# -- elections ------------------------------------------------------------------------------------------------------


def test_a_distinguished_proposer_is_the_only_one_to_try_issuing_proposals():
    """PMS 2.4: "a distinguished proposer must be selected as the only one to try issuing proposals". Who hears it
    does not ask, and answers nobody who does, until it has been silent for T."""
    h = Harness(promised=B1).step(Heartbeat(2, 1, B1, 0, 1)).wait(1)
    h.ready()
    for pre in (True, False):
        h.step(prepare(B2, pre=pre)).wait(1)
        assert h.ready() is None
    h.wait(T)
    h.ready()
    h.step(prepare(B2, pre=True))
    assert h.said(Promise) == [Promise(1, 3, B2, True, True, 0, 1, 0, 1, ())]
    assert h.paxos.term == B1


def test_a_preempted_proposer_waits_longer_each_time():
    """PMMC 3: two leaders could preempt each other for ever, so one that was preempted waits longer."""
    spans = []
    for lost in range(4):
        h = Harness()
        h.paxos._s.backoff = min(lost, 2)
        draws = []
        for _ in range(200):
            h.paxos._s.draw_timeout()
            draws.append(h.paxos._s.timeout_ns)
        spans.append((min(draws) >= T, max(draws) // T))
    assert spans == [(True, 1), (True, 2), (True, 4), (True, 4)]
    h = Harness().candidate()
    h.step(Refused(2, 1, ballot(9, 2)))
    assert h.paxos._s.backoff == 1
    h.step(Heartbeat(2, 1, ballot(9, 2), 0, 1))
    assert h.paxos._s.backoff == 0


# -- quorums of other sizes -----------------------------------------------------------------------------------------


def test_quorums_of_phase_1_and_2_need_only_meet_each_other():
    """FPaxos, abstract: "intersection is required only across phases": four promises of five make a leader, two
    acceptances choose."""
    h = Harness(members=FIVE, config=FLEXIBLE).candidate().durable()
    h.step(h.promise(2), h.promise(3))
    assert h.paxos.role == Role.CANDIDATE
    h.step(h.promise(4))
    assert h.paxos.role == Role.LEADER
    h.ready()
    h.durable()
    h.ack(1, 5)
    assert h.ready().committed == (1, 1)


def test_a_phase_2_quorum_of_one_reads_and_chooses_alone():
    """FPaxos, simple quorums: two sizes will do if their sum exceeds the number of acceptors. The extreme: every
    node must promise, the leader's disk chooses."""
    h = Harness(config=PAXOS_CONFIG._replace(phase1=3, phase2=1)).candidate().durable()
    h.step(h.promise(2))
    assert h.paxos.role == Role.CANDIDATE
    h.step(h.promise(3)).ready()
    h.durable()
    assert h.ready().committed == (1, 1)

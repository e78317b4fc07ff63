"""One test per sentence of the papers.

PMS: Leslie Lamport, "Paxos Made Simple". PMMC: Robbert van Renesse & Deniz Altinbuken, "Paxos Made Moderately Complex".
FPaxos: Heidi Howard, Dahlia Malkhi & Alexander Spiegelman, "Flexible Paxos". Tests without one of them are of this
engine's own rules: those of the contract, of UDP, and of DIVERGENCE.md.
"""

from random import Random

import pytest
from cluster import ENTRY_BYTES, Sizes
from paxoscluster import PAXOS_CONFIG

from quorumd import limits
from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import KEPT, NOOP, Durable, HardState, Propose, ReadIndex, Role, Stalled, Tick
from quorumd.consensus.messages import Heartbeat, HeartbeatReply, TimeoutNow
from quorumd.consensus.paxos import Paxos
from quorumd.consensus.paxos.ballots import ballot, node_of, round_of
from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Refused, Run, Values
from quorumd.consensus.paxos.table import PEER_MESSAGES, TABLE
from quorumd.limits import OPEN_SLOTS

T = PAXOS_CONFIG.election_timeout_ns
H = PAXOS_CONFIG.heartbeat_ns
LATE = 2 * T  # later than any first election timeout drawn
B1, B2, B3 = ballot(1, 2), ballot(2, 3), ballot(3, 2)
LATER = ballot(8, 2)  # promised by whoever is to lead above what others accepted


class Harness:
    """One engine, node 1 of three unless told otherwise, and everything it has said."""

    def __init__(self, accepted=(), promised=None, members=(1, 2, 3), commit=0, base=0, config=PAXOS_CONFIG):
        log = BallotLog(base)
        for run in accepted:
            log.accept(*run)
        newest = max((run[2] for run in accepted), default=0)
        hard = HardState(newest if promised is None else promised, node_of(newest if promised is None else promised))
        self.paxos = Paxos(1, members, config, hard, log, Sizes(), Random(1), 0, commit=commit, applied=base)
        self.others = [member for member in members if member != 1]
        self.now = 0
        self.readys = []
        self.quorum = config.quorums(len(members))[0]

    def step(self, *messages):
        for message in messages:
            self.paxos.step(message)
        return self

    def ready(self):
        ready = self.paxos.ready()
        if ready is not None:
            self.readys.append(ready)
        return ready

    def durable(self):
        self.paxos.step(Durable(self.readys[-1].seq))
        return self

    def wait(self, span=LATE):
        self.now += span
        return self.step(Tick(self.now))

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


# -- ballots ------------------------------------------------------------------------------------------------------


def test_different_proposers_choose_their_numbers_from_disjoint_sets():
    """PMS 2.5; PMMC 2.2: ballots are lexicographically ordered pairs of an integer and its leader's identifier."""
    h = Harness(promised=B3).candidate()
    assert (round_of(h.paxos.term), node_of(h.paxos.term)) == (4, 1)
    assert h.readys[-1].hard_state == HardState(ballot(4, 1), 1)


def test_a_proposer_begins_phase_1_with_a_higher_number_than_any_it_has_already_used():
    """PMS 2.5: "Each proposer remembers (in stable storage) the highest-numbered proposal it has tried to issue"."""
    first = Harness().candidate()
    again = Harness(promised=first.readys[-1].hard_state.term).candidate()
    assert again.paxos.term > first.paxos.term


def test_a_new_ballot_is_above_every_one_heard_of():
    h = Harness(promised=B1).wait()
    h.ready()
    h.step(Promise(2, 1, ballot(8, 3), False, True, 0, 1, 0, 1, ()))
    asked = h.said(Prepare)
    assert {(m.pre, m.ballot) for m in asked} == {(True, ballot(9, 1))}, "a refused question is asked again at once"


def test_a_ballot_of_another_node_is_nobodys():
    h = Harness()
    h.step(accept(B1)._replace(sender=3), Heartbeat(3, 1, B1, 0, 1), prepare(B1)._replace(sender=3))
    assert h.paxos.term == 0
    assert [e.what for e in h.ready().events] == ["second-leader-refused"]


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
    """PMS 2.5. Promises, acceptances and the proposer's own prepare: none leaves before Durable."""
    h = Harness().step(prepare(B1))
    assert h.ready().messages == ()
    h.step(accept(B1))
    assert h.ready().messages == ()
    h = Harness().candidate()
    assert of_type(h.readys[-1].messages, Prepare) == []
    assert len(of_type(h.readys[-1].messages_after_durable, Prepare)) == 2


def test_a_promise_that_is_not_durable_is_not_spoken_of_in_any_message():
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
    """PMS 3: "Using the same proposal number for all instances, it can do this by sending a single ... message"."""
    h = Harness([(1, 3, B1), (7, 9, B1)], commit=2).candidate()
    sent = of_type(h.readys[-1].messages_after_durable, Prepare)
    assert [(m.to, m.ballot, m.first) for m in sent] == [(2, h.paxos.term, 3), (3, h.paxos.term, 3)]


def test_a_promise_of_many_runs_is_complete_when_all_its_parts_are_there():
    """No part counts for itself: a slot that the proposer does not hear of could be one that is chosen."""
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
    h = Harness(promised=LATER).candidate().durable()
    first = h.promise(2, Run(1, 1, B1), Run(4, 4, B1), part=0, parts=2)
    late = h.promise(2, Run(7, 9, B1), part=1, parts=2)  # of an answer whose first part ended with slot 6
    h.step(first, late)
    assert h.paxos.role == Role.CANDIDATE
    h.step(first, late._replace(accepted=(Run(5, 6, 0), Run(7, 9, B1))))
    assert h.paxos.role == Role.LEADER


def test_a_promise_is_repeated_for_its_own_proposer_and_for_nobody_else():
    h = Harness().step(prepare(B2))
    (first,) = h.ready().messages_after_durable
    assert h.step(prepare(B2)).said() == [first]
    assert h.step(prepare(B1)).said() == [Promise(1, 2, B2, False, False, 0, 1, 0, 1, ())]


def test_duplicated_promises_of_one_acceptor_are_one():
    h = Harness(members=(1, 2, 3, 4, 5)).candidate().durable()
    h.step(*[h.promise(2)] * 3)
    assert h.paxos.role == Role.CANDIDATE
    h.step(h.promise(4))
    assert h.paxos.role == Role.LEADER


def test_promises_of_another_ballot_or_to_the_pre_prepare_do_not_count():
    h = Harness().candidate().durable()
    h.step(h.promise(2)._replace(pre=True), h.promise(2)._replace(ballot=h.paxos.term - (1 << 16)))
    h.step(h.promise(2)._replace(ballot=h.paxos.term + (1 << 16)))
    h.step(h.promise(2, Run(1, 1, h.paxos.term)), h.promise(2, Run(3, 3, B1), Run(2, 2, B1)))  # nonsense
    assert h.paxos.role == Role.CANDIDATE


def test_the_own_promise_counts_only_once_it_is_durable():
    h = Harness().candidate()
    h.step(h.promise(2))
    assert h.paxos.role == Role.CANDIDATE
    h.durable()
    assert h.paxos.role == Role.LEADER


def test_an_acceptor_that_ignores_a_request_informs_the_proposer_who_abandons_it():
    """PMS 2.2; PMMC 2: preempted."""
    for refusal in (Refused(2, 1, ballot(9, 2)), Promise(2, 1, ballot(9, 2), False, False, 0, 1, 0, 1, ())):
        for h in (Harness().candidate(), Harness().leader()):
            own = h.paxos.term
            h.step(refusal)
            assert (h.paxos.role, h.paxos.term) == (Role.FOLLOWER, own)
            assert "preempted" in [e.what for e in h.ready().events]
            assert {m.ballot for m in h.wait(4 * T).said(Prepare)} == {ballot(10, 1)}


# -- what phase 1 obliges to ----------------------------------------------------------------------------------------


def test_the_value_of_the_highest_numbered_proposal_among_the_responses_is_proposed():
    """PMS P2c (b). The order in which promises come does not matter, nor whose they are."""
    low, high = ballot(1, 3), ballot(2, 2)
    for order in (1, -1):
        h = Harness(promised=LATER, members=(1, 2, 3, 4, 5)).leader(
            *[Harness().promise(4, Run(1, 1, high), Run(3, 3, low)), Harness().promise(5, Run(1, 3, low))][::order]
        )
        assert items(h.won) == [(4, 4, h.paxos.term, "noop")]
        fetched = {(m.first, m.last, m.accepted_in) for m in h.wait(0).said(Fetch)}
        assert fetched == {(1, 1, high), (2, 3, low)}


def test_the_own_acceptance_is_adopted_where_it_is_the_highest_and_only_there():
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


def test_nothing_new_is_proposed_before_all_that_may_be_chosen_is():
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
    """Slots 2..3 are chosen, in a ballot of which it has no values: they are proposed again, and counted, like all
    above the base of a promise; the watermark waits for that although slot 1, once it comes, closes the gap."""
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
    h = Harness(promised=LATER, members=(1, 2, 3, 4, 5)).leader(
        Harness().promise(2, Run(1, 1, B1)), Harness().promise(3, Run(1, 1, B1))
    )
    asked = [h.wait(span).said(Fetch)[0].to for span in (0, H, H)]
    assert set(asked) == {2, 3}


def test_a_leader_that_cannot_get_a_value_gives_up():
    h = Harness(promised=LATER).leader(Harness().promise(2, Run(1, 1, B1))).durable()
    for _ in range(12):
        h.wait(H).step(HeartbeatReply(3, 1, h.paxos.term, 1, 0)).ready()
    assert h.paxos.role != Role.LEADER
    assert "recovery-stuck" in [e.what for ready in h.readys for e in ready.events]


@pytest.mark.parametrize(("chosen", "retained"), [(5, 1), (0, 6), (5, 6)])
def test_a_slot_that_an_acceptor_knows_to_be_chosen_or_has_trimmed_is_never_filled(chosen, retained):
    """PMMC 4, garbage collection: who learned that a slot is decided need not remember it."""
    h = Harness([(1, 1, B1)]).leader(Harness().promise(2, Run(8, 8, B1), chosen=chosen, retained=retained))
    number = h.paxos.term
    assert items(h.won) == [(6, 7, number, "noop"), (9, 9, number, "noop")]
    assert h.held(5) == [B1, None, None, None, None]
    assert Fetch(1, 2, number, 1, 5, 0) in h.wait(0).said(Fetch)


def test_a_promise_that_tells_of_more_than_any_node_holds_is_nobodys():
    """Else a forged one would have the new proposer fill everything before it with no-ops."""
    h = Harness([(1, 1, B1)]).candidate().durable()
    far = Run(OPEN_SLOTS + 2, OPEN_SLOTS + 2, B1)
    h.step(h.promise(2, far, chosen=1))
    assert h.paxos.role == Role.CANDIDATE
    assert [event.what for event in h.ready().events] == ["promise-too-far"]
    h.step(h.promise(3, chosen=1))
    assert h.paxos.role == Role.LEADER
    assert h.paxos.last == 2


def test_what_lies_behind_the_base_is_counted_as_soon_as_that_is_learned():
    h = Harness(promised=LATER).leader(Harness().promise(2, chosen=3)).durable()
    assert h.ack(4, 2).ready() is None
    assert h.step(values(B2, 1, 3)).ready().committed == (1, 4)


def test_what_is_learned_below_the_base_is_not_proposed():
    h = Harness(promised=LATER).leader(Harness().promise(2, chosen=3)).durable()
    h.step(values(B2, 1, 3))
    ready = h.ready()
    assert items(ready) == [(1, 3, B2, "theirs")]
    assert ready.committed == (1, 3)
    assert of_type(ready.messages, Accept) == []


def test_nothing_new_is_proposed_before_all_that_was_chosen_is_here():
    """It could not be chosen, and would wait in memory, behind a hole."""
    h = Harness(promised=LATER).leader(Harness().promise(2, chosen=3)).durable()
    assert not h.paxos.accepts_proposals
    h.step(values(B2, 1, 2)).ready()
    assert (h.paxos.commit, h.paxos.accepts_proposals) == (2, False)
    h.step(values(B2, 3, 1)).ready()
    assert (h.paxos.commit, h.paxos.accepts_proposals) == (3, True)


def test_acceptances_below_the_base_are_not_counted():
    """What others have there may be chosen; what this leader has there may not be that."""
    h = Harness([(1, 3, B1)], promised=B2).leader(Harness().promise(2, chosen=3)).durable()
    h.ack(4, 2, 3)
    ready = h.ready()
    assert ready is None or ready.committed is None
    assert h.paxos.commit == 0


def test_reads_wait_until_all_that_may_have_been_chosen_is():
    h = Harness([(1, 3, B1)]).leader().durable()
    h.step(ReadIndex(5)).ready()
    h.ack(3, 2)
    assert of_type(h.ready().messages, Heartbeat) == []
    h.ack(4, 2)
    assert [m.round for m in of_type(h.ready().messages, Heartbeat)] == [1, 1]


# -- phase 2 ------------------------------------------------------------------------------------------------------


def test_an_acceptor_accepts_unless_it_promised_a_greater_number():
    """PMS P1a, and phase 2 (b): an equal or greater one is accepted, and is a promise too."""
    for number, taken in ((B1, False), (B2, True), (B3, True)):
        h = Harness(promised=B2).step(accept(number, 1, 2))
        ready = h.ready()
        assert h.held(2) == [number if taken else None] * 2
        assert (ready.hard_state is not None) == (number == B3)
        answer = Accepted(1, node_of(number), number, 2, ()) if taken else Refused(1, 2, B2)
        assert answer in [*ready.messages, *ready.messages_after_durable]


def test_acceptors_accept_in_any_order():
    """PMS 3: every command is an instance of its own."""
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


def test_one_acknowledgement_covers_a_turn():
    h = Harness(promised=B1).step(accept(B1, 1), accept(B1, 2), accept(B1, 3))
    assert h.said(Accepted) == [Accepted(1, 2, B1, 3, ())]


def test_what_was_accepted_in_another_ballot_is_not_acknowledged_in_this_one():
    h = Harness([(1, 4, B1)], promised=B2).step(accept(B2, 3))
    assert h.said(Accepted) == [Accepted(1, 3, B2, 0, ((3, 3),))]


def test_a_higher_ballot_overwrites_a_lower_one_slot_by_slot():
    """PMMC 4, state reduction: an acceptor need only remember the most recently accepted pvalue of a slot."""
    h = Harness([(1, 5, B1)], promised=B1).step(accept(B2, 2, 2))
    assert items(h.ready()) == [(2, 3, B2, "theirs")]
    assert h.held(5) == [B1, B2, B2, B1, B1]


def test_a_chosen_slot_is_not_accepted_again():
    h = Harness([(1, 3, B1)], promised=B1, commit=3).step(accept(B2, 1, 4))
    ready = h.ready()
    assert [(a.first, a.last, a.skip) for a in ready.append] == [(4, 4, 3)]
    assert ready.messages_after_durable == [Accepted(1, 3, B2, 4, ())]


def test_the_number_of_open_runs_is_bounded_but_the_first_hole_can_always_be_closed():
    h = Harness([(slot, slot, B1) for slot in range(3, 3 + 2 * limits.OPEN_RUNS, 2)], promised=B1)
    h.step(accept(B1, 5000))
    assert h.paxos.term_at(5000) is None
    h.step(accept(B1, 1, 2))
    assert h.held(3) == [B1, B1, B1]


def test_the_leader_proposes_command_142_before_141_is_chosen():
    """PMS 3."""
    h = Harness().settled()
    for slot in (2, 3, 4):
        sent = of_type(h.propose().ready().messages, Accept)
        assert {(m.to, m.first, m.entries, m.chosen) for m in sent} == {(2, slot, 1, 1), (3, slot, 1, 1)}


def test_the_window_bounds_what_is_under_way():
    h = Harness().settled()
    for _ in range(20):
        h.propose().ready()
    sent = [m for ready in h.readys for m in of_type(ready.messages, Accept) if m.to == 2]
    assert len(sent) == 1 + PAXOS_CONFIG.max_inflight_messages
    ready = h.ack(5, 2).ready()
    assert [(m.first, m.entries) for m in of_type(ready.messages, Accept)] == [(10, 10), (20, 2)]


def test_a_value_is_chosen_when_a_quorum_of_acceptors_has_accepted_it():
    """PMS 2.1, 2.3. The own acceptor is one of them, from the moment its disk has it."""
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
    h = Harness().settled()
    h.propose().ready()
    for number in (h.paxos.term - (1 << 16), h.paxos.term + (1 << 16), B1):
        h.step(Accepted(2, 1, number, 2, ()), Accepted(3, 1, number, 2, ()))
    h.durable()
    assert h.ready() is None


def test_acceptances_of_what_was_never_proposed_are_void():
    h = Harness().settled()
    h.ack(7, 2, 3)
    h.ack(1, 2, 3, above=[(5, 9)])
    assert h.ready() is None
    assert h.paxos.commit == 1


# -- learning -----------------------------------------------------------------------------------------------------


def test_a_watermark_speaks_of_slots_accepted_in_its_own_ballot_only():
    """The value accepted in another ballot may be one that lost."""
    h = Harness([(1, 3, B1)], promised=B1)
    h.step(Heartbeat(3, 1, B2, 3, 1))
    ready = h.ready()
    assert ready.committed is None
    h.step(accept(B2, 1, 2, chosen=3))
    assert h.ready().committed == (1, 2)


def test_a_watermark_stops_at_a_hole():
    h = Harness(promised=B1).step(accept(B1, 1), accept(B1, 3, chosen=3))
    assert h.ready().committed == (1, 1)
    h.step(accept(B1, 2))
    assert h.ready().committed == (2, 3)


def test_the_watermark_of_a_former_leader_is_forgotten():
    h = Harness(promised=B1).step(accept(B1, 1, chosen=9), accept(B2, 2, chosen=0), accept(B2, 3))
    assert h.ready().committed == (1, 1)
    assert h.paxos.deadline() > 0
    assert of_type(h.wait(H).ready().messages if h.paxos.ready() else (), Fetch) == []


def test_a_learner_that_lacks_chosen_slots_asks_for_them_and_for_no_more():
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
    h = Harness(promised=B1)
    for slot in range(1, 9):
        h.step(Heartbeat(2, 1, B1, 20, slot), accept(B1, slot, chosen=20))
        assert of_type(h.ready().messages, Fetch) == []
        assert (ready := h.wait(H // 5).ready()) is None or of_type(ready.messages, Fetch) == []


def test_a_chosen_value_is_taken_unless_the_slot_is_accepted_in_that_ballot_or_above():
    """P2c: whatever was accepted in a higher ballot than one it was chosen in has its value."""
    h = Harness([(1, 1, B1), (2, 2, B2), (3, 3, B3)], promised=B3)
    h.step(values(B2, 1, 4))
    ready = h.ready()
    assert [(a.first, a.last, a.term, a.skip) for a in ready.append] == [(1, 1, B2, 0), (4, 4, B2, 3)]
    assert ready.committed == (1, 4)


def test_chosen_values_behind_a_hole_are_kept_and_known():
    h = Harness(promised=B2).step(values(B1, 3, 2))
    assert h.ready().committed is None
    h.step(values(B1, 1, 2))
    assert h.ready().committed == (1, 4)


def test_values_that_are_only_accepted_are_nothing_to_a_learner():
    h = Harness(promised=B2).step(values(B1, 1, 2, chosen=False))
    assert h.ready() is None


def test_who_learns_a_value_chosen_in_a_higher_ballot_promises_that_ballot():
    """A leader would otherwise tell acceptors of its own ballot that slots are chosen of which they hold what lost."""
    h = Harness().settled()
    h.propose().ready()
    h.step(values(B3, 2, 1))
    ready = h.ready()
    assert ready.hard_state == HardState(B3, 2)
    assert h.paxos.role == Role.FOLLOWER
    assert of_type(ready.messages, Accept, Heartbeat) == []


def test_fetches_are_answered_with_chosen_slots_up_to_the_own_watermark_by_runs():
    h = Harness([(1, 3, B1), (4, 9, B2)], promised=B3, commit=6)
    h.step(Fetch(2, 1, B3, 2, 9, 0), Fetch(3, 1, B1, 8, 9, 0))
    sent = h.said(Values)
    assert [(m.to, m.first, m.entries, m.accepted_in, m.is_chosen) for m in sent] == [
        (2, 2, 2, B1, True),
        (2, 4, 3, B2, True),
    ]


def test_fetches_of_a_ballot_are_answered_with_exactly_that_ballot_or_what_is_chosen():
    h = Harness([(1, 3, B1), (4, 6, B2), (7, 9, B1)], promised=B3, commit=4)
    h.step(Fetch(2, 1, B3, 4, 9, B1))
    assert [(m.first, m.entries, m.accepted_in, m.is_chosen) for m in h.said(Values)] == [
        (4, 1, B2, True),
        (7, 3, B1, False),
    ]


def test_an_answer_is_bounded_by_a_window():
    h = Harness([(1, 1000, B1)], commit=1000).step(Fetch(2, 1, B1, 1, 1000, 0), Fetch(2, 1, B1, 500, 1000, 0))
    sent = h.said(Values)
    assert sum(m.entries for m in sent) * ENTRY_BYTES == PAXOS_CONFIG.max_inflight_bytes
    assert all(m.entries * ENTRY_BYTES <= PAXOS_CONFIG.max_append_bytes for m in sent)


def test_a_value_that_travels_in_fragments_is_not_sent_twice_for_a_repeated_question():
    h = Harness([(1, 1, B1)], commit=1, config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1))
    h.ready()
    assert len(h.step(Fetch(2, 1, B1, 1, 1, 0)).said(Values)) == 1
    assert h.step(Fetch(2, 1, B1, 1, 1, 0)).ready() is None
    assert len(h.step(Fetch(3, 1, B1, 1, 1, 0)).said(Values)) == 1
    h.step(Heartbeat(2, 1, B1, 1, 1)).wait(T).ready()
    h.step(Heartbeat(2, 1, B1, 1, 2)).wait(T).ready()
    assert len(h.step(Fetch(2, 1, B1, 1, 1, 0)).said(Values)) == 1


def test_large_values_follow_each_other_within_the_window():
    """Seeds 2082 and 2136 of the simulator: one large value an election timeout never caught up."""
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
    """They travel in frames of their own, which nobody resends: a follower far behind would wait for each loss."""
    h = Harness([(1, 10, B1)], commit=10, config=PAXOS_CONFIG._replace(datagram_bytes=3 * ENTRY_BYTES))
    h.ready()
    for _ in range(2):
        assert [(m.first, m.entries) for m in h.step(Fetch(2, 1, B1, 1, 10, 0)).said(Values)] == [(1, 10)]


def test_large_values_that_an_earlier_leader_proposed_are_sent_at_the_first_question():
    """They were never pushed in this ballot."""
    h = Harness([(1, 1, B1)], commit=1, config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).leader()
    h.durable().ack(h.paxos.last, 3).ready()
    assert [m.first for m in h.step(Fetch(2, 1, h.paxos.term, 1, 1, 0)).said(Values)] == [1]


def test_a_large_value_that_is_being_pushed_is_not_sent_at_the_first_question():
    h = Harness(config=PAXOS_CONFIG._replace(datagram_bytes=ENTRY_BYTES - 1)).settled()
    h.propose().ready()
    h.durable().ack(2, 3).ready()
    ask = Fetch(2, 1, h.paxos.term, 2, 2, 0)
    assert h.step(ask).ready() is None
    h.now += LATE
    h.step(Stalled(h.now)).ready()
    assert len(h.step(ask).said(Values)) == 1


def test_answers_are_put_together_when_nothing_can_overwrite_a_slot_any_more():
    """A message's bytes are read from the log when it leaves: after the appends of its Ready."""
    h = Harness([(1, 2, B1)], promised=B1).step(Fetch(3, 1, B1, 1, 2, B1), accept(B2, 1, 2))
    assert h.said(Values) == []
    h = Harness().settled()
    h.propose(2).ready()
    h.ack(1, 2, above=[(3, 3)])  # slot 2 is to be sent again
    h.step(accept(ballot(9, 2), 2, 2))
    assert h.said(Accept) == []


# -- losses -------------------------------------------------------------------------------------------------------


def test_only_holes_are_sent_again_and_only_on_newer_evidence():
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
    h = Harness().settled()
    for _ in range(3):
        h.propose().ready()
    h.durable().ack(2, 3).ready()
    h.ack(1, 2, above=[(4, 4)])
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 3, 1)]


def test_a_lost_tail_shows_in_the_answer_to_a_heartbeat():
    h = Harness().settled()
    h.propose(3).ready()
    beats = of_type(h.wait(H).ready().messages, Heartbeat)
    h.step(HeartbeatReply(2, 1, h.paxos.term, beats[0].round, 2))
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 3, 2)]
    h.step(HeartbeatReply(3, 1, h.paxos.term, beats[0].round, 4))
    assert [(m.to, m.entries) for m in h.said(Accept)] == [(3, 0)], "arrived: only the acknowledgement is asked for"


def test_a_silent_acceptor_gets_nothing_until_it_speaks():
    h = Harness().settled()
    h.propose().ready()
    for _ in range(4):
        h.wait(H).ready()
    assert [m.to for m in of_type(h.propose().ready().messages, Accept)] == []
    h.step(HeartbeatReply(2, 1, h.paxos.term, 1, 1))
    assert [(m.to, m.first, m.entries) for m in h.said(Accept)] == [(2, 2, 2)]


def test_a_value_that_travels_in_fragments_is_not_resent_on_first_suspicion():
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


def test_a_distinguished_proposer_is_the_only_one_to_try_issuing_proposals():
    """PMS 2.4. Who hears it does not ask, and answers nobody who does, until it has been silent for T."""
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


def test_the_lease_is_judged_by_the_tick_that_follows_not_by_an_old_clock():
    h = Harness(promised=B1).step(Heartbeat(2, 1, B1, 0, 1)).wait(1)
    h.ready()
    h.step(prepare(B2))
    assert h.ready() is None
    assert h.paxos.deadline() <= h.now
    h.wait(T)
    assert [m.granted for m in h.said(Promise)] == [True]


def test_a_leader_is_its_own_lease_unless_it_asked_for_the_election():
    h = Harness().settled()
    own = h.paxos.term
    h.step(prepare(B2), prepare(B2, pre=True)).wait(1)
    assert h.ready() is None
    assert (h.paxos.role, h.paxos.term) == (Role.LEADER, own)
    h.step(prepare(B2, transfer=True))
    assert h.paxos.term == B2
    assert [m.granted for m in h.said(Promise)] == [True]


def test_a_node_that_no_quorum_answers_raises_no_ballot():
    h = Harness(promised=B1, members=(1, 2, 3, 4, 5))
    for _ in range(5):
        h.wait(4 * T).ready()
        asked = max(m.ballot for ready in h.readys for m in of_type(ready.messages, Prepare))
        h.step(Promise(2, 1, asked, True, True, 0, 1, 0, 1, ()), Promise(2, 1, asked, True, True, 0, 1, 0, 1, ()))
    assert h.paxos.term == B1
    assert all(ready.hard_state is None for ready in h.readys)


def test_a_preempted_proposer_waits_longer_each_time():
    """PMMC 3: proposers that preempt each other for ever are avoided by back-off."""
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


@pytest.mark.parametrize("seed", range(20))
def test_a_duel_is_over_when_a_leader_is_heard(seed):
    """DIVERGENCE.md: the range doubles "until it hears a leader"; from then on a failure is noticed as fast as ever."""
    h = Harness().candidate()
    h.paxos._s.random = Random(seed)
    h.step(Refused(2, 1, ballot(9, 2)), Refused(2, 1, ballot(11, 2)), Heartbeat(2, 1, ballot(11, 2), 0, 1))
    h.ready()
    h.step(Tick(h.now))
    assert T <= h.paxos.deadline() - h.now < 2 * T


def test_who_is_behind_waits_longer_for_as_long_as_it_is():
    """DIVERGENCE.md: a node that is behind what it knows to be chosen waits half a timeout longer."""
    h = Harness()
    waits = []
    for heard in (Heartbeat(2, 1, B1, 0, 1), Heartbeat(2, 1, B1, 1, 2), accept(B1, chosen=1)):
        h.step(heard, Tick(h.now))
        waits.append(h.paxos._s.election_deadline - h.now - h.paxos._s.timeout_ns)
    assert waits == [0, T // 2, 0]


def test_a_leader_that_no_phase_2_quorum_answers_steps_down():
    h = Harness(members=(1, 2, 3, 4, 5)).settled()
    h.wait(T).ready()
    for _ in range(2):
        h.step(HeartbeatReply(2, 1, h.paxos.term, 1, 0)).wait(T).ready()
    assert h.paxos.role == Role.FOLLOWER


def test_a_stalled_leader_gets_a_window_to_read_its_socket_first():
    h = Harness().settled()
    h.now += 9 * T
    h.step(Stalled(h.now), Tick(h.now))
    assert h.paxos.role == Role.LEADER


def test_a_leader_whose_every_wake_up_is_late_still_misses_its_acceptors():
    h = Harness().settled()
    for _ in range(4):
        h.now += T
        h.step(Stalled(h.now), Tick(h.now))
    assert h.paxos.role == Role.FOLLOWER


def test_an_acceptor_whose_every_wake_up_is_late_prepares_all_the_same():
    h = Harness()
    for _ in range(2):
        h.now = h.paxos.deadline() + H
        h.step(Stalled(h.now), Tick(h.now))
    assert h.paxos.role == Role.PRE_CANDIDATE


def test_timeout_now_prepares_at_once_and_only_for_the_leader_of_the_ballot():
    h = Harness(promised=B1).step(Heartbeat(2, 1, B1, 0, 1))
    h.ready()
    h.step(TimeoutNow(3, 1, B1))
    assert h.paxos.role == Role.FOLLOWER
    h.ready()
    h.step(TimeoutNow(2, 1, B1))
    assert h.paxos.role == Role.CANDIDATE
    assert all(m.transfer and not m.pre for m in h.said(Prepare))


# -- quorums of other sizes -----------------------------------------------------------------------------------------

FLEXIBLE = PAXOS_CONFIG._replace(phase1=4, phase2=2)
FIVE = (1, 2, 3, 4, 5)


def test_quorums_of_phase_1_and_2_need_only_meet_each_other():
    """FPaxos: four promises of five make a leader, two acceptances choose."""
    h = Harness(members=FIVE, config=FLEXIBLE).candidate().durable()
    h.step(h.promise(2), h.promise(3))
    assert h.paxos.role == Role.CANDIDATE
    h.step(h.promise(4))
    assert h.paxos.role == Role.LEADER
    h.ready()
    h.durable()
    h.ack(1, 5)
    assert h.ready().committed == (1, 1)


def test_a_read_point_is_confirmed_by_a_phase_2_quorum():
    for config, answers in ((FLEXIBLE, 1), (PAXOS_CONFIG, 2), (PAXOS_CONFIG._replace(phase1=2, phase2=4), 3)):
        h = Harness(members=FIVE, config=config).settled()
        h.step(ReadIndex(1))
        number = of_type(h.ready().messages, Heartbeat)[0].round
        for count, node in enumerate((2, 3, 4)[:answers], 1):
            assert h.ready() is None, count
            h.step(HeartbeatReply(node, 1, h.paxos.term, number, 1))
        assert [(r.read_id, r.read_index) for r in h.ready().reads] == [(1, 1)]


def test_an_answer_to_an_older_round_confirms_no_newer_read():
    h = Harness().settled()
    old = of_type(h.wait(H).ready().messages, Heartbeat)[0].round
    h.step(ReadIndex(1)).ready()
    h.step(HeartbeatReply(2, 1, h.paxos.term, old, 1))
    assert h.ready() is None
    h.step(HeartbeatReply(2, 1, h.paxos.term, old + 1, 1))
    assert len(h.ready().reads) == 1


def test_one_node_is_all_quorums():
    h = Harness(members=(1,)).wait()
    h.ready()
    h.durable()
    h.ready()
    assert h.paxos.role == Role.LEADER
    h.durable()
    assert h.ready().committed == (1, 1)
    h.step(ReadIndex(1))
    assert len(h.ready().reads) == 1


def test_a_phase_2_quorum_of_one_reads_and_chooses_alone():
    """FPaxos, the extreme: every node must promise, the leader's disk chooses."""
    h = Harness(config=PAXOS_CONFIG._replace(phase1=3, phase2=1)).candidate().durable()
    h.step(h.promise(2))
    assert h.paxos.role == Role.CANDIDATE
    h.step(h.promise(3)).ready()
    h.durable()
    assert h.ready().committed == (1, 1)


# -- the table ------------------------------------------------------------------------------------------------------


def test_every_cell_of_the_table_is_filled():
    rows = [set(row) for row in TABLE.values()]
    assert set(TABLE) == set(Role)
    assert all(row == rows[0] and row >= PEER_MESSAGES for row in rows)

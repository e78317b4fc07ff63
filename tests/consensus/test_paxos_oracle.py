"""The log with holes, range sets and flexible quorums against deliberately dumb second implementations."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd.consensus.ballotlog import BallotLog, Run
from quorumd.consensus.paxos import PaxosConfig
from quorumd.consensus.paxos.ballots import ballot, next_ballot, node_of, round_of
from quorumd.consensus.quorum import Outcome, covered_upto, intersect, majority, outcome, quorum_index, reached
from quorumd.consensus.ranges import RangeSet, covered_end
from quorumd.invariants import InvariantBroken

SLOTS = 24
spans = st.tuples(st.integers(1, SLOTS), st.integers(0, 6))


def stretches(slots, value):
    """(first, last, value(slot)) of neighbours with equal values; slots with value None are left out."""
    found = []
    for slot in slots:
        if (v := value(slot)) is None:
            continue
        if found and found[-1][1] == slot - 1 and found[-1][2] == v:
            found[-1] = (found[-1][0], slot, v)
        else:
            found.append((slot, slot, v))
    return found


@given(st.integers(0, 4), st.lists(st.tuples(spans, st.integers(1, 4)), max_size=14), spans)
def test_ballot_log_equals_a_dict(base, steps, asked):
    log, dumb = BallotLog(base), {}
    for (first, more), number in steps:
        first += base
        log.accept(first, first + more, number)
        dumb |= dict.fromkeys(range(first, first + more + 1), number)
    everything = range(base + 1, base + SLOTS + 8)
    assert (log.base, log.first, log.last) == (base, base + 1, max(dumb, default=base))
    assert list(log.runs()) == [Run(*run) for run in stretches(everything, dumb.get)]
    assert log.count == len(list(log.runs()))
    for slot in range(base + SLOTS + 9):
        assert log.ballot_at(slot) == dumb.get(slot)
        upto = slot - 1
        while upto + 1 in dumb:
            upto += 1
        assert log.upto(slot) == (upto if slot in dumb else slot - 1)
        assert log.count_from(slot) == sum(run.last >= slot for run in log.runs())
        if slot in dumb:
            assert log.run_end(slot) == next(run.last for run in log.runs() if run.first <= slot <= run.last)
    first, last = asked[0] + base, asked[0] + base + asked[1]
    part = range(first, last + 1)
    assert list(log.runs(first, last)) == [Run(*run) for run in stretches(part, dumb.get)]
    assert [*log.holes(first, last)] == [s[:2] for s in stretches(part, lambda slot: None if slot in dumb else True)]
    for number in range(1, 6):
        expected = stretches(part, {slot: True for slot in part if dumb.get(slot, 0) < number}.get)
        assert [*log.below(first, last, number)] == [s[:2] for s in expected]


def test_ballot_log_refuses_what_no_engine_means():
    log = BallotLog(3)
    for first, last in ((3, 4), (5, 4), (0, 1)):
        with pytest.raises(InvariantBroken):
            log.accept(first, last, 1)
    log.accept(5, 6, 1)
    with pytest.raises(InvariantBroken):
        log.run_end(4)


@given(st.lists(st.tuples(st.booleans(), spans), max_size=14))
def test_range_set_equals_a_set(steps):
    ranges, dumb = RangeSet(100), set()
    for add, (first, more) in steps:
        if add:
            ranges.add(first, first + more)
            dumb |= set(range(first, first + more + 1))
        else:
            ranges.cut(first)
            dumb = {index for index in dumb if index > first}
        expected = [s[:2] for s in stretches(range(SLOTS + 8), dict.fromkeys(dumb, True).get)]
        assert ranges.ranges == expected
        for index in range(SLOTS + 8):
            end = index - 1
            while end + 1 in dumb:
                end += 1
            assert ranges.end(index) == covered_end(ranges.ranges, index) == (end if index in dumb else index - 1)


def test_a_range_set_forgets_the_highest_beyond_its_limit():
    ranges = RangeSet(2)
    for index in (1, 3, 5):
        ranges.add(index, index)
    assert ranges.ranges == [(1, 1), (3, 3)]


members_held = st.lists(st.tuples(st.integers(0, 10), st.lists(spans, max_size=3)), min_size=1, max_size=5)


@given(members_held, st.integers(1, 5), st.integers(1, 12))
def test_covered_upto_counts_every_slot_by_itself(held, quorum, first):
    quorum = min(quorum, len(held))
    matches, beyond, sets = [], [], []
    for match, above in held:
        ranges = RangeSet(100)
        for begin, more in above:
            ranges.add(begin, begin + more)
        matches.append(match)
        beyond.append(ranges.ranges)
        sets.append(set(range(match + 1)) | {i for a, b in ranges.ranges for i in range(a, b + 1)})
    upto = first - 1
    while sum(upto + 1 in s for s in sets) >= quorum:
        upto += 1
    assert covered_upto(first, matches, beyond, quorum) == upto


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 7), st.integers(0, 9))
def test_quorums_of_any_size(values, quorum, threshold):
    quorum = min(quorum, len(values))
    expected = max(v for v in range(10) if v == 0 or sum(x >= v for x in values) >= quorum)
    assert quorum_index(values, quorum) == expected
    assert reached(values, threshold, len(values), quorum=quorum) == (sum(v >= threshold for v in values) >= quorum)


@pytest.mark.parametrize("members", range(1, 6))
def test_outcome_with_a_quorum_of_any_size(members):
    for quorum in range(1, members + 1):
        for votes in itertools.product((True, False, None), repeat=members):
            given_ = {node: vote for node, vote in enumerate(votes) if vote is not None}
            worst = sum(given_.values())
            best = worst + members - len(given_)
            expected = Outcome.WON if worst >= quorum else Outcome.LOST if best < quorum else Outcome.PENDING
            assert outcome(given_, members, quorum) == expected


@pytest.mark.parametrize("members", range(1, 7))
def test_quorums_that_intersect_do_and_others_are_refused_at_start(members):
    for one, two in itertools.product(range(1, members + 1), repeat=2):
        firsts = [set(g) for g in itertools.combinations(range(members), one)]
        seconds = [set(g) for g in itertools.combinations(range(members), two)]
        meet = all(a & b for a in firsts for b in seconds)
        assert intersect(one, two, members) == meet
        config = PaxosConfig(1, 2, 1, 1, 1, phase1=one, phase2=two)
        if meet:
            config.check(members)
        else:
            with pytest.raises(InvariantBroken, match="every phase-1 quorum must meet every phase-2 quorum"):
                config.check(members)
    assert PaxosConfig(1, 2, 1, 1, 1).quorums(members) == (majority(members), majority(members))


@pytest.mark.parametrize(("one", "two"), [(6, 1), (1, 6)])
def test_quorums_larger_than_the_cluster_are_refused(one, two):
    with pytest.raises(InvariantBroken):
        PaxosConfig(1, 2, 1, 1, 1, phase1=one, phase2=two).check(5)


@given(st.integers(1, 1 << 40), st.integers(1, 65_535), st.integers(1, 1 << 40), st.integers(1, 65_535))
def test_ballots_order_like_the_pairs_and_name_their_node(round_a, a, round_b, b):
    one, two = ballot(round_a, a), ballot(round_b, b)
    assert (one < two) == ((round_a, a) < (round_b, b))
    assert (round_of(one), node_of(one)) == (round_a, a)
    assert next_ballot(one, b) > one
    assert node_of(next_ballot(one, b)) == b

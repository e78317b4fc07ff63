"""Majority arithmetic and the term log against deliberately dumb second implementations."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd.consensus.quorum import Outcome, majority, majority_index, outcome, reached
from quorumd.consensus.termlog import TermLog
from quorumd.invariants import InvariantBroken


@pytest.mark.parametrize("members", range(1, 8))
def test_any_two_majorities_share_a_node_and_none_is_larger_than_needed(members):
    nodes = range(members)
    groups = [set(g) for g in itertools.combinations(nodes, majority(members))]
    assert all(a & b for a in groups for b in groups)
    smaller = [set(g) for g in itertools.combinations(nodes, majority(members) - 1)]
    assert any(not a & b for a in smaller for b in smaller) or members == 1


@pytest.mark.parametrize("members", range(1, 8))
def test_outcome_is_what_no_further_answer_can_change(members):
    for votes in itertools.product((True, False, None), repeat=members):
        given_ = {node: vote for node, vote in enumerate(votes) if vote is not None}
        open_ = members - len(given_)
        best, worst = sum(given_.values()) + open_, sum(given_.values())
        expected = Outcome.PENDING
        if worst * 2 > members:
            expected = Outcome.WON
        elif best * 2 <= members:
            expected = Outcome.LOST
        assert outcome(given_, members) == expected


@pytest.mark.parametrize("members", range(1, 8))
def test_majority_index_exhaustively(members):
    for values in itertools.product(range(3), repeat=members):
        expected = max(v for v in range(3) if sum(x >= v for x in values) * 2 > members)
        assert majority_index(values) == expected


@given(st.lists(st.integers(0, 1 << 60), min_size=1, max_size=9))
def test_majority_index_is_the_highest_index_on_a_majority(values):
    expected = max(v for v in [0, *values] if sum(x >= v for x in values) * 2 > len(values))
    assert majority_index(values) == expected


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 5), st.integers(0, 1))
def test_reached_counts(values, threshold, already):
    members = len(values) + 1
    expected = (sum(v >= threshold for v in values) + already) * 2 > members
    assert reached(values, threshold, members, already) == expected


class DumbLog:
    """One term per entry, no runs."""

    def __init__(self, base, base_term):
        self.base, self.terms = base, [base_term]

    @property
    def last(self):
        return self.base + len(self.terms) - 1

    def term_at(self, index):
        return self.terms[index - self.base] if self.base <= index <= self.last else None

    def run_end(self, index):
        while index < self.last and self.term_at(index + 1) == self.term_at(index):
            index += 1
        return index

    def find_at_most(self, index, term):
        index = min(index, self.last)
        while index > self.base and self.term_at(index) > term:
            index -= 1
        return max(index, self.base)


@given(
    st.integers(0, 5),
    st.integers(0, 2),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 4)), max_size=12),
)
def test_term_log_equals_a_list_of_terms(base, base_term, steps):
    log, dumb = TermLog(base, base_term), DumbLog(base, base_term)
    for append, raise_by, count in steps:
        if append:
            term = max(log.last_term + raise_by, 1)
            log.append(log.last + 1, log.last + count, term)
            dumb.terms += [term] * count
        else:
            keep = max(log.last - count, base)
            log.truncate(keep)
            del dumb.terms[keep - base + 1 :]
        assert (log.first, log.last, log.last_term) == (base + 1, dumb.last, dumb.terms[-1])
        for index in range(base + 13):
            assert log.term_at(index) == dumb.term_at(index)
            if base <= index <= log.last:
                assert log.run_end(index) == dumb.run_end(index)
            for term in range(base_term, 8):
                assert log.find_at_most(index, term) == dumb.find_at_most(index, term)
        held = [(i, t) for first, last, t in log.runs() for i in range(first, last + 1)]
        assert held == [(i, dumb.term_at(i)) for i in range(base + 1, dumb.last + 1)]


def test_term_log_refuses_holes_falling_terms_and_impossible_truncations():
    log = TermLog()
    log.append(1, 3, 2)
    for bad in ((5, 5, 2), (3, 4, 2), (4, 3, 2), (4, 4, 1)):
        with pytest.raises(InvariantBroken):
            log.append(*bad)
    for last in (4, -1):
        with pytest.raises(InvariantBroken):
            log.truncate(last)

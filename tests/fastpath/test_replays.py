"""Copies of numbered datagrams against a set of all numbers ever taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd.limits import FRAGMENT_SPAN
from quorumd_fastpath.replays import ReplayWindows

LIFE = 1000
WINDOW = 256
EDGES = (-256, -255, 63, 64, 65, 128, 255, 256, 257)
JUMPS = st.one_of(st.integers(-300, 5), st.integers(0, 600), st.sampled_from(EDGES))


@given(st.integers(1000, 1 << 60), st.lists(JUMPS, max_size=200))
def test_each_number_is_taken_once_and_none_that_the_window_does_not_tell(first, jumps):
    windows, taken, highest = ReplayWindows(8, LIFE), {first}, first  # what is below the first was overtaken
    assert windows.take(7, first, 0)
    for jump in jumps:
        number = highest + jump
        expected = number not in taken and number > highest - WINDOW
        assert windows.take(7, number, 0) is expected, (number - first, highest - first)
        if expected:
            taken.add(number)
            highest = max(highest, number)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 50)), max_size=300))
def test_clients_do_not_share_windows(datagrams):
    windows, taken = ReplayWindows(4096, LIFE), {}
    for client, number in datagrams:
        known = taken.setdefault(client, set())
        assert windows.take(client, number, 0) is (number not in known)
        known.add(number)


def test_a_client_is_forgotten_only_when_its_datagrams_are_dead():
    windows = ReplayWindows(8, LIFE)
    for client in range(1, 9):
        assert windows.take(client, 5, client)
    assert not windows.take(9, 5, LIFE)  # everybody was heard of within a life
    assert windows.turned_away == 1
    assert windows.take(9, 5, LIFE + 1)  # client 1 was not
    assert not windows.take(2, 5, LIFE + 1)  # a copy
    assert windows.take(2, 6, LIFE + 1)


@pytest.mark.parametrize("clients", [0, (1 << 24) + 1])
def test_a_size_that_cannot_be_meant_is_refused(clients):
    with pytest.raises(ValueError, match="windows for"):
        ReplayWindows(clients, LIFE)


def test_large_requests_under_way_together_fit_the_window():
    """A client begins no message FRAGMENT_SPAN places behind the oldest under way, which may arrive last."""
    windows = ReplayWindows(8, LIFE)
    assert windows.take(7, FRAGMENT_SPAN, 0)
    assert windows.take(7, 1, 0)

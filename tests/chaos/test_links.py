"""What a link does to datagrams, by seeds."""

import pytest

from quorumd.chaos.links import OVERTAKEN_MS, PERFECT, LinkModel, LinkState, combine

DATAGRAMS = 4000


def sent(state, seed=1, every_s=0.001):
    """(sent at, arrivals) of many datagrams."""
    model = LinkModel(seed, state)
    return [(n * every_s, model.arrivals(n * every_s)) for n in range(DATAGRAMS)]


def share(count):
    return count / DATAGRAMS


def test_a_perfect_link_delivers_each_at_once():
    assert all(arrivals == [at] for at, arrivals in sent(PERFECT))


def test_a_cut_link_delivers_nothing():
    assert not any(arrivals for _, arrivals in sent(LinkState(duplicate=0.5, delay_ms=1, cut=True)))


@pytest.mark.parametrize("chance", [0.02, 0.3])
def test_loss_and_duplication_happen_as_often_as_said(chance):
    lossy = sent(LinkState(loss=chance))
    assert share(sum(not arrivals for _, arrivals in lossy)) == pytest.approx(chance, abs=0.03)
    doubled = sent(LinkState(duplicate=chance))
    assert share(sum(len(arrivals) == 2 for _, arrivals in doubled)) == pytest.approx(chance, abs=0.03)


def test_delay_keeps_the_order():
    arrivals = [arrival for _, (arrival,) in sent(LinkState(delay_ms=50))]
    assert arrivals == sorted(arrivals)
    late = [arrival - at for at, (arrival,) in sent(LinkState(delay_ms=50), every_s=1.0)]
    assert min(late) >= 0.025 and max(late) <= 0.075


def test_without_a_spread_each_takes_as_long_as_said_however_many_there_are():
    found = sent(LinkState(delay_ms=50, spread=0.0), every_s=0.0001)
    assert all(arrival - at == pytest.approx(0.05) for at, (arrival,) in found)


def test_reordering_lets_later_datagrams_overtake():
    found = sent(LinkState(reorder=0.2))
    late = [arrival - at for at, (arrival,) in found if arrival > at]
    assert share(len(late)) == pytest.approx(0.2, abs=0.03)
    assert max(late) <= OVERTAKEN_MS[1] / 1000 + 1e-9
    arrivals = [arrival for _, (arrival,) in found]
    assert arrivals != sorted(arrivals)


def test_a_seed_repeats_and_another_does_not():
    state = LinkState(loss=0.3, duplicate=0.2, reorder=0.2, delay_ms=10)
    assert sent(state, seed=7) == sent(state, seed=7) != sent(state, seed=8)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], PERFECT),
        ([LinkState(loss=0.5), LinkState(loss=0.5)], LinkState(loss=0.75)),
        ([LinkState(duplicate=0.5), LinkState(reorder=0.25)], LinkState(duplicate=0.5, reorder=0.25)),
        ([LinkState(delay_ms=10), LinkState(delay_ms=5), LinkState(cut=True)], LinkState(delay_ms=15, cut=True)),
    ],
)
def test_faults_of_one_link_add_up(states, expected):
    assert combine(states) == expected

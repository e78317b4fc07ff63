"""What is measured, and in which order."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from quorumd.compare import schedule, workload
from quorumd.compare.schedule import Point
from quorumd.config import Quorums, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN = load_config(CONFIGS / "local-3.yaml")


def test_one_factor_differs_from_the_base_point_at_a_time():
    found = schedule.points(workload.load(None), full=False)
    assert found == (
        Point(3, 0, 0.0, relayed=False), Point(5, 0, 0.0, relayed=False), Point(7, 0, 0.0, relayed=False),
        Point(3, 0, 0.0, relayed=True), Point(3, 1, 0.0, relayed=True), Point(3, 5, 0.0, relayed=True),
        Point(3, 10, 0.0, relayed=True), Point(3, 0, 0.2, relayed=True), Point(3, 0, 10.0, relayed=True),
        Point(3, 0, 50.0, relayed=True),
    )  # fmt: skip


def test_all_points_of_an_axis_differ_in_its_factor_alone():
    for axis in schedule.axes(workload.load(None)):
        others = {point._replace(**{axis.factor: 0}) for point in axis.points}
        assert len(others) == 1
        assert len(set(axis.points)) == len(axis.points)


def test_full_is_the_product_and_holds_the_axes():
    full = schedule.points(workload.load(None), full=True)
    combined = {(n, loss, delay) for n in (3, 5, 7) for loss in (0, 1, 5, 10) for delay in (0.2, 10.0, 50.0)}
    assert combined <= {point[:3] for point in full}
    assert set(schedule.points(workload.load(None), full=False)) <= set(full)
    assert len(set(full)) == len(full)


def test_what_full_does_not_vary_is_as_at_the_base_point():
    wanted = workload.parse(
        "faults: {loss_percent: 5, delay_ms: 7}\nvary: {loss_percent: [], delay_ms: [], nodes: [3, 5]}\n", "w"
    )
    assert {point[1:3] for point in schedule.points(wanted, full=True)} == {(5, 7.0)}


def test_a_faulty_base_point_is_relayed():
    assert schedule.base(workload.parse("faults: {loss_percent: 2}\n", "w")).relayed


@pytest.mark.parametrize(("nodes", "rounds"), [(3, 1), (3, 4), (5, 3), (5, 6)])
def test_contenders_alternate(nodes, rounds):
    among = schedule.contenders(nodes, PLAIN)
    order = schedule.turns(among, rounds)
    by_round = [[turn.contender for turn in order if turn.round == number] for number in range(rounds)]
    assert all(set(found) == set(among) and len(found) == len(among) for found in by_round)
    assert [turn.round for turn in order] == sorted(turn.round for turn in order)
    firsts = [found[0] for found in by_round]
    assert max(map(firsts.count, among)) - min(map(firsts.count, among)) <= 1


def test_the_third_contender_has_quorums_that_share_a_node():
    for nodes in range(1, 10):
        for contender in schedule.contenders(nodes, PLAIN):
            assert contender.quorums is None or sum(contender.quorums) > nodes
    assert [contender.name for contender in schedule.contenders(5, PLAIN)] == ["raft", "paxos", "paxos 4+2"]


def test_the_quorums_of_the_config_are_measured_where_there_are_as_many_nodes():
    def third(nodes):
        return [contender.quorums for contender in schedule.contenders(nodes, own)[2:]]

    own = replace(load_config(CONFIGS / "local-5.yaml"), quorums=Quorums(phase1=3, phase2=4))
    assert (third(3), third(5), third(7)) == ([], [(3, 4)], [])
    own = replace(load_config(CONFIGS / "local-5.yaml"), quorums=Quorums(phase1=3, phase2=3))
    assert third(5) == [(4, 2)]
    own = replace(load_config(CONFIGS / "local-3.yaml"), quorums=Quorums(phase1=3, phase2=1))
    assert (third(3), third(5)) == ([(3, 1)], [(4, 2)])


@pytest.mark.parametrize(
    ("delay_ms", "expected"), [(0, (40, 120)), (0.2, (40, 120)), (10, (40, 120)), (50, (75, 400)), (200, (300, 1600))]
)
def test_slow_links_get_slower_clocks(delay_ms, expected):
    assert schedule.timing(Point(3, 0, delay_ms, relayed=True), 40, 120) == expected

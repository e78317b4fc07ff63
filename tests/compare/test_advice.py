"""Which engine is recommended for canned results, and what has to hold for it."""

import pytest

from quorumd.compare.advice import MOST_TIMES, advise, findings
from quorumd.compare.document import complete
from quorumd.compare.summary import summary

from .canned import contender, document, failed


def of(raft, paxos):
    return document(lambda point: [contender("raft", **raft), contender("paxos", **paxos)])


def test_equal_engines_are_equal():
    advice = advise(of({"rates": (1000, 1000, 1000)}, {"rates": (1050, 1060, 1070)}))
    assert advice["choose"] == "either"
    assert advice["reason"] == "at the base point no figure differs in every round by a tenth or more"
    assert advice["findings"] == advice["flexible"] == []


def test_what_every_round_says_decides():
    found = of({"rates": (1000, 1000, 1000)}, {"rates": (1200, 1300, 1250)})
    advice = advise(found)
    assert advice["choose"] == "paxos"
    assert advice["reason"] == "operations a second: 1,250 with paxos, 1,000 with raft"
    assert [finding.what for finding in findings(found)] == [
        f"operations a second{place}" for place in ("", " at 5 nodes", " at 5 % loss", " at 10 ms delay")
    ]
    assert [finding.base for finding in findings(found)] == [True, False, False, False]


def test_what_differs_elsewhere_is_told_and_decides_nothing():
    def measure(point):
        return [contender("raft", (1000,) * 3), contender("paxos", (1500,) * 3 if point.loss_percent else (1000,) * 3)]

    whole = document(measure)
    advice = advise(whole)
    assert advice["choose"] == "either"
    assert "all rounds together): operations a second at 5 % loss: 1,500 with paxos, 1,000 with raft" in summary(
        {**whole, "advice": advice}
    )


def test_two_rounds_decide_nothing():
    whole = of({"rates": (1, 1), "tails": (9, 9)}, {"rates": (9, 9), "tails": (1, 1)})
    assert findings(whole) == []
    assert advise(whole)["reason"] == "fewer than 3 rounds cannot tell two engines apart"


def test_one_round_that_contradicts_is_enough_to_decide_nothing():
    assert findings(of({"rates": (1000, 1000, 1300)}, {"rates": (2000, 2000, 1200)})) == []


def test_lower_latency_is_better():
    rates = {"rates": (9, 9, 9)}
    (finding, *_) = findings(of({**rates, "tails": (10_000,) * 3}, {**rates, "tails": (40_000, 41_000, 39_000)}))
    assert (finding.better, finding.ratio) == ("raft", 4.0)
    assert finding.sentence == "p99 latency: 10.0 ms with raft, 40.0 ms with paxos"


def test_failover_counts_only_if_the_slowest_beats_the_quickest():
    rates = {"rates": (9, 9, 9)}
    quick, slow = (0.1, 0.1, 0.2, 0.2, 0.2), (0.3, 0.3, 0.4, 0.4, 0.5)
    assert findings(of({**rates, "failover": (*quick, 0.35)}, {**rates, "failover": slow})) == []
    assert findings(of({**rates, "failover": quick[:4]}, {**rates, "failover": slow})) == []
    finding, *_ = findings(of({**rates, "failover": slow}, {**rates, "failover": quick}))
    assert (finding.better, finding.ratio) == ("paxos", 2.0)
    assert finding.sentence == "time from a leader's kill to the next write: 0.20 s with paxos, 0.40 s with raft"


def test_a_kill_after_which_nothing_was_written_is_the_slowest_of_all():
    rates = {"rates": (9, 9, 9)}
    quick, slow, never = (0.1, 0.1, 0.2, 0.2, 0.2), (0.3, 0.3, 0.4, 0.4, 0.5), (None,) * 5
    assert findings(of({**rates, "failover": slow}, {**rates, "failover": (*quick, None)})) == []
    finding, *_ = findings(of({**rates, "failover": quick}, {**rates, "failover": never}))
    assert (finding.better, finding.ratio) == ("raft", MOST_TIMES)
    assert finding.sentence == "time from a leader's kill to the next write: 0.20 s with raft, none in time with paxos"
    assert findings(of({**rates, "failover": never}, {**rates, "failover": never})) == []
    whole = of({**rates, "failover": (*quick, None)}, {**rates, "failover": never})
    text = summary({**whole, "advice": advise(whole)})
    assert "0.20 (1 of 6: none)" in text and "none (5 of 5: none)" in text


def test_as_many_reasons_for_either_are_none():
    advice = advise(of(
        {"rates": (1000, 1000, 1000), "tails": (40, 40, 40)}, {"rates": (500, 500, 500), "tails": (10, 10, 10)}
    ))
    assert advice["choose"] == "either"
    assert advice["reason"].endswith("; neither outweighs the other")


def test_an_engine_that_cannot_run_the_base_point_is_not_chosen():
    advice = advise(document(lambda point: [contender("raft", (9, 9, 9)), failed("paxos", "no leader")]))
    assert (advice["choose"], advice["reason"]) == ("raft", "paxos could not be measured at the base point")


def test_an_engine_whose_node_died_on_the_way_is_not_chosen():
    died = contender("paxos", (99, 99, 99), failed="node 2 ended by itself")
    whole = document(lambda point: [contender("raft", (9, 9, 9)), died])
    advice = advise(whole)
    assert (advice["choose"], advice["reason"]) == ("raft", "paxos could not be measured at the base point")
    assert not complete(whole)


@pytest.mark.parametrize("raft", [failed("raft", "no leader"), contender("raft", (9, 9, 9), failed="node 1 ended")])
def test_with_neither_measured_nothing_is_recommended(raft):
    whole = document(lambda point: [raft, failed("paxos", "no leader")])
    advice = advise(whole)
    assert (advice["choose"], advice["reason"]) == ("neither", "neither could be measured at the base point")
    text = summary({**whole, "advice": advice})
    assert "\nno recommendation: neither could be measured at the base point" in text
    assert "recommendation: either" not in text


def test_a_comparison_is_complete_if_nothing_failed_where_it_is_decided():
    def measure(point):
        third = [contender("paxos 4+2", (9, 9, 9), quorums=(4, 2))] if point.nodes == 5 else []
        return [contender("raft", (9,) * 3), failed("paxos", "x") if third else contender("paxos", (9,) * 3), *third]

    assert complete(document(measure))


def test_what_flexible_quorums_buy_and_cost():
    def measure(point):
        found = [contender("raft", (9, 9, 9)), contender("paxos", (10, 10, 10), commits_without=2, elects_without=2)]
        if point.nodes == 5:
            found.append(contender("paxos 4+2", (15, 15, 15), quorums=(4, 2), commits_without=3, elects_without=1))
        return found

    whole = document(measure)
    (sentence,) = advise(whole)["flexible"]
    assert sentence == (
        "Paxos with quorums {phase1: 4, phase2: 2} commits with 3 of 5 nodes down instead of 2, once a leader is "
        "elected; elects a leader with 1 down instead of 2; operations a second 1.50 times."
    )


def test_the_summary_has_a_row_for_each_contender_and_says_what_failed():
    whole = document(lambda point: [contender("raft", (9000, 9000, 9000)), failed("paxos", "no leader was elected")])
    text = summary({**whole, "advice": advise(whole)})
    # Three, five nodes; 0 and 5 % loss; 10 ms. The base point is among the first and has no table of its own.
    assert text.count("no leader was elected") == 5
    assert "recommendation: choose raft: paxos could not be measured at the base point" in text
    header, first = text.splitlines()[:2]
    assert first.split()[:3] == ["3", "raft", "9,000"]
    assert first.index("9,000") + len("9,000") == header.index("ops/s") + len("ops/s")


def test_the_summary_leaves_out_columns_in_which_nobody_has_anything_to_say():
    def measure(point):
        down = 1 if point.nodes == 3 and not point.relayed else None
        return [contender("raft", (9000,) * 3, commits_without=down), contender("paxos", (9000,) * 3)]

    whole = document(measure)
    nodes, loss, *_ = summary({**whole, "advice": advise(whole)}).split("\n\n")
    assert "down: commits" in nodes and "elects" not in nodes
    assert "down: commits" not in loss and "ops/s" in loss

"""Which engine is recommended for canned results, and what has to hold for it."""

from quorumd.compare.advice import advise, findings
from quorumd.compare.summary import summary

from .canned import contender, document, failed


def of(raft, paxos):
    return document(lambda point: [contender("raft", **raft), contender("paxos", **paxos)])


def test_equal_engines_are_equal():
    advice = advise(of({"rates": (1000, 1000, 1000)}, {"rates": (1050, 1060, 1070)}))
    assert advice["choose"] == "either"
    assert advice["reason"] == "no figure differs in every round by a tenth or more"
    assert advice["findings"] == advice["flexible"] == []


def test_what_every_round_says_decides():
    found = of({"rates": (1000, 1000, 1000)}, {"rates": (1200, 1300, 1250)})
    advice = advise(found)
    assert advice["choose"] == "paxos"
    assert advice["reason"].startswith("operations a second at the base point: paxos has 1.25 times raft's; ")
    places = [finding.what for finding in findings(found)]
    assert places == [
        f"operations a second at {place}" for place in ("the base point", "5 nodes", "5 % loss", "10 ms delay")
    ]


def test_one_round_that_contradicts_is_enough_to_decide_nothing():
    assert findings(of({"rates": (1000, 1000, 1300)}, {"rates": (2000, 2000, 1200)})) == []


def test_lower_latency_is_better():
    rates = {"rates": (9, 9, 9)}
    (finding, *_) = findings(of({**rates, "tails": (10, 10, 10)}, {**rates, "tails": (40, 41, 39)}))
    assert (finding.better, finding.ratio) == ("raft", 4.0)
    assert finding.sentence == "p99 latency at the base point: raft has 1/4.00 of paxos's"


def test_failover_counts_only_if_the_slowest_beats_the_quickest():
    rates = {"rates": (9, 9, 9)}
    assert findings(of({**rates, "failover": (0.1, 0.3)}, {**rates, "failover": (0.2, 0.4)})) == []
    (finding,) = findings(of({**rates, "failover": (0.3, 0.4)}, {**rates, "failover": (0.1, 0.2, None)}))
    assert finding.better == "paxos"


def test_as_many_reasons_for_either_are_none():
    advice = advise(of(
        {"rates": (1000, 1000, 1000), "tails": (40, 40, 40)}, {"rates": (500, 500, 500), "tails": (10, 10, 10)}
    ))
    assert advice["choose"] == "either"
    assert advice["reason"].endswith("; neither outweighs the other")


def test_an_engine_that_cannot_run_the_base_point_is_not_chosen():
    advice = advise(document(lambda point: [contender("raft", (9, 9, 9)), failed("paxos", "no leader")]))
    assert (advice["choose"], advice["reason"]) == ("raft", "paxos could not be measured at the base point")


def test_what_flexible_quorums_buy_and_cost():
    def measure(point):
        found = [contender("raft", (9, 9, 9)), contender("paxos", (10, 10, 10), commits_without=2, elects_without=2)]
        if point.nodes == 5:
            found.append(contender("paxos 4+2", (15, 15, 15), quorums=(4, 2), commits_without=3, elects_without=1))
        return found

    whole = document(measure)
    (sentence,) = advise(whole)["flexible"]
    assert sentence == (
        "quorums {phase1: 4, phase2: 2} commits with 3 of 5 nodes down instead of 2, once a leader is elected; elects "
        "a leader with 1 down instead of 2; 1.50 times the operations a second at 1.00 times the median latency."
    )


def test_the_summary_has_a_row_for_each_contender_and_says_what_failed():
    whole = document(lambda point: [contender("raft", (9000, 9000, 9000)), failed("paxos", "no leader was elected")])
    text = summary({**whole, "advice": advise(whole)})
    assert text.count("no leader was elected") == 6  # the base point, and those of the axes
    assert "recommendation: choose raft: paxos could not be measured at the base point" in text
    header, first = text.splitlines()[:2]
    assert first.split()[0] == "raft" and first.index("9,000") + 5 == header.index("ops/s") + 5

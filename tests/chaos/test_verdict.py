"""The verdict, by what it must object to."""

from collections import Counter

import pytest

from quorumd.chaos.spectator import COMPACTED
from quorumd.chaos.verdict import TOTAL, Report, agreed, broken_promises, human
from quorumd.chaos.workload import Tally

FINAL = {"counter/0": "5", "counter/1": None, "account/a": "90:1.1", "account/b": "110:1.2"}
STATUS = {"voter": True, "leader": 1, "term": 3, "applied": 10, "digest": "ab"}


@pytest.fixture
def tally():
    kept = Tally()
    kept.acknowledged = Counter({"counter/0": 4})
    kept.unknown = Counter({"counter/0": 2})
    kept.sums = Counter({TOTAL: 12})
    return kept


@pytest.mark.parametrize("counter", ["4", "5", "6"])
def test_promises_that_were_kept(tally, counter):
    assert broken_promises(tally, FINAL | {"counter/0": counter}) == []


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({"counter/0": "3"}, "counter/0 is 3 after 4 acknowledged increments and 2 of unknown outcome: lost"),
        ({"counter/0": None}, "counter/0 is 0 after 4 acknowledged"),
        ({"counter/0": "7"}, "executed more than once"),
        ({"counter/1": "1"}, "counter/1 is 1 after 0 acknowledged"),
        ({"account/a": "89:9.9"}, "both accounts together hold 199 at the end instead of 200"),
        ({"account/b": None}, "the accounts are lost"),
        ({"account/b": "--5:1.1"}, "the accounts are lost"),
        ({"account/b": "\u00b2:1.1"}, "the accounts are lost"),
        ({"counter/0": "\ufffd5"}, "counter/0 is lost: it holds '\ufffd5'"),
    ],
)
def test_a_broken_promise_is_named(tally, change, objection):
    (found,) = broken_promises(tally, FINAL | change)
    assert objection in found


def test_sums_and_nonsense_seen_on_the_way_count(tally):
    tally.sums[TOTAL + 3] = 2
    tally.nonsense.append("a reply that makes no sense")
    assert broken_promises(tally, FINAL) == [
        "a reply that makes no sense", "both accounts together held 203 instead of 200 in 2 reads at one revision"
    ]


@pytest.mark.parametrize(
    ("statuses", "voters", "expected"),
    [
        ({1: STATUS, 2: STATUS, 3: STATUS}, [1, 2, 3], True),
        ({1: STATUS, 2: STATUS}, [1, 2, 3], False),
        ({1: STATUS, 2: STATUS, 3: {"voter": False}}, [1, 2], True),
        ({1: STATUS, 2: STATUS | {"voter": False}}, [1, 2], False),
        ({1: STATUS, 2: STATUS | {"digest": "cd"}}, [1, 2], False),
        ({1: STATUS, 2: STATUS | {"applied": 9}}, [1, 2], False),
        ({1: STATUS | {"leader": None}, 2: STATUS | {"leader": None}}, [1, 2], False),
    ],
)
def test_nodes_agree_on_everything_or_not(statuses, voters, expected):
    assert agreed(statuses, voters) is expected


@pytest.mark.parametrize(
    ("linearizable", "violations", "ok", "line"),
    [
        (True, [], True, "linearizable, exactly once, every node agrees"),
        (None, [], None, "undecided: no time"),
        (True, ["node 1 ended by itself"], False, "VIOLATION: node 1 ended by itself"),
        (None, ["node 1 ended by itself"], False, "VIOLATION: node 1 ended by itself"),
    ],
)
def test_one_violation_decides(linearizable, violations, ok, line):
    report = Report(1, ("kill",), 3, linearizable=linearizable, violations=violations, undecided="no time")
    assert report.ok is ok
    assert report.as_dict()["ok"] is ok
    assert human(report).splitlines()[-1] == line


def test_what_was_not_judged_or_not_written_is_said():
    report = Report(1, ("kill",), 3, linearizable=True, watched=7)
    assert "not judged" not in human(report)
    report.watch_unjudged, report.unwritten = COMPACTED, ["h.jsonl was not written: No space left on device"]
    text = human(report)
    assert "7 revisions watched, but not judged: the nodes no longer keep the first" in text
    assert "h.jsonl was not written: No space left on device" in text
    assert report.as_dict()["watch_unjudged"] == COMPACTED
    assert report.as_dict()["unwritten"] == report.unwritten

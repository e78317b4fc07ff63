"""How much work large histories cost, counted in operations applied to a state, not in seconds."""

from itertools import pairwise

import pytest

from quorumd.checker import search
from quorumd.checker.history import Recorder, pair
from quorumd.checker.linearizability import check

from . import brute, generate

REGISTERS = "read read write cas"
EVERYTHING = "read write cas txn range delete"


def large(revisions, keys, operations=10_000, functions=REGISTERS, unknown=0.02, spoiled=False):
    """A history of 20 clients; `spoiled`: one late read returns the value of an early one."""
    events = generate.history(
        1, operations=operations, processes=20, keys=[f"k{i:02}" for i in range(keys)], values=None, unknown=unknown,
        failed=0.02, stale=0.1 if revisions else 0.0, functions=functions, revisions=revisions, targets="value",
    )  # fmt: skip
    if spoiled:
        reads = [event for event in events if event.type == "ok" and event.f == "read" and event.value is not None]
        late = reads[len(reads) * 9 // 10]
        late.value = next(event.value for event in reads if event.key == late.key)
    return pair(events)


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("keys", [50, 10])
def test_search_of_ten_thousand_operations(keys, spoiled):
    verdict = check(large(False, keys, spoiled=spoiled))
    assert verdict.ok is not spoiled
    assert verdict.steps < 100_000


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 0.02, 0.1])
def test_revisions_of_ten_thousand_operations(unknown, spoiled):
    verdict = check(large(True, 50, unknown=unknown, spoiled=spoiled))
    assert verdict.ok is not spoiled
    assert verdict.steps < 12_000


@pytest.mark.parametrize("unknown", [0.0, 0.02])
def test_revisions_of_everything_on_few_keys(unknown):
    verdict = check(large(True, 8, operations=3000, functions=EVERYTHING, unknown=unknown))
    assert verdict.ok is True
    assert verdict.steps < 4000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keys", [3, 8])
def test_a_burst_of_unknown_outcomes_between_known_ones(keys, seed):
    """After an outage entries commit at once whose clients have given up: who made which of them is told by nobody."""
    events = generate.history(
        seed, operations=1000, processes=20, keys=[f"k{i}" for i in range(keys)], values=None, unknown=0.0, failed=0.0,
        stale=0.1, functions="read write cas txn", targets="value mod_revision",
    )  # fmt: skip
    verdict = check(pair(generate.lose_answers(events, 400, 416)))
    assert verdict.ok is True
    assert verdict.steps < 20_000


def test_a_search_is_bounded_in_memory(monkeypatch):
    monkeypatch.setattr(search, "CHECK_CONFIGURATIONS", 100)
    verdict = check(large(False, 1, operations=1000))
    assert verdict.ok is None
    assert "100 configurations" in verdict.reason


def test_the_placing_of_unknown_outcomes_is_bounded_in_time():
    verdict = check(large(True, 10, operations=500, unknown=0.2), seconds=0)
    assert verdict.ok is None
    assert "not decided" in verdict.reason


def test_revisions_that_jump_far_cost_nothing():
    operations = large(True, 3, operations=100, unknown=0.1)
    last = max((operation for operation in operations if operation.outcome == "ok"), key=lambda op: op.completed)
    last.revision = 10**15
    verdict = check(operations)
    assert verdict.ok is False
    assert "unexplained" in verdict.reason


def burst(seed, keys, unknown, functions="read write cas txn delete"):
    """(operations, changes): a history with so many answers lost in a row, and what each revision changed."""
    states = []
    events = generate.history(
        seed, operations=1000, processes=20, keys=[f"k{i}" for i in range(keys)], values=None, unknown=0.0, failed=0.0,
        stale=0.1, functions=functions, targets="value mod_revision version", states=states,
    )  # fmt: skip
    changes = {
        revision: {
            key: brute.value(store, key) for key in store.keys() | before.keys() if store.get(key) != before.get(key)
        }
        for (before, _), (store, revision) in pairwise(states)
    }
    return pair(generate.lose_answers(events, 400, 400 + unknown)), changes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keys", [3, 8])
@pytest.mark.parametrize("unknown", [16, 30, 60, 100])
def test_what_each_revision_changed_settles_a_burst_of_unknown_outcomes(unknown, keys, seed):
    """Most of those of 30 and more take a search beyond every patience without."""
    operations, changes = burst(seed, keys, unknown)
    verdict = check(operations, changes=changes)
    assert verdict.ok is True
    assert verdict.steps < 2500


@pytest.mark.parametrize("wrong", [{}, {revision: {"k0": "nobody's"} for revision in range(2000)}])
def test_changes_that_no_answers_explain_are_a_contradiction(wrong):
    operations, _ = burst(0, 8, 16)
    verdict = check(operations, changes=wrong)
    assert verdict.ok is False
    assert "cannot both be right" in verdict.reason


def one_by_one(*given):
    """Operations one after the other, each (f, key, value, outcome, what came of it)."""
    recorder = Recorder()
    for process, (f, key, value, outcome, answer) in enumerate(given):
        recorder.invoke(process, f, key, value, 2 * process)
        recorder.complete(process, outcome, 2 * process + 1, **answer)
    return pair(recorder.events)


TWICE = (
    ("write", "x", "1", "ok", {"revision": 2}),
    ("write", "k", "a", "info", {}),
    ("write", "k", "b", "info", {}),
    ("write", "y", "2", "ok", {"revision": 5}),
)


@pytest.mark.parametrize(
    ("second", "ok"), [({"k": "b"}, True), ({"k": "a"}, False), ({"z": "a"}, False), ({"k": None}, False)]
)
def test_what_a_watch_told_twice_was_asked_for_twice(second, ok):
    """The answers alone say nothing of it."""
    operations = one_by_one(*TWICE)
    changes = {2: {"x": "1"}, 3: {"k": "a"}, 4: second, 5: {"y": "2"}}
    assert check(operations).ok is True
    assert check(operations, changes=changes).ok is ok


@pytest.mark.parametrize(("third", "fourth", "ok"), [("b", "a", True), ("a", "b", False)])
def test_an_answer_must_fit_what_a_watch_told(third, fourth, ok):
    """The read found the one that was written last: by the answers alone that may have been either."""
    read = ("read", "k", None, "ok", {"revision": 4, "value": "a"})
    operations = one_by_one(*TWICE[:3], read, *TWICE[3:])
    assert check(operations).ok is True
    verdict = check(operations, changes={2: {"x": "1"}, 3: {"k": third}, 4: {"k": fourth}, 5: {"y": "2"}})
    assert verdict.ok is ok
    assert ("cannot both be right" in verdict.reason) is not ok


def test_what_a_watch_told_excuses_no_answer():
    """The read came before anybody had asked for what it found, whoever says that it was there."""
    read = ("read", "k", None, "ok", {"revision": 3, "value": "b"})
    operations = one_by_one(*TWICE[:2], read, *TWICE[2:])
    verdict = check(operations, changes={2: {"x": "1"}, 3: {"k": "b"}, 4: {"k": "a"}, 5: {"y": "2"}})
    assert verdict.ok is False
    assert "cannot both be right" not in verdict.reason


UNSEEN = {
    "the other branch": (
        ("write", "x", "2"),
        {"compare": [["x", "value", "=", "1"]], "success": [["write", "k", "a"]], "failure": [["write", "k", "b"]]},
        {"k": "b"}, {"k": "a"},
    ),
    "a revision that was not told": (
        ("write", "k", "1"), {"compare": [], "success": [["write", "k", None]], "failure": []}, {"k": None}, {},
    ),
    "a deletion that is missing": (
        ("write", "b", "1"), {"compare": [], "success": [["write", "a", "1"], ["write", "b", None]], "failure": []},
        {"a": "1", "b": None}, {"a": "1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("first", "unknown", "right", "wrong"), UNSEEN.values(), ids=UNSEEN)
def test_what_only_a_watch_saw_must_be_what_was_asked_for(first, unknown, right, wrong):
    """Nobody read afterwards what the transaction of unknown outcome did."""
    operations = one_by_one(
        (*first, "ok", {"revision": 2}), ("txn", None, unknown, "info", {}), ("write", "y", "1", "ok", {"revision": 4})
    )
    told = {2: {first[1]: first[2]}, 4: {"y": "1"}}
    assert check(operations, changes={**told, 3: right}).ok is True
    verdict = check(operations, changes={**told, 3: wrong} if wrong else told)
    assert verdict.ok is False
    assert "cannot both be right" in verdict.reason


def test_an_answered_write_must_be_what_a_watch_told():
    operations = one_by_one(("write", "k", "1", "ok", {"revision": 2}), ("write", "y", "1", "ok", {"revision": 3}))
    verdict = check(operations, changes={2: {"k": "9"}, 3: {"y": "1"}})
    assert verdict.ok is False
    assert "it changes {'k': '1'}, and revision 2 changed {'k': '9'}" in verdict.reason


@pytest.mark.parametrize("first", [{"k": "1"}, {"zz": "nobody's"}])
def test_what_a_watch_told_of_before_the_first_answer_counts_too(first):
    """A write lost at the very beginning: the read and the write of revision 3 know nothing of it."""
    operations = one_by_one(
        ("write", "k", "1", "info", {}), ("read", "k", None, "ok", {"revision": 2, "value": None}),
        ("write", "y", "1", "ok", {"revision": 3}),
    )  # fmt: skip
    assert check(operations).ok is True
    verdict = check(operations, changes={2: first, 3: {"y": "1"}})
    assert verdict.ok is False
    assert "cannot both be right" in verdict.reason


@pytest.mark.parametrize("changes", [{}, {5: {"k": "1"}}, {5: {"k": "1"}, 6: {"k": "2"}}])
def test_a_history_that_begins_late_or_with_reads_begins_where_the_store_was_empty(changes):
    writes = [("write", "k", *change.values(), "ok", {"revision": revision}) for revision, change in changes.items()]
    operations = one_by_one(("read", "k", None, "ok", {"revision": 4, "value": None}), *writes)
    assert check(operations, changes=changes).ok is True

"""The file format: what is read, what is refused and in which words."""

import json

import pytest

from quorumd.checker.history import Event, Recorder, dump, load, pair
from quorumd.errors import HistoryError
from quorumd.invariants import InvariantBroken

from . import generate

INVOKE = {"process": 0, "type": "invoke", "f": "write", "key": "a", "value": "1", "time_ns": 5}
READ = {"process": 0, "type": "invoke", "f": "read", "key": "a", "value": None, "time_ns": 5}
CAS = {"process": 0, "type": "invoke", "f": "cas", "key": "a", "value": [None, "1"], "time_ns": 5}
TXN = {"compare": [], "success": [["read", "a"]], "failure": []}


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_dumped_is_loaded_again(tmp_path, seed):
    events = generate.history(seed, operations=40, processes=5, unknown=0.2)
    dump(events, tmp_path / "h.jsonl")
    assert load(tmp_path / "h.jsonl") == events


def test_a_foreign_history_without_extras_is_read(tmp_path):
    path = tmp_path / "h.jsonl"
    write(path, INVOKE, "", {"process": 0, "type": "ok", "f": "write", "time_ns": 5, "node": "n1", "index": 1})
    (operation,) = pair(load(path))
    assert (operation.key, operation.outcome, operation.invoked, operation.completed) == ("a", "ok", 0, 1)
    assert operation.revision is None


@pytest.mark.parametrize(
    ("lines", "where", "what"),
    [
        (["{"], 1, "no JSON: Expecting property name enclosed in double quotes at column"),
        (["[" * 100_000], 1, "no JSON"),
        (["[]"], 1, "no JSON object"),
        ([{**INVOKE, "process": "nemesis"}], 1, '"process" is \'nemesis\''),
        ([{**INVOKE, "process": True}], 1, '"process" is True'),
        ([{**INVOKE, "type": "done"}], 1, "one of invoke, ok, fail, info"),
        ([{**INVOKE, "f": "append"}], 1, "one of read, write, cas, range, txn"),
        ([{**INVOKE, "time_ns": 1.5}], 1, "an integer, nanoseconds"),
        ([{"process": 0, "type": "invoke", "f": "read"}], 1, '"time_ns" is missing'),
        ([{**INVOKE, "key": None}], 1, '"key" is None; a string'),
        ([{**INVOKE, "value": 1}], 1, "a string, or null to delete"),
        ([{**INVOKE, "stale": True}], 1, "only a read or a range may be stale"),
        ([{**READ, "value": "1"}], 1, "null in the invoke of a read"),
        ([{**READ, "f": "range"}], 1, "a range has [from, to)"),
        ([{**CAS, "value": ["1"]}], 1, "[old, new]"),
        ([{**INVOKE, "f": "txn", "value": []}], 1, '"value" is []'),
        ([{**INVOKE, "f": "txn", "value": {**TXN, "compare": [["a", "lease", "=", 1]]}}], 1, "a target is one of"),
        ([{**INVOKE, "f": "txn", "value": {**TXN, "compare": [["a", "value", "<", None]]}}], 1, "with a string"),
        ([{**INVOKE, "f": "txn", "value": {**TXN, "compare": [["a", "version", "<", "1"]]}}], 1, "with an integer"),
        ([{**INVOKE, "f": "txn", "value": {**TXN, "failure": [["put", "a"]]}}], 1, "value.failure"),
        ([INVOKE, INVOKE], 2, "0 has an operation open already"),
        ([{**INVOKE, "type": "ok"}], 1, "process 0 has nothing open"),
        ([INVOKE, {**INVOKE, "type": "info"}, INVOKE], 3, "0 is used again after an info"),
        ([INVOKE, {**INVOKE, "type": "ok", "time_ns": 4}], 2, "goes back from 5 to 4"),
        ([INVOKE, {**INVOKE, "type": "ok", "key": "b"}], 2, "the open operation has 'a'"),
        ([INVOKE, {**INVOKE, "type": "ok", "value": "2"}], 2, "not that of the invoke"),
        ([INVOKE, {**INVOKE, "type": "ok", "revision": -1}], 2, '"revision" is -1'),
        ([READ, {**READ, "type": "ok", "value": 7}], 2, "the value read"),
        ([READ, {**READ, "type": "ok", "value": "1", "stale": True}], 2, "is true, but not in the invoke"),
        (['{"process": 0, "type": "invoke", "f": "read", "key": "\\ud83d", "time_ns": 1}'], 1, "; a string"),
        ([CAS, {**CAS, "type": "ok"}], 2, '"succeeded" is None'),
        ([{**READ, "f": "range", "key": ["a", "c"]},
          {"process": 0, "type": "ok", "f": "range", "value": [["b", "1"], ["a", "1"]], "time_ns": 6}], 2, "ascending"),
        ([{**INVOKE, "f": "txn", "key": None, "value": TXN},
          {"process": 0, "type": "ok", "f": "txn", "succeeded": True, "results": [], "time_ns": 6}], 2, "has 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, lines, where, what):
    path = tmp_path / "h.jsonl"
    write(path, *lines)
    with pytest.raises(HistoryError) as caught:
        load(path)
    assert f"{path}:{where}: " in str(caught.value)
    assert what in str(caught.value)


def test_pair_names_the_event():
    with pytest.raises(HistoryError, match=r"event 1: .*nothing open"):
        pair([Event(0, "ok", "read", "a", None, 1)])


def test_the_recorder_fills_in_what_the_invoke_said(tmp_path):
    recorder = Recorder()
    recorder.invoke(1, "cas", "a", [None, "1"], 10)
    recorder.invoke(2, "read", "a", None, 10, stale=True)
    recorder.complete(1, "ok", 11, succeeded=True, revision=2)
    recorder.complete(2, "ok", 12, value="1", revision=2)
    recorder.dump(tmp_path / "h.jsonl")
    assert load(tmp_path / "h.jsonl") == recorder.events
    swap, read = pair(recorder.events)
    assert (swap.succeeded, swap.revision, read.result, read.stale) == (True, 2, "1", True)


def test_the_recorder_refuses_what_is_no_history():
    recorder = Recorder()
    recorder.invoke(1, "read", "a", None, 10)
    with pytest.raises(InvariantBroken):
        recorder.invoke(1, "read", "a", None, 10)
    with pytest.raises(InvariantBroken):
        recorder.complete(2, "ok", 10)
    with pytest.raises(InvariantBroken):
        recorder.invoke(2, "read", "a", None, 9)
    recorder = Recorder()
    recorder.invoke(1, "read", "a", None, 10)
    recorder.complete(1, "info", 10)
    with pytest.raises(InvariantBroken):
        recorder.invoke(1, "read", "a", None, 11)

"""What the spectator's history is held to: the operations that clients made. No process is started."""

import asyncio
import re

import pytest

from quorumd.chaos import spectator as spectator_module
from quorumd.chaos.calls import token_of
from quorumd.chaos.spectator import COMPACTED, ENDED_BEFORE, NO_TRUTH, TOO_MANY, Spectator, contradictions
from quorumd.checker.history import Recorder, pair
from quorumd.checker.watches import Past
from quorumd.client.watcher import WatchBatch
from quorumd.commands import ALL, KeyValue, RangeResult
from quorumd.errors import Compacted
from quorumd.watchcodec import Event

TXN = {
    "compare": [], "success": [["write", "a", "3"], ["read", "b"], ["write", "b", "3"]],
    "failure": [["write", "c", "3"]],
}  # fmt: skip


def operations(unknown="info"):
    recorder = Recorder()
    recorder.invoke(1, "write", "a", "1", 1)
    recorder.complete(1, "ok", 2, revision=2)
    recorder.invoke(1, "cas", "a", ["1", "2~3"], 3)
    recorder.complete(1, "ok", 4, revision=3, succeeded=True)
    recorder.invoke(1, "cas", "a", ["1", "9"], 5)
    recorder.complete(1, "ok", 6, revision=3, succeeded=False)
    recorder.invoke(1, "txn", None, TXN, 7)
    recorder.complete(1, "ok", 8, revision=4, succeeded=True, results=[None, None, None])
    recorder.invoke(1, "write", "a", None, 9)
    recorder.complete(1, "ok", 10, revision=5)
    recorder.invoke(2, "write", "b", "4", 11)
    recorder.complete(2, unknown, 12)
    return pair(recorder.events)


RIGHT = {
    2: [(b"a", b"1", 0)],
    3: [(b"a", b"2~3 ...", 0)],
    4: [(b"a", b"3", 0), (b"b", b"3", 0)],
    5: [(b"a", None, 0)],
    6: [(b"b", b"4", 0)],
}


def made_of(revisions):
    past = Past()
    for revision, changes in revisions.items():
        past.add(revision, changes)
    return past.changes(token_of)


def test_what_fits_is_no_contradiction():
    assert list(contradictions(made_of(RIGHT), operations())) == []
    assert list(contradictions(made_of({r: c for r, c in RIGHT.items() if r < 6}), operations())) == []


@pytest.mark.parametrize(
    ("change", "unknown", "sentence"),
    [
        ({4: [(b"d", None, 0)]}, "info", "revision 4 was acknowledged as .* and is {'d': None} in"),
        ({4: [(b"a", b"3", 0)]}, "info", "revision 4 was acknowledged as"),
        ({3: [(b"a", b"1", 0)]}, "info", "revision 3 was acknowledged as {'a': '2~3'}, and is {'a': '1'}"),
        ({3: [(b"a", b"2~3 ..", 0)]}, "info", "revision 3 was acknowledged as {'a': '2~3'}, and is {'a': .corrupt"),
        ({5: [(b"b", None, 0)]}, "info", "revision 5 was acknowledged as {'a': None}, and is {'b': None}"),
        ({7: [(b"b", None, 0)]}, "info", "revision 7 is {'b': None} .* nobody may have written"),
        ({7: [(b"a", b"x", 0)]}, "info", "revision 7 is {'a': 'x'} .* nobody may have written"),
        ({}, "fail", "revision 6 is {'b': '4'} .* nobody may have written"),
    ],
)
def test_each_contradiction_is_named(change, unknown, sentence):
    found = list(contradictions(made_of({**RIGHT, **change}), operations(unknown)))
    assert len(found) == 1
    assert re.search(sentence, found[0])


def test_a_delete_that_is_missing_is_named():
    (found,) = contradictions(made_of({r: c for r, c in RIGHT.items() if r != 5}), operations())
    assert found == "revision 5 was acknowledged as {'a': None}, and is not in a watch of the whole history"


def asked(*given):
    """(f, key, value, outcome, fields of the answer), one after another, by a client each."""
    recorder = Recorder()
    for number, (f, key, value, outcome, fields) in enumerate(given):
        recorder.invoke(number, f, key, value, 2 * number + 1)
        recorder.complete(number, outcome, 2 * number + 2, **fields)
    return pair(recorder.events)


PUT = ("write", "a", "1", "ok", {"revision": 2})
BOTH = {"compare": [], "success": [["write", "a", None], ["write", "b", None]], "failure": [["write", "c", None]]}
MIXED = {"compare": [], "success": [["write", "a", None], ["write", "b", "2"]], "failure": []}


@pytest.mark.parametrize(
    ("given", "revisions"),
    [
        # What is not there is deleted at the revision that others have made, or at none that anybody made.
        ([PUT, ("write", "b", None, "ok", {"revision": 2})], {2: [(b"a", b"1", 0)]}),
        ([("write", "b", None, "ok", {"revision": 1})], {}),
        ([("write", "b", None, "ok", {"revision": 1}), ("write", "b", None, "ok", {"revision": 1}), PUT],
         {2: [(b"a", b"1", 0)]}),
        # Two that delete one key, and a third that comes when its revision is another's.
        ([PUT, *[("write", "a", None, "ok", {"revision": 3})] * 2], {2: [(b"a", b"1", 0)], 3: [(b"a", None, 0)]}),
        ([PUT, ("write", "a", None, "info", {}), ("write", "a", None, "ok", {"revision": 3})],
         {2: [(b"a", b"1", 0)], 3: [(b"a", None, 0)]}),
        # An outcome that nobody knows, which came about or did not.
        ([PUT, ("write", "a", None, "info", {})], {2: [(b"a", b"1", 0)], 3: [(b"a", None, 0)]}),
        ([PUT, ("write", "a", None, "info", {})], {2: [(b"a", b"1", 0)]}),
        ([PUT, ("txn", None, BOTH, "info", {})], {2: [(b"a", b"1", 0)], 3: [(b"a", None, 0)]}),
        # A transaction deletes what there is; all of it, a part, nothing.
        ([PUT, ("txn", None, BOTH, "ok", {"revision": 3, "succeeded": True, "results": [None, None]})],
         {2: [(b"a", b"1", 0)], 3: [(b"a", None, 0)]}),
        ([PUT, ("txn", None, BOTH, "ok", {"revision": 2, "succeeded": False, "results": [None]})],
         {2: [(b"a", b"1", 0)]}),
        ([PUT, ("txn", None, MIXED, "ok", {"revision": 3, "succeeded": True, "results": [None, None]})],
         {2: [(b"a", b"1", 0)], 3: [(b"a", None, 0), (b"b", b"2", 0)]}),
        ([("txn", None, MIXED, "ok", {"revision": 2, "succeeded": True, "results": [None, None]}),
          ("write", "a", None, "ok", {"revision": 2})], {2: [(b"b", b"2", 0)]}),
    ],
)  # fmt: skip
def test_a_delete_of_what_is_not_there_accuses_nobody(given, revisions):
    assert list(contradictions(made_of(revisions), asked(*given))) == []


@pytest.mark.parametrize(
    ("given", "revisions", "sentence"),
    [
        ([PUT, ("write", "a", None, "fail", {})], {3: [(b"a", None, 0)]}, "3 is {'a': None} .* nobody"),
        ([PUT, ("write", "b", None, "info", {})], {3: [(b"a", None, 0)]}, "3 is {'a': None} .* nobody"),
        ([PUT, ("write", "a", None, "ok", {"revision": 2})], {}, "2 was acknowledged as {'a': None}, and is {'a': '1'"),
        ([PUT, ("write", "b", None, "ok", {"revision": 3})], {3: [(b"a", None, 0)]}, "3 is {'a': None} .* nobody"),
        ([PUT, ("txn", None, MIXED, "ok", {"revision": 3, "succeeded": True, "results": [None, None]})],
         {3: [(b"b", b"2", 0)]}, "3 was acknowledged as {'a': None, 'b': '2'}, and is {'b': '2'}"),
        ([PUT, ("txn", None, BOTH, "ok", {"revision": 2, "succeeded": True, "results": [None, None]})],
         {}, "2 was acknowledged as {'a': None, 'b': None}"),
    ],
)  # fmt: skip
def test_a_delete_that_nobody_asked_for_or_that_did_not_happen_is_named(given, revisions, sentence):
    (found,) = contradictions(made_of({2: [(b"a", b"1", 0)], **revisions}), asked(*given))
    assert re.search(f"revision {sentence}", found)


EVENTS = [
    (2, (Event(KeyValue(b"a", b"1", 2, 2, 1, 0)),)),
    (3, (Event(KeyValue(b"a", b"2", 2, 3, 2, 0), prev_kv=KeyValue(b"a", b"1", 2, 2, 1, 0)),)),
    (4, (Event(KeyValue(b"b", b"3", 4, 4, 1, 0)),)),
]


class Line:
    """A client and its watch at once: the n-th watch gives what the n-th script says."""

    def __init__(self, *scripts):
        self.scripts = [list(script) for script in scripts]
        self.script = []

    def __call__(self):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def range(self, *_, **__):
        return RangeResult(4, (), False, 0)

    def watch(self, key, end, **_):
        assert (key, end) == (b"\0", ALL)
        return Turns(self.scripts.pop(0))


class Turns(Line):
    """One watch; it waits for ever once its script is over."""

    def __init__(self, script):
        self.script = script

    def __aiter__(self):
        return self

    async def get(self, timeout=None):
        if not self.script:
            await asyncio.Event().wait()
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        if callable(item):
            await item()
            return await self.get()
        return WatchBatch(*item)

    __anext__ = get


def judged(told, whole=EVENTS):
    async def go():
        spectator = Spectator(Line(told, whole))
        spectator.start()
        await asyncio.sleep(0)  # its watch is the first
        try:
            return await spectator.judge(), spectator
        finally:
            await spectator.stop()

    return asyncio.run(go())


def test_a_spectator_that_was_told_everything_is_content():
    found, spectator = judged([*EVENTS, (4, ())])
    assert (found, spectator.unjudged, spectator.batches) == ([], "", 3)


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ([EVENTS[0], EVENTS[2]], "watch-gap"),
        ([EVENTS[0], EVENTS[0], *EVENTS[1:]], "watch-repeated"),
        ([EVENTS[0], (3, ()), *EVENTS[1:]], "watch-bookmark"),
        ([(2, ()), *EVENTS], "watch-bookmark"),
        (EVENTS[:2], "watch-behind"),
    ],
)
def test_a_spectator_that_was_told_wrong_says_so(told, word, monkeypatch):
    monkeypatch.setattr(spectator_module, "CHAOS_LIVENESS_S", 0.05)
    (found,), _ = judged(told)
    assert found.startswith(word)


def test_the_whole_history_must_be_right_in_itself():
    (found,), spectator = judged(EVENTS, [EVENTS[0], (3, (Event(EVENTS[1][1][0].kv),))])
    assert spectator.unjudged == NO_TRUTH
    assert found.startswith("a watch of the whole history: watch-previous")


def test_a_run_that_ends_early_judges_nothing():
    assert Spectator(Line(EVENTS, EVENTS)).unjudged == ENDED_BEFORE


def test_without_the_beginning_nothing_is_judged():
    found, spectator = judged(EVENTS, [Compacted("gone")])
    assert (found, spectator.unjudged) == ([], COMPACTED)


def test_what_becomes_too_many_while_it_is_judged_is_not_judged_either(monkeypatch):
    monkeypatch.setattr(spectator_module, "CHAOS_WATCH_BATCHES", 2)
    monkeypatch.setattr(spectator_module, "CHAOS_LIVENESS_S", 0.5)
    gate = asyncio.Event()

    async def opened():
        gate.set()

    found, spectator = judged([gate.wait, *EVENTS], [*EVENTS[:2], opened, EVENTS[2]])
    assert (found, spectator.unjudged) == ([], TOO_MANY)


def test_what_is_more_than_it_remembers_is_not_judged(monkeypatch):
    monkeypatch.setattr(spectator_module, "CHAOS_WATCH_BATCHES", 2)

    class Endless:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            pass

        async def __aiter__(self):
            for revision in range(2, 9):
                yield WatchBatch(revision, (Event(KeyValue(b"a", b"1", 2, revision, 1, 0), False),))

    async def watch():
        monkeypatch.setattr(spectator_module, "_everything", lambda client: Endless())
        spectator = Spectator(Endless)
        spectator.start()
        await spectator._task
        assert await spectator.judge() == []
        return spectator

    spectator = asyncio.run(watch())
    assert spectator.unjudged == TOO_MANY and spectator.batches == 0

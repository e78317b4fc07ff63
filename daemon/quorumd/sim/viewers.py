"""Users of watches among the simulated client programs: what they ask for, their pace, and the account of each.

A viewer watches through its program's production client, takes batches at a pace of its own, stops reading for a while
now and then, hears nothing for a while, cancels and begins anew, and goes on after a compaction that overtook it. What
it is told goes into an account (checker.watches) at once. The truth is gathered from whichever node is the first to
apply a revision.
"""

import random
from collections import Counter
from typing import Final

from quorumd import limits
from quorumd.checker.invariants import Violation
from quorumd.checker.watches import Account, Past
from quorumd.client.watcher import WatchBatch, Watcher, make_watcher
from quorumd.commands import ALL, KeyValue
from quorumd.errors import Compacted, ProtocolError
from quorumd.sim.clients import Program
from quorumd.sim.machine import client_address
from quorumd.sim.scenario import Scenario
from quorumd.sim.world import World
from quorumd.types import Nanoseconds
from quorumd.watchcodec import Event
from quorumd_fastpath.apply import Store

PACES_MS: Final = (0, 0, 5, 50, 500)  # between two batches
BUFFERS: Final = (3, 30, limits.CLIENT_WATCH_BATCHES)  # batches that may wait for a viewer
PROGRESS_MS: Final = (50, 1_000, limits.CLIENT_WATCH_PROGRESS // limits.MILLISECOND)  # between questions about it
REST_S: Final = 12.0  # mean time between two changes of mind
ASLEEP_S: Final = (0.5, 15.0)
DEAF_S: Final = (0.3, 4.0)  # about as long as a client has patience with a node that is silent
FARTHEST_BACK: Final = 200  # revisions
FARTHEST_AHEAD: Final = 20


class Viewer:
    """One user of one watch after another, through one program."""

    def __init__(self, name: str, program: Program, audience: "Audience", rng: random.Random) -> None:
        self.name = name
        self.program = program
        self.audience = audience
        self.world = program.world
        self.rng = rng
        self._looks_at: Nanoseconds | None = None
        self._asleep_until: Nanoseconds = 0
        self._choose()
        self._change_mind_later()

    # -- what it asks for -----------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Another watch, of something else."""
        rng, past = self.rng, self.audience.past
        keys = [f"k{key}".encode() for key in range(self.audience.scenario.keys)]
        key = rng.choice(keys)
        self.key, self.end = rng.choice(((key, b""), (b"k", b"l"), (key, ALL), (b"k", key), (b"\0", ALL)))
        put = rng.random() < 0.85
        self.options = {
            "prev_kv": rng.random() < 0.5, "put": put, "delete": not put or rng.random() < 0.85,
            "progress": rng.random() < 0.5,
        }  # fmt: skip
        self.pace = rng.choice(PACES_MS) * limits.MILLISECOND
        self.most_batches = rng.choice(BUFFERS)
        revision = past.revision
        back, ahead = rng.randint(0, FARTHEST_BACK), rng.randint(1, FARTHEST_AHEAD)
        self._begin(rng.choice((1, max(1, revision - back), revision + 1, revision + 1, revision + ahead)))

    def _begin(self, start: int) -> None:
        watcher = self.watcher = make_watcher(self.key, self.end, start, **self.options)
        watcher.most_batches = self.most_batches
        watcher.waiter = self._news
        self.account = Account(self.audience.past, self.name, self.key, self.end, watcher.flags, start)
        self.audience.reached["watches begun"] += 1
        self.world.tell(self.name, "watches", key=self.key, end=self.end, flags=watcher.flags, start=start)
        self.program.watch(watcher)

    def _change_mind_later(self) -> None:
        self.world.after(int(self.rng.expovariate(1 / REST_S) * limits.SECOND), self._change_mind)

    def _change_mind(self) -> None:
        if not self.program.running or self.audience.closing:
            return
        match self.rng.choice(("sleep", "sleep", "deaf", "again", "other")):
            case "sleep":
                self._asleep_until = self.world.now + int(self.rng.uniform(*ASLEEP_S) * limits.SECOND)
                self.world.at(self._asleep_until, self._news)
            case "deaf":
                self._go_deaf()
            case "again":  # as a user does who saved how far he got
                self.program.unwatch(self.watcher)
                self._begin(self.account.upto + 1)
            case _:
                self.program.unwatch(self.watcher)
                self._choose()
        self._change_mind_later()

    def _go_deaf(self) -> None:
        """Nothing that nodes send comes through to the program: what they hold for its watchers piles up."""
        links = [(client_address(node), self.program.address) for node in range(1, self.audience.scenario.nodes + 1)]
        lossy = self.program.network.lossy
        lossy.update(dict.fromkeys(links, 1.0))

        def hear() -> None:
            for link in links:
                lossy.pop(link, None)

        self.world.after(int(self.rng.uniform(*DEAF_S) * limits.SECOND), hear)

    # -- what it takes --------------------------------------------------------------------------------------------

    def _news(self) -> None:
        """There is something to take: looked at when its pace allows."""
        if self._looks_at is None:
            pause = 0 if self.audience.closing else self.pace
            self._looks_at = max(self.world.now + pause, self._asleep_until)
            self.world.at(self._looks_at, self._look)

    def wake(self) -> None:
        """From now on it reads at once whatever there is."""
        self._asleep_until = 0
        self._looks_at = None
        self._news()

    def _look(self) -> None:
        if self._looks_at != self.world.now or not self.program.alive:
            return
        self._looks_at = None
        watcher = self.watcher
        while (batch := self._next(watcher)) is not None:
            self._take(batch.revision, batch.events)
            if self.pace and not self.audience.closing:
                break
        if watcher.waiting:
            self._news()
        elif watcher.error is not None:
            self._ended(watcher)

    def _next(self, watcher: Watcher) -> WatchBatch | None:
        try:
            return self.program.take_batch(watcher)
        except ProtocolError as error:
            raise Violation("watch-malformed", f"{self.name} after revision {self.account.upto}: {error}") from error

    def _take(self, revision: int, events: tuple[Event, ...]) -> None:
        reached = self.audience.reached
        self.world.tell(self.name, "is given", revision=revision, events=len(events))
        if events:
            self.account.batch(revision, events)
            reached["watch batches"] += 1
            reached["watch batches of many events"] += len(events) > 1
        else:
            self.account.progress(revision)
            reached["watch progress"] += 1

    def _ended(self, watcher: Watcher) -> None:
        error = watcher.error
        if not isinstance(error, Compacted):
            raise Violation("watch-ended", f"{self.name}: {type(error).__name__}: {error}")
        self.account.compacted(error.revision)
        self.audience.reached["watches compacted"] += 1
        self._begin(error.revision)


class Audience:
    """All viewers of a run, and the truth that they are to be told."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self.scenario = scenario
        self.world = world
        self.past = Past()
        self.viewers: list[Viewer] = []
        self.reached: Counter[str] = Counter()
        self.closing = False  # the run draws to its end: everybody reads on, nobody changes his mind

    def attend(self, program: Program) -> None:
        """The program watches too, from now on."""
        dice = self.scenario.rng(f"watching {program.name}")
        program.protocol.watching.progress_every = dice.choice(PROGRESS_MS) * limits.MILLISECOND
        for number in range(1, self.scenario.watchers + 1):
            name = f"{program.name}.w{number}"
            self.viewers.append(Viewer(name, program, self, self.scenario.rng(f"viewer {name}")))

    def learn(self, store: Store) -> None:
        """A node has applied something: the revisions that nobody applied before it are written down."""
        past = self.past
        if store.revision > past.revision:
            events: dict[int, list[tuple[bytes, _Shown, _Shown]]] = {}
            for revision, key, shown, replaced in store.events(past.revision + 1):
                events.setdefault(revision, []).append((key, shown, replaced))
            for revision, changes in events.items():
                values = [(key, shown and shown[0], shown[4] if shown else 0) for key, shown, _ in changes]
                for mine, theirs in zip(past.add(revision, values), changes, strict=True):
                    _agree(revision, mine, *theirs)
            past.reaches(store.revision)
        past.compacted = max(past.compacted, store.compacted)

    def close(self) -> None:
        """Everybody reads what is left."""
        self.closing = True
        for viewer in self.viewers:
            viewer.wake()

    @property
    def behind(self) -> list[str]:
        """Viewers of programs that live which have yet to be given something, each with the first such revision."""
        return [
            f"{viewer.name} lacks revision {viewer.account.behind}"
            for viewer in self.viewers
            if viewer.program.alive and viewer.account.behind
        ]


_Shown = tuple[bytes, int, int, int, int] | None
"""A version as Store.events shows it."""


def _agree(revision: int, mine: Event, key: bytes, shown: _Shown, replaced: _Shown) -> None:
    """The store's own account of a change is what the rules make of it. Raises Violation."""
    after = None if mine.deleted else mine.kv
    for what, held, told in (("makes", after, shown), ("replaces", mine.prev_kv, replaced)):
        if held != (None if told is None else KeyValue(key, *told)):
            raise Violation("history-differs", f"revision {revision} {what} {told} of {key!r}, not {held}")

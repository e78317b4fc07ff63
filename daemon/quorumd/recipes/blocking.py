"""Runs scripts on the calling thread, with a client that blocks."""

import functools
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from quorumd.client.sinceboot import glance, since_boot
from quorumd.commands import Result
from quorumd.errors import ConnectionLost, Timeout
from quorumd.limits import SECOND
from quorumd.recipes.effects import Call, Clock, Effect, Emit, Pause, Script, Wait
from quorumd.recipes.exits import parting
from quorumd.recipes.ports import BlockingClient, Watch
from quorumd.types import Nanoseconds
from quorumd.watchcodec import Event

R = TypeVar("R")
P = ParamSpec("P")
L_co = TypeVar("L_co", covariant=True)


class Runner:
    """Performs the effects of scripts. Any number of threads may run scripts of their own at a time."""

    def __init__(self, client: BlockingClient, before: Callable[[], None] = lambda: None) -> None:
        self.client = client
        self._before = before
        self.nudge = threading.Event()
        """Set by any thread: ends an interruptible pause of the one script that uses them."""
        self._performers: set[_Performer] = set()
        self._stopped = False

    def run(self, script: Script[R]) -> R:
        """The script's result. Whatever interrupts it, KeyboardInterrupt too, is raised inside it first."""
        driving = self._drive(script)
        try:
            item = next(driving)
        except StopIteration as end:
            result: R = end.value
            return result
        driving.close()
        raise TypeError(f"a stream is to be iterated over; it began with {item!r}")

    def stream(self, script: Script[None]) -> Iterator[Any]:
        """What the script emits, as it is asked for."""
        yield from self._drive(script)

    def stop(self) -> None:
        """Ends every script under way with ConnectionLost, at its next effect; a wait for events ends at once."""
        self._stopped = True
        self.nudge.set()
        for performer in tuple(self._performers):
            performer.close()

    def _drive(self, script: Script[R]) -> Generator[Any, None, R]:
        self._before()
        performer = _Performer(self.client, self.nudge)
        self._performers.add(performer)
        try:
            effect = next(script)
            while True:
                if isinstance(effect, Emit):
                    yield effect.item
                    effect = next(script)
                    continue
                try:
                    if self._stopped:
                        raise ConnectionLost("it was closed")
                    answer = performer.perform(effect)
                except BaseException as error:
                    effect = script.throw(error)
                else:
                    effect = script.send(answer)
        except StopIteration as end:
            result: R = end.value
            return result
        finally:
            script.close()
            performer.close()
            self._performers.discard(performer)


class _Performer:
    """One script's effects. A script waits for one range at a time: its watch stays open until it waits for another."""

    def __init__(self, client: BlockingClient, nudge: threading.Event) -> None:
        self._client, self._nudge = client, nudge
        self._watch: Watch | None = None
        self._closed = False
        self._range = (b"", b"")
        self._seen = 0  # everything up to this revision came out of the watch, or lay before it

    def perform(self, effect: Effect) -> object:
        match effect:
            case Clock():
                return since_boot()
            case Call(_, until):
                return self._call(effect, until)
            case Wait():
                return self._wait(effect)
            case Pause(until, interruptible):
                pause = self._nudge if interruptible else threading.Event()
                while (span := glance(until)) and not pause.wait(span):
                    pass
                pause.clear()
                return None
        raise TypeError(f"no driver performs {effect!r}")

    def _call(self, call: Call, until: Nanoseconds | None) -> Result:
        if until is None:
            return self._client.execute(call.op, settled=True)
        left = until - since_boot()
        if left <= 0:
            raise Timeout("the time was over before it was tried")
        return self._client.execute(call.op, settled=True, timeout=left / SECOND)

    def _wait(self, wait: Wait) -> tuple[Event, ...]:
        watch = self._watch
        if watch is None or self._range != (wait.key, wait.end) or self._seen > wait.after:
            self._close_watch()
            self._watch = watch = self._client.watch(wait.key, wait.end, start_revision=wait.after + 1)
            if self._closed:
                raise ConnectionLost("it was closed")
            self._range, self._seen = (wait.key, wait.end), wait.after
        while True:
            left = None if wait.until is None else max(wait.until - since_boot(), 0) / SECOND
            try:
                batch = watch.get(left)
            except Timeout:
                return ()
            except BaseException:
                self._close_watch()  # it may have ended for good: the next wait has another
                raise
            self._seen = batch.revision
            if self._seen > wait.after and batch.events:
                return tuple(batch.events)

    def close(self) -> None:
        """Ends it, from any thread."""
        self._closed = True
        self._close_watch()

    def _close_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()


class Face(Generic[L_co]):
    """A recipe's logic, and who runs it."""

    def __init__(self, runner: Runner, logic: L_co) -> None:
        self._runner = runner
        self._logic = logic


def blocking(method: Callable[Concatenate[Any, P], Script[R]]) -> Callable[Concatenate[Face[Any], P], R]:
    """A method of a face: the logic's script of that name, run to its end."""

    @functools.wraps(method)
    def run(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._runner.run(method(self._logic, *args, **kwargs))

    return run


def giving_up(method: Callable[Concatenate[Any, P], Script[None]]) -> Callable[Concatenate[Face[Any], P], None]:
    """Likewise of one that gives up what is held; NotHeld if that was lost with its session."""

    @functools.wraps(method)
    def run(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        with parting():
            self._runner.run(method(self._logic, *args, **kwargs))

    return run

"""Runs scripts in the calling task, with a client that awaits."""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from quorumd.client.sinceboot import glance, since_boot
from quorumd.commands import Result
from quorumd.errors import Timeout
from quorumd.limits import SECOND
from quorumd.recipes.effects import Call, Clock, Effect, Emit, Pause, Script, Wait
from quorumd.recipes.exits import parting
from quorumd.recipes.ports import AsyncWatch, AwaitingClient
from quorumd.types import Nanoseconds
from quorumd.watchcodec import Event

R = TypeVar("R")
P = ParamSpec("P")
L_co = TypeVar("L_co", covariant=True)


class Runner:
    """Performs the effects of scripts, for any number of tasks of one event loop at a time."""

    def __init__(self, client: AwaitingClient, before: Callable[[], None] = lambda: None) -> None:
        self.client = client
        self._before = before
        self.nudge = asyncio.Event()
        """Ends an interruptible pause of the one script that uses them."""

    async def run(self, script: Script[R]) -> R:
        """The script's result. Whatever interrupts it, a cancellation too, is raised inside it first."""
        results: list[R] = []
        async for item in self._drive(script, results.append):
            raise TypeError(f"a stream is to be iterated over; it began with {item!r}")
        return results[0]

    async def stream(self, script: Script[None]) -> AsyncIterator[Any]:
        """What the script emits, as it is asked for."""
        driving = self._drive(script, lambda _: None)
        try:
            async for item in driving:
                yield item
        finally:
            await driving.aclose()

    async def _drive(self, script: Script[R], finish: Callable[[R], None]) -> AsyncGenerator[Any, None]:
        self._before()
        performer = _Performer(self.client, self.nudge)
        try:
            effect = next(script)
            while True:
                if isinstance(effect, Emit):
                    yield effect.item
                    effect = next(script)
                    continue
                try:
                    answer = await performer.perform(effect)
                except BaseException as error:
                    effect = script.throw(error)
                else:
                    effect = script.send(answer)
        except StopIteration as end:
            finish(end.value)
        finally:
            script.close()
            await performer.close()


class _Performer:
    """One script's effects. A script waits for one range at a time: its watch stays open until it waits for another."""

    def __init__(self, client: AwaitingClient, nudge: asyncio.Event) -> None:
        self._client, self._nudge = client, nudge
        self._watch: AsyncWatch | None = None
        self._range = (b"", b"")
        self._seen = 0  # everything up to this revision came out of the watch, or lay before it

    async def perform(self, effect: Effect) -> object:
        match effect:
            case Clock():
                return since_boot()
            case Call(_, until):
                return await self._call(effect, until)
            case Wait():
                return await self._wait(effect)
            case Pause(until, interruptible):
                pause = self._nudge if interruptible else asyncio.Event()
                while span := glance(until):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(pause.wait(), span)
                        break
                pause.clear()
                return None
        raise TypeError(f"no driver performs {effect!r}")

    async def _call(self, call: Call, until: Nanoseconds | None) -> Result:
        if until is None:
            return await self._client.execute(call.op, settled=True)
        left = until - since_boot()
        if left <= 0:
            raise Timeout("the time was over before it was tried")
        return await self._client.execute(call.op, settled=True, timeout=left / SECOND)

    async def _wait(self, wait: Wait) -> tuple[Event, ...]:
        watch = self._watch
        if watch is None or self._range != (wait.key, wait.end) or self._seen > wait.after:
            await self.close()
            self._watch = watch = self._client.watch(wait.key, wait.end, start_revision=wait.after + 1)
            self._range, self._seen = (wait.key, wait.end), wait.after
        while True:
            left = None if wait.until is None else max(wait.until - since_boot(), 0) / SECOND
            try:
                batch = await watch.get(left)
            except Timeout:
                return ()
            except BaseException:
                await self.close()  # it may have ended for good: the next wait has another
                raise
            self._seen = batch.revision
            if self._seen > wait.after and batch.events:
                return tuple(batch.events)

    async def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()


class Face(Generic[L_co]):
    """A recipe's logic, and who runs it."""

    def __init__(self, runner: Runner, logic: L_co) -> None:
        self._runner = runner
        self._logic = logic


def awaiting(
    method: Callable[Concatenate[Any, P], Script[R]],
) -> Callable[Concatenate[Face[Any], P], Coroutine[Any, Any, R]]:
    """A method of a face: the logic's script of that name, run to its end."""

    @functools.wraps(method)
    async def run(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._runner.run(method(self._logic, *args, **kwargs))

    return run


def giving_up(
    method: Callable[Concatenate[Any, P], Script[None]],
) -> Callable[Concatenate[Face[Any], P], Coroutine[Any, Any, None]]:
    """Likewise of one that gives up what is held; NotHeld if that was lost with its session."""

    @functools.wraps(method)
    async def run(self: Face[Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        with parting():
            await self._runner.run(method(self._logic, *args, **kwargs))

    return run

"""Simulated client programs: the production client protocol, and workers that share its session.

Each worker is a process of the history: it has one operation under way. When the outcome of one stays unknown, the
process ends there, as the history's format demands, and the worker goes on as another process.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from quorumd import limits
from quorumd.checker.answers import Answers
from quorumd.checker.history import Recorder
from quorumd.client.calls import operation_for, transfer_operation
from quorumd.client.operation import Operation, Plane
from quorumd.client.protocol import ClientProtocol
from quorumd.client.session import Session
from quorumd.client.watcher import WatchBatch, Watcher
from quorumd.commands import Range, RangeResult, Txn, TxnResult
from quorumd.errors import Definite, DiskFull, NoSpace, QuorumdError
from quorumd.sim.network import SimNetwork
from quorumd.sim.workload import Ask, Mind, Mix, outcome
from quorumd.sim.world import World
from quorumd.types import Address, Nanoseconds, NodeId

SETTLED = 0.1  # share of operations that are to come after whatever was given up before


class Worker:
    """One process after another of one client."""

    __slots__ = ("ask", "done", "pauses", "process", "since", "told", "without_room")

    def __init__(self, process: int, *, told: bool = False) -> None:
        self.process = process
        self.told = told  # asks nothing of its own accord
        self.ask: Ask | None = None  # what is under way
        self.since = 0  # the revision below which its answer may not be
        self.done = 0  # operations that were answered
        self.without_room = 0  # that the log refused, for the quota
        self.pauses = 0  # begun so far: only the last one ends in an operation


class Surroundings(NamedTuple):
    """What all client programs of a cluster have in common.

    process: gives each process of the history its number. timeout: of each operation. lost: is told of each session
    that its client was told has ended.
    """

    world: World
    network: SimNetwork
    nodes: Sequence[NodeId]
    history: Recorder
    answers: Answers
    process: Callable[[], int]
    timeout: Nanoseconds
    lost: Callable[[Session], None]


class Program:
    """One client program. `per_second`: operations of each worker, on average."""

    def __init__(
        self,
        name: str,
        around: Surroundings,
        mix: Mix,
        rng: random.Random,
        *,
        workers: int,
        per_second: float,
    ) -> None:
        self.name = name
        self.address: Address = name.encode()
        self.world, self.network, nodes, self.history, self.answers, self.process, self.timeout, self._lost = around
        self.mind = Mind(name, mix, rng)
        self.rng = rng
        self.per_second = per_second
        self.running = True
        self.done = self.reads_done = self.unknown = self.transmissions = 0
        self.without_room = self.disk_full = 0  # refused for the quota, or for the disks
        self.protocol = ClientProtocol(
            [f"node{node}:1" for node in nodes],
            entropy=rng.randbytes,
            resolve=lambda text: text.partition(":")[0].encode(),
        )
        self.workers = [Worker(self.process()) for _ in range(workers)]
        self._wake_at: Nanoseconds | None = None
        self.world.endpoints[self.address] = self._receive
        self.protocol.start(self.world.now)
        self._after()
        for worker in self.workers:
            self._rest(worker)

    # -- workers ------------------------------------------------------------------------------------------------

    def _rest(self, worker: Worker) -> None:
        self._pause(worker, int(self.rng.expovariate(self.per_second) * limits.SECOND))

    def _pause(self, worker: Worker, span: Nanoseconds) -> None:
        worker.pauses += 1
        number = worker.pauses
        self.world.after(span, lambda: self._ask(worker, number))

    def _ask(self, worker: Worker, number: int) -> None:
        if self.running and worker.ask is None and number == worker.pauses:
            self.submit(worker, self.mind.next())

    def hurry(self, within: Nanoseconds) -> None:
        """Every worker that rests asks within so long, instead of when it would have."""
        for worker in self.workers:
            if worker.ask is None and self.running and not worker.told:
                self._pause(worker, self.rng.randint(0, within))

    def add_worker(self) -> Worker:
        """One that asks only what it is told to, by `submit`."""
        worker = Worker(self.process(), told=True)
        self.workers.append(worker)
        return worker

    def submit(self, worker: Worker, ask: Ask) -> None:
        """Begins an operation."""
        worker.ask = ask
        now = self.world.now
        self.history.invoke(worker.process, ask.f, ask.key, ask.value, now, stale=ask.stale)
        worker.since = self.answers.asked(ask.request, stale=ask.stale)
        settled = self.rng.random() < SETTLED
        operation = operation_for(ask.request, now + self.timeout, stale=ask.stale, settled=settled)
        operation.waiter = worker
        try:
            self.protocol.submit(operation, now)
        except QuorumdError as error:
            operation.error = error
            self._completed(operation)
        self._after()

    def _completed(self, operation: Operation) -> None:
        worker = operation.waiter
        if worker is None:
            return
        self.transmissions += operation.transmissions
        ask, worker.ask = worker.ask, None
        if ask is None:
            return  # its program was killed; the outcome is unknown, and was written down so
        now, error = self.world.now, operation.error
        if error is None:
            result = operation.result()
            self.answers.told(ask.request, result, worker.since)
            self._learn(ask, result)
            self.history.complete(worker.process, "ok", now, **outcome(ask, result))
            self.done += 1
            worker.done += 1
            self.reads_done += operation.plane is Plane.READ
        elif isinstance(error, Definite):
            self.history.complete(worker.process, "fail", now)
            self.answers.refused(ask.request, error)
            self.without_room += isinstance(error, NoSpace)
            worker.without_room += isinstance(error, NoSpace)
            self.disk_full += isinstance(error, DiskFull)
        else:
            self.history.complete(worker.process, "info", now)
            worker.process = self.process()
            self.unknown += 1
        if self.world.trace is not None:
            verdict = "ok" if error is None else f"{type(error).__name__}: {error}"
            self.world.tell(self.name, ask.f, key=ask.key, value=ask.value, verdict=verdict)
        if self.running and not worker.told:
            self._rest(worker)

    def _learn(self, ask: Ask, result: object) -> None:
        if isinstance(result, RangeResult):
            self.mind.learn(result.kvs, ask.key if ask.f == "read" else None)
        elif isinstance(result, TxnResult) and isinstance(ask.request, Txn):
            branch = ask.request.then if result.succeeded else ask.request.orelse
            for op, each in zip(branch, result.responses, strict=True):
                if isinstance(op, Range) and isinstance(each, RangeResult):
                    self.mind.learn(each.kvs, op.key.decode())

    @property
    def idle(self) -> bool:
        """Whether no worker waits for an answer."""
        return all(worker.ask is None for worker in self.workers)

    # -- watches: what client.watches.Line says -----------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Begins to watch. Raises Overloaded, ConnectionLost."""
        self.protocol.watching.add(watcher)
        self._after()

    def unwatch(self, watcher: Watcher) -> None:
        """Its user is done with it."""
        self.protocol.watching.drop(watcher)
        self._after()

    def take_batch(self, watcher: Watcher) -> WatchBatch | None:
        """The watcher's next batch, if it has one."""
        waiting = self.protocol.watching.pop(watcher)
        self._after()
        return None if waiting is None else waiting.batch()

    # -- the protocol -------------------------------------------------------------------------------------------

    def transfer(self, to: NodeId) -> None:
        """Asks the leader to hand over."""
        operation = transfer_operation(to, self.world.now + self.timeout)
        self.protocol.submit(operation, self.world.now)
        self._after()

    def vanish(self) -> None:
        """The program is killed: no farewell; what it had under way may or may not happen."""
        self.running = False
        del self.world.endpoints[self.address]
        for worker in self.workers:
            if worker.ask is not None:
                worker.ask = None
                self.history.complete(worker.process, "info", self.world.now)

    def _receive(self, data: bytes, source: Address) -> None:
        before = self.protocol.session
        self.protocol.receive(data, source, self.world.now)
        if before is not None and before.opened and self.protocol.session is not before:
            self._lost(before)
        self._after()

    def _tick(self) -> None:
        self._wake_at = None
        self.protocol.tick(self.world.now)
        self._after()

    def _after(self) -> None:
        """What follows from every input: operations end, datagrams leave, the next tick is known."""
        protocol, now = self.protocol, self.world.now
        protocol.flush(now)
        for operation in protocol.take_completed():
            self._completed(operation)
        protocol.take_states()
        for watcher in protocol.watching.take_news():
            watcher.waiter()
        for dest, data in protocol.take_datagrams():
            if isinstance(dest, bytes):  # all that `resolve` above gives out
                self.network.send(self.address, dest, data)
        due = protocol.next_deadline()
        if due is not None and (self._wake_at is None or due < self._wake_at):
            self._wake_at = due = max(due, now)
            self.world.at(due, lambda: self._tick() if self._wake_at == due and self.alive else None)

    @property
    def alive(self) -> bool:
        """Whether it was not killed."""
        return self.address in self.world.endpoints

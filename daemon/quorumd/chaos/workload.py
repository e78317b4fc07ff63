"""Concurrent clients that record every operation they make: few keys, so that they conflict; unique values.

Each client has a session of its own. What an operation without outcome leaves open belongs to a process number that is
not used again; the client goes on under a new one, as in Jepsen.

Besides operations drawn at random there are two that keep promises of their own, which verdict.py checks:
transfers between two accounts keep their sum, and counters rise by one for each acknowledged increment.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from quorumd.chaos import calls
from quorumd.chaos.calls import Answer, Call, Token, TxnCompare, TxnOp
from quorumd.checker.history import Recorder
from quorumd.client.aio import AsyncClient
from quorumd.commands import Result, TxnResult
from quorumd.errors import Definite, Indefinite, QuorumdError
from quorumd.limits import CHAOS_READ_S

KEYS: Final = tuple(f"key/{number}" for number in range(8))
SPAN: Final = ("key/", "key0")
"""All of KEYS."""
ACCOUNTS: Final = ("account/a", "account/b")
COUNTERS: Final = ("counter/0", "counter/1")
OPENING: Final = 100
"""Of each account."""
PADDING_BYTES: Final = 32 * 1024
"""Of every plain write while a disk is to be filled."""
TIMEOUTS_S: Final = (0.3, 1.0, 3.0)
RECENT_S: Final = 2.0
"""The rate shown counts so far back."""
MIX: Final = {
    "read": 22, "stale": 6, "range": 5, "write": 20, "delete": 3, "cas": 12, "txn": 10, "transfer": 10, "increment": 12,
}
"""What a client does next, by weight."""


class Tally:
    """What the clients were told, summed up."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        """By class name."""
        self.acknowledged: Counter[str] = Counter()
        """Increments, by counter."""
        self.unknown: Counter[str] = Counter()
        """Increments without outcome, by counter."""
        self.nonsense: list[str] = []
        """Answers that no correct cluster gives."""
        self.sums: Counter[int] = Counter()
        """Of both accounts, as read at one revision."""
        self.leases: Counter[str] = Counter()
        """What became of them: granted, kept alive, revoked, expired."""
        self.healed_ns = 0
        """When everything was healed last."""
        self.recovered_ns = 0
        """When the first write succeeded that was begun after that; 0: none has yet."""
        self._recent: deque[float] = deque()

    def done(self) -> None:
        """One more operation succeeded."""
        now_s = time.monotonic()
        self.outcomes["ok"] += 1
        self._recent.append(now_s)
        self._forget(now_s)

    def healed(self) -> None:
        """Nothing is broken from now on."""
        self.healed_ns, self.recovered_ns = time.monotonic_ns(), 0

    def wrote(self, begun_ns: int, now_ns: int) -> None:
        """A write succeeded that was begun at `begun_ns`."""
        if begun_ns > self.healed_ns and not self.recovered_ns:
            self.recovered_ns = now_ns

    def _forget(self, now_s: float) -> None:
        while self._recent and self._recent[0] < now_s - RECENT_S:
            self._recent.popleft()

    @property
    def rate(self) -> float:
        """Operations a second that succeeded lately."""
        self._forget(time.monotonic())
        return len(self._recent) / RECENT_S


class Workload:
    """The clients, the history they write and what they share."""

    def __init__(self, endpoints: Sequence[str], *, key: bytes | None, clients: int, rate: float, seed: int) -> None:
        self.recorder = Recorder()
        self.tally = Tally()
        self.padding = 0
        """Bytes added to every plain write from now on."""
        self.newest: dict[str, Token | None] = {}
        """By key, what was written or read last, perhaps outdated: a likely `old` of a compare and swap."""
        self._endpoints = list(endpoints)
        self._secret = key
        self._pause_s = clients / rate
        self._seed = seed
        self._clients = clients
        self._processes = 0
        self._tasks: list[asyncio.Task[None]] = []

    def new_process(self) -> int:
        """A process number that nobody had."""
        self._processes += 1
        return self._processes

    def new_client(self) -> AsyncClient:
        """A client with a session of its own."""
        return AsyncClient(self._endpoints, key=self._secret)

    async def open_accounts(self) -> None:
        """Before anything else happens. Raises QuorumdError."""
        async with self.new_client() as client:
            worker = Worker(self, client, random.Random(self._seed))
            ops: list[TxnOp] = [("write", account, f"{OPENING}:{worker.unique()}") for account in ACCOUNTS]
            await worker.insist(calls.txn([], ops))

    def start(self) -> None:
        """The clients begin; they go on until `stop`."""
        for _ in range(self._clients):
            self.begin(self._work)

    def begin(self, act: Callable[[AsyncClient, random.Random], Coroutine[Any, Any, None]]) -> None:
        """One client more, which does `act` until `stop`."""
        number = len(self._tasks) + 1
        rng = random.Random(self._seed + number)
        self._tasks.append(asyncio.create_task(self._run(act, rng), name=f"client {number}"))

    async def _run(
        self, act: Callable[[AsyncClient, random.Random], Coroutine[Any, Any, None]], rng: random.Random
    ) -> None:
        async with self.new_client() as client:
            await act(client, rng)

    async def _work(self, client: AsyncClient, rng: random.Random) -> None:
        worker = Worker(self, client, rng)
        while True:
            await asyncio.sleep(rng.expovariate(1 / self._pause_s))
            await worker.step()

    async def stop(self) -> None:
        """Ends the clients; operations under way stay without outcome. Raises what a client died of, a defect."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def check(self) -> None:
        """Raises what a client died of, while the others still run."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def read_all(self) -> dict[str, Token | None]:
        """Linearizable reads of every key, into the history too. Raises QuorumdError."""
        async with self.new_client() as client:
            worker = Worker(self, client, random.Random(self._seed))
            keys = (*KEYS, *ACCOUNTS, *COUNTERS)
            found = {key: (await worker.insist(calls.read(key))).found for key in keys}
            await worker.insist(calls.span(*SPAN))
            await worker.insist(_read_accounts())
        return found


def _read_accounts() -> Call:
    return calls.txn([], [("read", account) for account in ACCOUNTS])


class Worker:
    """One client: draws an operation, makes it, records it."""

    def __init__(self, workload: Workload, client: AsyncClient, rng: random.Random) -> None:
        self.workload = workload
        self.client = client
        self.rng = rng
        self.process = workload.new_process()
        self._made = 0

    def unique(self) -> Token:
        """A value that nobody else writes."""
        self._made += 1
        return f"{self.process}.{self._made}"

    async def step(self) -> None:
        """One thing out of MIX; a transfer or an increment is two operations or more."""
        (what,) = self.rng.choices(list(MIX), list(MIX.values()))
        if what == "transfer":
            await self.transfer()
        elif what == "increment":
            await self.increment(self.rng.choice(COUNTERS))
        else:
            await self.perform(self._draw(what))

    def _draw(self, what: str) -> Call:
        key, other, third = self.rng.sample(KEYS, 3)
        newest = self.workload.newest
        match what:
            case "read":
                return calls.read(key)
            case "stale":
                return calls.span(*SPAN, stale=True) if self.rng.random() < 0.2 else calls.read(key, stale=True)
            case "range":
                return calls.span(*SPAN)
            case "write":
                return calls.write(key, calls.padded(self.unique(), self.workload.padding))
            case "delete":
                return calls.write(key, None)
            case "cas":
                return calls.cas(key, newest.get(key), self.unique())
            case _:
                compares: list[TxnCompare] = [(key, "version", self.rng.choice(("=", ">")), 0)]
                if (expected := newest.get(other)) is not None and self.rng.random() < 0.5:
                    compares = [(other, "value", self.rng.choice(("=", "!=")), expected)]
                change = self.unique()
                then: list[TxnOp] = [("write", key, change), ("read", key), ("write", other, change), ("read", third)]
                return calls.txn(compares, then, [("read", other), ("write", third, change)])

    # -- what keeps promises ------------------------------------------------------------------------------------------

    async def transfer(self) -> None:
        """Moves something from one account to the other, if both are still as they were read."""
        seen = await self._versions(_read_accounts())
        if seen is None:
            return
        first, second = (self._number(seen[i][0].partition(":")[0], account) for i, account in enumerate(ACCOUNTS))
        if first is None or second is None:
            return
        self.workload.tally.sums[first + second] += 1
        moved = self.rng.randint(-5, 5)
        compares: list[TxnCompare] = [(account, "mod_revision", "=", seen[i][1]) for i, account in enumerate(ACCOUNTS)]
        amounts = (first - moved, second + moved)
        ops: list[TxnOp] = [("write", account, f"{amounts[i]}:{self.unique()}") for i, account in enumerate(ACCOUNTS)]
        await self.perform(calls.txn(compares, ops))

    async def increment(self, counter: str) -> None:
        """Adds one, exactly once, if it is acknowledged: whoever lost the race reads again."""
        while True:
            seen = await self._versions(calls.txn([], [("read", counter)]))
            if seen is None:
                return
            (token, revision), = seen
            count = self._number(token, counter)
            if count is None:
                return
            call = calls.txn([(counter, "mod_revision", "=", revision)], [("write", counter, str(count + 1))])
            tally = self.workload.tally
            tally.unknown[counter] += 1  # until its answer comes, which may be never: clients are stopped in mid-call
            outcome = await self.perform(call)
            if outcome is None:
                return
            tally.unknown[counter] -= 1
            if not isinstance(outcome, Answer):
                return  # refused for certain
            if outcome.succeeded:
                tally.acknowledged[counter] += 1
                return

    def _number(self, text: str, key: str) -> int | None:
        """What `key` was read to hold; None, and noted as nonsense, if that is no number: nobody wrote it."""
        found = calls.number(text)
        if found is None:
            self.workload.tally.nonsense.append(f"{key} holds {text!r} where a number was written")
        return found

    async def _versions(self, call: Call) -> list[tuple[Token, int]] | None:
        """(token or "0", mod_revision) of each key that a txn reads; None if it was not answered."""
        result = await self._ask(call)
        if not isinstance(result, TxnResult):
            return None
        kvs = [calls.one(response) for response in result.responses]
        return [("0", 0) if kv is None else (calls.token_of(kv.value), kv.mod_revision) for kv in kvs]

    # -- one operation ------------------------------------------------------------------------------------------------

    async def insist(self, call: Call) -> Answer:
        """As `perform`, with a long deadline. Raises QuorumdError if it is not answered."""
        result = await self._ask(call, insist_s=CHAOS_READ_S)
        if isinstance(result, QuorumdError):
            raise result
        return calls.answer_of(call, result)

    async def perform(self, call: Call) -> Answer | QuorumdError | None:
        """Makes and records one operation: its answer; the error that says it did not happen; None: nobody knows."""
        result = await self._ask(call)
        if isinstance(result, Indefinite):
            return None
        return result if isinstance(result, QuorumdError) else calls.answer_of(call, result)

    async def _ask(self, call: Call, insist_s: float | None = None) -> Result | QuorumdError:
        recorder, tally = self.workload.recorder, self.workload.tally
        begun_ns = time.monotonic_ns()
        timeout_s = insist_s or self.rng.choice(TIMEOUTS_S)
        recorder.invoke(self.process, call.f, call.key, call.value, begun_ns, call.stale)
        try:
            result = await self.client.submit(call.request, stale=call.stale, timeout=timeout_s)
            answer = calls.answer_of(call, result)
        except QuorumdError as error:
            self._failed(call, error)
            return error
        now_ns = time.monotonic_ns()
        extra = {"value": answer.found} if call.f in calls.READS else {}
        recorder.complete(
            self.process, "ok", now_ns, revision=answer.revision, succeeded=answer.succeeded, results=answer.results,
            **extra,
        )
        tally.done()
        if calls.writes(call):
            tally.wrote(begun_ns, now_ns)
        self._learn(call, answer)
        return result

    def _failed(self, call: Call, error: QuorumdError) -> None:
        """fail: it certainly did not happen, or only would have read. info: it may have, or yet may."""
        tally = self.workload.tally
        tally.errors[type(error).__name__] += 1
        if not isinstance(error, Definite | Indefinite):
            tally.nonsense.append(f"{call.f} of {call.key}: {type(error).__name__}: {error}")
        outcome = "fail" if isinstance(error, Definite) or not calls.writes(call) else "info"
        tally.outcomes[outcome] += 1
        self.workload.recorder.complete(self.process, outcome, time.monotonic_ns())
        if outcome == "info":
            self.process = self.workload.new_process()
            self._made = 0

    def _learn(self, call: Call, answer: Answer) -> None:
        newest = self.workload.newest
        if call.f == "read" and not call.stale:
            newest[call.key] = answer.found
        elif call.f == "write":
            newest[call.key] = call.value
        elif call.f == "cas" and answer.succeeded:
            newest[call.key] = call.value[1]

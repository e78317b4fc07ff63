"""Clients that hold leases throughout: each grants one, attaches a key, keeps it alive, looks, falls silent or revokes,
and begins anew. What a holder is told must agree with what it was told before:

    lease-early     a lease lives for its TTL, counted from when the newest answered grant or keep-alive was asked for,
                    and its key is there
    lease-keys      once the lease has ended its key is gone; until then it is the lease's
    lease-lives-on  what has ended is not said to live, and each is what was asked for, once
    lease-late      with everything healed and nobody at work no lease outlives its TTL for long

TTLs are measured by the clock that nodes go by, which runs on while a machine is suspended; the history by its own.

Nobody asks for what the end of a lease deletes. So that the history explains it, it is written there as a delete of
unknown outcome that begins with the lease.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Final

from quorumd import limits
from quorumd.chaos import calls
from quorumd.chaos.calls import Answer
from quorumd.chaos.workload import TIMEOUTS_S, Worker, Workload
from quorumd.client.aio import AsyncClient
from quorumd.client.sinceboot import since_boot
from quorumd.commands import (
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseList,
    LeaseListResult,
    LeaseRevoke,
    LeaseRevokeResult,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Op,
)
from quorumd.errors import Definite, Indefinite, LeaseExists, LeaseNotFound, QuorumdError

PREFIX: Final = "lease/"
AFTER: Final = "lease0"
"""Keys of holders lie in [PREFIX, AFTER)."""
HOLDERS: Final = 8
TTL_MS: Final = (limits.MIN_LEASE_TTL_MS, 3_000)
DEEDS: Final = {"keep": 50, "look": 10, "read": 20, "put": 10, "revoke": 5, "abandon": 5}
"""What a holder does next with its lease, by weight."""
AT_THE_END: Final = 0.1
"""Of pauses: until the TTL is just about over."""
BEYOND: Final = 0.1
"""Likewise: for longer than the TTL."""
POLL_S: Final = 0.1


class Lease:
    """One lease, as its holder knows it."""

    def __init__(self, id: int, key: str, ttl_ms: int) -> None:
        self.id = id
        self.key = key
        self.ttl_ms = ttl_ms
        self.lives_until_ns = 0  # at least, if nobody revokes it
        self.attached = False  # its key was put, for certain


class Holder:
    """One client. numbers: gives each lease of the run its id."""

    def __init__(self, workload: Workload, client: AsyncClient, rng: random.Random, numbers: Iterator[int]) -> None:
        self.worker = Worker(workload, client, rng)
        self.rng = rng
        self.lease: Lease | None = None
        self._numbers = numbers
        self._tally = workload.tally

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(self._pause_s())

    async def step(self) -> None:
        """One request about the lease, or for one."""
        lease = self.lease
        if lease is None:
            await self._grant()
            return
        (deed,) = self.rng.choices(list(DEEDS), list(DEEDS.values()))
        match deed:
            case "put":
                await self._put(lease)
            case "read":
                await self._read(lease)
            case "abandon":
                self.lease = None
            case "revoke":
                self.lease = None
                await self._ask(lease, LeaseRevoke(lease.id))
            case "look":
                await self._ask(lease, LeaseTimeToLive(lease.id))
            case _:
                await self._ask(lease, LeaseKeepAlive(lease.id))

    def _pause_s(self) -> float:
        lease, chance = self.lease, self.rng.random()
        ttl_s = lease.ttl_ms / 1e3 if lease is not None else TTL_MS[0] / 1e3
        if lease is not None and chance < AT_THE_END:
            left_s = (lease.lives_until_ns - since_boot()) / 1e9
            return max(0.0, left_s + ttl_s * self.rng.uniform(-0.05, 0.05))
        if chance < AT_THE_END + BEYOND:
            return ttl_s * self.rng.uniform(1.05, 2.0)
        return ttl_s * self.rng.uniform(0.02, 0.45)

    # -- what it asks -------------------------------------------------------------------------------------------------

    async def _grant(self) -> None:
        number = next(self._numbers)
        lease = Lease(number, f"{PREFIX}{number}", self.rng.randint(*TTL_MS))
        await self._ask(lease, LeaseGrant(lease.ttl_ms, lease.id))
        if lease.lives_until_ns:
            self.lease = lease
            self._may_end(lease)
            await self._put(lease)

    def _may_end(self, lease: Lease) -> None:
        workload, now_ns = self.worker.workload, time.monotonic_ns()
        process = workload.new_process()
        workload.recorder.invoke(process, "write", lease.key, None, now_ns, stale=False)
        workload.recorder.complete(process, "info", now_ns)

    async def _put(self, lease: Lease) -> None:
        answer = await self.worker.perform(calls.attach(lease.key, self.worker.unique(), lease.id))
        if isinstance(answer, Answer):
            lease.attached = True
        elif isinstance(answer, LeaseNotFound):
            await self._ended(lease)

    async def _read(self, lease: Lease) -> None:
        answer = await self.worker.perform(calls.read(lease.key))
        if isinstance(answer, Answer) and answer.found is None and lease.attached:
            self._judge(lease, "its key")

    async def _ask(self, lease: Lease, request: Op) -> None:
        """One request, and what its answer says of the lease."""
        asked_ns = since_boot()
        try:
            result = await self.worker.client.submit(request, timeout=self.rng.choice(TIMEOUTS_S))
        except QuorumdError as error:
            if isinstance(error, LeaseNotFound):
                await self._ended(lease)
                return
            self._tally.errors[type(error).__name__] += 1
            if isinstance(error, LeaseExists):
                self._objects("lease-lives-on", lease, "was granted before, though its id is new")
            elif not isinstance(error, Definite | Indefinite):
                self._tally.nonsense.append(f"{type(request).__name__}: {type(error).__name__}: {error}")
            return
        match request, result:
            case LeaseGrant(), LeaseGrantResult(id=lease.id, ttl_ms=lease.ttl_ms):
                self._tally.leases["granted"] += 1
                self._lives(lease, asked_ns)
            case LeaseKeepAlive(), LeaseKeepAliveResult(ttl_ms=lease.ttl_ms):
                self._tally.leases["kept alive"] += 1
                self._lives(lease, asked_ns)
            case LeaseTimeToLive(), LeaseTimeToLiveResult(ttl_ms=lease.ttl_ms, left_ms=left_ms, count=keys):
                self._looked(lease, left_ms, keys)
            case LeaseRevoke(), LeaseRevokeResult():
                self._tally.leases["revoked"] += 1
                await self._is_gone(lease)
            case _:
                self._objects("lease-lives-on", lease, f"was asked for with {request}, and the answer is {result}")

    # -- what that says -----------------------------------------------------------------------------------------------

    def _lives(self, lease: Lease, asked_ns: int) -> None:
        lease.lives_until_ns = asked_ns + lease.ttl_ms * limits.MILLISECOND

    async def _ended(self, lease: Lease) -> None:
        """An answer said that there is no such lease any more."""
        self._judge(lease, "it")
        if self.lease is lease:
            self.lease = None
            self._tally.leases["expired"] += 1
        await self._is_gone(lease)

    def _looked(self, lease: Lease, left_ms: int, keys: int) -> None:
        least_ms = (lease.lives_until_ns - since_boot()) // limits.MILLISECOND
        if left_ms < least_ms:
            self._objects("lease-early", lease, f"is said to have {left_ms} ms left, and has {least_ms} at least")
        if keys > 1 or (lease.attached and not keys):
            self._objects("lease-keys", lease, f"is said to have {keys} keys")

    def _judge(self, lease: Lease, what: str) -> None:
        """lease or key were gone before now."""
        left_ms = (lease.lives_until_ns - since_boot()) // limits.MILLISECOND
        if left_ms > 0:
            self._objects("lease-early", lease, f"was kept alive, and {what} was gone {left_ms} ms before it could end")

    async def _is_gone(self, lease: Lease) -> None:
        answer = await self.worker.perform(calls.read(lease.key))
        if isinstance(answer, Answer) and answer.found is not None:
            self._objects("lease-keys", lease, f"has ended, and its key {lease.key} is there")
        with suppress(QuorumdError):
            found = await self.worker.client.submit(LeaseTimeToLive(lease.id), timeout=TIMEOUTS_S[0])
            self._objects("lease-lives-on", lease, f"has ended, and is there: {found}")

    def _objects(self, rule: str, lease: Lease, what: str) -> None:
        self._tally.nonsense.append(f"{rule}: lease {lease.id}, TTL {lease.ttl_ms} ms, {what}")


def hold_leases(workload: Workload) -> None:
    """HOLDERS clients more, until the others stop."""
    numbers = count(1)
    for _ in range(HOLDERS):
        workload.begin(lambda client, rng: Holder(workload, client, rng, numbers).run())


async def all_ended(new_client: Callable[[], AsyncClient]) -> list[str]:
    """Waits, once everything is healed and nobody keeps a lease alive, until all have ended; what did not. Before any
    node is restarted: each leader that begins gives all leases a full TTL. Raises QuorumdError."""
    deadline_s = time.monotonic() + TTL_MS[1] / 1e3 + limits.CHAOS_LIVENESS_S
    async with new_client() as client:
        while True:
            listed = await client.submit(LeaseList(), timeout=limits.CHAOS_READ_S)
            left = listed.ids if isinstance(listed, LeaseListResult) else ()
            keys = (await client.range(PREFIX.encode(), AFTER.encode(), timeout=limits.CHAOS_READ_S)).kvs
            if not left and not keys:
                return []
            if time.monotonic() >= deadline_s:
                return [f"lease-late: leases {list(left)} and keys {[kv.key for kv in keys]} are there at the end"]
            await asyncio.sleep(POLL_S)

"""Sessions of the asyncio client: a lease, and the task that keeps it alive."""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from types import TracebackType
from typing import Final, Self

from quorumd.errors import QuorumdError
from quorumd.limits import SECOND, SESSION_CLOSE_S, SESSION_OPEN_S, SESSION_TTL_S
from quorumd.recipes import lease as leases
from quorumd.recipes.awaiting import Runner
from quorumd.recipes.errors import SessionLost
from quorumd.recipes.lease import Lease
from quorumd.recipes.ports import AwaitingClient

LOG: Final = logging.getLogger("quorumd.recipes")
LostListener = Callable[[str], Awaitable[None] | None]
"""Called with the reason when a session is lost, in the session's own task; what it returns is awaited if it can be."""


class Session:
    """As session.Session, for one event loop. A loop that is blocked for longer than the TTL loses the session."""

    def __init__(
        self, client: AwaitingClient, *, ttl: float = SESSION_TTL_S, on_lost: LostListener | None = None
    ) -> None:
        if not ttl > 0:
            raise ValueError(f"ttl must be positive, not {ttl!r} seconds")
        self.client = client
        self.ttl = ttl
        self.lost = asyncio.Event()
        """Set when it is lost, at the latest a tenth of the TTL before anybody else can hold what it held; not by
        `close`."""
        self.runner = Runner(client, self.require)
        self._keeper = Runner(client)
        self._listeners: list[LostListener] = [on_lost] if on_lost is not None else []
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._pid = 0

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self, timeout: float = SESSION_OPEN_S) -> Self:
        """Obtains the lease and starts its task. Raises what the client raises if that takes over `timeout` s."""
        if self._lease is not None:
            raise RuntimeError("a session is opened once")
        until = monotonic_ns() + int(timeout * SECOND)
        lease = await Runner(self.client).run(leases.grant(int(self.ttl * SECOND), until))
        lease.nudge = self._keeper.nudge.set
        self._lease, self._pid = lease, os.getpid()
        self._task = asyncio.create_task(self._keep(lease), name="quorumd-session")
        return self

    async def close(self) -> None:
        """Gives up everything that the session holds, and ends its task. Within a few seconds, whatever happens."""
        lease, task = self._lease, self._task
        if lease is None or task is None or self._pid != os.getpid():
            return
        already_lost = not lease.close()
        self._keeper.nudge.set()
        if task is not asyncio.current_task():
            await asyncio.wait([task])
        if already_lost:
            return
        try:
            await Runner(self.client).run(leases.revoke(lease, monotonic_ns() + int(SESSION_CLOSE_S * SECOND)))
        except QuorumdError as error:
            LOG.warning("lease %x was not revoked (%s); it ends by itself within %g s", lease.id, error, self.ttl)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def lease(self) -> Lease:
        """Its lease. Raises RuntimeError before `open`, SessionLost in a forked child."""
        if self._lease is None:
            raise RuntimeError("the session is not open: `async with Session(client) as session`, or await open()")
        if self._pid != os.getpid():
            raise SessionLost(f"the session is process {self._pid}'s; a forked child opens one of its own")
        return self._lease

    def require(self) -> None:
        """Raises SessionLost unless it is alive."""
        self.lease.require(monotonic_ns())

    @property
    def alive(self) -> bool:
        """Whether it is open, this process's, and not lost as far as can be told without asking anybody."""
        return self._lease is not None and self._pid == os.getpid() and self._lease.alive(monotonic_ns())

    def remaining(self) -> float:
        """Seconds for which it is certainly alive, if no further sign of life gets through; 0.0 if it is not."""
        lease = self._lease
        if lease is None or not self.alive:
            return 0.0
        return max(0, lease.safe_until - monotonic_ns()) / SECOND

    def on_lost(self, listener: LostListener) -> None:
        """Has `listener(reason)` called when the session is lost; if it is already, in a task of its own."""
        if self.lost.is_set():
            self._task = asyncio.create_task(self._tell([listener], self.lease.lost))
        else:
            self._listeners.append(listener)

    # -- the task -------------------------------------------------------------------------------------------------

    async def _keep(self, lease: Lease) -> None:
        try:
            await self._keeper.run(leases.keep(lease))
        except Exception:
            LOG.exception("the session's task failed, and the session with it")
            lease.lose("its task failed")
        if lease.closed:
            return
        self.lost.set()
        listeners, self._listeners = self._listeners, []
        await self._tell(listeners, lease.lost)

    async def _tell(self, listeners: list[LostListener], reason: str) -> None:
        for listener in listeners:
            try:
                told = listener(reason)
                if inspect.isawaitable(told):
                    await told
            except Exception:
                LOG.exception("a listener to the loss of a session failed")

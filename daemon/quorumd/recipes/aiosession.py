"""Sessions of the asyncio client: a lease, and the task that keeps it alive."""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from quorumd.client.sinceboot import since_boot
from quorumd.errors import QuorumdError
from quorumd.limits import SECOND, SESSION_CLOSE_S, SESSION_OPEN_S, SESSION_TTL_S
from quorumd.recipes import lease as leases
from quorumd.recipes.awaiting import Runner
from quorumd.recipes.lease import Lease
from quorumd.recipes.ports import AwaitingClient
from quorumd.recipes.sessionbase import SessionBase

LOG: Final = logging.getLogger("quorumd.recipes")
LostListener = Callable[[str], Awaitable[None] | None]
"""Called with the reason when a session is lost, in the session's own task; what it returns is awaited if it can be."""


class Session(SessionBase):
    """As session.Session, for one event loop. A loop that is blocked for longer than the TTL loses the session."""

    HOW_TO_OPEN = "`async with Session(client) as session`, or await open()"

    def __init__(
        self, client: AwaitingClient, *, ttl: float = SESSION_TTL_S, on_lost: LostListener | None = None
    ) -> None:
        super().__init__(ttl, since_boot, os.getpid)
        self.client = client
        self.lost = asyncio.Event()
        """Set when it is lost, at the latest a tenth of the TTL before anybody else can hold what it held; not by
        `close`."""
        self.runner = Runner(client, self.require)
        self._keeper = Runner(client)
        self._listeners: list[LostListener] = [on_lost] if on_lost is not None else []
        self._tasks: set[asyncio.Task[None]] = set()  # the one that keeps the lease, and those that tell of its loss

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self, timeout: float = SESSION_OPEN_S) -> Self:
        """Obtains the lease and starts its task. Raises what the client raises if that takes over `timeout` s."""
        if self._lease is not None:
            raise RuntimeError("a session is opened once")
        until = since_boot() + int(timeout * SECOND)
        lease = await Runner(self.client).run(leases.grant(int(self.ttl * SECOND), until))
        lease.nudge = self._keeper.nudge.set
        self._lease, self._pid = lease, os.getpid()
        self._start(self._keep(lease))
        return self

    async def close(self) -> None:
        """Gives up everything that the session holds, and ends its task. Within a few seconds, whatever happens."""
        lease = self._lease
        if lease is None or self._pid != os.getpid():
            return
        to_revoke = lease.close()
        if self._tasks and asyncio.current_task() not in self._tasks:
            await asyncio.wait(self._tasks)
        if not to_revoke:
            return
        try:
            await Runner(self.client).run(leases.revoke(lease, since_boot() + int(SESSION_CLOSE_S * SECOND)))
        except QuorumdError as error:
            LOG.warning("lease %x was not revoked (%s); it ends by itself within %g s", lease.id, error, self.ttl)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- its loss -------------------------------------------------------------------------------------------------

    def on_lost(self, listener: LostListener) -> None:
        """Has `listener(reason)` called when the session is lost; if it is already, in a task of its own."""
        if self.lost.is_set():
            self._start(self._tell([listener], self.lease.lost))
        else:
            self._listeners.append(listener)

    # -- the tasks ------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="quorumd-session")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

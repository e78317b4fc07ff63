"""Sessions of the blocking client: a lease, and the thread that keeps it alive."""

import logging
import os
import threading
from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Final, Self

from quorumd.errors import QuorumdError
from quorumd.limits import SECOND, SESSION_CLOSE_S, SESSION_OPEN_S, SESSION_TTL_S
from quorumd.recipes import lease as leases
from quorumd.recipes.blocking import Runner
from quorumd.recipes.errors import SessionLost
from quorumd.recipes.lease import Lease
from quorumd.recipes.ports import BlockingClient

LOG: Final = logging.getLogger("quorumd.recipes")
LostListener = Callable[[str], None]
"""Called with the reason when a session is lost: on the session's own thread, so it may block and call the client."""


class Session:
    """What locks, candidacies and memberships live in: they are gone when it is.

        with Session(client, ttl=10.0) as session: ...

    ttl: seconds for which the cluster keeps it without a sign of life; that is how long others wait after a crash, and
    how long a pause of this process may last before it loses what it holds. Nothing is opened before `open` or `with`.
    A lost session stays lost: make a new one. In a forked child the parent's session is not usable, and not harmed.
    """

    def __init__(
        self, client: BlockingClient, *, ttl: float = SESSION_TTL_S, on_lost: LostListener | None = None
    ) -> None:
        if not ttl > 0:
            raise ValueError(f"ttl must be positive, not {ttl!r} seconds")
        self.client = client
        self.ttl = ttl
        self.lost = threading.Event()
        """Set when it is lost, at the latest a tenth of the TTL before anybody else can hold what it held; not by
        `close`."""
        self.runner = Runner(client, self.require)
        self._keeper = Runner(client)
        self._listeners: list[LostListener] = [on_lost] if on_lost is not None else []
        self._lease: Lease | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._guard = threading.Lock()

    # -- life -----------------------------------------------------------------------------------------------------

    def open(self, timeout: float = SESSION_OPEN_S) -> Self:
        """Obtains the lease and starts its thread. Raises what the client raises if that takes over `timeout` s."""
        if self._lease is not None:
            raise RuntimeError("a session is opened once")
        until = monotonic_ns() + int(timeout * SECOND)
        lease = Runner(self.client).run(leases.grant(int(self.ttl * SECOND), until))
        lease.nudge = self._keeper.nudge.set
        self._lease, self._pid = lease, os.getpid()
        self._thread = threading.Thread(target=self._keep, args=(lease,), name="quorumd-session", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Gives up everything that the session holds, and ends its thread. Within a few seconds, whatever happens."""
        lease, thread = self._lease, self._thread
        if lease is None or thread is None or self._pid != os.getpid():
            return
        already_lost = not lease.close()
        self._keeper.nudge.set()
        if thread is not threading.current_thread():
            thread.join()
        if already_lost:
            return
        try:
            Runner(self.client).run(leases.revoke(lease, monotonic_ns() + int(SESSION_CLOSE_S * SECOND)))
        except QuorumdError as error:
            LOG.warning("lease %x was not revoked (%s); it ends by itself within %g s", lease.id, error, self.ttl)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def lease(self) -> Lease:
        """Its lease. Raises RuntimeError before `open`, SessionLost in a forked child."""
        if self._lease is None:
            raise RuntimeError("the session is not open: `with Session(client) as session`, or session.open()")
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
        """Has `listener(reason)` called when the session is lost; if it is already, now and on this thread."""
        with self._guard:
            if not self.lost.is_set():
                self._listeners.append(listener)
                return
        listener(self.lease.lost)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _keep(self, lease: Lease) -> None:
        try:
            self._keeper.run(leases.keep(lease))
        except Exception:
            LOG.exception("the session's thread failed, and the session with it")
            lease.lose("its thread failed")
        if lease.closed:
            return
        with self._guard:
            self.lost.set()
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            try:
                listener(lease.lost)
            except Exception:
                LOG.exception("a listener to the loss of a session failed")

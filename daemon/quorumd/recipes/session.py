"""Sessions of the blocking client: a lease, and the thread that keeps it alive."""

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from quorumd.client.sinceboot import since_boot
from quorumd.errors import QuorumdError
from quorumd.limits import SECOND, SESSION_CLOSE_S, SESSION_OPEN_S, SESSION_TTL_S
from quorumd.recipes import lease as leases
from quorumd.recipes.blocking import Runner
from quorumd.recipes.lease import Lease
from quorumd.recipes.ports import BlockingClient
from quorumd.recipes.sessionbase import SessionBase

LOG: Final = logging.getLogger("quorumd.recipes")
LostListener = Callable[[str], None]
"""Called with the reason when a session is lost: on the session's own thread, so it may block and call the client."""


class Session(SessionBase):
    """What locks, candidacies and memberships live in: they are gone when it is.

        with Session(client, ttl=10.0) as session: ...

    ttl: seconds for which the cluster keeps it without a sign of life; that is how long others wait after a crash, and
    how long a pause of this process may last before it loses what it holds. Nothing is opened before `open` or `with`.
    A lost session stays lost: make a new one. In a forked child the parent's session is not usable, and not harmed.
    """

    HOW_TO_OPEN = "`with Session(client) as session`, or session.open()"

    def __init__(
        self, client: BlockingClient, *, ttl: float = SESSION_TTL_S, on_lost: LostListener | None = None
    ) -> None:
        super().__init__(ttl, since_boot, os.getpid)
        self.client = client
        self.lost = threading.Event()
        """Set when it is lost, at the latest a tenth of the TTL before anybody else can hold what it held; not by
        `close`."""
        self.runner = Runner(client, self.require)
        self._keeper = Runner(client)
        self._listeners: list[LostListener] = [on_lost] if on_lost is not None else []
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    # -- life -----------------------------------------------------------------------------------------------------

    def open(self, timeout: float = SESSION_OPEN_S) -> Self:
        """Obtains the lease and starts its thread. Raises what the client raises if that takes over `timeout` s."""
        if self._lease is not None:
            raise RuntimeError("a session is opened once")
        until = since_boot() + int(timeout * SECOND)
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
        to_revoke = lease.close()
        if thread is not threading.current_thread():
            thread.join()
        if not to_revoke:
            return
        try:
            Runner(self.client).run(leases.revoke(lease, since_boot() + int(SESSION_CLOSE_S * SECOND)))
        except QuorumdError as error:
            LOG.warning("lease %x was not revoked (%s); it ends by itself within %g s", lease.id, error, self.ttl)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- its loss -------------------------------------------------------------------------------------------------

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

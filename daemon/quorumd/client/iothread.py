"""The thread behind the sync client: one protocol, its sockets, and the clock, shared by all callers.

A caller hands its operation to the protocol and sends the datagram itself; the thread receives, repeats, keeps the
session alive and wakes the callers. It is woken early only if a deadline came up that lies before the end of its sleep.
"""

import os
import select
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from secrets import token_bytes
from time import monotonic_ns
from typing import Any, Final

from quorumd.auth import Mac
from quorumd.client.operation import Operation
from quorumd.client.protocol import ClientProtocol
from quorumd.client.sockets import UdpSockets, look_up, resolve_numeric
from quorumd.client.states import State, StateListener
from quorumd.errors import ConnectionLost, Timeout
from quorumd.limits import CLIENT_CLOSE_DEADLINE, CLIENT_FIRST_RETRY, MILLISECOND, SECOND
from quorumd.types import Nanoseconds

ACTIVE: Final = 200 * MILLISECOND  # after an operation the thread wakes often enough that the next need not wake it
LONGEST_SLEEP: Final = 3600 * SECOND
GRACE_S: Final = 1.0  # beyond an operation's deadline, before its caller stops believing in the thread
PACKED_OPS: Final = 32  # this many fire-and-forget operations are sent without waiting for more


class Promise:
    """A future, and how its result follows from the operation."""

    __slots__ = ("convert", "future")

    def __init__(self, convert: Callable[[Operation], Any]) -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()
        self.convert = convert

    def settle(self, operation: Operation) -> None:
        try:
            result = self.convert(operation)
        except Exception as error:  # whatever it is belongs to the caller, not to this thread
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class IoThread:
    """start() opens and runs it, stop() ends it for good. All other methods are for any thread."""

    def __init__(
        self, endpoints: Iterable[str], mac: Mac | None, cluster: int | None, listeners: list[StateListener]
    ) -> None:
        self.protocol = ClientProtocol(
            list(endpoints), entropy=token_bytes, resolve=resolve_numeric, mac=mac, cluster=cluster
        )
        self.joined = threading.Event()
        """A node has answered."""
        self._listeners = listeners
        self._lock = threading.Lock()
        self._sockets = UdpSockets(lambda udp: self._poll.register(udp, select.POLLIN))
        self._poll = select.poll()
        self._wake_fd = -1
        self._asleep_until: Nanoseconds = 0
        self._active_until: Nanoseconds = 0
        self._unpacked = 0  # operations submitted and left for the thread to send
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="quorumd-client", daemon=True)

    def start(self) -> None:
        """Opens what it needs and starts the thread."""
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake_fd, select.POLLIN)
        self.protocol.start(monotonic_ns())
        self._thread.start()

    # -- callers --------------------------------------------------------------------------------------------------

    def call(self, operation: Operation) -> Operation:
        """Performs the operation; it is done when this returns. Raises Timeout only if the thread is stuck or dead."""
        waiter = threading.Lock()
        waiter.acquire()
        operation.waiter = waiter
        self.submit((operation,))
        try:
            if not waiter.acquire(timeout=(operation.deadline - monotonic_ns()) / SECOND + GRACE_S):
                raise Timeout("the client's thread did not end the operation at its deadline")
        finally:
            if not operation.done:
                with self._lock:
                    self.protocol.cancel(operation)
        return operation

    def submit(self, operations: Iterable[Operation], *, lazily: bool = False) -> None:
        """Takes operations and sends them; `lazily`: together with later ones, if answers are under way anyway."""
        now = monotonic_ns()
        with self._lock:
            protocol = self.protocol
            for operation in operations:
                protocol.submit(operation, now)
                self._unpacked += 1
            if lazily and protocol.in_flight and self._unpacked < PACKED_OPS:
                return
            self._unpacked = 0
            protocol.flush(now)
            self._active_until = now + ACTIVE
            due = protocol.next_deadline()
            early = due is not None and due < self._asleep_until
        if early:
            self._wake()
        self._put_out()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            now = monotonic_ns()
            with self._lock:
                due = self.protocol.next_deadline()
                until = now + LONGEST_SLEEP if due is None else max(due, now)
                if now < self._active_until:
                    until = min(until, now + CLIENT_FIRST_RETRY)
                self._asleep_until = until
            events = self._poll.poll((until - now + MILLISECOND - 1) // MILLISECOND)
            if any(fd == self._wake_fd for fd, _ in events):
                self._clear_wake()
            received = self._sockets.drain() if events else []
            now = monotonic_ns()
            with self._lock:
                self._asleep_until = 0
                for datagram, source in received:
                    self.protocol.receive(datagram, source, now)
                self._unpacked = 0
                self.protocol.tick(now)
            self._put_out()
        self._sockets.close()

    def _put_out(self) -> None:
        """Everything the protocol has for the world: datagrams, outcomes, changes of state, names to look up."""
        protocol = self.protocol
        with self._lock:
            datagrams = protocol.take_datagrams()
            completed = protocol.take_completed()
            states = protocol.take_states()
            names, protocol.router.wanted = protocol.router.wanted, set()
        for address, datagram in datagrams:
            self._sockets.send(address, datagram)
        for operation in completed:
            waiter = operation.waiter
            if isinstance(waiter, Promise):
                waiter.settle(operation)
            elif waiter is not None:
                waiter.release()
        if protocol.cluster and not self.joined.is_set():
            self.joined.set()
        for state in states:
            for listener in tuple(self._listeners):
                listener(state)
        if names:
            threading.Thread(target=self._look_up, args=(names,), name="quorumd-resolver", daemon=True).start()

    def _look_up(self, names: Iterable[str]) -> None:
        for name in names:
            address = look_up(name)
            with self._lock:
                self.protocol.router.resolved(name, address)
        self._wake()

    def _wake(self) -> None:
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return  # somebody else's wake-up was read along with this one

    # -- the end --------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Closes the session if it can, ends every operation with ConnectionLost, and waits for the thread."""
        with self._lock:
            farewell = self.protocol.close(monotonic_ns())
            if farewell is not None:
                farewell.waiter = threading.Lock()
                farewell.waiter.acquire()
                self.protocol.flush(monotonic_ns())
        self._wake()
        self._put_out()
        if farewell is not None:
            farewell.waiter.acquire(timeout=2 * CLIENT_CLOSE_DEADLINE / SECOND)
        self.shut_down()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def shut_down(self) -> None:
        """Tells the thread to end, without a farewell and without waiting for it."""
        self._stopping = True
        self._wake()

    def abandon(self) -> None:
        """In a forked child: closes this process's copies of the descriptors. The thread does not exist here."""
        self._sockets.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1


def lost() -> ConnectionLost:
    """What a call on a closed client raises."""
    return ConnectionLost("the client is closed")


__all__ = ["IoThread", "Promise", "State", "lost"]

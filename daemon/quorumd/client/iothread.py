"""The thread behind the sync client: one protocol, its sockets, and the clock, shared by all callers.

A caller hands its operation to the protocol and sends the datagram itself; the thread receives, repeats, keeps the
session alive and wakes the callers. It is woken early only if a deadline came up that lies before the end of its sleep.
"""

import logging
import os
import select
import socket
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
from quorumd.errors import Timeout
from quorumd.limits import CLIENT_CLOSE_DEADLINE, CLIENT_FIRST_RETRY, MILLISECOND, SECOND
from quorumd.types import Nanoseconds

LOG: Final = logging.getLogger("quorumd.client")
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
        self._sockets = UdpSockets(self._watch)
        self._epoll: select.epoll | None = None
        self._wake_fd = -1  # -1: not started, or ended
        self._asleep_until: Nanoseconds = 0
        self._active_until: Nanoseconds = 0
        self._unpacked = 0  # operations submitted and left for the thread to send
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="quorumd-client", daemon=True)

    def start(self) -> None:
        """Opens what it needs and starts the thread."""
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self.protocol.start(monotonic_ns())
        self._thread.start()

    def _watch(self, udp: socket.socket) -> None:
        if self._epoll is not None:
            self._epoll.register(udp, select.EPOLLIN)

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
        epoll = self._epoll
        if epoll is None:
            return
        while not self._stopping:
            now = monotonic_ns()
            until = self._fall_asleep(now)
            events = epoll.poll(max(until - now, 0) / SECOND)
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
                states = self.protocol.take_states()
            self._put_out()
            self._tell(states)
        with self._lock:
            self._release()

    def _fall_asleep(self, now: Nanoseconds) -> Nanoseconds:
        """Until when the thread may sleep; a caller that needs it earlier wakes it."""
        with self._lock:
            due = self.protocol.next_deadline()
            until = now + LONGEST_SLEEP if due is None else due
            if now < self._active_until:
                until = min(until, now + CLIENT_FIRST_RETRY)
            self._asleep_until = until
            return until

    def _put_out(self) -> None:
        """Everything the protocol has for the world: datagrams, outcomes, names to look up."""
        protocol = self.protocol
        with self._lock:
            datagrams = protocol.take_datagrams()
            completed = protocol.take_completed()
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
        if names:
            threading.Thread(target=self._look_up, args=(names,), name="quorumd-resolver", daemon=True).start()

    def _tell(self, states: Iterable[State]) -> None:
        for state in states:
            for listener in tuple(self._listeners):
                try:
                    listener(state)
                except Exception:
                    LOG.exception("a state listener failed; the client goes on")

    def _look_up(self, names: Iterable[str]) -> None:
        for name in names:
            address = look_up(name)
            with self._lock:
                self.protocol.router.resolved(name, address)
        self._wake()

    def _wake(self) -> None:
        with self._lock:  # or the descriptor could be closed, and be another one by now
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
        self._release()

    def _release(self) -> None:
        self._sockets.close()
        if self._epoll is not None:
            self._epoll.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

"""What stands behind the sync client: one protocol, its sockets, a thread and the clock, shared by all callers.

Somebody has to receive, whatever it is and whomever it is for. A caller that waits does it itself if nobody else does:
its answer then costs no change of thread. When it leaves and answers are still to come, the thread takes over; the
thread also repeats what was lost and keeps the session alive while nobody waits. `_receiving` says who receives, and
is given back before callbacks of futures run, which may call the client, close it, or take long.
"""

import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from secrets import token_bytes
from typing import Any, Final, TypeAlias

from quorumd.auth import Mac
from quorumd.client.operation import Operation
from quorumd.client.protocol import ClientProtocol
from quorumd.client.routing import SocketAddress
from quorumd.client.seat import Seat
from quorumd.client.sinceboot import since_boot
from quorumd.client.sockets import UdpSockets, look_up, resolve_numeric
from quorumd.client.states import StateListener
from quorumd.client.watcher import Waiting, WatchBatch, Watcher
from quorumd.errors import Overloaded, Timeout
from quorumd.limits import CLIENT_FIRST_RETRY, CLIENT_QUEUE_OPS, MILLISECOND, SECOND
from quorumd.types import Nanoseconds

LOG: Final = logging.getLogger("quorumd.client")
ACTIVE: Final = 200 * MILLISECOND  # after an operation the thread wakes often enough that the next need not wake it
LONGEST_SLEEP: Final = 3600 * SECOND
LONGEST_WAIT: Final = 100 * MILLISECOND  # a caller looks at its own operation, and for a receiver, at least so often
GRACE: Final = 1 * SECOND  # beyond an operation's deadline, before its caller stops believing in the receiver
_STUCK: Final = (
    "nobody ended the operation at its deadline: the client's thread is stuck or dead, or the machine was suspended"
)
PACKED_OPS: Final = 32  # this many fire-and-forget operations are sent without waiting for more

WATCHED_DATAGRAMS: Final = 32  # taken at once while there are watchers, beside those that are awaited

Output: TypeAlias = tuple[list[tuple[SocketAddress, bytes]], list[Operation], set[str] | None, list[Watcher]]


class Promise:
    """A future, and how its result follows from the operation."""

    __slots__ = ("convert", "future")

    def __init__(self, convert: Callable[[Operation], Any]) -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()
        self.convert = convert

    def settle(self, operation: Operation) -> None:
        """Gives the future its outcome, unless it has it: a settling that was interrupted is begun again."""
        if self.future.done():
            return
        try:
            result = self.convert(operation)
        except Exception as error:  # whatever it is belongs to the caller, not to this thread
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def outcome(self, deadline: Nanoseconds) -> Any:
        """Waits for the result or error; for a Timeout of its own if nobody has settled it a while after `deadline`."""
        try:
            return self.future.exception(max(deadline + GRACE - since_boot(), 0) / SECOND) or self.future.result()
        except TimeoutError:
            return Timeout(_STUCK)


class IoThread:
    """start() opens and runs it, stop() ends it for good. All other methods are for any thread.

    `_lock` guards the protocol and `_wake_fd`, and is held only for computing. Whoever holds `_receiving` may take it.
    """

    def __init__(
        self, endpoints: Iterable[str], mac: Mac | None, cluster: int | None, listeners: list[StateListener]
    ) -> None:
        self.protocol = ClientProtocol(
            list(endpoints), entropy=token_bytes, resolve=resolve_numeric, mac=mac, cluster=cluster
        )
        self.joined = threading.Event()
        """A node has answered."""
        self._has_joined = False
        self._listeners = listeners
        self._lock = threading.Lock()
        self._receiving = Seat()  # of the operation that is waited for, or of the thread
        self._vacated = threading.Event()  # a caller has left `_receiving` to the thread, which wants to end
        self._promised: deque[Operation] = deque()  # done, and their futures are not; submit() keeps it short
        self._settling = Seat()  # who holds it settles what is in `_promised` until there is nothing
        self._sockets = UdpSockets(self._watch)
        self._inbound: select.epoll | None = None  # the sockets
        self._idle: select.epoll | None = None  # the wake-up, and `_inbound` while the thread receives
        self._wake_fd = -1  # -1: not started, or ended
        self._bell: list[int] = []  # another descriptor of the wake-up: whoever takes it out may use and must close it
        self._asleep_until: Nanoseconds = 0  # 0: the thread is awake, and will look at the protocol again
        self._active_until: Nanoseconds = 0
        self._unpacked = 0  # operations submitted and left for the receiver to send
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="quorumd-client", daemon=True)

    def start(self) -> None:
        """Opens what it needs and starts the thread; whatever it raises, nothing is left open."""
        try:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._bell.append(os.dup(self._wake_fd))
            self._inbound, self._idle = select.epoll(), select.epoll()
            self._idle.register(self._wake_fd, select.EPOLLIN)
            self.protocol.start(since_boot())
            self._thread.start()
        except BaseException:
            self.shut_down()
            if self._thread.ident is None:  # else it runs already, and releases everything itself
                self._release()
            raise

    def _watch(self, udp: socket.socket) -> None:
        if self._inbound is not None:
            self._inbound.register(udp, select.EPOLLIN)

    # -- callers --------------------------------------------------------------------------------------------------

    def call(self, operation: Operation) -> Operation:
        """Performs the operation; it is done when this returns. Raises Timeout itself only if the receiver is stuck."""
        waiter = operation.waiter = threading.Lock()
        waiter.acquire()
        try:
            self._submit((operation,))
            self._await(operation, waiter)
        finally:
            if not operation.done:
                with self._lock:
                    self.protocol.cancel(operation)
                    self.protocol.flush(since_boot())  # others may have waited for it
                    output = self._take()
                self._put_out(*output)
        return operation

    def _await(self, operation: Operation, waiter: threading.Lock) -> None:
        """Waits until the operation is done; who waits receives whenever nobody else does. Raises Timeout as call()."""
        try:
            while not operation.done:
                if self._stopping or not self._receive(operation):
                    # Whoever receives now may leave to a thread that is held up by a callback.
                    waiter.acquire(timeout=LONGEST_WAIT / SECOND)
                if not operation.done and since_boot() > operation.deadline + GRACE:
                    raise Timeout(_STUCK)
        except BaseException:
            # A signal's handler may have raised it anywhere: also as one of these was about to be given back.
            self._receiving.leave(operation)
            self._settling.leave(operation)
            self._wake()
            raise

    def _receive(self, operation: Operation) -> bool:
        """Receives until the operation is done, or futures are to be settled; False: somebody else receives."""
        try:
            if not self._receiving.take(operation):
                return False
            self._receive_until_done(operation)
        finally:
            if self._receiving.leave(operation):
                self._hand_over()
        self._settle(operation)
        return True

    def submit(self, operations: Sequence[Operation], *, lazily: bool = False) -> None:
        """Takes operations whose callers do not wait here; `lazily`: they may wait for others to share datagrams.

        All or none: raises Overloaded, ConnectionLost.
        """
        if len(self._promised) > CLIENT_QUEUE_OPS:
            raise Overloaded(f"{CLIENT_QUEUE_OPS} futures wait for a callback to return")
        self._submit(operations, lazily=lazily)
        if not self._receiving.taken:
            self._wake()

    def _submit(self, operations: Sequence[Operation], *, lazily: bool = False) -> None:
        now = since_boot()
        early = False
        with self._lock:
            protocol = self.protocol
            protocol.submit_all(operations, now)
            self._unpacked += len(operations)
            if lazily and protocol.in_flight and self._unpacked < PACKED_OPS:
                return  # whoever receives an answer, or repeats what was lost, sends these along
            self._unpacked = 0
            protocol.flush(now)
            self._active_until = now + ACTIVE
            if self._asleep_until:
                due = protocol.next_deadline()
                # Its sleep does not count a suspend: then it may go on although the time is up.
                early = due is not None and (due < self._asleep_until or self._asleep_until <= now)
            output = self._take()
        if early:
            self._wake()
        self._put_out(*output)

    def watch(self, watcher: Watcher) -> None:
        """Begins to watch. Raises Overloaded, ConnectionLost."""
        with self._lock:
            self.protocol.watching.add(watcher)
            self.protocol.flush(since_boot())
            output = self._take()
        self._wake()
        self._put_out(*output)

    def unwatch(self, watcher: Watcher) -> None:
        """Its user is done with it."""
        with self._lock:
            if self._stopping:
                return
            self.protocol.watching.drop(watcher)
            self.protocol.flush(since_boot())
            output = self._take()
        self._put_out(*output)

    def take_batch(self, watcher: Watcher, taken: list[Waiting] | None = None) -> WatchBatch | None:
        """The watcher's next batch, if it has one. Raises ProtocolError if it is none.

        taken: has it from the moment on at which the watcher has it no more, for put_back().
        """
        output: Output | None = None
        with self._lock:
            paused = watcher.paused
            waiting = self.protocol.watching.pop(watcher, taken)
            if paused is not watcher.paused and not self._stopping:  # it was paused, and goes on
                self.protocol.flush(since_boot())
                output = self._take()
        if output is not None:
            self._put_out(*output)
        return None if waiting is None else waiting.batch()

    def put_back(self, watcher: Watcher, taken: Waiting) -> None:
        """What take_batch() took did not get to its user: it was interrupted, at whatever instruction."""
        with self._lock:
            self.protocol.watching.put_back(watcher, taken)
        self._wake()

    def _receive_until_done(self, operation: Operation) -> None:
        inbound = self._inbound
        if inbound is None:
            return
        while not operation.done and not self._stopping:
            if self._promised and not self._settling.taken:
                return
            now = since_boot()
            with self._lock:
                due = self.protocol.next_deadline()
            until = min(now + LONGEST_WAIT if due is None else due, now + LONGEST_WAIT)
            events = inbound.poll(max(until - now, 0) / SECOND)
            self._turn(bool(events))
            if now > operation.deadline + GRACE:
                return

    def _hand_over(self) -> None:
        """The thread receives from now on, if there is anything to come, or to tell the listeners; or it ends."""
        with self._lock:
            left = self.protocol.in_flight or self.protocol.has_states or self.protocol.watching.active
        if left:
            self._wake()
        if self._stopping:
            self._vacated.set()

    def _turn(self, readable: bool) -> None:
        """Takes in what has arrived (only whoever holds `_receiving` may), and does what is due; then _settle()."""
        received: list[tuple[bytes, SocketAddress]] = []
        if readable:  # no more than was asked for: a receive that finds nothing costs as much as one that does
            watched = WATCHED_DATAGRAMS if self.protocol.watching.active else 0
            received = self._sockets.drain(max(1, self.protocol.in_flight + watched))
        now = since_boot()
        with self._lock:
            for datagram, source in received:
                self.protocol.receive(datagram, source, now)
            self._unpacked = 0
            self.protocol.tick(now)
            output = self._take()
        self._put_out(*output)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        idle, inbound = self._idle, self._inbound
        if idle is None or inbound is None:
            return
        watching = False
        while not self._stopping:
            mine = self._wants_to_receive() and self._receiving.take(self)
            if mine is not watching:
                watching = mine
                if mine:
                    idle.register(inbound.fileno(), select.EPOLLIN)
                else:
                    idle.unregister(inbound.fileno())
            now = since_boot()
            until = self._fall_asleep(now)
            events = idle.poll(max(until - now, 0) / SECOND)
            if any(fd == self._wake_fd for fd, _ in events):
                self._clear_wake()
            with self._lock:
                self._asleep_until = 0
            try:
                self._turn(mine and any(fd != self._wake_fd for fd, _ in events))
            finally:
                self._receiving.leave(self)
            self._settle(self)
            self._tell()
        while not self._receiving.take(self):
            self._vacated.wait(LONGEST_WAIT / SECOND)
        with self._lock:
            self._release()
        self._receiving.leave(self)
        self._settle(self)  # what an interrupted stop() left

    def _wants_to_receive(self) -> bool:
        with self._lock:
            protocol = self.protocol
            awaited = protocol.in_flight > 0 or protocol.watching.active
            return awaited or protocol.router.searching_since is not None

    def _fall_asleep(self, now: Nanoseconds) -> Nanoseconds:
        """Until when the thread may sleep; a caller that needs it earlier wakes it."""
        with self._lock:
            due = self.protocol.next_deadline()
            until = now + LONGEST_SLEEP if due is None else due
            if now < self._active_until:
                until = min(until, now + CLIENT_FIRST_RETRY)
            self._asleep_until = until
            return until

    def _tell(self) -> None:
        with self._lock:
            states = self.protocol.take_states()
        for state in states:
            for listener in tuple(self._listeners):
                try:
                    listener(state)
                except BaseException:  # sys.exit() in it is not meant for this thread, which others wait for
                    LOG.exception("a state listener failed; the client goes on")

    # -- both -----------------------------------------------------------------------------------------------------

    def _take(self) -> Output:
        """What the protocol has for the world. Under the lock."""
        protocol = self.protocol
        router = protocol.router
        names = router.take_wanted() if router.wanted else None
        return protocol.take_datagrams(), protocol.take_completed(), names, protocol.watching.take_news()

    def _put_out(
        self,
        datagrams: list[tuple[SocketAddress, bytes]],
        completed: list[Operation],
        names: set[str] | None,
        watchers: list[Watcher],
    ) -> None:
        """Does what _take() brought; futures are left to _settle(), which whoever receives calls next, or stop()."""
        for address, datagram in datagrams:
            self._sockets.send(address, datagram)
        for operation in completed:
            waiter = operation.waiter
            if isinstance(waiter, Promise):
                self._promised.append(operation)
            elif waiter is not None:
                waiter.release()
        for watcher in watchers:
            watcher.waiter()
        if not self._has_joined and self.protocol.cluster:
            self._has_joined = True
            self.joined.set()
        if names:
            threading.Thread(target=self._look_up, args=(names,), name="quorumd-resolver", daemon=True).start()

    def _settle(self, who: object) -> None:
        """Gives futures their outcome, one after the other. Not holding `_receiving`: their callbacks are the user's.

        What a callback's own calls of the client complete is left to whoever runs it, or the stack would grow with it.
        who: holds `_settling` meanwhile.
        """
        promised = self._promised
        try:
            while promised and self._settling.take(who):
                while promised:
                    try:
                        promised[0].waiter.settle(promised[0])
                    except BaseException:  # of a callback; on a caller's thread perhaps of a signal's handler
                        if who is not self:
                            raise
                        LOG.exception("a callback of a future failed; the client goes on")
                        continue  # to see whether the future has its outcome
                    promised.popleft()
                self._settling.leave(who)
        finally:
            self._settling.leave(who)

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
        """Closes the session if it can, ends every operation with ConnectionLost, and waits for the thread.

        Not for longer than GRACE: a callback of the user's may hold the thread up, which ends once that returns.
        """
        waiter = threading.Lock()
        waiter.acquire()
        with self._lock:
            farewell = self.protocol.close(since_boot())
            if farewell is not None:
                farewell.waiter = waiter
                self.protocol.flush(since_boot())
            output = self._take()
        self._wake()
        try:
            self._put_out(*output)
            self._settle(waiter)
            if farewell is not None:
                with suppress(Timeout):  # a courtesy; the cluster ends the session by itself
                    self._await(farewell, waiter)
        finally:
            self.shut_down()
        if self._thread is not threading.current_thread():
            self._thread.join(GRACE / SECOND)

    def shut_down(self) -> None:
        """Tells the thread to end, without a farewell and without waiting for it.

        It is the finalizer of forgotten clients too, which the garbage collector runs on any thread, at any allocation:
        also on one that holds `_lock`. So it takes no lock, and wakes by a descriptor that nobody closes meanwhile.
        """
        self._stopping = True
        with suppress(IndexError):  # somebody has done so already
            bell = self._bell.pop()
            os.eventfd_write(bell, 1)
            os.close(bell)

    def abandon(self) -> None:
        """In a forked child: closes this process's copies of the descriptors. The thread does not exist here."""
        self._release()

    def _release(self) -> None:
        self._sockets.close()
        for epoll in (self._inbound, self._idle):
            if epoll is not None:
                epoll.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1
        with suppress(IndexError):
            os.close(self._bell.pop())

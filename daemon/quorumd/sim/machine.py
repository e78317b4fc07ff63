"""One simulated computer: a disk that outlives processes, two sockets with bounded buffers, at most one node.

A turn is node.py's turn on simulated ports, step for step: drain the peer socket, notice a stall, one slab of client
datagrams, finish, send; between two turns a leader at rest sends its heartbeats again. Where node.py changes its order,
this changes with it. What a turn does it does at once, and is busy for a while afterwards, on a slow machine for most
of a heartbeat. A pause may strike amid it: after the turn looked at the clock and before it reads its sockets, which is
where most of what it believes of time can be wrong.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from quorumd import limits
from quorumd.core import Core
from quorumd.errors import ConfigError, DiskError, NoRoom
from quorumd.settings import NodeRandom, Settings
from quorumd.sim.disk import PowerCut, SimDisk
from quorumd.sim.network import SimNetwork
from quorumd.sim.world import World, between
from quorumd.types import Address, Nanoseconds, NodeId
from quorumd_fastpath.wire import Slab

SLOTS = 64  # fewer than node.py's: the path of more than one slab a turn is taken too
SLOT_BYTES = limits.SLAB_SLOT_BYTES
BUFFERED = 2048  # datagrams that a socket holds
EPOCH = 1_750_000_000 * limits.SECOND  # what wall clocks show when simulated time is 0
WALL_JUMPS = (limits.SECOND, limits.SECOND, 3_600 * limits.SECOND, 10 * 365 * 86_400 * limits.SECOND)
PEER_SLABS_PER_TURN = 64

Watch = Callable[["Machine"], None]


def peer_address(node: NodeId) -> Address:
    """Where a node's peers reach it."""
    return b"peer%d" % node


def client_address(node: NodeId) -> Address:
    """Where a node's clients reach it."""
    return b"node%d" % node


class Machine:
    """See the module's docstring. `settings(bootstrap)` gives what the next process is told.

    rate: the local monotonic clock is rate x simulated time. wall: by how much the wall clock is wrong in each life.
    turn_ns: how long a turn takes, from and to.
    after_turn: looks at the node after every turn and after every start.
    """

    def __init__(
        self,
        node: NodeId,
        world: World,
        network: SimNetwork,
        disk: SimDisk,
        settings: Callable[[int | bool], Settings],
        rng: random.Random,
        *,
        rate: float = 1.0,
        wall: random.Random,
        turn_ns: tuple[Nanoseconds, Nanoseconds],
    ) -> None:
        self.node = node
        self.world = world
        self.network = network
        self.disk = disk
        self.rng = rng
        self.rate = rate
        self.wall = wall
        self.after_turn: Watch = lambda machine: None
        self.on_event: Callable[[NodeId, str, dict[str, Any]], None] = lambda node, what, detail: None
        self.on_stop: Callable[[Core], None] = lambda core: None
        self.on_failure: Callable[[Machine, Exception], None] = lambda machine, error: None  # before it stops
        self.core: Core | None = None
        self.paused = False
        self.pausing = False  # amid the next turn
        self.failed = ""  # why the last process ended by itself
        self.wants_room = False  # ... and whether it was for a full disk
        self.lives = 0
        self.turns = 0
        self.interrupted = 0  # of them
        self._settings = settings
        self._turn_ns = turn_ns
        self._heartbeat: Nanoseconds = 0
        self._half_heartbeat: Nanoseconds = 0
        self._peer_address = peer_address(node)
        self._client_address = client_address(node)
        self._peers = Slab(SLOTS, SLOT_BYTES)
        self._clients = Slab(SLOTS, SLOT_BYTES)
        self._peer_queue: deque[tuple[bytes, Address]] = deque()
        self._client_queue: deque[tuple[bytes, Address]] = deque()
        self._turn_at: Nanoseconds | None = None  # of the turn that is scheduled
        self._hears_at: Nanoseconds = 0  # local: before it the peer socket is not looked at (Core.hears_at)
        self._beats: list[tuple[bytes, Address]] = []  # what is sent again while the node rests
        self._disk_signalled = False  # since the last turn
        self._idle_until: Nanoseconds = 0  # local: until when the last turn was ready to sleep
        # Of the turn that a pause interrupted: when it began, local, and whether either socket had something then.
        self._interrupted: tuple[Nanoseconds, bool, bool] | None = None
        self._lost: Nanoseconds = 0  # to the last turn, if that was long
        self._busy_until: Nanoseconds = 0
        disk.woke = self._disk_woke
        world.endpoints[self._peer_address] = self._from_peer
        world.endpoints[self._client_address] = self._from_client

    @property
    def clock(self) -> Nanoseconds:
        """The local monotonic clock."""
        return int(self.world.now * self.rate)

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self, *, bootstrap: int | bool = False) -> bool:
        """Starts a node; False if there is one, or if it did not come up (its reason is in `failed`)."""
        if self.core is not None:
            return False
        self.lives += 1
        self.failed, self.wants_room = "", False
        self.paused = self.pausing = False
        settings = self._settings(bootstrap)
        self._heartbeat = settings.consensus.heartbeat_ns
        self._half_heartbeat = self._heartbeat // 2
        rng = random.Random(self.rng.getrandbits(64))
        core = Core(settings, self.disk, NodeRandom(rng.uniform, lambda: rng.getrandbits(64)), self._event)
        # A wall clock that jumps both ways between two lives, by seconds to years. It only makes incarnations unlike.
        jump = self.wall.choice(WALL_JUMPS)
        wall = max(1, EPOCH + self.world.now + self.wall.randint(-jump, jump))
        try:
            core.start(self.clock, wall)
        except (DiskError, ConfigError) as error:
            self.on_failure(self, error)
            self.failed, self.wants_room = str(error), isinstance(error, NoRoom)
            self.world.tell(f"node {self.node}", "did not start", reason=self.failed)
            return False
        except PowerCut:
            self.disk.cut_after = None
            self.disk.lost_power(0.9)
            self.failed = "power lost while starting"
            self.world.tell(f"node {self.node}", self.failed)
            return False
        self.core = core
        self.world.tell(f"node {self.node}", "started", life=self.lives)
        self._idle_until, self._hears_at, self._beats = self.clock, 0, []
        self._interrupted, self._lost = None, 0
        self.after_turn(self)
        self._wake(self.world.now)
        return True

    def _event(self, what: str, **detail: Any) -> None:
        self.world.tell(f"node {self.node}", what, **detail)
        self.on_event(self.node, what, detail)

    def stop(self) -> None:
        """The process is gone; its sockets with it. What becomes of the disk is the caller's to say."""
        if self.core is not None:
            self.on_stop(self.core)
        self.core = None
        self.paused = self.pausing = False
        self._turn_at = None
        self._peer_queue.clear()
        self._client_queue.clear()

    def hand_over(self) -> None:
        """As on SIGTERM: it gives leadership away, and goes on until it is stopped."""
        if self.core is not None and not self.paused:
            self.core.give_away(self.clock)
            self._wake(self.world.now)

    def pause(self, *, amid_turn: bool = False) -> None:
        """SIGSTOP; now, or in the middle of the next turn."""
        if amid_turn:
            self.pausing = True
            return
        self.paused = True
        self._turn_at = None

    def resume(self) -> None:
        """SIGCONT."""
        self.pausing = False
        if self.paused:
            self.paused = False
            self._wake(self.world.now)

    # -- what wakes it ------------------------------------------------------------------------------------------

    def _from_peer(self, data: bytes, source: Address) -> None:
        if self.core is None or len(self._peer_queue) >= BUFFERED:
            return  # nobody listens, or the socket's buffer is full
        self._peer_queue.append((data, source))
        if not self._hears_at:
            self._wake(self.world.now)

    def _from_client(self, data: bytes, source: Address) -> None:
        if self.core is None or len(self._client_queue) >= BUFFERED:
            return  # nobody listens, or the socket's buffer is full
        self._client_queue.append((data, source))
        self._wake(self.world.now)

    def _disk_woke(self, file_work: bool) -> None:
        if self.core is not None:
            self._disk_signalled = True
            self.core.disk_woke |= file_work
            self._wake(self.world.now)

    def _wake(self, when: Nanoseconds) -> None:
        """A turn at `when`, or as soon as the one under way is over; an earlier one that is scheduled stands."""
        when = max(when, self._busy_until)
        if self.paused or (self._turn_at is not None and self._turn_at <= when):
            return
        self._turn_at = when
        self.world.at(when, self._turn, when)

    # -- the turn -----------------------------------------------------------------------------------------------

    def _turn(self, when: Nanoseconds) -> None:
        """The turn that was scheduled for `when`, unless another one took its place since, or the process is gone."""
        core = self.core
        if self._turn_at != when:
            return
        self._turn_at = None
        if core is None:
            return
        woken = self._wakes(core)
        if woken is None:
            return
        began = woken[0]
        self.turns += 1
        try:
            self._inputs(core, *woken)
            core.finish(began, self.clock)
        except DiskError as error:
            self.on_failure(self, error)
            self.world.tell(f"node {self.node}", "stopped", reason=str(error))
            self.failed, self.wants_room = str(error), isinstance(error, NoRoom)
            self.stop()
            return
        due = core.deadline(began)
        self._hears_at = core.hears_at
        sent = core.peer_outbox.drain() if len(core.peer_outbox) else []
        self._beats = sent if core.rests_until >= due + self._heartbeat else []
        self._send(sent, self._peer_address)
        if len(core.client_outbox):
            self._send(core.client_outbox.drain(), self._client_address)
        self._peers.clear()
        self._clients.clear()
        self.after_turn(self)
        self._busy_until = self.world.now + between(self.rng, self._turn_ns)
        ended = int(self._busy_until * self.rate)
        self._lost = ended - began if ended - began > self._half_heartbeat else 0
        self._sleep(ended, due)

    def _wakes(self, core: Core) -> tuple[Nanoseconds, bool, bool] | None:
        """When the turn begins, or began, and whether either socket woke it; None: no turn, or none now."""
        if self._interrupted is not None:
            woken, self._interrupted = self._interrupted, None
            return woken
        now = self.clock
        if self._beats and self._repeats_beats(core, now):
            return None
        woken = now, bool(self._peer_queue) and not self._hears_at, bool(self._client_queue)
        if not self.pausing:
            return woken
        self.pausing, self._interrupted = False, woken
        self.interrupted += 1
        self.pause()
        return None

    def _sleep(self, now: Nanoseconds, due: Nanoseconds) -> None:
        """Until `due`, or what wakes it earlier."""
        self._idle_until = max(due, now)
        # Rounded up: a turn just before its deadline would find nothing to do, again and again.
        wake = self.world.now if due <= now else int(due / self.rate) + 1
        if self._client_queue or (self._peer_queue and not self._hears_at):
            wake = self.world.now
        self._wake(wake)

    def _repeats_beats(self, core: Core, now: Nanoseconds) -> bool:
        """What UdpSocket.repeat does when it wakes; False: it is time for a turn."""
        due = self._idle_until
        woken = self._client_queue or self._disk_signalled
        if woken or now < due or now - due > self._half_heartbeat or due + self._heartbeat > core.rests_until:
            return False
        self._send(self._beats, self._peer_address)
        self._sleep(now, due + self._heartbeat)
        return True

    def _inputs(self, core: Core, now: Nanoseconds, from_peers: bool, from_clients: bool) -> None:
        self._disk_signalled = False
        late = max(now - self._idle_until, 0) + self._lost
        heard_late = late > self._half_heartbeat
        if from_peers or 0 < self._hears_at <= now or heard_late:
            self._drain_peers(core)
        if heard_late:
            core.stalled(now)
        if from_clients:
            for _ in range(min(len(self._client_queue), SLOTS)):
                self._clients.push(*self._client_queue.popleft())
            core.on_clients(self._clients, self.clock)

    def _drain_peers(self, core: Core) -> None:
        for _ in range(PEER_SLABS_PER_TURN):
            count = min(len(self._peer_queue), SLOTS)
            if not count:
                return
            for _ in range(count):
                self._peers.push(*self._peer_queue.popleft())
            core.on_peers(self._peers, self.clock)
            if count < SLOTS:
                return
            core.settle()
            self._peers.clear()

    def _send(self, datagrams: list[tuple[bytes, Address]], own: Address) -> None:
        send = self.network.send
        for data, dest in datagrams:
            send(own, dest, data)

    # -- looking ------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether there is a process, and it is not stopped."""
        return self.core is not None and not self.paused

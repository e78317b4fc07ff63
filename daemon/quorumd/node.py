"""One node on Linux: core.py bound to two UDP sockets, a disk and a clock. One thread, one epoll.

    wait -> drain the peer socket -> one slab of client datagrams -> core.finish -> send both outboxes

The peer socket is drained completely before anything else, so that a node that was stopped learns of a new leader
before it acts on a clock that jumped. A turn longer than half a heartbeat is logged with what it did. While a leader
rests (core.rests_until), the wait itself sends its heartbeats, without Python.

The clock counts the time in which the machine was suspended. By one that stands still meanwhile a leader that resumes
would still believe in its lease for a moment, and not see that it had been away; so it is late, as after SIGSTOP.
"""

import ctypes
import gc
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b

from quorumd import limits
from quorumd.auth import Mac
from quorumd.config import Config, agreement
from quorumd.consensus.engine import Role
from quorumd.consensus.paxos import PaxosConfig
from quorumd.consensus.raft import RaftConfig
from quorumd.core import Core
from quorumd.disk import RealDisk
from quorumd.endpoint import Endpoint
from quorumd.engines import EngineConfig
from quorumd.environment import check_environment, read_key
from quorumd.errors import ConfigError, DiskError, Diverged, NoRoom
from quorumd.eventlog import EventLog, stderr_is
from quorumd.invariants import InvariantBroken
from quorumd.names import UNRESOLVED, Names, look_up
from quorumd.peercodec import BODY_APPEND
from quorumd.settings import NodeRandom, Settings
from quorumd.types import PAXOS, Nanoseconds, NodeId
from quorumd_fastpath.udp import UdpSocket, since_boot
from quorumd_fastpath.wire import Slab

EXIT_OK = 0
EXIT_CONFIG = 2
EXIT_DISK = 4
EXIT_NO_ROOM = 5
EXIT_HALTED = 6

PR_SET_PDEATHSIG = 1
PEER_SLABS_PER_TURN = 64
MAX_EVENTS = 8  # more than the loop has descriptors; the default reserves room for a thousand in every turn


def run_node(config: Config, node_id: NodeId, bootstrap: int | bool | None, parent_pid: int | None) -> int:
    """Runs one node until SIGTERM or SIGINT; the process's exit code.

    bootstrap: a cluster id to found at once, True to found one together with every peer, None to only resume.
    parent_pid: the supervisor; the node dies with it. Raises ConfigError before anything was written.
    """
    if parent_pid is not None and not tie_to_parent(parent_pid):
        return EXIT_OK
    check_environment(config, node_id)
    disk = RealDisk(config.node_path(node_id))
    disk.open()
    path = config.node_path(node_id) / "node.log"
    log = EventLog(
        path,
        f"node-{node_id}",
        config.supervisor.log_max_mib * limits.MIB,
        config.supervisor.log_keep,
        mirror=None if stderr_is(path) else sys.stderr,
        adopt_stdio=True,
    ).open()
    node = Node(config, node_id, disk, log)
    try:
        node.open(bootstrap)
        node.run()
    except ConfigError:
        raise
    except NoRoom as error:
        log.event("no_room", level="error", reason=str(error), remedy="make room; the supervisor tries again")
        return EXIT_NO_ROOM
    except DiskError as error:
        log.event("disk_error", level="error", reason=str(error), remedy="check the disk; the node stays down")
        return EXIT_DISK
    except (Diverged, InvariantBroken) as error:
        log.event("halted", level="error", reason=str(error))
        return EXIT_HALTED
    finally:
        node.close()
        log.close()
    return EXIT_OK


def tie_to_parent(parent_pid: int) -> bool:
    """Asks the kernel to kill this process when its parent dies; False if it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent_pid


def hash_text(text: str) -> int:
    """64 bits that stand for one config key's value in a handshake."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def engine_config(config: Config) -> EngineConfig:
    """The chosen engine's own part of it."""
    common = (
        config.timing.heartbeat_ms * limits.MILLISECOND,
        config.timing.election_timeout_ms * limits.MILLISECOND,
        limits.MAX_APPEND_BYTES,
        config.max_inflight_bytes,
        limits.MAX_INFLIGHT_MESSAGES,
    )
    datagram_bytes = config.mtu_bytes - limits.HEADER_BYTES - limits.MAC_BYTES - BODY_APPEND.size
    if config.engine == PAXOS:
        phase1, phase2 = config.quorum_sizes
        return PaxosConfig(*common, datagram_bytes=datagram_bytes, phase1=phase1, phase2=phase2)
    return RaftConfig(*common, lease_reads=config.raft.lease_reads, datagram_bytes=datagram_bytes)


def node_settings(
    config: Config, node_id: NodeId, bootstrap: int | bool | None, *, mac: bool, family: int
) -> Settings:
    """The config in core.py's terms. family: of the peer socket."""
    peers = {node.id: look_up(node.peer_endpoint, family) or UNRESOLVED for node in config.nodes}
    timing = config.timing
    hashes = {key: hash_text(value) for key, value in agreement(config).items()}
    return Settings(
        node=node_id,
        peers=peers,
        client_addresses={node.id: node.client for node in config.nodes},
        consensus=engine_config(config),
        hashes=hashes,
        mtu_peer=config.mtu_bytes,
        mtu_client=config.mtu_bytes,
        mac_bytes=limits.MAC_BYTES if mac else 0,
        segment_bytes=config.storage.segment_mib * limits.MIB,
        quota_bytes=config.storage.quota_mib * limits.MIB,
        compaction=config.compaction,
        session_ttl=timing.session_ttl_ms * limits.MILLISECOND,
        disk_stall=timing.disk_stall_ms * limits.MILLISECOND,
        bootstrap=bootstrap or False,
    )


class Node:
    """The loop and what it owns. The constructor opens nothing."""

    def __init__(self, config: Config, node_id: NodeId, disk: RealDisk, log: EventLog) -> None:
        self.config = config
        self.node_id = node_id
        self.disk = disk
        self.log = log
        self.stopping = False
        self.turns = 0
        self._heartbeat = config.timing.heartbeat_ms * limits.MILLISECOND
        self._half_heartbeat = self._heartbeat // 2
        self._slow_logged: Nanoseconds = 0
        self._sockets: list[UdpSocket] = []
        self._wake = (-1, -1)
        self._stop_deadline: Nanoseconds = 0

    def open(self, bootstrap: int | bool | None) -> None:
        """Binds the sockets, reads the log. Raises ConfigError, DiskError."""
        key = read_key(self.config)
        self.peer_mac = Mac(key, b"peer") if key else None
        self.client_mac = Mac(key, b"client") if key else None
        member = self.config.node(self.node_id)
        self.peer_socket = self._bind(member.peer_endpoint, "peer")
        self.client_socket = self._bind(member.client_endpoint, "client")
        self.peer_slab = Slab(limits.SLAB_SLOTS, limits.SLAB_SLOT_BYTES)
        self.client_slab = Slab(limits.SLAB_SLOTS, limits.SLAB_SLOT_BYTES)
        seeded = random.SystemRandom()
        self.core = Core(
            node_settings(self.config, self.node_id, bootstrap, mac=key is not None, family=self.peer_socket.family),
            self.disk,
            NodeRandom(seeded.uniform, lambda: seeded.getrandbits(64)),
            self.log.event,
        )
        self.core.start(since_boot(), time.time_ns())
        self.names = Names(
            {node.id: node.peer_endpoint for node in self.config.nodes if node.id != self.node_id},
            self.peer_socket.address,
            self.peer_socket.family,
            max(limits.PEER_LOOK_UP_AFTER, 2 * self.config.timing.election_timeout_ms * limits.MILLISECOND),
            self.log.event,
        )
        self.names.begin(since_boot())
        status = self.core.clients.status
        self.core.clients.status = lambda: {**status(), **self.figures()}
        self.log.event("started", pid=os.getpid(), incarnation=self.core.transport.identity.incarnation)

    def _bind(self, endpoint: Endpoint, plane: str) -> UdpSocket:
        try:
            udp = UdpSocket(endpoint.resolve(), endpoint.port)
        except OSError:
            remedy = "give an address"
            raise ConfigError(f"{self.config.path}: nodes: {endpoint.host} does not resolve; {remedy}") from None
        try:
            udp.open()
        except OSError as error:
            raise ConfigError(
                f"{self.config.path}: nodes: {endpoint} cannot be bound ({error.strerror or error}); "
                "is another node running here? (quorumd status)"
            ) from None
        self._sockets.append(udp)
        wanted = self.config.socket_buffer_kib * limits.KIB
        udp.set_buffers(wanted)
        if udp.receive_buffer < wanted:
            self.log.event(
                "small_socket_buffer",
                level="warning",
                plane=plane,
                bytes=udp.receive_buffer,
                wanted=wanted,
                remedy=f"sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}",
            )
        return udp

    def close(self) -> None:
        """Sockets and threads end; what the WAL was given is written first."""
        for udp in self._sockets:
            udp.close()
        self.disk.close()

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turns until stopped."""
        everything, but_peers = self._pollers()
        gc.collect()
        gc.freeze()
        gc.disable()  # the loop makes no cycles; a collection would only be a pause
        core, disk, names, clock = self.core, self.disk, self.names, since_boot
        peer_fd, client_fd = self.peer_socket.fileno(), self.client_socket.fileno()
        now = clock()
        due, hears_at, resting, lost = core.deadline(now), core.hears_at, False, 0
        while not (self.stopping and self._stopped(now)):
            if resting:
                due = now = self._repeat_beats(but_peers, due)
            wait = max(due - now, 0)
            woken = dict((but_peers if hears_at else everything).poll(wait / 1e9, MAX_EVENTS))
            began = clock()
            if woken and disk.signalled(woken):
                core.disk_woke = True
            late = max(began - now - wait, 0) + lost
            if peer_fd in woken or 0 < hears_at <= began or late > self._half_heartbeat:
                self._drain_peers(clock)
            if late > self._half_heartbeat:
                core.stalled(began)
                self._note("stalled", began, late_ms=late // limits.MILLISECOND)
            staged = self._take_clients(clock) if client_fd in woken else 0
            if began >= names.due:
                names.turn(core.transport, began)
            core.finish(began, clock())
            due, hears_at = core.deadline(began), core.hears_at
            resting = core.rests_until >= due + self._heartbeat
            # The last thing: it wakes the peers, who on a shared core take over with their own memory.
            self._send(keep_beats=resting)
            now = clock()
            lost = now - began if now - began > self._half_heartbeat else 0  # the next turn counts it as a stall
            self.turns += 1
            if now - began > self._half_heartbeat:
                self._note("slow_turn", now, ms=(now - began) // limits.MILLISECOND, datagrams=staged)

    def _pollers(self) -> tuple[select.epoll, select.epoll]:
        """Over everything that wakes the loop, and over all but the peer socket."""
        everything, but_peers = select.epoll(), select.epoll()
        wake, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = (wake, signalled)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        everything.register(self.peer_socket.fileno(), select.EPOLLIN)
        for fd in (self.client_socket.fileno(), *self.disk.filenos(), wake):
            everything.register(fd, select.EPOLLIN)
            but_peers.register(fd, select.EPOLLIN)
        return everything, but_peers

    def _on_signal(self, number: int, frame: object) -> None:
        self.stopping = True

    def _stopped(self, now: Nanoseconds) -> bool:
        """Asked to stop. A leader first hands over, within two election timeouts."""
        engine = self.core.engine
        if engine is None or engine.role is not Role.LEADER or len(self.config.nodes) == 1:
            return True
        if not self._stop_deadline:
            os.read(self._wake[0], 64)
            self._stop_deadline = now + 2 * self.config.timing.election_timeout_ms * limits.MILLISECOND
            self.core.give_away(now)
        return now >= self._stop_deadline

    def _drain_peers(self, clock: Callable[[], Nanoseconds]) -> None:
        core, slab, udp = self.core, self.peer_slab, self.peer_socket
        for _ in range(PEER_SLABS_PER_TURN):
            received = udp.receive(slab)
            if not received:
                return
            if self.peer_mac is not None:
                self.peer_mac.check_slab(slab, core.transport.counters)
            core.on_peers(slab, clock())
            if received < limits.SLAB_SLOTS:
                return
            core.settle()
            slab.clear()

    def _take_clients(self, clock: Callable[[], Nanoseconds]) -> int:
        received = self.client_socket.receive(self.client_slab)
        if received:
            if self.client_mac is not None:
                self.client_mac.check_slab(self.client_slab, self.core.clients.counters)
            self.core.on_clients(self.client_slab, clock())
        return received

    def _repeat_beats(self, poller: select.epoll, due: Nanoseconds) -> Nanoseconds:
        """Sleeps and sends the heartbeats of the last turn again, in C; until when it meant to sleep last."""
        core, late = self.core, self._half_heartbeat
        outbox = core.peer_outbox
        due = self.peer_socket.repeat(outbox, poller.fileno(), due, self._heartbeat, core.rests_until, late)
        outbox.clear()
        return due

    def _send(self, *, keep_beats: bool) -> None:
        core = self.core
        if len(core.peer_outbox):
            if self.peer_mac is not None:
                self.peer_mac.seal_outbox(core.peer_outbox)
            self.peer_socket.send(core.peer_outbox, keep_beats)
        if len(core.client_outbox):
            if self.client_mac is not None:
                self.client_mac.seal_outbox(core.client_outbox)
            self.client_socket.send(core.client_outbox)
        self.peer_slab.clear()
        self.client_slab.clear()

    def _note(self, what: str, now: Nanoseconds, **detail: int) -> None:
        if now - self._slow_logged > limits.SECOND:
            self._slow_logged = now
            self.log.event(what, level="warning", **detail)

    def figures(self) -> Mapping[str, object]:
        """What only this half of the node knows, for the status message."""
        return {
            "pid": os.getpid(),
            "turns": self.turns,
            "syncs": self.disk.syncs,
            "peer_sent": {"datagrams": self.peer_socket.datagrams_sent, "bytes": self.peer_socket.bytes_sent},
            "kernel_drops": {"peer": self.peer_socket.kernel_drops, "client": self.client_socket.kernel_drops},
        }

"""The cluster that is broken: node processes with a config each, the relay between them, their disks.

Each node's config names relay lanes as its peers' addresses, its own address excepted. Its files lie below
node-N/cache, which a Platter (see there) can take power from. All processes end with this one, however it dies: nodes
ask the kernel for that, the relay watches its socket. Made and used on the main thread, which nodes are tied to.
"""

import asyncio
import os
import random
import secrets
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from quorumd import limits
from quorumd.chaos import bitflip, preload
from quorumd.chaos.layout import lane_name, write_configs
from quorumd.chaos.links import PERFECT, Link, LinkState, combine
from quorumd.chaos.platter import Platter, flip
from quorumd.chaos.relay import Relay
from quorumd.client.probe import Status, StatusProbe
from quorumd.config import Config, load_config
from quorumd.environment import has_state, read_key
from quorumd.errors import Stopped
from quorumd.supervisor.policy import NodeExit, describe_exit
from quorumd.supervisor.process import NodeProcess, node_command
from quorumd.types import NOBODY, NodeId

SEGMENT_MIB: Final = 4
"""The least: a run of a minute is to cross segment ends, and to notice a full disk."""
SYNC_US: Final = "1000-15000"
"""How long a sync takes in a run with power loss, so that there is always something to lose."""


class Exit(NamedTuple):
    """A node that ended by itself."""

    node: NodeId
    reason: str


class Disks(NamedTuple):
    """library: the compiled preload library; power: whether writes are held back until a sync; full: ENOSPC at will."""

    library: Path
    power: bool
    full: bool


class _Member:
    """One node."""

    def __init__(self, node: NodeId, config: Config, base: Path, disks: Disks | None) -> None:
        self.id = node
        self.config = config
        log_max_bytes, log_keep = config.supervisor.log_max_mib * limits.MIB, config.supervisor.log_keep
        self.process = NodeProcess(node, config.node_path(node), log_max_bytes, log_keep)
        self.ended = asyncio.Event()
        self.expected = False  # the end of its process is ours
        self.down: set[int] = set()  # injections that keep it down
        self.paused: set[int] = set()
        self.full: set[int] = set()
        self.was_full = False  # its disk, at some time in the life it has now, or in the last one
        self.awaits_room = False  # it ended for want of room on a disk that we had filled
        self.starts = 0
        self.founded = False  # it has voted once: an empty directory from here on is a lost one
        self.status: Status = {}
        self.status_s = 0.0
        self.platter = Platter(base) if disks and disks.power else None
        self.full_path = base / "disk-is-full"
        self.cache = base / "cache"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.environment = self._environment(disks)

    def _environment(self, disks: Disks | None) -> dict[str, str] | None:
        if disks is None:
            return None
        full = self.full_path if disks.full else None
        if self.platter is not None:
            extra = self.platter.environment(disks.library, SYNC_US, full)
        else:
            extra = preload.environment(disks.library, self.cache, full=full)
        return {**os.environ, **extra}


class Damage(NamedTuple):
    """A bit that was flipped: the node must name the file, stay out, and leave it as it is."""

    node: NodeId
    place: bitflip.Place
    content: bytes
    """Of the damaged file."""


class ChaosCluster:
    """A faults.World. `config`: whose settings it has; ids are 1 to `nodes`; everything lies in `directory`."""

    def __init__(self, config: Config, directory: Path, *, nodes: int, seed: int, disks: Disks | None) -> None:
        self.directory = directory
        self.nodes: tuple[NodeId, ...] = tuple(range(1, nodes + 1))
        self.links: tuple[Link, ...] = tuple((one, other) for one in self.nodes for other in self.nodes if one != other)
        self.exits: list[Exit] = []
        self.damage: Damage | None = None
        self._named = False  # by the damaged node, in the life it has now
        self.bulky = False
        """Whether a disk is to be filled: somebody should write a lot."""
        self.problems: list[str] = []
        """What a node said or did that it must not."""
        self._no_room = ""  # the node that ended for want of room on a disk that we had not filled, and its words
        self._effects: dict[int, dict[Link, LinkState]] = {}
        small = replace(config, storage=replace(config.storage, segment_mib=SEGMENT_MIB))
        self._lanes, self._config = write_configs(small, directory, self.nodes, seed)
        self._rng = random.Random(seed)
        self._bootstrap = secrets.randbits(64) | 1
        self._members = {
            node: _Member(node, load_config(directory / f"node-{node}.yaml"), directory / f"node-{node}", disks)
            for node in self.nodes
        }
        self.key = read_key(self._config)
        self._probe = StatusProbe(self._config, self.key)
        self._relay: Relay | None = None

    @property
    def endpoints(self) -> list[str]:
        """Where clients may ask."""
        return self._config.client_endpoints

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """The relay, and every node for the first time. Raises OSError, Stopped."""
        self._relay = Relay(self._lanes)
        self._probe.open()
        asyncio.get_running_loop().add_reader(self._probe.fileno(), self._hear)
        for member in self._members.values():
            self._start(member)

    async def close(self) -> None:
        """No process of ours is left when this returns. Raises Stopped if a node does not end; the rest is closed."""
        try:
            await self._kill(self._members.values())
        finally:
            if self._probe.is_open:
                asyncio.get_running_loop().remove_reader(self._probe.fileno())
            self._probe.close()
            if self._relay is not None:
                self._relay.close()

    def _start(self, member: _Member) -> None:
        bootstrap = None if member.founded or has_state(member.config, [member.id]) else self._bootstrap
        member.ended.clear()
        member.expected = False
        member.was_full = bool(member.full)
        member.awaits_room = False
        member.starts += 1
        if self._is_damaged(member):
            self._named = False  # each life has to name it
        member.process.start(node_command(member.config, member.id, bootstrap), member.environment)
        if member.paused:  # by an injection that outlasts the one that kept it down
            # Stopped before it could ask to end with us, it does so too: the kernel hangs up on an orphaned group.
            member.process.send(signal.SIGSTOP)
        asyncio.get_running_loop().add_reader(member.process.pid_fd, self._reap, member)

    def _reap(self, member: _Member) -> None:
        fd = member.process.pid_fd
        code = member.process.reap()
        if code is None:
            return
        asyncio.get_running_loop().remove_reader(fd)
        member.status = {}
        member.ended.set()
        if code == NodeExit.NO_ROOM and member.was_full:
            member.awaits_room = True
            if not member.expected:  # else whoever wanted to kill it says when it starts
                self._start_if_room(member)  # there may be room since, before its end was seen
        elif not member.expected or code != -signal.SIGKILL:  # it may have ended before it was killed
            words = member.process.last_words()
            ended = Exit(member.id, f"{describe_exit(code)}{': ' if words else ''}{words}")
            if code == NodeExit.NO_ROOM:
                self._no_room = f"node {ended.node} ended: {ended.reason}"
            else:
                self.exits.append(ended)

    def _start_if_room(self, member: _Member) -> None:
        """Starts what ended for want of room that there is again."""
        if member.awaits_room and not member.full and not member.down:
            self._start(member)

    def check_room(self) -> None:
        """Raises Stopped if a node found no room on a disk that nobody filled here: that is no fault of its own."""
        if self._no_room:
            raise Stopped(f"this machine has no room below {self.directory}: {self._no_room}")

    async def _kill(self, members: Iterable[_Member]) -> None:
        running = [member for member in members if member.process.pid is not None]
        for member in running:
            member.expected = True
            member.process.send(signal.SIGKILL)
        for member in running:
            try:
                await asyncio.wait_for(member.ended.wait(), limits.CHAOS_KILL_S)
            except TimeoutError:
                raise Stopped(f"node {member.id} did not end within {limits.CHAOS_KILL_S:g} s of its kill -9") from None

    # -- what it says of itself ---------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Sends every node a STATUS; answers are taken in as they come."""
        self._probe.ask()

    def _hear(self) -> None:
        now_s = time.monotonic()
        for node, status in self._probe.collect().items():
            member = self._members[node]
            if member.process.pid is None or member.process.pid != status.get("pid"):
                continue  # of a life that is over
            member.status, member.status_s = status, now_s
            self._judge(member, status)

    def statuses(self) -> dict[NodeId, Status]:
        """The latest STATUS of each node that answered lately."""
        since_s = time.monotonic() - limits.FIGURES_FRESH_S
        return {node: member.status for node, member in self._members.items() if member.status_s >= since_s}

    def leader(self) -> NodeId:
        """The node that said last that it leads, in the newest term or ballot; 0: none does."""
        leading = {node: status for node, status in self.statuses().items() if status.get("role") == "leader"}
        return max(leading, key=lambda node: _term(leading[node])) if leading else NOBODY

    def states(self) -> dict[NodeId, str]:
        """What is done to each node now, in a word; empty: nothing."""
        return {
            node: "down" if member.down else "paused" if member.paused else "disk full" if member.full else ""
            for node, member in self._members.items()
        }

    def restarts(self) -> dict[NodeId, int]:
        """How often each node was started again."""
        return {node: member.starts - 1 for node, member in self._members.items()}

    def voters(self) -> list[NodeId]:
        """The nodes that nothing keeps out of the quorum for good."""
        return [node for node in self.nodes if self.damage is None or node != self.damage.node]

    # -- what is done to it: faults.World -----------------------------------------------------------------------------

    def _some(self, nodes: Iterable[NodeId]) -> list[_Member]:
        return [self._members[node] for node in nodes]

    async def stop(self, nodes: Iterable[NodeId], number: int) -> None:
        """kill -9 of all at once; they stay down until released. Raises Stopped."""
        members = self._some(nodes)
        for member in members:
            member.down.add(number)
        await self._kill(members)

    async def release(self, nodes: Iterable[NodeId], number: int) -> None:
        """Starts those that nothing else keeps down. Raises OSError."""
        for member in self._some(nodes):
            member.down.discard(number)
            if not member.down and member.process.pid is None:
                self._start(member)

    async def cut_power(self, nodes: Iterable[NodeId]) -> None:
        """Takes away what nodes that are down had not synced."""
        self.check_damaged()
        for member in self._some(nodes):
            if member.platter is not None and member.process.pid is None:
                await asyncio.to_thread(member.platter.cut, random.Random(self._rng.getrandbits(64)))
        if self.damage is not None:  # the power may have taken what the damaged file held besides
            self.damage = self.damage._replace(content=self.damage.place.path.read_bytes())

    def pause(self, nodes: Iterable[NodeId], number: int) -> None:
        """SIGSTOP."""
        for member in self._some(nodes):
            member.paused.add(number)
            member.process.send(signal.SIGSTOP)

    def resume(self, nodes: Iterable[NodeId], number: int) -> None:
        """SIGCONT, unless another pause goes on."""
        for member in self._some(nodes):
            member.paused.discard(number)
            if not member.paused:
                member.process.send(signal.SIGCONT)

    def set_links(self, states: Mapping[Link, LinkState], number: int) -> None:
        """Adds to whatever else is wrong with these links. Raises Stopped if the relay is gone."""
        self._effects[number] = dict(states)
        self._tell_relay(states)

    def clear_links(self, number: int) -> None:
        """Undoes set_links. Raises Stopped if the relay is gone."""
        self._tell_relay(self._effects.pop(number, {}))

    def _tell_relay(self, changed: Iterable[Link]) -> None:
        if self._relay is None:
            return
        effects = self._effects.values()
        self._relay.set_states(
            {lane_name(link): combine(effect.get(link, PERFECT) for effect in effects) for link in changed}
        )

    def fill_disks(self, nodes: Iterable[NodeId], number: int) -> None:
        """No segment can be made from now on."""
        for member in self._some(nodes):
            member.full.add(number)
            member.was_full = True
            member.full_path.touch()
        self.bulky = True

    def empty_disks(self, nodes: Iterable[NodeId], number: int) -> None:
        """There is room again, unless another injection filled it too; starts what ended without. Raises OSError."""
        for member in self._some(nodes):
            member.full.discard(number)
            if not member.full:
                member.full_path.unlink(missing_ok=True)
            self._start_if_room(member)
        self.bulky = any(member.full for member in self._members.values())

    async def wait(self, seconds: float) -> None:
        """Lets time pass."""
        await asyncio.sleep(seconds)

    # -- damaged logs, and others --------------------------------------------------------------------------------------

    async def flip_bit(self, node: NodeId, seed: int) -> None:
        """Kills the node, flips one bit of its log that was known durable, starts it again. Raises ConfigError."""
        member = self._members[node]
        await self._kill([member])
        place = bitflip.choose(member.config.node_path(node), random.Random(seed))
        if member.platter is not None:
            member.platter.damage(*place)
        else:
            flip(*place)
        self.damage = Damage(node, place, place.path.read_bytes())
        if not member.down:
            self._start(member)

    def _judge(self, member: _Member, status: Status) -> None:
        member.founded = member.founded or bool(status.get("voter"))
        if self._is_damaged(member):
            self._judge_damaged(status)
        elif member.founded and not status.get("voter") and status.get("reason"):
            self._object(f"node {member.id} stays out of the quorum, and nobody damaged its log: {status['reason']}")

    def _judge_damaged(self, status: Status) -> None:
        damage = self.damage
        if damage is None:
            return
        if status.get("voter") or status.get("role") == "leader":
            self._object(f"node {damage.node} votes with a damaged log")
        elif damage.place.path.name not in str(status.get("reason")):
            said = status.get("reason")
            self._object(f"node {damage.node} is out of the quorum and does not name the damage: {said!r}")
        else:
            self._named = True

    def _is_damaged(self, member: _Member) -> bool:
        return self.damage is not None and member.id == self.damage.node

    def names_damage(self) -> bool:
        """Whether the node with a damaged log has said so since its last start; True if there is none."""
        return self.damage is None or self._named

    def check_damaged(self) -> None:
        """Notes a problem if the damaged file is no longer as it was found."""
        damage = self.damage
        if damage is None:
            return
        path = damage.place.path
        if not path.exists() or path.read_bytes() != damage.content:
            self._object(f"node {damage.node} changed {path.name}, which is damaged at offset {damage.place.offset}")

    def _object(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _term(status: Status) -> int:
    term = status.get("term")
    return term if isinstance(term, int) else 0


def sentence(statuses: Mapping[NodeId, Status], states: Mapping[NodeId, str]) -> str:
    """Every node in a few words, to say which part is stuck."""
    return "; ".join(f"node {node}: {state or _describe(statuses.get(node))}" for node, state in states.items())


def _describe(status: Status | None) -> str:
    if status is None:
        return "does not answer"
    if not status.get("voter"):
        return f"no voter ({status.get('reason') or 'starting'})"
    figures: dict[str, Any] = {name: status.get(name) for name in ("term", "leader", "commit", "applied", "last")}
    full = ", disk full" if status.get("disk_full") else ""
    return f"{status.get('role')}{full}, " + ", ".join(f"{name} {value}" for name, value in figures.items())

"""Every fault: what it draws, how it is injected and healed, what it needs. Acts on a World, which the tests fake.

Faults overlap: each holds what it did under its own number, and healing one leaves the others at work.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, NamedTuple, Protocol

from quorumd import connectivity
from quorumd.chaos.links import PERFECT, Link, LinkState
from quorumd.errors import Rejected
from quorumd.types import NodeId


class World(Protocol):
    """What faults act on. `number` is the injection's: what it did stays until the same number undoes it."""

    async def stop(self, nodes: Iterable[NodeId], number: int) -> None:
        """kill -9 of all at once; they stay down until released."""
        ...

    async def release(self, nodes: Iterable[NodeId], number: int) -> None:
        """Starts those that nothing else keeps down."""
        ...

    async def cut_power(self, nodes: Iterable[NodeId]) -> None:
        """Takes away what nodes that are down had not synced."""
        ...

    def pause(self, nodes: Iterable[NodeId], number: int) -> None: ...
    def resume(self, nodes: Iterable[NodeId], number: int) -> None: ...
    def set_links(self, states: Mapping[Link, LinkState], number: int) -> None: ...
    def clear_links(self, number: int) -> None: ...
    def fill_disks(self, nodes: Iterable[NodeId], number: int) -> None: ...
    def empty_disks(self, nodes: Iterable[NodeId], number: int) -> None: ...

    async def flip_bit(self, node: NodeId, seed: int) -> None:
        """Kills the node, flips one bit of its log that was known durable, starts it again."""
        ...

    def leader(self) -> NodeId:
        """Who leads, as far as is known; 0: nobody."""
        ...

    async def wait(self, seconds: float) -> None:
        """Lets time pass amid an injection."""
        ...


class Drawn(NamedTuple):
    """What a fault hits. cut_power: what was not synced is lost with the processes; shape: the links, for people."""

    nodes: tuple[NodeId, ...] = ()
    links: tuple[Link, ...] = ()
    state: LinkState = PERFECT
    cut_power: bool = False
    shape: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault at work from begin_s to end_s of its round; None: for the rest of the run."""

    number: int
    fault: str
    begin_s: float
    end_s: float | None
    seed: int
    drawn: Drawn

    @property
    def words(self) -> str:
        """For people: what is broken, and where."""
        drawn = self.drawn
        if drawn.shape:
            where = drawn.shape
        elif drawn.links:
            where = ", ".join(f"{sender}>{receiver}" for sender, receiver in drawn.links)
        else:
            where = "node " + ", ".join(map(str, drawn.nodes))
        state = drawn.state
        figures = [f"{share:.0%}" for share in (state.loss, state.duplicate, state.reorder) if share]
        figures += [f"{state.delay_ms:.0f} ms"] if state.delay_ms else []
        figures += ["and the power fails"] if drawn.cut_power and self.fault != PowerLoss.name else []
        return " ".join([self.fault, *figures, where])


class Fault(ABC):
    """One kind. seconds: how long it lasts; least_nodes: of a cluster that it makes sense in."""

    name: ClassVar[str]
    seconds: ClassVar[tuple[float, float]] = (1.0, 5.0)
    least_nodes: ClassVar[int] = 1
    preloaded: ClassVar[bool] = False
    """Whether it needs the preload library."""

    @abstractmethod
    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        """What to hit. power: whether this run has power loss."""

    def aim(self, injection: Injection, world: World) -> Injection:
        """The injection that is to be made in the world as it is now."""
        return injection

    @abstractmethod
    async def inject(self, world: World, injection: Injection) -> None: ...

    @abstractmethod
    async def heal(self, world: World, injection: Injection) -> None: ...


def _some(rng: random.Random, nodes: Sequence[NodeId]) -> tuple[NodeId, ...]:
    """One node, or now and then several."""
    count = 1 if len(nodes) == 1 or rng.random() < 0.7 else rng.randint(2, len(nodes))
    return tuple(sorted(rng.sample(nodes, count)))


class Kill(Fault):
    """kill -9; the page cache keeps what was written. The process is away for a while."""

    name = "kill"
    seconds = (0.0, 4.0)

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=_some(rng, nodes))

    async def inject(self, world: World, injection: Injection) -> None:
        await world.stop(injection.drawn.nodes, injection.number)
        if injection.drawn.cut_power:
            await world.cut_power(injection.drawn.nodes)

    async def heal(self, world: World, injection: Injection) -> None:
        await world.release(injection.drawn.nodes, injection.number)


class PowerLoss(Kill):
    """Processes are gone, and with them sectors and names that were not synced; half the time on all nodes at once:
    what a majority loses is lost, what a minority loses only tells whether it comes back."""

    name = "power-loss"
    preloaded = True

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=tuple(nodes) if rng.random() < 0.5 else _some(rng, nodes), cut_power=True)


class RestartAll(Kill):
    """Every node at once; in a run with power loss, mostly by a power cut."""

    name = "restart-all"
    seconds = (0.0, 1.0)

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=tuple(nodes), cut_power=power and rng.random() < 0.75)


class Pause(Fault):
    """SIGSTOP, then SIGCONT: the process does not notice that time went by."""

    name = "pause"
    seconds = (0.1, 4.0)

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=_some(rng, nodes))

    async def inject(self, world: World, injection: Injection) -> None:
        world.pause(injection.drawn.nodes, injection.number)

    async def heal(self, world: World, injection: Injection) -> None:
        world.resume(injection.drawn.nodes, injection.number)


class _LinkFault(Fault):
    """Acts on links between nodes, in one direction each."""

    least_nodes = 2

    async def inject(self, world: World, injection: Injection) -> None:
        drawn = injection.drawn
        world.set_links(dict.fromkeys(drawn.links, drawn.state), injection.number)

    async def heal(self, world: World, injection: Injection) -> None:
        world.clear_links(injection.number)


def between(ones: Iterable[NodeId], others: Sequence[NodeId]) -> list[Link]:
    """Both directions of every link from one group to the other."""
    return [link for one in ones for other in others for link in ((one, other), (other, one))]


class Partition(_LinkFault):
    """One node alone, two groups, or two groups that only one node sees both of."""

    name = "partition"

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        shuffled = rng.sample(nodes, len(nodes))
        bridge = len(nodes) > 2 and rng.random() < 0.3
        reached = shuffled[1:] if bridge else shuffled
        cut = rng.randint(1, len(reached) - 1)
        return Drawn(links=tuple(sorted(between(reached[:cut], reached[cut:]))), state=LinkState(cut=True))


class OneWay(_LinkFault):
    """A node that hears and is not heard, or the other way round; or one link in one direction."""

    name = "one-way"

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        node = rng.choice(nodes)
        others = [other for other in nodes if other != node]
        mutes, deafens = [(node, other) for other in others], [(other, node) for other in others]
        links = rng.choice([mutes, deafens, [rng.choice(mutes)]])
        return Drawn(links=tuple(sorted(links)), state=LinkState(cut=True))


class _Around(_LinkFault):
    """A scenario of connectivity.py around the leader of the moment. `nodes` are drawn in an order for their parts."""

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=tuple(rng.sample(nodes, len(nodes))), state=LinkState(cut=True))

    def aim(self, injection: Injection, world: World) -> Injection:
        leader = world.leader()
        nodes = tuple(sorted(injection.drawn.nodes, key=lambda node: node != leader))  # the others keep their order
        links = tuple(connectivity.SCENARIOS[self.name].cut(nodes))
        return replace(injection, drawn=injection.drawn._replace(nodes=nodes, links=links, shape=self.shape(nodes)))

    @abstractmethod
    def shape(self, nodes: Sequence[NodeId]) -> str:
        """What is left, in words."""


class QuorumLoss(_Around):
    """Only one node, not the leader, still hears the others."""

    name = "quorum-loss"
    least_nodes = connectivity.SCENARIOS["quorum-loss"].least_nodes

    def shape(self, nodes: Sequence[NodeId]) -> str:
        return f"all links but those of node {nodes[1]}; node {nodes[0]} led"


class Constrained(_Around):
    """One node first loses sight of the leader only, and falls behind; then the leader is gone and only that node still
    hears the others. Raft cannot elect anybody then."""

    name = "constrained"
    least_nodes = connectivity.SCENARIOS["constrained"].least_nodes
    BEHIND_S: ClassVar[float] = 0.5

    async def inject(self, world: World, injection: Injection) -> None:
        drawn = injection.drawn
        world.set_links(dict.fromkeys(connectivity.behind(drawn.nodes), drawn.state), injection.number)
        await world.wait(self.BEHIND_S)
        await super().inject(world, injection)

    def shape(self, nodes: Sequence[NodeId]) -> str:
        return f"all links but those of node {nodes[1]} behind; node {nodes[0]} led, and is alone"


class Chained(_Around):
    """A row of nodes, the leader at one end: each hears its neighbours and nobody else."""

    name = "chained"
    least_nodes = connectivity.SCENARIOS["chained"].least_nodes

    def shape(self, nodes: Sequence[NodeId]) -> str:
        return f"{'-'.join(map(str, nodes))}; node {nodes[0]} led"


class _Weather(_LinkFault):
    """On all links, those of one node, or one."""

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        links = [(sender, receiver) for sender in nodes for receiver in nodes if sender != receiver]
        node = rng.choice(nodes)
        links = rng.choice([links, [link for link in links if node in link], [rng.choice(links)]])
        return Drawn(links=tuple(links), state=self.strength(rng))

    @abstractmethod
    def strength(self, rng: random.Random) -> LinkState: ...


class Loss(_Weather):
    """Datagrams vanish."""

    name = "loss"

    def strength(self, rng: random.Random) -> LinkState:
        return LinkState(loss=rng.uniform(0.02, 0.3))


class Duplicate(_Weather):
    """Datagrams arrive twice."""

    name = "duplicate"

    def strength(self, rng: random.Random) -> LinkState:
        return LinkState(duplicate=rng.uniform(0.05, 0.5))


class Reorder(_Weather):
    """Datagrams are overtaken by later ones."""

    name = "reorder"

    def strength(self, rng: random.Random) -> LinkState:
        return LinkState(reorder=rng.uniform(0.05, 0.5))


class Delay(_Weather):
    """Datagrams take their time, in order."""

    name = "delay"

    def strength(self, rng: random.Random) -> LinkState:
        return LinkState(delay_ms=rng.uniform(1, 100))


class DiskFull(Fault):
    """No segment can be made; what exists is written on. The clients write a lot meanwhile, or nobody would notice."""

    name = "disk-full"
    seconds = (5.0, 9.0)
    preloaded = True

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=_some(rng, nodes))

    async def inject(self, world: World, injection: Injection) -> None:
        world.fill_disks(injection.drawn.nodes, injection.number)

    async def heal(self, world: World, injection: Injection) -> None:
        world.empty_disks(injection.drawn.nodes, injection.number)


class BitFlip(Fault):
    """One node only, once, late, never healed: until nodes repair each other's logs it stays out of the quorum."""

    name = "bit-flip"
    least_nodes = 3

    def draw(self, rng: random.Random, nodes: Sequence[NodeId], power: bool) -> Drawn:
        return Drawn(nodes=(rng.choice(nodes),))

    async def inject(self, world: World, injection: Injection) -> None:
        await world.flip_bit(injection.drawn.nodes[0], injection.seed)

    async def heal(self, world: World, injection: Injection) -> None:
        """It stays."""


_ALL: Final[tuple[Fault, ...]] = (
    Kill(), Pause(), Partition(), OneWay(), Loss(), Duplicate(), Reorder(), Delay(), DiskFull(), PowerLoss(),
    RestartAll(), BitFlip(), QuorumLoss(), Constrained(), Chained(),
)
FAULTS: Final[dict[str, Fault]] = {fault.name: fault for fault in _ALL}


def parse(text: str, nodes: int) -> tuple[str, ...]:
    """Fault names out of "kill,pause"; "all": every one that fits so many nodes. Raises Rejected."""
    fitting = tuple(name for name, fault in FAULTS.items() if fault.least_nodes <= nodes)
    if text.strip() == "all":
        return fitting
    wanted = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    if not wanted:
        raise Rejected(f"no fault is named; there are: {', '.join(FAULTS)}")
    for name in wanted:
        if name not in FAULTS:
            raise Rejected(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
        if name not in fitting:
            raise Rejected(f"{name} needs at least {FAULTS[name].least_nodes} nodes, this cluster has {nodes}")
    return tuple(wanted)

"""What each fault draws and does, on a world that only notes it."""

import asyncio
import random

import pytest

from quorumd.chaos.faults import FAULTS, Drawn, Injection, parse
from quorumd.chaos.links import LinkState
from quorumd.errors import Rejected

NODES = (1, 2, 3, 4, 5)
SEEDS = range(50)


class Notes:
    """A World."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name in ("stop", "release", "cut_power", "flip_bit", "wait"):
            async def note(*arguments):
                self.calls.append((name, *arguments))
        else:
            def note(*arguments):
                self.calls.append((name, *arguments))
        return note


def drawn(name, seed, nodes=NODES, power=True):
    return FAULTS[name].draw(random.Random(seed), nodes, power)


def made(name, drawn):
    return Injection(number=7, fault=name, begin_s=0.0, end_s=1.0, seed=3, drawn=drawn)


@pytest.mark.parametrize(
    ("name", "drawn", "injected", "healed"),
    [
        ("kill", Drawn((1, 2)), [("stop", (1, 2), 7)], [("release", (1, 2), 7)]),
        ("pause", Drawn((3,)), [("pause", (3,), 7)], [("resume", (3,), 7)]),
        ("power-loss", Drawn((1,), cut_power=True), [("stop", (1,), 7), ("cut_power", (1,))], [("release", (1,), 7)]),
        ("restart-all", Drawn(NODES), [("stop", NODES, 7)], [("release", NODES, 7)]),
        ("disk-full", Drawn((2,)), [("fill_disks", (2,), 7)], [("empty_disks", (2,), 7)]),
        ("bit-flip", Drawn((2,)), [("flip_bit", 2, 3)], []),
        (
            "loss", Drawn(links=((1, 2),), state=LinkState(loss=0.1)),
            [("set_links", {(1, 2): LinkState(loss=0.1)}, 7)], [("clear_links", 7)],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_injected_is_healed(name, drawn, injected, healed):
    world = Notes()
    asyncio.run(FAULTS[name].inject(world, made(name, drawn)))
    assert world.calls == injected
    world.calls.clear()
    asyncio.run(FAULTS[name].heal(world, made(name, drawn)))
    assert world.calls == healed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("nodes", [(1, 2), (1, 2, 3), NODES], ids=len)
def test_a_partition_leaves_no_way_between_two_groups(seed, nodes):
    links = drawn("partition", seed, nodes).links
    assert links and len(set(links)) == len(links)
    assert all((receiver, sender) in links for sender, receiver in links)
    reach = {node: {other for other in nodes if other != node and (node, other) not in links} for node in nodes}
    alone_or_split = any(not reach[node] for node in nodes) or len({frozenset(reach[n] | {n}) for n in nodes}) >= 2
    assert alone_or_split


def test_every_shape_of_partition_is_drawn():
    cut = {len(drawn("partition", seed).links) for seed in SEEDS}
    assert {8, 12} <= cut  # one of five alone; two against three
    assert {6, 8} & cut  # a bridge: one or two of four


@pytest.mark.parametrize("seed", SEEDS)
def test_one_way_never_cuts_both_directions_of_a_link(seed):
    links = drawn("one-way", seed).links
    assert links and not any((receiver, sender) in links for sender, receiver in links)


AROUND = {
    # Node 4 leads; the others keep the order in which they were drawn.
    "quorum-loss": ({(4, 5), (4, 3), (4, 1), (5, 3), (5, 1), (3, 1)}, "all links but those of node 2; node 4 led"),
    "constrained": (
        {(4, 2), (4, 5), (4, 3), (4, 1), (5, 3), (5, 1), (3, 1)},
        "all links but those of node 2 behind; node 4 led, and is alone",
    ),
    "chained": ({(4, 5), (4, 3), (4, 1), (2, 3), (2, 1), (5, 1)}, "4-2-5-3-1; node 4 led"),
}


@pytest.mark.parametrize("name", AROUND)
def test_partial_connectivity_is_made_around_the_leader(name):
    pairs, shape = AROUND[name]
    cut = LinkState(cut=True)
    world = Notes()
    world.leader = lambda: 4
    aimed = FAULTS[name].aim(made(name, Drawn((2, 5, 4, 3, 1), state=cut)), world)
    asyncio.run(FAULTS[name].inject(world, aimed))
    asyncio.run(FAULTS[name].heal(world, aimed))
    all_cut = dict.fromkeys(sorted({link for a, b in pairs for link in ((a, b), (b, a))}), cut)
    first = [("set_links", {(2, 4): cut, (4, 2): cut}, 7), ("wait", 0.5)] if name == "constrained" else []
    assert world.calls == [*first, ("set_links", all_cut, 7), ("clear_links", 7)]
    assert aimed.words == f"{name} {shape}"


@pytest.mark.parametrize("name", AROUND)
def test_without_a_leader_it_is_made_around_whoever_was_drawn_first(name):
    world = Notes()
    world.leader = lambda: 0
    aimed = FAULTS[name].aim(made(name, Drawn((2, 5, 4, 3, 1))), world)
    assert aimed.drawn.nodes == (2, 5, 4, 3, 1)


@pytest.mark.parametrize("name", ["loss", "duplicate", "reorder", "delay"])
@pytest.mark.parametrize("seed", SEEDS)
def test_weather_has_a_strength_and_cuts_nothing(name, seed):
    state = drawn(name, seed).state
    field = {"delay": "delay_ms"}.get(name, name)
    assert getattr(state, field) > 0 and not state.cut
    assert sum(map(bool, state._replace(spread=0.0))) == 1


@pytest.mark.parametrize(
    ("name", "drawn", "words"),
    [
        ("kill", Drawn((1, 2)), "kill node 1, 2"),
        ("loss", Drawn(links=((1, 2),), state=LinkState(loss=0.25)), "loss 25% 1>2"),
        ("delay", Drawn(links=((1, 2), (2, 1)), state=LinkState(delay_ms=9.7)), "delay 10 ms 1>2, 2>1"),
        ("power-loss", Drawn((3,), cut_power=True), "power-loss node 3"),
        ("restart-all", Drawn((1, 2), cut_power=True), "restart-all and the power fails node 1, 2"),
    ],
)
def test_people_read_what_is_broken(name, drawn, words):
    assert made(name, drawn).words == words


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("kill", 3, ("kill",)),
        (" loss, kill,loss ", 3, ("loss", "kill")),
        ("all", 5, tuple(FAULTS)),
        ("all", 3, tuple(name for name in FAULTS if name not in ("quorum-loss", "constrained"))),
        ("all", 2, tuple(FAULTS)[:11]),
    ],
)
def test_faults_are_named_by_commas(text, nodes, expected):
    assert parse(text, nodes) == expected


@pytest.mark.parametrize(
    ("text", "nodes", "complaint"),
    [
        ("", 3, "no fault is named"),
        ("kill,earthquake", 3, "there is no fault 'earthquake'; there are: kill, pause"),
        ("bit-flip", 2, "bit-flip needs at least 3 nodes, this cluster has 2"),
        ("partition", 1, "partition needs at least 2 nodes"),
        ("quorum-loss", 3, "quorum-loss needs at least 4 nodes"),
    ],
)
def test_nonsense_is_named(text, nodes, complaint):
    with pytest.raises(Rejected, match=complaint):
        parse(text, nodes)

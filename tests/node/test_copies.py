"""A numbered request datagram is taken once, in the life of the node that it names, whatever copies of it arrive."""

import json
import random

import pytest
from world import Caller, World

from quorumd import commands, limits
from quorumd.client.channel import Channel
from quorumd.clientplane import ClientPlane
from quorumd.commands import Kind
from quorumd.fragments import Fragmenter
from quorumd_fastpath import wire
from quorumd_fastpath.apply import Store
from quorumd_fastpath.wire import Outbox, Slab

CLUSTER, CLIENT, LIFE = 0xC1, 0xABCDEF, 77
ADDR = b"somewhere"


class Plane:
    """A node's client plane, and what it answers."""

    def __init__(self, incarnation=LIFE):
        self.outbox = Outbox(64, 1 << 16, 65_000)
        self.plane = ClientPlane(1, self.outbox, 65_000, incarnation, Store(1 << 30), random_u64=lambda: 1)
        self.plane.cluster = CLUSTER
        self.outbox.identify(CLUSTER, 1, incarnation)
        self.plane.hello = lambda: {"life": incarnation}

    def hear(self, *datagrams, now=limits.SECOND):
        """Operations that were staged of these, in one turn."""
        slab = Slab(len(datagrams), 65_000)
        for datagram in datagrams:
            slab.push(datagram, ADDR)
        self.plane.collect(slab, now)
        staged = self.plane.stage.writes
        self.plane.stage.clear()
        return staged

    def answers(self):
        """(kind, sender incarnation, body) of the frames that leave."""
        found = [frame for data, _ in self.outbox.drain() for frame in wire.parse_datagram(data)]
        return [(frame.kind, frame.sender_incarnation, body) for frame, body in found]

    @property
    def copies(self):
        return self.plane.counters.as_dict()["replayed"]


def request(number, receiver=LIFE, client=CLIENT, value=b"v"):
    record = commands.encode_record(Kind.COMMAND, bytes(16), 1, 1, commands.encode(commands.Put(b"k", value)))
    return wire.encode_frame(wire.KIND_REQUEST, 0, CLUSTER, 0, 0, client, receiver, 0, number, 0, 1, record)


def test_a_copy_is_not_taken_in_the_same_turn_or_later():
    plane = Plane()
    assert plane.hear(request(1), request(1)) == 1
    assert plane.hear(request(2)) == 1
    assert plane.hear(request(1), request(2), now=30 * limits.SECOND) == 0
    assert plane.copies == 3
    assert plane.hear(request(1, client=CLIENT + 1)) == 1  # another client's first


def test_a_request_for_an_earlier_life_is_answered_with_this_one():
    plane = Plane()
    assert plane.hear(request(5, receiver=LIFE - 1)) == 0
    ((kind, life, body),) = plane.answers()
    assert (kind, life, json.loads(body)) == (wire.KIND_CLIENT_HELLO_REPLY, LIFE, {"life": LIFE})
    assert plane.hear(request(6)) == 1


def test_what_is_not_numbered_is_taken_as_often_as_it_comes():
    plane = Plane()
    assert plane.hear(request(0, receiver=0), request(0, receiver=0)) == 2
    assert plane.copies == 0


@pytest.mark.parametrize("receiver", [LIFE, LIFE - 1])
def test_a_large_request_that_is_put_together_twice_is_taken_once(receiver):
    plane = Plane()
    for first_id in (1, 1001):
        fragmenter = Fragmenter(576, first_id=first_id)
        fragmenter.send(ADDR, request(9, receiver=receiver, value=bytes(900)), limits.SECOND)
        for _, (message_id, number, count, total_bytes, payload) in fragmenter.poll(limits.SECOND):
            slab = Slab(1, 65_000)
            slab.push(
                wire.encode_frame(
                    wire.KIND_FRAGMENT, 0, CLUSTER, 0, 0, CLIENT, 0, message_id, number, total_bytes, count, payload
                ),
                ADDR,
            )
            plane.plane.collect(slab, limits.SECOND)
    hellos = [kind for kind, _, _ in plane.answers() if kind == wire.KIND_CLIENT_HELLO_REPLY]
    assert (plane.plane.stage.writes, plane.copies, len(hellos)) == ((1, 1, 0) if receiver == LIFE else (0, 0, 2))


class Sender:
    """A client's channel and a node's plane, with nothing between them but what a test holds back."""

    def __init__(self):
        self.node = Plane()
        self.channel = Channel(random.Random(1).randbytes, None)
        self.channel.join(CLUSTER, 576)
        self.at = "node"  # the node's address
        self.channel.met(self.at, 1, LIFE)
        self.now = limits.SECOND
        self.staged = 0
        self.queued = 0

    def large(self):
        self.queued += self.channel.send_large(self.at, record(bytes(900)), self.now) is not None

    def small(self):
        self.channel.send_records(self.at, [record(b"v")])

    def out(self):
        self.channel.poll(self.now)
        datagrams, self.channel.datagrams = self.channel.datagrams, []
        return [datagram for _, datagram in datagrams]

    def arrive(self, *datagrams):
        """Some arrive in one turn, and what is acknowledged is heard at once."""
        self.staged += self.node.hear(*datagrams, now=self.now) if datagrams else 0
        for data, _ in self.node.outbox.drain():
            list(self.channel.receive(data, self.at, self.now))


def record(value):
    return commands.encode_record(Kind.COMMAND, bytes(16), 1, 1, commands.encode(commands.Put(b"k", value)))


def test_large_requests_are_no_copies_however_many_small_ones_arrive_before_them():
    sender = Sender()
    sender.large()  # before any small one: nothing of the client is known yet
    sender.large()
    fragments = sender.out()
    for _ in range(300):
        sender.small()
        sender.arrive(*sender.out())
    sender.arrive(*fragments)
    assert (sender.staged, sender.node.copies) == (302, 0)


@pytest.mark.parametrize("send", [Sender.small, Sender.large])
def test_requests_by_another_address_of_a_node_are_no_copies_of_those_before(send):
    """A published address, say, and the one in `members`: to the node, the client is the same."""
    sender = Sender()
    for address, requests in (("node", 300), ("other", 20), ("node", 20)):
        sender.at = address
        sender.channel.met(address, 1, LIFE)
        for _ in range(requests):
            send(sender)
            sender.arrive(*sender.out())
    assert (sender.staged, sender.node.copies) == (340, 0)


def test_each_life_of_each_node_has_numbers_of_its_own():
    """Or a request would be taken for so late as to be a copy, since others were asked so much meanwhile."""
    sender = Sender()
    numbers = []
    for address, node, life in (("node", 1, LIFE), ("other", 2, LIFE), ("node", 1, LIFE), ("node", 1, LIFE + 1)):
        sender.at = address
        sender.channel.met(address, node, life)
        sender.small()
        sender.large()
        (frame, _), *fragments = (next(iter(wire.parse_datagram(datagram))) for datagram in sender.out())
        assert fragments and frame.receiver_incarnation == life
        numbers.append((frame.index, sender.channel._large_numbers[node, life]))
    assert numbers == [(1, 1), (1, 1), (2, 2), (1, 1)]


def test_what_a_node_says_after_a_restart_with_its_clock_set_back_is_no_copy_of_what_it_said_before():
    """Its incarnation is the next number then, and its clients remember the large messages of the life before."""
    world = World(1, mtu=1400)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", bytes(5_000))
    for life in range(3):
        world.stop(1)
        stamp = world.members[1].disk.meta
        world.members[1].disk.meta = stamp._replace(incarnation=max(stamp.incarnation, 1 << 60))  # in the future
        world.start(1)
        world.elect()
        assert world.members[1].core.transport.identity.incarnation == (1 << 60) + 1 + life
        for size in (5_000, 5_000, 9_000):
            assert caller.put(b"k", bytes(size)).revision
            assert caller.get(b"k", within_ms=30) == bytes(size)  # at once, not when it asks again


def test_a_large_request_that_the_next_one_overtakes_is_no_copy():
    sender = Sender()
    sender.large()
    sender.large()
    fragments = sender.out()
    sender.arrive(*fragments[1:], fragments[0])
    assert (sender.staged, sender.node.copies) == (2, 0)


def test_a_large_request_that_lost_a_fragment_is_no_copy_however_many_follow():
    sender = Sender()
    sender.large()
    rest = sender.out()[1:]
    sender.arrive(*rest)
    for _ in range(50):  # each turn more than the queue takes: what is refused has no number
        for _ in range(100):
            sender.large()
        sender.small()
        sender.arrive(*sender.out())
    assert sender.staged == 255 + 50
    sender.now += limits.FRAGMENT_RTO
    while datagrams := sender.out():
        sender.arrive(*datagrams)
    assert sender.staged == sender.queued + 50 > 256 + 50
    assert sender.node.copies == 0


def test_a_copy_of_a_large_request_is_refused_after_its_fragments_are_forgotten():
    sender = Sender()
    sender.large()
    fragments = sender.out()
    sender.arrive(*fragments)
    sender.arrive(*fragments)  # still known as one that was whole
    sender.now += limits.FRAGMENT_DEADLINE + 1
    sender.arrive(*fragments)
    assert (sender.staged, sender.node.copies) == (1, 1)


# -- admin commands ---------------------------------------------------------------------------------------------------


class Operator:
    """Tells nodes of a world to transfer leadership."""

    def __init__(self, world):
        self.world = world
        world.inbox[b"op"] = []

    def tell(self, frame, node):
        """The answer to it."""
        self.world.send(b"op", b"node%d" % node, frame)
        self.world.step(2)
        (data,) = self.world.inbox[b"op"]
        self.world.inbox[b"op"].clear()
        ((reply, body),) = wire.parse_datagram(data)
        asked = wire.parse_datagram(frame)[0][0]
        assert (reply.kind, reply.term, reply.index) == (wire.KIND_ADMIN_REPLY, asked.term, asked.index)
        return json.loads(body)

    def command(self, term, number, to=0):
        body = json.dumps({"command": "transfer-leader", "to": to}).encode()
        cluster = self.world.leader().transport.cluster
        return wire.encode_frame(wire.KIND_ADMIN, 0, cluster, 0, 0, CLIENT, 0, term, number, 0, 0, body)

    def move(self, to, number):
        """Moves leadership; the frame that did it."""
        core = self.world.leader()
        frame = self.command(core.engine.term, number, to)
        assert self.tell(frame, core.settings.node)["ok"]
        self.world.until(lambda: (now := self.world.leader()) is not None and now.settings.node == to)
        return frame

    @property
    def begun(self):
        return len(self.world.has("transfer-started"))


@pytest.mark.usefixtures("either_engine")
def test_a_command_is_carried_out_in_the_term_that_it_names_only():
    world = World(3, seed=31)
    operator, leader = Operator(world), world.elect()
    term = world.leader().engine.term
    for other in (0, term - 1, term + 1):
        answer = operator.tell(operator.command(other, 7), leader)
        assert (answer["ok"], answer["term"]) == (False, term)
    assert not operator.begun
    operator.move(leader % 3 + 1, 7)
    assert operator.begun == 1


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.usefixtures("either_engine")
def test_a_recorded_command_moves_no_leadership_again(remembered):
    world = World(3, seed=32)
    operator, first = Operator(world), world.elect()
    second = first % 3 + 1
    recorded = operator.move(second, 1)
    operator.move(first, 2)
    if not remembered:  # many others came in between
        world.members[first].core.clients._carried_out.clear()
    for _ in range(3):
        assert operator.tell(recorded, first)["ok"] is remembered
        world.step(300)
        assert world.leader().settings.node == first
    assert operator.begun == 2


@pytest.mark.usefixtures("either_engine")
def test_a_copy_of_a_command_that_came_to_nothing_does_not_try_again():
    world = World(3, seed=33)
    operator, leader = Operator(world), world.elect()
    target = leader % 3 + 1
    world.isolate(target)
    command = operator.command(world.leader().engine.term, 1, target)
    assert operator.tell(command, leader)["ok"]
    world.until(lambda: world.has("transfer-aborted"))
    assert operator.tell(command, leader)["ok"]
    assert operator.begun == 1
    again = operator.command(world.leader().engine.term, 2, target)
    assert operator.tell(again, leader)["ok"]
    assert operator.begun == 2

"""Hello, status and admin replies: what exceeds a datagram comes in fragments, once, and who asks puts it together."""

import json
import random
import select
import socket

import pytest
from world import CLUSTER, World

from quorumd import limits
from quorumd.auth import Mac
from quorumd.client.calls import status_operation, transfer_operation
from quorumd.client.channel import Channel, answer_reassembler
from quorumd.client.operation import Operation
from quorumd.client.probe import StatusProbe
from quorumd.client.protocol import ClientProtocol
from quorumd.client.states import State
from quorumd.clientplane import RARE_FRAMES_PER_TURN, ClientPlane, refusal
from quorumd.config import load_config
from quorumd_fastpath import wire
from quorumd_fastpath.apply import Store
from quorumd_fastpath.wire import Outbox, Slab

ADDR, LIFE = b"somewhere", 77
NARROW = [576, 800, 1400]
HOST = ".".join(("x" * 61, "y" * 61, "z" * 61, "w" * 61, "node"))  # with a digit as long as a host name may be
MEMBERS = {str(node): f"{HOST}{node}:65535" for node in range(1, limits.MAX_MEMBERS + 1)}


class Plane:
    """Node 1's client plane: datagrams in, datagrams out."""

    def __init__(self, mtu, mac=None, long=0):
        self.mtu, self.mac = mtu, mac
        self.outbox = Outbox(limits.OUTBOX_DATAGRAMS, 1 << 20, mtu)
        self.outbox.set_tail_room(limits.MAC_BYTES if mac else 0)
        self.plane = ClientPlane(1, self.outbox, mtu, LIFE, Store(1 << 30), random_u64=lambda: 1)
        self.plane.cluster = CLUSTER
        self.outbox.identify(CLUSTER, 1, LIFE)
        self.plane.hello = lambda: {
            "leader": 1, "term": 3, "members": MEMBERS, "mtu": mtu, "session_ttl_ms": 30_000,
        }
        self.plane.status = lambda: {"node": 1, "reason": "r" * long}
        self.plane.admin = lambda _, __: refusal("no: " + "e" * long)

    def hear(self, *datagrams, now=limits.SECOND):
        """What leaves in the turn in which these arrive."""
        slab = Slab(len(datagrams) or 1, 65_000)
        for datagram in datagrams:
            slab.push(self.mac.open(datagram) if self.mac else datagram, ADDR)
        self.plane.collect(slab, now)
        self.plane.finish(now)
        sent = [self.mac.seal(data) if self.mac else data for data, _ in self.outbox.drain()]
        assert all(len(data) <= self.mtu for data in sent)
        return sent


def ask(kind, nonce=5, payload=b""):
    return wire.encode_frame(kind, 0, CLUSTER, 0, 0, 3, 0, 0, nonce, 0, 0, payload)


def put_together(reassembler, datagrams, now=0):
    """The documents of the answers in these."""
    found = []
    for data in datagrams:
        for frame, payload in wire.parse_datagram(data):
            assert frame.kind == wire.KIND_FRAGMENT
            message = reassembler.on_fragment(ADDR, frame, payload, now)[1]
            for inner, body in wire.parse_datagram(message or b""):
                found.append((inner.kind, inner.index, json.loads(body)))
    return found


@pytest.mark.parametrize("mtu", NARROW)
def test_an_answer_that_exceeds_a_datagram_leaves_in_fragments_once(mtu):
    node = Plane(mtu, long=3000)
    sent = node.hear(ask(wire.KIND_STATUS))
    assert len(sent) == -(-(3000 + 123) // (mtu - limits.HEADER_BYTES - 8 - limits.MAC_BYTES))
    expected = (wire.KIND_STATUS_REPLY, 5, node.plane.status())
    assert put_together(answer_reassembler(), reversed(sent)) == [expected]
    # Nothing is kept of it, whether or not anybody is there.
    assert node.plane.deadline() is None
    assert not any(node.hear(now=now * limits.SECOND) for now in range(1, 20))
    assert node.hear(wire.encode_frame(wire.KIND_FRAGMENT_ACK, 0, CLUSTER, 0, 0, 3, 0, LIFE, 0, 0, 3, b"\7")) == []
    assert sum(node.plane.counters.as_dict().values()) == 0


def test_an_answer_that_fits_is_one_datagram():
    node = Plane(576)
    ((frame, body),) = wire.parse_datagram(*node.hear(ask(wire.KIND_STATUS)))
    assert (frame.kind, json.loads(body)) == (wire.KIND_STATUS_REPLY, node.plane.status())


def test_a_forged_question_brings_its_victim_little():
    node = Plane(576)
    node.plane.hello = lambda: {"members": "x" * (limits.MAX_ANSWER_BYTES - 100)}
    assert sum(map(len, node.hear(ask(wire.KIND_CLIENT_HELLO)))) < 1.4 * limits.MAX_ANSWER_BYTES
    node.plane.hello = lambda: {"members": "x" * limits.MAX_ANSWER_BYTES}
    assert node.hear(ask(wire.KIND_CLIENT_HELLO)) == []
    assert node.plane.counters.as_dict()["overflow"] == 1


def test_what_leaves_in_a_turn_is_bounded_however_many_ask():
    node = Plane(576, long=2000)
    sent = node.hear(*[ask(wire.KIND_STATUS)] * 300)
    assert RARE_FRAMES_PER_TURN // 2 < len(sent) < RARE_FRAMES_PER_TURN + 5
    answered = len(put_together(answer_reassembler(), sent))
    assert node.plane.counters.as_dict()["overflow"] == 300 - answered


def test_an_answer_of_which_a_fragment_was_lost_is_asked_for_again():
    node, reassembler = Plane(576, long=2000), answer_reassembler()
    first = node.hear(ask(wire.KIND_STATUS))
    assert put_together(reassembler, first[1:]) == []
    assert len(put_together(reassembler, node.hear(ask(wire.KIND_STATUS)))) == 1
    assert len(reassembler) == 1
    reassembler.expire(limits.FRAGMENT_DEADLINE)
    assert len(reassembler) == 0


@pytest.mark.parametrize("mtu", NARROW)
@pytest.mark.parametrize("mac", [None, Mac(bytes(32), b"client")], ids=["open", "keyed"])
def test_a_client_connects_and_is_answered_however_long_the_answers_are(mtu, mac):
    node = Plane(mtu, mac, long=3000)
    now = limits.SECOND
    client = ClientProtocol(["10.0.0.1:1"], entropy=random.Random(1).randbytes, resolve=lambda text: text, mac=mac)
    client.start(now)
    status = status_operation(1, now + limits.SECOND)
    transfer = transfer_operation(2, now + limits.SECOND)
    client.submit_all([status, transfer], now)
    done: list[Operation] = []
    for _ in range(4):
        client.flush(now)
        for address, datagram in client.take_datagrams():
            for answer in node.hear(datagram, now=now):
                client.receive(answer, address, now)
        done += client.take_completed()
    assert client.state is State.CONNECTED
    assert client.router.members() == {int(node): address for node, address in MEMBERS.items()}
    assert done == [status, transfer]
    assert status.document == node.plane.status()
    assert transfer.document == node.plane.admin({}, 0)
    assert not client.counters
    assert sum(node.plane.counters.as_dict().values()) == 0


def test_fragments_of_strangers_hellos_keep_no_other_message_out():
    channel = Channel(random.Random(1).randbytes, None)
    channel.join(CLUSTER, 576)
    message = wire.encode_frame(wire.KIND_CLIENT_HELLO_REPLY, 0, 9, 1, 0, LIFE, 0, 0, 5, 0, 0, bytes(1000))
    prefix = bytes([wire.KIND_CLIENT_HELLO_REPLY, *bytes(7)])
    for number in range(2000):
        first = wire.encode_frame(
            wire.KIND_FRAGMENT, 0, 9, 1, 0, LIFE, 0, number, 0, len(message), 3, prefix + message[:360]
        )
        assert list(channel.receive(first, number, 0)) == []
    assert not channel.datagrams
    assert channel.counters == {"reassembly_full": 2000 - min(1024, limits.ANSWERS_BYTES // len(message))}
    node = Plane(576)
    node.plane.replies.add(ADDR, 0, 5, 1, 1, 1, bytes(1000))
    found = [frame.kind for data in node.hear() for frame, _ in channel.receive(data, "node", 0)]
    assert found == [wire.KIND_REPLY]


@pytest.mark.parametrize("mtu", NARROW)
def test_a_damaged_node_says_so_at_any_mtu(mtu):
    world = World(3, mtu=mtu)
    world.elect()
    node = world.leader()
    node.out_of_quorum = "the log is damaged: " + "/a/long/path" * 100
    world.inbox[b"me"] = []
    world.send(b"me", b"node%d" % node.settings.node, ask(wire.KIND_STATUS))
    world.step(5)
    ((kind, nonce, document),) = put_together(answer_reassembler(), world.inbox[b"me"])
    assert (kind, nonce, document["reason"]) == (wire.KIND_STATUS_REPLY, 5, node.out_of_quorum)


def test_the_probe_puts_a_status_together(tmp_path):
    node = Plane(576, long=3000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        path = tmp_path / "cluster.yaml"
        port = server.getsockname()[1]
        nodes = f"[{{id: 1, peer: '127.0.0.1:1', client: '127.0.0.1:{port}'}}]"
        path.write_text(f"cluster: test\ndata_dir: state\nnodes: {nodes}\n")
        probe = StatusProbe(load_config(path), None).open()
        try:
            probe.ask()
            datagram, asker = server.recvfrom(65_536)
            for answer in node.hear(datagram):
                server.sendto(answer, asker)
            found = {}
            while not found:
                assert select.select([probe], [], [], 10)[0]
                found.update(probe.collect())
            assert found == {1: node.plane.status()}
        finally:
            probe.close()

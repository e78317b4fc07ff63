"""Peers known by name: looked up again while they are silent, beside the loop, and spoken to where it points."""

import json
import select
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from addresses import free_ports, private_host
from world import World

from quorumd import limits
from quorumd.client import Client
from quorumd.consensus.engine import Role
from quorumd.endpoint import Endpoint
from quorumd.names import UNRESOLVED, Names, look_up
from quorumd.transport import BODY_HELLO, NEVER
from quorumd_fastpath import wire
from quorumd_fastpath.udp import pack_addr
from quorumd_fastpath.wire import Slab

DEADLINE_S = 60.0
SECOND = limits.SECOND
SILENCE = 3 * SECOND
INET = socket.AF_INET


def at(n, port=7001):
    return pack_addr(f"10.0.0.{n}", port)


THIRD = at(3)


class Node:
    """Node 1, at 10.0.0.1, whose peers are `hosts` by id: names with what the resolver says of them now."""

    def __init__(self, hosts=("n2.test", "n3.test"), third=THIRD, run=None):
        self.now = 1000 * SECOND
        self.answers = dict.fromkeys(hosts)
        self.asked, self.events = [], []
        nodes = range(2, len(hosts) + 2)
        self.peers = {
            node: SimpleNamespace(node=node, address=address, heard_at=self.now)
            for node, address in zip(nodes, (at(2), third), strict=True)
        }
        self.identity = SimpleNamespace(node=1)
        endpoints = {node: Endpoint(host, 7001) for node, host in zip(nodes, hosts, strict=True)}
        self.names = Names(
            endpoints, at(1), INET, SILENCE, lambda what, **detail: self.events.append((what, detail)),
            look_up=self.look_up, run=run or (lambda work: work()),
        )  # fmt: skip
        self.names.begin(self.now)

    def look_up(self, endpoint, family):
        assert family == INET
        self.asked.append(endpoint.host)
        return self.answers[endpoint.host]

    def readdress(self, node, address):
        self.peers[node].address = address

    def turns(self, seconds, hears=()):
        """A turn each 10 ms, in which it hears of these peers."""
        for _ in range(round(seconds * 100)):
            self.now += SECOND // 100
            for node in hears:
                self.peers[node].heard_at = self.now
            if self.now >= self.names.due:
                self.names.turn(self, self.now)


def test_a_cluster_in_which_everybody_is_heard_of_looks_up_nothing():
    node = Node()
    node.turns(60, hears=(2, 3))
    assert not node.asked


def test_numeric_addresses_are_never_looked_up():
    node = Node(hosts=("10.0.0.2", "localhost"))
    node.turns(60)
    assert node.names.due == NEVER
    assert not node.asked


def test_the_name_of_a_silent_peer_is_looked_up_now_and_then_and_its_address_taken():
    node = Node()
    node.answers["n3.test"] = at(33)
    node.turns(2.9, hears=(2,))
    assert not node.asked
    node.turns(2, hears=(2,))
    assert node.asked == ["n3.test"]
    assert node.peers[3].address == at(33)
    assert node.events == [("peer_address", {"peer": 3, "from": "10.0.0.3:7001", "to": "10.0.0.33:7001"})]
    node.turns(20, hears=(2,))
    assert set(node.asked) == {"n3.test"}
    assert len(node.asked) <= 1 + 20 // 2
    assert len(node.events) == 1
    before = len(node.asked)
    node.turns(20, hears=(2, 3))
    assert len(node.asked) == before


def test_a_name_without_an_address_leaves_the_peer_where_it_was_and_is_said_now_and_then():
    node = Node(third=UNRESOLVED)
    node.turns(65, hears=(2,))
    assert node.peers[3].address == UNRESOLVED
    said = ("peer_unresolved", {"peer": 3, "level": "warning", "host": "n3.test"})
    assert node.events == [said] * 3
    assert len(node.asked) > 10
    node.answers["n3.test"] = at(3)
    node.turns(4, hears=(2,))
    assert node.peers[3].address == at(3)
    assert node.events[3:] == [("peer_address", {"peer": 3, "from": None, "to": "10.0.0.3:7001"})]


def test_a_name_that_shows_another_address_at_every_look_does_not_fill_the_log():
    node = Node()
    for n in range(30):
        node.answers["n3.test"] = at(100 + n)
        node.turns(2, hears=(2,))
    assert len({event[1]["to"] for event in node.events}) <= 3
    assert node.peers[3].address >= at(120)


def test_members_may_change_places():
    node = Node()
    node.answers = {"n2.test": at(3), "n3.test": at(2)}
    node.turns(6)
    assert (node.peers[2].address, node.peers[3].address) == (at(3), at(2))
    assert all("shared_with" not in detail for _, detail in node.events)


@pytest.mark.parametrize(("address", "shared"), [(at(2), [2]), (at(1), [1])])
def test_an_address_that_another_member_has_is_said_to_be_shared(address, shared):
    node = Node()
    node.answers["n3.test"] = address
    node.turns(6, hears=(2,))
    ((what, detail),) = node.events
    assert (what, detail["level"], detail["shared_with"]) == ("peer_address", "warning", shared)


def test_a_look_up_that_takes_long_holds_up_nothing_and_there_is_one_at_a_time():
    begun = []
    node = Node(run=begun.append)
    node.answers["n3.test"] = at(33)
    node.turns(60, hears=(2,))
    assert len(begun) == 1
    assert node.peers[3].address == at(3)
    thread = threading.Thread(target=begun[0])
    thread.start()
    thread.join()
    assert node.peers[3].address == at(3)  # it is the loop that takes it
    node.turns(0.01, hears=(2,))
    assert node.peers[3].address == at(33)
    node.turns(2.1, hears=(2,))
    assert len(begun) == 2


def test_where_there_can_be_no_thread_it_is_tried_again():
    attempts = []

    def run(work):
        attempts.append(work)
        if len(attempts) < 3:
            raise RuntimeError("can't start new thread")
        work()

    node = Node(run=run)
    node.answers = {"n2.test": at(2), "n3.test": at(33)}
    node.turns(12)
    assert node.peers[3].address == at(33)


def test_an_address_is_of_the_sockets_family_or_none(monkeypatch):
    def answers(host, port, family, kind):
        if family == socket.AF_INET6:
            return [(family, kind, 17, "", ("fe80::1%lo", port, 0, 1))]
        if host == "n6.test":
            raise socket.gaierror(socket.EAI_NONAME, "no address of that family")
        return [(family, kind, 17, "", ("10.0.0.2", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert look_up(Endpoint("n2.test", 7001), INET) == at(2)
    assert look_up(Endpoint("n6.test", 7001), INET) is None
    assert look_up(Endpoint("n2.test", 7001), socket.AF_INET6) is None  # a zone means nothing elsewhere


# -- the transport ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_engine")
def test_a_node_that_started_before_its_peers_had_addresses_finds_them_later():
    world = World(3, seed=41, bootstrap=True)
    world.stop(1)
    world.start(1, bootstrap=True, peers={1: b"peer1", 2: UNRESOLVED, 3: UNRESOLVED})
    world.step(2000)
    assert world.leader() is None
    for node in (2, 3):
        world.members[1].core.transport.readdress(node, b"peer%d" % node)
    world.elect()
    world.until(lambda: world.members[1].core.engine.leader != 0)


@pytest.mark.usefixtures("either_engine")
def test_a_peer_that_came_back_elsewhere_is_greeted_there_at_once_and_goes_on():
    world = World(3, seed=42)
    leader = world.elect()
    moved = leader % 3 + 1
    others = [i for i in world.ids if i != moved]
    world.stop(moved)
    for i in others:
        world.members[i].core.transport.readdress(moved, b"nowhere")
    core = world.start(moved)
    world.step(3000)
    assert core.engine.leader == 0
    for i in others:
        world.members[i].core.transport.readdress(moved, b"peer%d" % moved)
    world.until(lambda: core.engine.leader != 0, within_ms=500)
    assert core.engine.role is Role.FOLLOWER


def test_who_answers_from_the_old_address_proves_nothing():
    world = World(3, seed=43)
    leader = world.elect()
    transport = world.members[leader].core.transport
    peer = transport.peers[leader % 3 + 1]
    known = peer.incarnation
    peer.nonce, peer.hello_due = 4711, 0
    body = BODY_HELLO.pack(4711, *transport.identity.hashes.values(), wire.WIRE_VERSION, wire.WIRE_VERSION, 0)
    reply = wire.encode_frame(
        wire.KIND_HELLO_REPLY, 0, transport.cluster, peer.node, leader, known + 1, transport.identity.incarnation,
        0, 0, 0, 0, body,
    )  # fmt: skip

    def hear():
        slab = Slab(1, 4096)
        slab.push(reply, b"old")
        transport.receive(slab, world.now)
        return peer.incarnation

    transport.readdress(peer.node, b"new")
    assert hear() == known
    peer.nonce = 4711
    assert hear() == known + 1


# -- processes --------------------------------------------------------------------------------------------------------

# argv: config, node, a file with the names that resolve now
RUN_NODE = """
import json, pathlib, socket, sys
config, node, hosts = sys.argv[1:]
ask = socket.getaddrinfo
def resolver(host, *rest, **options):
    known = json.loads(pathlib.Path(hosts).read_text())
    if host not in known:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return ask(known[host], *rest, **options)
socket.getaddrinfo = resolver
from quorumd.config import load_config
from quorumd.node import run_node
sys.exit(run_node(load_config(pathlib.Path(config)), int(node), True, None))
"""


class Cluster:
    """Three node processes that know each other by name, and the names that resolve, here too."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.config = path / "cluster.yaml"
        self.hosts = path / "hosts.json"
        self.key = bytes(range(32))
        self.addresses = {node: private_host() for node in (1, 2, 3)}
        peer, self.port = free_ports(self.addresses[1], 2)  # free on addresses that nobody else has, too
        nodes = [f"  - {{id: {n}, peer: 'n{n}.test:{peer}', client: 'n{n}.test:{self.port}'}}" for n in (1, 2, 3)]
        rest = [f"data_dir: {path}", "key_file: key", "storage: {segment_mib: 4}"]
        self.config.write_text("\n".join(["cluster: names", "nodes:", *nodes, *rest]))
        (path / "key").write_bytes(self.key)
        (path / "key").chmod(0o600)
        for node in (1, 2, 3):
            (path / f"node-{node}").mkdir(mode=0o750)
        self.processes = {}
        ask = socket.getaddrinfo

        def resolver(host, *rest, **options):
            known = json.loads(self.hosts.read_text())
            if host not in known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return ask(known[host], *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolver)

    def resolves(self, *nodes):
        """From now on the names of these."""
        replaced = self.path / "hosts.tmp"
        replaced.write_text(json.dumps({f"n{node}.test": self.addresses[node] for node in nodes}))
        replaced.replace(self.hosts)

    def start(self, *nodes):
        for node in nodes:
            command = [sys.executable, "-B", "-c", RUN_NODE, str(self.config), str(node), str(self.hosts)]
            self.processes[node] = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def stop(self, *nodes):
        for node in nodes:
            self.processes[node].terminate()
        for node in nodes:
            self.processes.pop(node).wait(DEADLINE_S)

    def said(self, node, event, **detail):
        """Waits until the node's log has such an event."""
        log = self.path / f"node-{node}" / "node.log"

        def there():
            records = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
            return any({"event": event, **detail}.items() <= record.items() for record in records)

        until(there, f"{event} {detail} of node {node}")

    def client(self, *nodes):
        endpoints = [f"{self.addresses[node]}:{self.port}" for node in nodes]
        return Client.connect(endpoints, key=self.key, timeout=DEADLINE_S)

    def follows(self, node):
        """Waits until the node knows of a leader."""
        with self.client(node) as client:
            endpoint = f"{self.addresses[node]}:{self.port}"
            until(lambda: client.status(endpoint)["leader"], f"node {node} to follow")


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        select.select([], [], [], 0.02)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = Cluster(tmp_path, monkeypatch)
    yield made
    made.stop(*made.processes)


def test_processes_find_each_other_once_their_names_resolve_and_again_when_one_moves(cluster):
    cluster.resolves(1)
    cluster.start(1)
    cluster.said(1, "peer_unresolved", peer=3, host="n3.test")
    cluster.resolves(1, 2, 3)
    cluster.start(2, 3)
    with cluster.client(1, 2, 3) as client:
        client.put(b"k", b"v")
    cluster.follows(1)
    cluster.stop(3)
    cluster.addresses[3] = private_host()
    cluster.resolves(1, 2, 3)
    cluster.start(3)
    cluster.follows(3)
    for node in (1, 2):
        cluster.said(node, "peer_address", peer=3)
    cluster.stop(1)
    with cluster.client(2, 3) as client:
        client.put(b"k", b"w")

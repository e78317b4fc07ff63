"""What nodes are asked about themselves: by real datagrams, answered here and by nobody else."""

import json
import socket

import pytest
from addresses import private_host

from quorumd import config as configs
from quorumd.client.probe import StatusProbe, resolved, sample
from quorumd.endpoint import Endpoint
from quorumd_fastpath import wire


@pytest.fixture
def node():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind((private_host(), 0))
        found.settimeout(5.0)
        yield found


@pytest.fixture
def config(tmp_path, node):
    host, port = node.getsockname()
    path = tmp_path / "c.yaml"
    path.write_text(
        "cluster: c\ndata_dir: state\nkey_file: never.read\nnodes:\n"
        f"  - {{id: 1, peer: '{host}:1', client: '{host}:{port}'}}\n"
        f"  - {{id: 2, peer: '{host}:2', client: 'gone:{port}'}}\n"
    )
    return configs.load_config(path)


@pytest.fixture(autouse=True)
def names(monkeypatch):
    known = Endpoint.resolve

    def resolve(endpoint):
        if endpoint.host == "gone":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(endpoint)

    monkeypatch.setattr(Endpoint, "resolve", resolve)


def answer(node, **status):
    """Answers the next question."""
    datagram, asker = node.recvfrom(65536)
    ((frame, _),) = wire.parse_datagram(datagram)
    body = json.dumps(status).encode()
    node.sendto(wire.encode_frame(wire.KIND_STATUS_REPLY, 0, 1, 1, 0, 1, 0, 0, frame.index, 0, 0, body), asker)


def test_a_node_whose_name_is_unknown_hides_none_of_the_others(config, node):
    assert list(resolved(config)) == [1]
    probe = StatusProbe(config, None).open()
    try:
        assert probe.unknown == {2}
        question = probe.ask()
        answer(node, role="leader")
        found = {}
        while not found:
            found.update(probe.collect(question))
        assert found == {1: {"role": "leader"}}
    finally:
        probe.close()


def test_that_no_name_is_known_is_said(config, monkeypatch):
    def resolve(endpoint):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(Endpoint, "resolve", resolve)
    with pytest.raises(OSError, match=r"c\.yaml: gone: Name or service not known"):
        resolved(config)


def test_an_answer_to_an_earlier_question_is_none_to_a_later_one(config, node):
    probe = StatusProbe(config, None).open()
    try:
        first = probe.ask()
        answer(node, applied=1)
        assert sample(probe, 1, 0.1) == {}  # only the late answer is there, and it is taken for none
        answer(node, applied=2)
        assert sample(probe, 0, 0.1) == {}
        third = probe.ask()
        assert third == first + 3
    finally:
        probe.close()

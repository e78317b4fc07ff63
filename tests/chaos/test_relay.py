"""The relay as a process, with real sockets."""

import socket
from contextlib import ExitStack, closing

import pytest
from addresses import free_ports, private_host

from quorumd.chaos.links import PERFECT, LinkState
from quorumd.chaos.relay import LaneSettings, Relay

DEADLINE_S = 20.0


class Ends:
    """Two receivers, a relay between them, and whoever sends."""

    def __init__(self, stack, both_ways):
        host = private_host()
        self.at = [(host, port) for port in free_ports(host, 2)]
        self.receivers = [stack.enter_context(closing(self.socket())) for _ in self.at]
        self.sender = stack.enter_context(closing(self.socket()))
        lanes = [
            LaneSettings(f"lane {i}", at, receiver.getsockname(), seed=i, both_ways=both_ways)
            for i, (at, receiver) in enumerate(zip(self.at, self.receivers, strict=True))
        ]
        self.relay = Relay(lanes)
        stack.callback(self.relay.close)

    @staticmethod
    def socket():
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((private_host(), 0))
        udp.settimeout(DEADLINE_S)
        return udp

    def send(self, lane, datagram):
        self.sender.sendto(datagram, self.at[lane])


@pytest.fixture
def ends(request):
    with ExitStack() as stack:
        yield Ends(stack, getattr(request, "param", False))


def test_datagrams_reach_the_end_of_their_lane(ends):
    ends.send(0, b"zero")
    ends.send(1, b"one")
    assert ends.receivers[0].recv(100) == b"zero"
    assert ends.receivers[1].recv(100) == b"one"
    assert ends.relay.counts() == {"lane 0": (1, 0), "lane 1": (1, 0)}


def test_a_cut_lane_passes_nothing_until_it_is_healed_and_others_go_on(ends):
    ends.relay.set_states({"lane 0": LinkState(cut=True)})
    ends.send(0, b"lost")
    ends.send(1, b"passed")
    assert ends.receivers[1].recv(100) == b"passed"
    # The datagram is in the relay's socket already: a few questions later it is counted.
    assert any(ends.relay.counts()["lane 0"] == (0, 1) for _ in range(1000))
    ends.relay.set_states({"lane 0": PERFECT})
    ends.send(0, b"healed")
    assert ends.receivers[0].recv(100) == b"healed"


def test_a_datagram_is_repeated_and_held_back(ends):
    ends.relay.set_states({"lane 0": LinkState(duplicate=1.0, delay_ms=30)})
    ends.send(0, b"twice")
    assert [ends.receivers[0].recv(100) for _ in range(2)] == [b"twice"] * 2
    assert ends.relay.counts()["lane 0"] == (2, 0)


@pytest.mark.parametrize("ends", [True], indirect=True)
def test_a_lane_for_clients_brings_answers_back(ends):
    ends.send(0, b"question")
    question, source = ends.receivers[0].recvfrom(100)
    assert question == b"question"
    ends.receivers[0].sendto(b"answer", source)
    assert ends.sender.recvfrom(100) == (b"answer", ends.at[0])


def test_the_relay_ends_with_its_owner(ends):
    ends.relay._socket.shutdown(socket.SHUT_RDWR)
    assert ends.relay._process.wait(DEADLINE_S) == 0

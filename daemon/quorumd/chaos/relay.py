"""A relay for datagrams, as a process: what stands between nodes whose links are to fail.

    python -m quorumd.chaos.relay --fd N

A lane is an address that is listened on and one to pass on to, with a link model for each direction. One way: for
peers, who know each other by what is in the frames and answer to the configured address, which is another lane. Both
ways: for clients, each of which gets a socket behind the lane.

The owner talks over a socket, one JSON object a line, each answered by one: first the lanes, then {"set": {NAME:
LinkState}} or {"counts": true}. The relay ends when the other end of the socket is gone.
"""

import heapq
import json
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from quorumd.chaos.links import PERFECT, LinkModel, LinkState
from quorumd.errors import Stopped
from quorumd.limits import RELAY_ANSWER_S, RELAY_BATCH, RELAY_CLIENTS, RELAY_HELD_DATAGRAMS, SOCKET_BUFFER_BYTES

Address: TypeAlias = tuple[str, int]


class LaneSettings(NamedTuple):
    """See the module's docstring. The seed is that of the lane's own generator."""

    name: str
    listen: Address
    to: Address
    seed: int
    both_ways: bool = False
    state: LinkState = PERFECT


# -- the process ----------------------------------------------------------------------------------------------------


def bound(address: Address) -> socket.socket:
    """A UDP socket with room for a burst."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    udp.bind(address)
    return udp


class Air:
    """Datagrams on their way, by arrival."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._held: list[tuple[float, int, socket.socket, bytes, Address, Lane]] = []
        self._number = 0  # of datagrams that arrive at the same time, the first sent arrives first

    def send(self, lane: "Lane", model: LinkModel, sender: socket.socket, datagram: bytes, to: Address) -> None:
        """One datagram that the model may lose, repeat or hold back."""
        now_s = self.clock()
        arrivals = model.arrivals(now_s)
        if not arrivals or len(self._held) >= RELAY_HELD_DATAGRAMS:
            lane.dropped += 1
            return
        for arrival_s in arrivals:
            if arrival_s <= now_s:
                lane.deliver(sender, datagram, to)
            else:
                self._number += 1
                heapq.heappush(self._held, (arrival_s, self._number, sender, datagram, to, lane))

    def deliver_due(self) -> float | None:
        """Delivers what has arrived by now; seconds until the next one arrives, None if there is none."""
        while self._held:
            left_s = self._held[0][0] - self.clock()
            if left_s > 0:
                return left_s
            _, _, sender, datagram, to, lane = heapq.heappop(self._held)
            lane.deliver(sender, datagram, to)
        return None


class Lane:
    """One listening socket and those behind it."""

    def __init__(self, settings: LaneSettings, selector: selectors.BaseSelector, air: Air) -> None:
        self.settings = settings
        self.passed = self.dropped = 0
        self._selector = selector
        self._air = air
        self._there = LinkModel(settings.seed, settings.state)
        self._back = LinkModel(settings.seed + 1, settings.state)
        self._front = bound(settings.listen)
        self._behind: dict[Address, socket.socket] = {}
        selector.register(self._front, selectors.EVENT_READ, self.forward)

    def set_state(self, state: LinkState) -> None:
        """Holds for what is sent from now on."""
        self._there.state = self._back.state = state

    def forward(self) -> None:
        """From whoever sends to the lane."""
        for _ in range(RELAY_BATCH):
            try:
                datagram, source = self._front.recvfrom(65536)
            except BlockingIOError:
                return
            sender = self._client(source) if self.settings.both_ways else self._front
            if sender is None:
                self.dropped += 1
            else:
                self._air.send(self, self._there, sender, datagram, self.settings.to)

    def _client(self, source: Address) -> socket.socket | None:
        behind = self._behind.get(source)
        if behind is None and len(self._behind) < RELAY_CLIENTS:
            behind = self._behind[source] = bound((self.settings.listen[0], 0))
            self._selector.register(behind, selectors.EVENT_READ, lambda: self.backward(behind, source))
        return behind

    def backward(self, behind: socket.socket, source: Address) -> None:
        """Answers to a client."""
        for _ in range(RELAY_BATCH):
            try:
                datagram = behind.recv(65536)
            except BlockingIOError:
                return
            self._air.send(self, self._back, self._front, datagram, source)

    def deliver(self, sender: socket.socket, datagram: bytes, to: Address) -> None:
        """The datagram arrives, unless the receiver's buffer is full or nobody is there."""
        try:
            sender.sendto(datagram, to)
        except OSError:
            self.dropped += 1
        else:
            self.passed += 1


def serve(control: socket.socket) -> None:
    """The relay's process: runs until the other end of `control` is gone."""
    lines = control.makefile("rw")
    selector = selectors.DefaultSelector()
    air = Air()
    lanes = {}
    for name, listen, to, seed, both_ways, state in json.loads(lines.readline()):
        settings = LaneSettings(name, tuple(listen), tuple(to), seed, both_ways, LinkState(*state))
        lanes[name] = Lane(settings, selector, air)
    selector.register(control, selectors.EVENT_READ)
    _answer(control, {"ready": True})
    while True:
        for key, _ in selector.select(air.deliver_due()):
            if key.data is not None:
                key.data()
                continue
            line = lines.readline()
            if not line:
                return
            _answer(control, _obey(lanes, json.loads(line)))


def _answer(control: socket.socket, answer: object) -> None:
    control.sendall(json.dumps(answer).encode() + b"\n")


def _obey(lanes: Mapping[str, Lane], order: Mapping[str, Any]) -> object:
    for name, state in order.get("set", {}).items():
        lanes[name].set_state(LinkState(*state))
    return {name: [lane.passed, lane.dropped] for name, lane in lanes.items()} if order.get("counts") else {}


# -- its owner ------------------------------------------------------------------------------------------------------


class Relay:
    """The process, as its owner sees it. Ends with `close`, or with the owner however that dies."""

    def __init__(self, lanes: Sequence[LaneSettings]) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(RELAY_ANSWER_S)
        command = [sys.executable, "-P", "-m", "quorumd.chaos.relay", "--fd", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        self._lines = self._socket.makefile("r")
        try:
            self._ask(lanes)
        except BaseException:
            self.close()
            raise

    def _ask(self, order: object) -> Any:
        """Raises Stopped if the relay is gone, or does not answer."""
        try:
            _answer(self._socket, order)
            line = self._lines.readline()
        except OSError as error:
            raise Stopped(f"the relay between the nodes does not answer: {error}") from None
        if not line:
            raise Stopped("the relay between the nodes is gone")
        return json.loads(line)

    def set_states(self, states: Mapping[str, LinkState]) -> None:
        """Lanes by name. In force when this returns. Raises Stopped."""
        self._ask({"set": states})

    def counts(self) -> dict[str, tuple[int, int]]:
        """(datagrams passed on, datagrams dropped) of each lane by name. Raises Stopped."""
        return {name: (passed, dropped) for name, (passed, dropped) in self._ask({"counts": True}).items()}

    def close(self) -> None:
        """Ends the process."""
        self._lines.close()
        self._socket.close()
        try:
            self._process.wait(RELAY_ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """The process's entry."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    serve(socket.socket(fileno=int(sys.argv[2])))


if __name__ == "__main__":
    main()

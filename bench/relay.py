"""A UDP relay that loses datagrams, as a process: what large.py puts between nodes.

A lane is an address that is listened on and one to pass on to. What arrives is dropped with the given chance, by a
seeded generator of the lane's own. One way: for peers, who know each other by what is in the frames and answer to the
configured address, which is another lane. Both ways: for clients, each of which gets a socket behind the lane.
"""

import multiprocessing
import random
import selectors
import signal
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

Address = tuple[str, int]
BUFFER_BYTES = 16 << 20
BATCH = 64


class LaneSettings(NamedTuple):
    """See the module's docstring."""

    listen: Address
    to: Address
    loss: float
    both_ways: bool
    seed: int


def bound(address: Address) -> socket.socket:
    """A UDP socket with room for a burst."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        udp.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    udp.bind(address)
    return udp


class Lane:
    """One listening socket and those behind it."""

    def __init__(self, settings: LaneSettings, selector: selectors.BaseSelector) -> None:
        self.settings = settings
        self.passed = self.dropped = 0
        self._selector = selector
        self._random = random.Random(settings.seed)
        self._front = bound(settings.listen)
        self._behind: dict[Address, socket.socket] = {}
        selector.register(self._front, selectors.EVENT_READ, self.forward)

    def forward(self) -> None:
        """From whoever sends to the lane."""
        for _ in range(BATCH):
            try:
                datagram, source = self._front.recvfrom(65536)
            except BlockingIOError:
                return
            sender = self._client(source) if self.settings.both_ways else self._front
            self._pass(sender, datagram, self.settings.to)

    def _client(self, source: Address) -> socket.socket:
        behind = self._behind.get(source)
        if behind is None:
            behind = self._behind[source] = bound((self.settings.listen[0], 0))
            self._selector.register(behind, selectors.EVENT_READ, lambda: self.back(behind, source))
        return behind

    def back(self, behind: socket.socket, source: Address) -> None:
        """Answers to a client."""
        for _ in range(BATCH):
            try:
                datagram = behind.recv(65536)
            except BlockingIOError:
                return
            self._pass(self._front, datagram, source)

    def _pass(self, sender: socket.socket, datagram: bytes, to: Address) -> None:
        if self._random.random() < self.settings.loss:
            self.dropped += 1
            return
        try:
            sender.sendto(datagram, to)
        except OSError:
            self.dropped += 1
        else:
            self.passed += 1


def serve(pipe: "Connection[Any, Any]", lanes: Sequence[LaneSettings]) -> None:
    """The relay's process: runs until the other end of the pipe is gone; any word is answered with the counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    open_lanes = [Lane(settings, selector) for settings in lanes]
    selector.register(pipe, selectors.EVENT_READ, None)
    pipe.send("ready")
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                key.data()
                continue
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send([(lane.passed, lane.dropped) for lane in open_lanes])


class Relay:
    """The process, as its owner sees it."""

    def __init__(self, lanes: Sequence[LaneSettings]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, lanes), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def counts(self) -> list[tuple[int, int]]:
        """(datagrams passed on, datagrams dropped) of each lane."""
        self._pipe.send("counts")
        return list(self._pipe.recv())

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)

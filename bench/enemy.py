"""The two processes beside a cluster that hostile.py attacks: a relay on the path, and the enemy who listens there.

The relay forwards what the other nodes and a client send to one node, and shows each datagram to the enemy (who may
miss some: it is UDP). Under a cluster key it also seals what the load says, which knows no key. The enemy keeps the
newest datagrams of every kind, makes hostile ones of them and sends them straight to the node's own two sockets, as
fast as the node takes them: a full receive buffer would drop genuine datagrams and test the kernel.
"""

import errno
import multiprocessing
import random
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "node"))

from hostile_frames import Hostile, Recording  # noqa: E402 - found by the line above

from quorumd.auth import Mac  # noqa: E402

Place = tuple[str, int]
"""Host and UDP port."""

PLANES = ("peer", "client")
BATCH = 64  # datagrams taken from one socket before the next one's turn
BURST = 256  # datagrams sent in a row
QUEUE_BYTES = 256 << 10  # in the node's receive buffer, as the kernel counts them; above it the enemy waits
STUCK_S = 60.0  # a node that takes nothing for so long is gone
ANSWER_S = 600.0
BUFFER_BYTES = 8 << 20


def udp_socket(host: str, port: int = 0) -> socket.socket:
    """A bound, non-blocking socket with large buffers."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    made.bind((host, port))
    made.setblocking(False)
    return made


def arrived(from_socket: socket.socket, most: int) -> Iterable[tuple[bytes, Place]]:
    """What waits in a socket, at most so many datagrams."""
    for _ in range(most):
        try:
            yield from_socket.recvfrom(65_536)
        except OSError:  # nothing more, or an answer that somebody no longer waits for
            return


def send(by_socket: socket.socket, datagram: bytes, to: Place) -> bool:
    """Whether the kernel took it."""
    try:
        by_socket.sendto(datagram, to)
    except OSError:
        return False
    return True


class Actor:
    """A process of its own that obeys one command at a time."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *command: Any) -> Any:
        """Sends a command and waits for its answer. Raises TimeoutError, EOFError if the process is gone."""
        self._pipe.send(command)
        if not self._pipe.poll(ANSWER_S):
            raise TimeoutError(f"{command[0]} takes longer than {ANSWER_S:g} s")
        return self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


# -- the relay ------------------------------------------------------------------------------------------------------


class Lane(NamedTuple):
    """What arrives at `listen` goes on to `to`, what comes back to whoever spoke last; `tap` sees it on the way.

    key: the cluster's, for clients who know none: the relay seals for them, and opens the answers.
    """

    listen: Place
    to: Place
    tap: Place | None = None
    key: bytes | None = None


def relay(pipe: "Connection[Any, Any]", lanes: Sequence[Lane]) -> None:
    """The relay process: until the other end of the pipe is gone. Answers every command with `ready`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    for lane in lanes:
        faces, back = udp_socket(*lane.listen), udp_socket(lane.to[0])
        mac = Mac(lane.key, b"client") if lane.key else None
        last: list[Place] = []
        selector.register(faces, selectors.EVENT_READ, (_forward, lane, faces, back, mac, last))
        selector.register(back, selectors.EVENT_READ, (_return, lane, faces, back, mac, last))
    selector.register(pipe, selectors.EVENT_READ, None)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                try:
                    pipe.recv()
                    pipe.send("ready")
                except (EOFError, OSError):
                    return
            else:
                key.data[0](*key.data[1:])


def _forward(lane: Lane, faces: socket.socket, back: socket.socket, mac: Mac | None, last: list[Place]) -> None:
    for datagram, source in arrived(faces, BATCH):
        last[:] = [source]
        if mac is not None:
            datagram = mac.seal(datagram)
        send(back, datagram, lane.to)
        if lane.tap is not None:
            send(back, datagram, lane.tap)


def _return(_: Lane, faces: socket.socket, back: socket.socket, mac: Mac | None, last: list[Place]) -> None:
    for datagram, _source in arrived(back, BATCH):
        plain = datagram if mac is None else mac.open(datagram)
        if plain is not None and last:
            send(faces, plain, last[0])


# -- the enemy ------------------------------------------------------------------------------------------------------


class Volley(NamedTuple):
    """What was sent: datagrams to each plane's socket, and how long it took."""

    peer: int
    client: int
    seconds: float


class Enemy:
    """Listens at `taps` (peer, client) and attacks `targets` (peer, client)."""

    def __init__(self, taps: Sequence[Place], targets: Sequence[Place], seed: int, *, sealed: bool) -> None:
        rng = random.Random(seed)
        self.targets = targets
        self.taps = [udp_socket(*tap) for tap in taps]
        self.recordings = [Recording() for _ in PLANES]
        self.hostile = [Hostile(rng, recording, sealed=sealed) for recording in self.recordings]
        self.socket = udp_socket(targets[0][0])
        self.listening = True

    def listen(self) -> dict[str, list[int]]:
        """Takes in what passed by, unless it has heard enough; the kinds known of each plane."""
        for tap, recording in zip(self.taps, self.recordings, strict=True):
            for datagram, _ in arrived(tap, 4 * BURST):
                if self.listening:
                    recording.add(datagram)
        return {plane: sorted(kept.by_kind) for plane, kept in zip(PLANES, self.recordings, strict=True)}

    def forget(self, client_frames: Sequence[bytes]) -> None:
        """Begins to record anew; `client_frames` are client datagrams that the load does not send."""
        for recording in self.recordings:
            recording.by_kind.clear()
        for datagram in client_frames:
            self.recordings[1].add(datagram)
        self.listening = True

    def enough(self) -> None:
        """What passes by from now on is not recorded."""
        self.listening = False

    def volley(self, sort: str, count: int, rate: float) -> Volley:
        """`count` datagrams of one sort into each socket, at most `rate` a second in all."""
        begun_s = due_s = time.monotonic()
        sent = [0, 0]
        while sum(sent) < 2 * count:
            self.listen()
            for plane, hostile in enumerate(self.hostile):
                burst = min(BURST, count - sent[plane])
                draw = getattr(hostile, sort)
                datagrams = [draw() for _ in range(burst)]
                self.wait()
                sent[plane] += sum(send(self.socket, datagram, self.targets[plane]) for datagram in datagrams)
                due_s = max(due_s, time.monotonic() - 1.0) + burst / rate
                time.sleep(max(0.0, due_s - time.monotonic()))
            for _answer in arrived(self.socket, BURST):
                pass
        self.wait(0)
        return Volley(sent[0], sent[1], time.monotonic() - begun_s)

    def wait(self, most_bytes: int = QUEUE_BYTES) -> None:
        """Until the node has taken what waits for it. Raises TimeoutError if it takes nothing any more."""
        deadline_s = time.monotonic() + STUCK_S
        while max(waiting_bytes(self.targets)) > most_bytes:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the node reads its sockets no more")
            time.sleep(0.001)


def waiting_bytes(places: Sequence[Place]) -> list[int]:
    """What waits in the receive buffers of the sockets bound to `places`, from /proc/net/udp."""
    names = {f"{int.from_bytes(socket.inet_aton(place[0]), 'little'):08X}:{place[1]:04X}": place for place in places}
    found = dict.fromkeys(places, 0)
    with open("/proc/net/udp") as table:
        for line in table:
            fields = line.split()
            if fields[1] in names:
                found[names[fields[1]]] = int(fields[4].partition(":")[2], 16)
    return list(found.values())


def enemy(
    pipe: "Connection[Any, Any]", taps: Sequence[Place], targets: Sequence[Place], seed: int, sealed: bool
) -> None:
    """The enemy process: until the other end of the pipe is gone. Commands are the methods of Enemy."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = Enemy(taps, targets, seed, sealed=sealed)
    try:
        while True:
            while not pipe.poll(0.02):
                own.listen()
            command, *arguments = pipe.recv()
            pipe.send(getattr(own, command)(*arguments))
    except (EOFError, BrokenPipeError):
        return
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise

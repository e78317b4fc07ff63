"""The leader stopped for five seconds and woken again: no stale linearizable read, no lost write.

    python bench/pause.py --rounds 10

Each key is a register with one writer, which writes increasing numbers. A linearizable read that begins after number
n was acknowledged, or read by anybody, must return n or more, and never more than was asked for. Readers:

- clients of the library, which were talking to the leader when it was stopped;
- in each round new ones that know only the stopped node;
- raw reads, sent straight to the stopped node while it sleeps and in the moment it wakes, each of which it finds in
  its socket before it can know that it no longer leads. It may answer "not the leader", or nothing, or the truth.

Must show 4.
"""

import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from harness import DEADLINE_S, Cluster, Failed, arguments, reported, say

from quorumd.client import Client, Range, RangeResult
from quorumd.commands import Kind, Status, decode, decode_replies, encode, encode_record
from quorumd.errors import Indefinite, QuorumdError
from quorumd_fastpath import wire

REGISTERS = 4
READERS = 3
CALL_S = 30.0
RAW_READS = 20  # into the stopped node's socket, of each register


class History:
    """What was asked for, acknowledged and seen, by register; and what must not have been."""

    def __init__(self) -> None:
        self.issued = [0] * REGISTERS
        self.floor = [0] * REGISTERS  # acknowledged or read: whoever begins to read now must see at least this
        self.reads = 0
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def saw(self, register: int, least: int, value: int, who: str) -> None:
        """A read that began when the floor was `least` returned `value`."""
        with self._lock:
            self.reads += 1
            if value < least:
                self.problems.append(f"{who}: register {register} was {value}, but {least} before the read began")
            if value > self.issued[register]:
                self.problems.append(f"{who}: register {register} was {value}, which nobody wrote")
            self.floor[register] = max(self.floor[register], value)

    def acknowledged(self, register: int, value: int) -> None:
        with self._lock:
            self.floor[register] = max(self.floor[register], value)


def key_of(register: int) -> bytes:
    return b"register/%d" % register


def write(client: Client, history: History, register: int) -> None:
    """One number more. A write without an outcome is repeated with the same number."""
    value = history.issued[register] = history.issued[register] + 1
    while True:
        try:
            client.put(key_of(register), b"%d" % value, timeout=CALL_S)
        except Indefinite:
            continue
        history.acknowledged(register, value)
        return


def read(client: Client, history: History, register: int, who: str) -> None:
    least = history.floor[register]
    found = client.get(key_of(register), timeout=CALL_S)
    history.saw(register, least, int(found.value) if found else 0, who)


def writer(client: Client, history: History, register: int) -> Callable[[int], None]:
    """For Workers."""
    return lambda turn: write(client, history, register)


def reader(client: Client, history: History, who: str) -> Callable[[int], None]:
    """For Workers; takes the registers in turn."""
    return lambda turn: read(client, history, turn % REGISTERS, who)


class Workers:
    """Threads that do one thing again and again until they are stopped."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, act: Callable[[int], None]) -> None:
        """Calls act(0), act(1), ... on a thread of its own."""
        thread = threading.Thread(target=self._run, args=(act,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, act: Callable[[int], None]) -> None:
        turn = 0
        while not self._stop.is_set():
            try:
                act(turn)
            except QuorumdError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            turn += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * CALL_S)


class RawReader:
    """Linearizable reads in single datagrams to one node, whoever leads; never sent again, nothing followed."""

    def __init__(self, cluster_id: int, endpoint: str, history: History) -> None:
        host, _, port = endpoint.rpartition(":")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((host, int(port)))
        self._cluster = cluster_id
        self._session = secrets.token_bytes(16)
        self._history = history
        self._asked: dict[int, tuple[int, int]] = {}  # seq -> register, floor when it was sent
        self.answered = 0
        self.refused = 0

    def ask(self, register: int) -> None:
        seq = len(self._asked) + 1
        self._asked[seq] = (register, self._history.floor[register])
        record = encode_record(Kind.READ, self._session, seq, 0, encode(Range(key_of(register))))
        self._socket.send(wire.encode_frame(wire.KIND_REQUEST, 0, self._cluster, 0, 0, 0, 0, 0, 0, 0, 1, record))

    def collect(self, seconds: float) -> None:
        """Takes in answers until all have come or the time is up."""
        deadline_s = time.monotonic() + seconds
        while self.answered + self.refused < len(self._asked) and (left_s := deadline_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                datagram = self._socket.recv(65536)
            except TimeoutError:
                return
            for frame, payload in wire.parse_datagram(datagram):
                if frame.kind == wire.KIND_REPLY:
                    self._take(payload, frame.count)

    def _take(self, payload: bytes, count: int) -> None:
        for reply in decode_replies(payload, count):
            if reply.status is not Status.OK:
                self.refused += 1
                continue
            register, least = self._asked[reply.seq]
            result = decode(Range(key_of(register)), reply.revision, reply.body)
            if not isinstance(result, RangeResult):
                raise Failed(f"a read was answered with {result!r}")
            self.answered += 1
            self._history.saw(register, least, int(result.kvs[0].value) if result.kvs else 0, "a raw read")

    def close(self) -> None:
        self._socket.close()


def one_round(cluster: Cluster, history: History, seconds: float) -> dict[str, Any]:
    """Stops the leader for so long, while the workers go on."""
    leader = int(cluster.until(cluster.leader, "a leader"))
    cluster_id, before = cluster.cluster_id, list(history.floor)
    reads = history.reads
    with ExitStack() as stack:
        raw = RawReader(cluster_id, cluster.endpoints[leader], history)
        stack.callback(raw.close)
        cluster.signal(leader, signal.SIGSTOP)
        woken_s = time.monotonic() + seconds
        try:
            cluster.until(
                lambda: all(now > then for now, then in zip(history.floor, before, strict=True)), "writes go on"
            )
            newcomer = stack.enter_context(Client([cluster.endpoints[leader]], timeout=CALL_S))
            least, first = history.floor[0], newcomer.get_nowait(key_of(0))
            while (left_s := woken_s - time.monotonic()) > 0:  # the pause itself is what is tried here
                for register in range(REGISTERS):
                    raw.ask(register)
                time.sleep(min(left_s, seconds / RAW_READS))
        finally:
            cluster.signal(leader, signal.SIGCONT)
        for register in range(REGISTERS):
            raw.ask(register)
        found = first.result(2 * CALL_S)
        history.saw(0, least, int(found.value) if found else 0, "a client that waited for the stopped node")
        for turn in range(RAW_READS):
            read(newcomer, history, turn % REGISTERS, "a client that knew only the stopped node")
        raw.collect(1.0)
        cluster.until(lambda: all(map(cluster.caught_up, cluster.members)), "the stopped node has caught up")
        return {
            "raw_answered": raw.answered, "raw_refused": raw.refused, "reads": history.reads - reads,
            "moved": cluster.leader() != leader,
        }


def run(rounds: int, seconds: float, engine: str) -> tuple[History, dict[str, Any]]:
    history = History()
    with Cluster(engine=engine) as cluster, ExitStack() as stack:
        workers = Workers()
        stack.callback(workers.stop)
        for register in range(REGISTERS):
            client = stack.enter_context(cluster.client(DEADLINE_S))
            workers.start(writer(client, history, register))
        for number in range(READERS):
            client = stack.enter_context(cluster.client(DEADLINE_S))
            workers.start(reader(client, history, f"reader {number}"))
        figures = []
        for number in range(rounds):
            figures.append(one_round(cluster, history, seconds))
            say(f"  {number + 1}: {figures[-1]}, {len(history.problems)} problems so far")
        workers.stop()
        with cluster.client(DEADLINE_S) as client:
            for register in range(REGISTERS):
                read(client, history, register, "the last read")
    return history, {
        "rounds": figures, "writes": sum(history.issued), "reads": history.reads,
        "errors": workers.errors[:20], "problems": history.problems[:20],
    }


def main() -> int:
    options = arguments(__doc__ or "", rounds=10, seconds=5.0)
    with reported("pause") as report:
        say(f"SIGSTOP of the leader for {options.seconds:g} s: {options.rounds} rounds")
        history, figures = run(options.rounds, options.seconds, options.engine)
        report.judge("stale reads and lost writes", len(history.problems), most=0)
        report.judge("rounds in which another node took over", sum(each["moved"] for each in figures["rounds"]),
                     least=options.rounds)
        report.judge("calls that failed", len(figures["errors"]), most=0)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())

"""The batched socket on loopback. Ports come from the kernel; waiting is done by poll on the socket itself."""

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys

import pytest

from quorumd_fastpath.udp import UdpSocket, pack_addr, since_boot, unpack_addr
from quorumd_fastpath.wire import Outbox, Slab, parse_datagram

HOSTS = ["127.0.0.1", "::1"]


@pytest.fixture(params=HOSTS)
def pair(request):
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(2):
            udp = UdpSocket(request.param, 0)
            try:
                udp.open()
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and ":" in request.param:
                    pytest.skip("no IPv6 here")
                raise
            stack.callback(udp.close)
            sockets.append(udp)
        yield sockets


def receive_all(udp: UdpSocket, slab: Slab, count: int) -> None:
    """Until `count` datagrams lie in the slab; the deadline only ends a test that has failed."""
    poller = select.poll()
    poller.register(udp.fileno(), select.POLLIN)
    while len(slab) < count:
        assert poller.poll(5000), f"{len(slab)} of {count} datagrams arrived"
        assert udp.receive(slab) > 0


def frame(outbox: Outbox, addr: bytes, payload: bytes) -> None:
    assert outbox.frame(addr, 20, 0, 0, 0, 1, 2, 3, 0, payload)


def payloads(slab: Slab) -> list[bytes]:
    return [payload for i in range(len(slab)) for _, payload in parse_datagram(bytes(slab.view(i)))]


def test_batches_arrive_in_order_with_their_sender(pair):
    sender, receiver = pair
    outbox, slab = Outbox(64, 1 << 20, 200), Slab(64, 4096)
    sent = [b"%d" % i * 30 for i in range(50)]
    for turn in range(3):  # the prepared message headers are used again
        for payload in sent:
            frame(outbox, receiver.address, payload)
        amount = len(outbox)
        assert sender.send(outbox) == amount
        assert len(outbox) == 0
        slab.clear()
        receive_all(receiver, slab, amount)
        assert payloads(slab) == sent, turn
        assert {slab.addr(i) for i in range(amount)} == {sender.address}
    assert receiver.receive(slab) == 0
    assert (sender.send_errors, receiver.kernel_drops, receiver.truncated) == (0, 0, 0)
    assert sender.datagrams_sent == 3 * amount
    assert sender.bytes_sent == 3 * sum(80 + len(payload) for payload in sent)
    assert (receiver.datagrams_sent, receiver.bytes_sent) == (0, 0)


def test_a_full_slab_takes_nothing_and_a_part_full_one_goes_on(pair):
    sender, receiver = pair
    outbox = Outbox()
    for i in range(5):
        frame(outbox, receiver.address, b"%d" % i)
        sender.send(outbox)
    slab, other = Slab(2, 4096), Slab(300, 4096)
    receive_all(receiver, slab, 2)
    assert receiver.receive(slab) == 0
    receive_all(receiver, other, 3)
    assert payloads(slab) + payloads(other) == [b"0", b"1", b"2", b"3", b"4"]
    frame(outbox, receiver.address, b"5")
    sender.send(outbox)
    receive_all(receiver, other, 4)
    assert payloads(other) == [b"2", b"3", b"4", b"5"]


def test_a_datagram_above_the_slot_size_is_dropped_and_counted(pair):
    sender, receiver = pair
    outbox, slab = Outbox(), Slab(4, 128)
    for payload in (b"x" * 48, b"x" * 49, b"small"):
        frame(outbox, receiver.address, payload)
        sender.send(outbox)
    receive_all(receiver, slab, 3)
    assert [len(slab.view(i)) for i in range(3)] == [128, 0, 85]
    assert receiver.truncated == 1


def test_one_bad_destination_does_not_hold_up_the_others(pair):
    sender, receiver = pair
    outbox, slab = Outbox(), Slab()
    wrong_family = pack_addr("::1" if sender.family == socket.AF_INET else "127.0.0.1", 9)
    closed = UdpSocket(sender.host, 0)
    closed.open()
    nobody = closed.address
    closed.close()
    for addr, payload in (
        (receiver.address, b"1"),
        (wrong_family, b"lost"),
        (b"?", b"lost"),
        (nobody, b"unheard"),
        (receiver.address, b"2"),
        (receiver.address, b"x" * 64900),
        (receiver.address, b"3"),
    ):
        frame(outbox, addr, payload)
    assert sender.send(outbox) == 5
    assert sender.send_errors == 2
    receive_all(receiver, slab, 4)
    assert [payload[:1] for payload in payloads(slab)] == [b"1", b"2", b"x", b"3"]


def test_icmp_errors_never_surface(pair):
    sender, _ = pair
    closed = UdpSocket(sender.host, 0)
    closed.open()
    nobody = closed.address
    closed.close()
    outbox, slab = Outbox(), Slab()
    for _ in range(20):
        frame(outbox, nobody, b"is anybody there?")
        assert sender.send(outbox) == 1
        assert sender.receive(slab) == 0
    assert sender.send_errors == 0


def test_an_outbox_of_many_batches(pair):
    sender, receiver = pair
    receiver.set_buffers(4 << 20)
    outbox, slab = Outbox(3000, 4 << 20, 100), Slab(256, 256)
    for i in range(2500):
        frame(outbox, receiver.address, b"%d" % i)
    assert len(outbox) == 2500
    sent = sender.send(outbox)
    assert sent + sender.send_errors == 2500
    got: list[bytes] = []
    while receiver.receive(slab):
        got += payloads(slab)
        slab.clear()
    assert got == sorted(got, key=int)
    assert 0 < len(got) <= sent


def test_kernel_drops_are_counted(pair):
    sender, receiver = pair
    raw = socket.socket(fileno=receiver.fileno())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's minimum, a few datagrams
    raw.detach()
    outbox, slab = Outbox(), Slab()
    for _ in range(100):
        frame(outbox, receiver.address, b"x" * 500)
        sender.send(outbox)
    receive_all(receiver, slab, 1)
    arrived = len(slab)
    assert arrived < 100
    frame(outbox, receiver.address, b"after")
    sender.send(outbox)
    receive_all(receiver, slab, arrived + 1)
    assert receiver.kernel_drops == 100 - arrived


def test_open_names_the_address_that_is_taken(pair):
    taken, _ = pair
    second = UdpSocket(taken.host, taken.port)
    with pytest.raises(OSError, match=f"{taken.host} port {taken.port}: .*in use") as caught:
        second.open()
    assert caught.value.errno == errno.EADDRINUSE
    assert second.fileno() == -1


def test_open_and_close(pair):
    udp, _ = pair
    port = udp.port
    assert port > 0 and unpack_addr(udp.address) == (udp.host, port)
    with pytest.raises(ValueError, match="open already"):
        udp.open()
    udp.close()
    udp.close()
    assert udp.fileno() == -1
    for call in (
        lambda: udp.receive(Slab(1, 10)),
        lambda: udp.send(Outbox()),
        lambda: udp.set_buffers(1 << 20),
        lambda: udp.receive_buffer,
    ):
        with pytest.raises(ValueError, match="not open"):
            call()


def test_buffers_are_granted_or_at_least_reported(pair):
    udp, _ = pair
    before = udp.receive_buffer
    udp.set_buffers(1 << 16)
    assert udp.receive_buffer == 1 << 16 != before


def test_a_constructor_opens_nothing():
    assert UdpSocket("127.0.0.1", 0).fileno() == -1
    with pytest.raises(ValueError, match="family"):
        UdpSocket("127.0.0.1", 0, socket.AF_INET6)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 0), ("255.255.255.255", 65535), ("::", 7400), ("2001:db8::17", 80)]
)
def test_addresses_round_trip(host, port):
    assert unpack_addr(pack_addr(host, port)) == (host, port)


@pytest.mark.parametrize(
    ("host", "port"),
    [("localhost", 1), ("", 1), ("127.0.0", 1), ("127.0.0.1\0", 1), ("é", 1), ("::1", -1), ("::1", 65536)],
)
def test_bad_addresses_are_refused(host, port):
    with pytest.raises(ValueError, match=r"numeric|port"):
        pack_addr(host, port)


@pytest.mark.parametrize(
    "raw", [b"", b"\2", b"\2\0" + bytes(13), b"\2\0" + bytes(26), b"\x0a\0" + bytes(14), bytes(16)]
)
def test_other_bytes_are_not_addresses(raw):
    with pytest.raises(ValueError, match="raw"):
        unpack_addr(raw)


MS = 1_000_000


@pytest.fixture
def watched():
    """An epoll, and a pipe in it: (epoll, write end)."""
    read, write = os.pipe()
    with select.epoll() as epoll:
        epoll.register(read, select.EPOLLIN)
        yield epoll, write
    os.close(read)
    os.close(write)


def test_an_outbox_is_sent_again_until_there_would_be_no_time_left(pair, watched):
    sender, receiver = pair
    outbox, slab = Outbox(), Slab()
    frame(outbox, receiver.address, b"beat")
    assert sender.send(outbox, keep=True) == 1
    first = since_boot() + 1 * MS
    until = first + 5 * MS + 1
    assert sender.repeat(outbox, watched[0].fileno(), first, 1 * MS, until, 60_000 * MS) == first + 5 * MS
    assert since_boot() >= first + 5 * MS
    assert len(outbox) == 1 and sender.datagrams_sent == 6
    receive_all(receiver, slab, 6)
    assert payloads(slab) == [b"beat"] * 6


def test_repeats_end_when_something_is_there_and_leave_it_there(pair, watched):
    sender, receiver = pair
    epoll, write = watched
    outbox = Outbox()
    frame(outbox, receiver.address, b"beat")
    os.write(write, b"!")
    first = since_boot() + 60_000 * MS
    assert sender.repeat(outbox, epoll.fileno(), first, 1 * MS, first + 10 * MS, 1 * MS) == first
    assert sender.datagrams_sent == 0 and epoll.poll(0)


def test_what_wakes_too_late_sends_nothing(pair, watched):
    sender, receiver = pair
    outbox = Outbox()
    frame(outbox, receiver.address, b"beat")
    first = since_boot() - 10 * MS
    assert sender.repeat(outbox, watched[0].fileno(), first, 1000 * MS, first + 5000 * MS, 9 * MS) == first
    assert sender.datagrams_sent == 0
    with pytest.raises(ValueError, match="apart"):
        sender.repeat(outbox, watched[0].fileno(), first, 0, first, 0)
    sender.close()
    with pytest.raises(ValueError, match="not open"):
        sender.repeat(outbox, watched[0].fileno(), first, 1, first, 0)


AFTER_A_SUSPEND = """
import select, time
from quorumd_fastpath.udp import UdpSocket, since_boot
from quorumd_fastpath.wire import Outbox

slept = since_boot() - time.monotonic_ns()
assert abs(slept - 3600e9) < 1e9, slept
udp = UdpSocket("127.0.0.1", 0)
udp.open()
due = since_boot() + 1_000_000
print(udp.repeat(Outbox(), select.epoll().fileno(), due, 1, due, 60 * 10**9) == due)
"""


def test_the_time_in_which_the_machine_was_suspended_counts():
    """By CLOCK_MONOTONIC a leader that resumes would believe in a lease of hours ago."""
    asked = ["unshare", "--user", "--map-root-user", "--fork", "--time", "--boottime", "3600"]
    try:
        subprocess.run([*asked, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no time namespaces here")
    done = subprocess.run(
        [*asked, sys.executable, "-c", AFTER_A_SUSPEND], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout == "True\n", done.stderr

"""The client's UDP sockets: one of each address family in use, unconnected, non-blocking, opened when first needed.

Unconnected, so that an ICMP "port unreachable" from one node (it is restarting) cannot hurt the traffic to the others;
whatever the kernel refuses to send counts as lost on the way.
"""

import socket
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from quorumd.client.routing import SocketAddress
from quorumd.endpoint import numeric, parse_endpoint
from quorumd.limits import MIB

InetAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
RECEIVE_BUFFER_BYTES: Final = 4 * MIB
LONGEST_DATAGRAM: Final = 65_535
DATAGRAMS_PER_DRAIN: Final = 64


def resolve_numeric(text: str) -> SocketAddress | None:
    """Socket address of "host:port" if the host is numeric or localhost, else None. Raises ValueError for nonsense."""
    endpoint = parse_endpoint(text)
    family = endpoint.family
    return None if family is None else _inet(numeric(endpoint.host), endpoint.port)


def _inet(host: str, port: int) -> InetAddress:
    return (host, port, 0, 0) if ":" in host else (host, port)


def look_up(text: str) -> SocketAddress | None:
    """Asks the system's resolver for a name (may block for seconds); None if it has no answer now."""
    endpoint = parse_endpoint(text)
    try:
        return _inet(endpoint.resolve(), endpoint.port)
    except OSError:
        return None


class UdpSockets:
    """At most two sockets. `opened` is called with each new one, to be watched for reading."""

    def __init__(self, opened: Callable[[socket.socket], None]) -> None:
        self._opened = opened
        self._sockets: dict[int, socket.socket] = {}
        self._opening = threading.Lock()
        self._buffer = bytearray(LONGEST_DATAGRAM)
        self._view = memoryview(self._buffer)

    def send(self, address: SocketAddress, datagram: bytes) -> None:
        """One datagram; lost silently if the kernel does not take it."""
        if not isinstance(address, tuple):
            return
        family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
        udp = self._sockets.get(family)
        try:
            if udp is None:
                udp = self._open(family)
            udp.sendto(datagram, address)
        except OSError:
            return  # no buffer, no route, no such family here: all the same to a datagram protocol

    def _open(self, family: int) -> socket.socket:
        with self._opening:
            udp = self._sockets.get(family)
            if udp is None:
                udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                self._opened(udp)
                self._sockets[family] = udp
            return udp

    def drain(self, limit: int = DATAGRAMS_PER_DRAIN) -> list[tuple[bytes, SocketAddress]]:
        """(datagram, source) of what has arrived, at most `limit` (or a fixed bound) from each socket."""
        received: list[tuple[bytes, SocketAddress]] = []
        for udp in self.sockets():
            for _ in range(min(limit, DATAGRAMS_PER_DRAIN)):
                try:
                    size, source = udp.recvfrom_into(self._buffer)
                except BlockingIOError:
                    break
                except OSError:
                    continue  # a queued ICMP error; taking it cleared it
                received.append((bytes(self._view[:size]), source))
        return received

    def close(self) -> None:
        """Closes all of them."""
        for udp in self.sockets():
            udp.close()
        self._sockets.clear()

    def sockets(self) -> list[socket.socket]:
        """Those open now."""
        return list(self._sockets.values())

"""UDP in batches; see udp.pyx. Network errors are counted, never raised."""

from quorumd_fastpath.wire import Outbox, Slab

def pack_addr(host: str, port: int) -> bytes:
    """Raw socket address of a numeric IPv4 or IPv6 host; ValueError for a name or a port outside 0..65535."""

def unpack_addr(addr: bytes) -> tuple[str, int]:
    """(host, port) of a raw IPv4 or IPv6 socket address; ValueError for anything else."""

class UdpSocket:
    """One unconnected, non-blocking UDP socket, bound by open().

    Calls other than open(), close(), fileno() raise ValueError while it is not open.
    """

    def __init__(self, host: str, port: int, family: int = 0) -> None:
        """A numeric host; `family` (AF_INET, AF_INET6) follows from it, another one is a ValueError."""

    @property
    def host(self) -> str: ...
    @property
    def family(self) -> int: ...
    @property
    def port(self) -> int:
        """The port bound, once open (the one asked for may have been 0)."""

    @property
    def address(self) -> bytes:
        """Raw socket address bound, once open."""

    @property
    def kernel_drops(self) -> int:
        """Datagrams the kernel dropped because the receive buffer was full (SO_RXQ_OVFL)."""

    @property
    def truncated(self) -> int:
        """Datagrams above the slot size, dropped."""

    @property
    def send_errors(self) -> int:
        """Datagrams the kernel refused, dropped."""

    @property
    def datagrams_sent(self) -> int:
        """Datagrams the kernel took."""

    @property
    def bytes_sent(self) -> int:
        """Bytes in them, without the headers of UDP and IP."""

    @property
    def receive_buffer(self) -> int:
        """Bytes granted for receiving, to be compared with those asked for (the kernel doubles them inside)."""

    def open(self) -> None:
        """Binds. OSError, with the address in its message, when the address is taken or not ours."""

    def close(self) -> None:
        """Closes; may be called more than once."""

    def fileno(self) -> int:
        """The descriptor, for epoll; -1 while not open."""

    def set_buffers(self, size: int) -> None:
        """Asks for kernel buffers of `size` bytes both ways, beyond the system's limit if we may."""

    def receive(self, slab: Slab) -> int:
        """Takes what has arrived into the slab's free slots, one system call; how many datagrams it was.

        A datagram above the slot size takes a slot with length 0 and is counted in `truncated`.
        """

    def send(self, outbox: Outbox, keep: bool = False) -> int:
        """Sends every datagram and, unless `keep`, clears the outbox; how many the kernel took, the others are in
        `send_errors`."""

    def repeat(self, outbox: Outbox, epoll: int, first: int, every: int, until: int, late: int) -> int:
        """Sends the outbox again at `first` and then every so often, while the time after that is not past `until`.

        Ends earlier if `epoll` has something, which it leaves there, or if it woke more than `late` after it meant to,
        without sending. Returns until when the last sleep was to be. Times are those of since_boot().
        Raises ValueError if the socket is not open or `every` is not positive.
        """


def since_boot() -> int:
    """Nanoseconds since the boot, those in which the machine was suspended too: what `repeat` goes by."""

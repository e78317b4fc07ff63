# distutils: language = c++
"""UDP in batches: recvmmsg into a slab, sendmmsg out of an outbox. System calls only, no protocol.

A network error is never raised: datagrams may always be lost, so a datagram that cannot be sent or does not fit is
counted and forgotten. The socket stays unconnected, so that ICMP errors of one destination do not surface on another.
"""

import errno as errors
import os
import socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from posix.time cimport timespec

from quorumd_fastpath.wire cimport ADDR_SIZE, Outbox, Slab, guard_slot, iovec, qdatagram


cdef extern from "<sys/socket.h>" nogil:
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    enum:
        SOL_SOCKET
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_TRUNC
    int recvmmsg(int fd, mmsghdr* messages, unsigned int amount, int flags, timespec* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int amount, int flags)
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* previous)
    unsigned char* CMSG_DATA(cmsghdr* control)

cdef extern from "<sys/epoll.h>" nogil:
    cdef struct epoll_event:
        pass

    int epoll_wait(int fd, epoll_event* events, int size, int timeout_ms)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr

    cdef struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr

    cdef struct in6_addr:
        uint8_t s6_addr[16]

    cdef struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        in6_addr sin6_addr

    unsigned short htons(unsigned short value)
    unsigned short ntohs(unsigned short value)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* out)
    const char* inet_ntop(int family, const void* raw, char* text, unsigned int size)

cdef enum:
    FAMILY_4 = 2     # AF_INET and AF_INET6 of Linux
    FAMILY_6 = 10
    RXQ_OVFL = 40    # SO_RXQ_OVFL: each datagram brings the count of those the kernel dropped before it
    SNDBUFFORCE = 32
    RCVBUFFORCE = 33
    CONTROL_BYTES = 64
    SEND_BATCH = 1024  # the most one sendmmsg takes (UIO_MAXIOV)
    # A full send buffer refuses datagram after datagram: after this many in a row the rest of the outbox is given up.
    STUCK_LIMIT = 16
    NS_PER_MS = 1000000
    LONGEST_MS = 60000  # that one sleep takes


def pack_addr(str host not None, int port):
    """Raw socket address of a numeric IPv4 or IPv6 host; ValueError for a name or a port outside 0..65535."""
    cdef sockaddr_in four
    cdef sockaddr_in6 six
    cdef bytes text = host.encode("ascii", "replace")
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not in 0..65535")
    if b"\0" not in text:
        memset(&four, 0, sizeof(four))
        if inet_pton(FAMILY_4, PyBytes_AS_STRING(text), &four.sin_addr) == 1:
            four.sin_family = FAMILY_4
            four.sin_port = htons(<unsigned short>port)
            return (<char*>&four)[:sizeof(four)]
        memset(&six, 0, sizeof(six))
        if inet_pton(FAMILY_6, PyBytes_AS_STRING(text), &six.sin6_addr) == 1:
            six.sin6_family = FAMILY_6
            six.sin6_port = htons(<unsigned short>port)
            return (<char*>&six)[:sizeof(six)]
    raise ValueError(f"{host!r} is not a numeric IPv4 or IPv6 address")


def unpack_addr(bytes addr not None):
    """(host, port) of a raw IPv4 or IPv6 socket address; ValueError for anything else."""
    cdef sockaddr_in four
    cdef sockaddr_in6 six
    cdef unsigned short family = 0
    cdef char text[64]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(addr)
    if size >= <Py_ssize_t>sizeof(family):
        memcpy(&family, PyBytes_AS_STRING(addr), sizeof(family))
    if family == FAMILY_4 and size == sizeof(four):
        memcpy(&four, PyBytes_AS_STRING(addr), sizeof(four))
        if inet_ntop(FAMILY_4, &four.sin_addr, text, sizeof(text)) != NULL:
            return text.decode("ascii"), ntohs(four.sin_port)
    if family == FAMILY_6 and size == sizeof(six):
        memcpy(&six, PyBytes_AS_STRING(addr), sizeof(six))
        if inet_ntop(FAMILY_6, &six.sin6_addr, text, sizeof(text)) != NULL:
            return text.decode("ascii"), ntohs(six.sin6_port)
    raise ValueError("not a raw IPv4 or IPv6 socket address")


cdef class UdpSocket:
    """One unconnected, non-blocking UDP socket, bound by open()."""

    def __cinit__(self, str host not None, int port, int family=0):
        found = FAMILY_4 if len(pack_addr(host, port)) == sizeof(sockaddr_in) else FAMILY_6
        if family not in (0, found):
            raise ValueError(f"{host!r} is not an address of family {family}")
        self.host = host
        self.family = found
        self.asked_port = port
        self.fd = -1
        self.outbound = <mmsghdr*>calloc(SEND_BATCH, sizeof(mmsghdr))
        if self.outbound == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.inbound)
        free(self.inbound_pieces)
        free(self.controls)
        free(self.outbound)

    def open(self):
        """Binds. OSError, with the address in its message, when the address is taken or not ours."""
        if self.fd >= 0:
            raise ValueError("the socket is open already")
        sock = None
        try:
            sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if self.family == FAMILY_6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, RXQ_OVFL, 1)
            sock.bind((self.host, self.asked_port))
        except OSError as error:
            if sock is not None:
                sock.close()
            code = error.errno or errors.EINVAL
            message = f"cannot bind UDP address {self.host} port {self.asked_port}: {os.strerror(code)}"
            raise OSError(code, message) from error
        self.sock = sock
        self.fd = sock.fileno()
        self.last_drops = 0

    def close(self):
        """Closes; may be called more than once."""
        if self.sock is not None:
            self.fd = -1
            self.sock.close()
            self.sock = None

    def fileno(self):
        """The descriptor, for epoll; -1 while not open."""
        return self.fd

    @property
    def port(self):
        """The port bound, once open (the one asked for may have been 0)."""
        return self.asked_port if self.sock is None else self.sock.getsockname()[1]

    @property
    def address(self):
        """Raw socket address bound, once open."""
        return pack_addr(self.host, self.port)

    def set_buffers(self, int size):
        """Asks for kernel buffers of `size` bytes both ways, beyond the system's limit if we may."""
        sock = opened(self)
        for forced, plain in ((RCVBUFFORCE, socket.SO_RCVBUF), (SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, size)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, size)

    @property
    def receive_buffer(self):
        """Bytes granted for receiving, to be compared with those asked for (the kernel doubles them inside)."""
        return opened(self).getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    cdef int reserve(self, int size) except -1:
        cdef void* grown
        if size <= self.inbound_size:
            return 0
        self.prepared = None
        grown = realloc(self.inbound, size * sizeof(mmsghdr))
        if grown == NULL:
            raise MemoryError
        self.inbound = <mmsghdr*>grown
        grown = realloc(self.inbound_pieces, size * sizeof(iovec))
        if grown == NULL:
            raise MemoryError
        self.inbound_pieces = <iovec*>grown
        grown = realloc(self.controls, <size_t>size * CONTROL_BYTES)
        if grown == NULL:
            raise MemoryError
        self.controls = <char*>grown
        self.inbound_size = size
        return 0

    cdef void prepare(self, Slab slab, int first, int amount) noexcept nogil:
        cdef int i
        cdef msghdr* message
        for i in range(amount):
            guard_slot(slab.data + (first + i) * slab.slot_bytes, slab.slot_limit, slab.slot_bytes)
            self.inbound_pieces[i].iov_base = slab.data + (first + i) * slab.slot_bytes
            self.inbound_pieces[i].iov_len = slab.slot_limit
            message = &self.inbound[i].msg_hdr
            message.msg_name = slab.addrs[first + i].data
            message.msg_namelen = ADDR_SIZE
            message.msg_iov = &self.inbound_pieces[i]
            message.msg_iovlen = 1
            message.msg_control = self.controls + i * CONTROL_BYTES
            message.msg_controllen = CONTROL_BYTES
            message.msg_flags = 0

    cdef void take(self, Slab slab, int amount) noexcept nogil:
        # Publishes what the kernel wrote into the slab's next `amount` slots.
        cdef int i
        cdef msghdr* message
        cdef cmsghdr* control
        cdef uint32_t drops
        for i in range(amount):
            message = &self.inbound[i].msg_hdr
            slab.addrs[slab.count + i].length = min(message.msg_namelen, <unsigned int>ADDR_SIZE)
            slab.lengths[slab.count + i] = self.inbound[i].msg_len
            if message.msg_flags & MSG_TRUNC:
                self.truncated += 1
                slab.lengths[slab.count + i] = 0
            elif message.msg_namelen == 0:
                slab.lengths[slab.count + i] = 0
            guard_slot(slab.data + (slab.count + i) * slab.slot_bytes, slab.lengths[slab.count + i], slab.slot_bytes)
        slab.count += amount
        # The kernel's count only grows (and wraps), so the last datagram's is enough.
        message = &self.inbound[amount - 1].msg_hdr
        control = CMSG_FIRSTHDR(message)
        while control != NULL:
            if control.cmsg_level == SOL_SOCKET and control.cmsg_type == RXQ_OVFL:
                memcpy(&drops, CMSG_DATA(control), sizeof(drops))
                self.kernel_drops += <uint32_t>(drops - self.last_drops)
                self.last_drops = drops
            control = CMSG_NXTHDR(message, control)

    def receive(self, Slab slab not None):
        """Takes what has arrived into the slab's free slots, one system call; how many datagrams it was.

        A datagram above the slot size takes a slot with length 0 and is counted in `truncated`.
        """
        cdef int room = slab.slots - slab.count
        cdef int got
        opened(self)
        if room <= 0:
            return 0
        self.reserve(room)
        with nogil:
            # Usually the same slab, cleared: then only what the last call used must be set up again.
            if self.prepared is slab and self.prepared_first == slab.count:
                self.prepare(slab, slab.count, self.used)
            else:
                self.prepare(slab, slab.count, room)
            got = recvmmsg(self.fd, self.inbound, room, MSG_DONTWAIT, NULL)
        self.prepared = slab
        self.prepared_first = slab.count
        self.used = max(got, 0)
        if got <= 0:
            return 0
        self.take(slab, got)
        return got

    cdef uint64_t send_batch(self, Outbox outbox, int* first) noexcept nogil:
        # Sends up to SEND_BATCH datagrams from number first[0] on and moves it; how many the kernel took.
        cdef unsigned int amount = 0
        cdef unsigned int done = 0
        cdef int stuck = 0
        cdef int taken
        cdef unsigned int number
        cdef uint64_t sent = 0
        cdef qdatagram* source
        cdef msghdr* message
        while amount < SEND_BATCH and first[0] < outbox.count:
            source = &outbox.datagrams[first[0]]
            first[0] += 1
            if source.total == 0:
                continue
            message = &self.outbound[amount].msg_hdr
            message.msg_name = source.addr.data
            message.msg_namelen = source.addr.length
            message.msg_iov = outbox.iovs + source.first_iov
            message.msg_iovlen = source.iov_count
            amount += 1
        while done < amount:
            taken = sendmmsg(self.fd, self.outbound + done, amount - done, MSG_DONTWAIT | MSG_NOSIGNAL)
            if taken > 0:
                for number in range(done, done + <unsigned int>taken):
                    self.bytes_sent += self.outbound[number].msg_len
                done += taken
                sent += taken
                stuck = 0
            elif taken == 0 or errno != EINTR:
                # The first of the rest is at fault: it is lost, the others go on.
                done += 1
                self.send_errors += 1
                stuck = stuck + 1 if taken < 0 and (errno == EAGAIN or errno == ENOBUFS) else 0
                if stuck == STUCK_LIMIT:
                    self.send_errors += (amount - done) + (outbox.count - first[0])
                    first[0] = outbox.count
                    break
        self.datagrams_sent += sent
        return sent

    cdef uint64_t send_all(self, Outbox outbox) noexcept nogil:
        cdef int first = 0
        cdef uint64_t sent = 0
        while first < outbox.count:
            sent += self.send_batch(outbox, &first)
        return sent

    def send(self, Outbox outbox not None, bint keep=False):
        """Sends every datagram and, unless `keep`, clears the outbox; how many the kernel took, the others are in
        `send_errors`."""
        cdef uint64_t sent
        opened(self)
        with nogil:
            sent = self.send_all(outbox)
        if not keep:
            outbox.clear()
        return sent

    def repeat(self, Outbox outbox not None, int epoll, int64_t first, int64_t every, int64_t until, int64_t late):
        """Sends the outbox again at `first` and then every so often, while the time after that is not past `until`.

        Ends earlier if `epoll` has something, which it leaves there, or if it woke more than `late` after it meant to,
        without sending. Returns until when the last sleep was to be. Times are those of since_boot().
        """
        cdef epoll_event ignored
        cdef int64_t due = first
        cdef int64_t left
        opened(self)
        if every <= 0:
            raise ValueError("repeats lie some time apart")
        with nogil:
            while True:
                left = due - since_boot_ns()
                if epoll_wait(epoll, &ignored, 1, <int>min((max(left, 0) + NS_PER_MS - 1) // NS_PER_MS, LONGEST_MS)):
                    break  # something is there, or a signal came
                left = due - since_boot_ns()
                if left > 0:
                    continue
                if -left > late or due + every > until:
                    break
                self.send_all(outbox)
                due += every
        return due


def since_boot():
    """Nanoseconds since the boot, those in which the machine was suspended too: what `repeat` goes by."""
    return since_boot_ns()


cdef object opened(UdpSocket self):
    if self.sock is None:
        raise ValueError("the socket is not open")
    return self.sock

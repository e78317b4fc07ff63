# distutils: language = c++
"""Watches over the store's history: who watches what, and the bytes of events that are put in streams.

Rules of this file: no system call, no clock. Python is called once a stream and batch, never once an event; loops over
changes run without the GIL. MemoryError leaves a stream that may have lost events: the process must stop.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp.string_view cimport string_view

from quorumd_fastpath.apply cimport Store

CREATED = ITEM_CREATED
EVENTS = ITEM_EVENTS
PROGRESS = ITEM_PROGRESS
ENDED = ITEM_ENDED
MORE = FLAG_MORE
PREV_KV = FLAG_PREV_KV
NO_PUT = FLAG_NO_PUT
NO_DELETE = FLAG_NO_DELETE
FLAGS = FLAG_ANY
ENDED_COMPACTED = END_COMPACTED
ENDED_REJECTED = END_REJECTED
ENDED_OVERLOADED = END_OVERLOADED


cdef class Hub:
    """The watchers of one node, in streams that are named by small numbers; see watch.h."""

    def __cinit__(self, *, uint64_t seed, size_t watchers, size_t watcher_bytes, size_t window_bytes,
                  size_t total_bytes, size_t piece_bytes, uint64_t turn_cost):
        cdef WatchLimits limits
        if piece_bytes == 0 or window_bytes < 2 * piece_bytes or total_bytes < window_bytes or turn_cost == 0:
            raise ValueError("a window holds several pieces, and all streams together hold a window")
        limits.watchers = watchers
        limits.watcher_bytes = watcher_bytes
        limits.window_bytes = window_bytes
        limits.total_bytes = total_bytes
        limits.piece_bytes = piece_bytes
        limits.turn_cost = turn_cost
        self.hub = new WatchHub(limits, seed)

    def __dealloc__(self):
        del self.hub

    cdef WatchStream* at(self, uint32_t slot) except NULL:
        cdef WatchStream* stream = self.hub.stream(slot)
        if stream == NULL:
            raise IndexError("no such stream")
        return stream

    def open_stream(self):
        """A new stream's number. No events are put in it before open_window()."""
        return self.hub.open_stream()

    def close_stream(self, uint32_t slot):
        """Ends its watchers and forgets what nobody took; the number may be given to another stream."""
        self.hub.close_stream(self.at(slot))

    def open_window(self, uint32_t slot):
        """From now on up to share() of events may be in the stream unacknowledged."""
        self.hub.open_window(self.at(slot))

    def acknowledged(self, uint32_t slot, size_t size):
        """So many bytes that take() gave have arrived: there is room for as many."""
        self.hub.acknowledged(self.at(slot), size)

    def outstanding(self, uint32_t slot):
        """Bytes put in the stream and not acknowledged."""
        return self.at(slot).outstanding

    def share(self, uint32_t slot):
        """How many may be at present: window_bytes, or what is left of total_bytes if that is less; a small part of
        them always. 0 before open_window(). Of a stream with more than twice that no request is to be taken."""
        return self.hub.share(self.at(slot)[0])

    def watch(self, Store store not None, uint32_t slot, uint64_t watch, bytes key not None, bytes end not None,
              uint8_t flags, uint64_t start):
        """Begins a watcher at revision `start`, 0: at the next one. What is wrong with it is said in the stream.

        False if the stream has a watcher of that number, or a flag is unknown: nothing was done.
        """
        if flags & ~FLAG_ANY:
            return False
        return self.hub.watch(
            store.machine.store, self.at(slot), watch, string_view(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)),
            string_view(PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end)), flags, start,
        )

    def cancel(self, uint32_t slot, uint64_t watch):
        """Nothing more is put in the stream for that watcher; whether there was one."""
        return self.hub.cancel(self.at(slot), watch)

    def ask_progress(self, uint32_t slot):
        """How far all watchers of the stream have got is said in it as soon as none is behind."""
        self.hub.ask_progress(self.at(slot))

    def pump(self, Store store not None):
        """Puts what was applied since in the streams, and continues those behind: (streams with something to take,
        whether more work is left that can be done at once). After each apply, before the next."""
        cdef bint more
        with nogil:
            more = self.hub.pump(store.machine.store)
        if self.hub.ready().empty():
            return (), more
        ready = self.hub.ready()
        self.hub.ready().clear()
        return ready, more

    def endangered(self, Store store not None):
        """Whether pump() can do something at once for watchers that lack what the next entry may reclaim."""
        return self.hub.endangered(store.machine.store)

    def take(self, uint32_t slot, size_t limit):
        """(number of items, their bytes) from the front of the stream: as many as fit `limit`, at least one; (0, b"")
        if there are none."""
        cdef WatchStream* stream = self.at(slot)
        cdef uint32_t count = 0
        cdef string_view batch = self.hub.batch(stream[0], limit, &count)
        cdef bytes items = PyBytes_FromStringAndSize(batch.data(), batch.size())
        if count != 0:
            self.hub.taken(stream, batch.size())
        return count, items

    @property
    def watchers(self):
        return self.hub.watchers()

    @property
    def watcher_bytes(self):
        """Bytes of the keys and ends of all watchers, twice: the index has copies."""
        return self.hub.watcher_bytes()

    @property
    def lagging(self):
        """Watchers that have not got everything applied."""
        return self.hub.lagging()

    @property
    def bytes(self):
        """Bytes of items in all streams that are not acknowledged."""
        return self.hub.bytes()

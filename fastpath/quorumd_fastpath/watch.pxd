# Watches over the store's history. The C++ side is watch.h and watchindex.h.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp.string_view cimport string_view
from libcpp.vector cimport vector

from quorumd_fastpath.apply cimport KeyStore

cdef extern from "watch.h" namespace "quorumd" nogil:
    cdef struct WatchLimits:
        size_t watchers
        size_t watcher_bytes
        size_t window_bytes
        size_t total_bytes
        size_t piece_bytes
        uint64_t turn_cost

    cdef struct WatchStream:
        size_t outstanding
        size_t behind

    cdef cppclass WatchHub:
        WatchHub(const WatchLimits& limits, uint64_t seed) except +
        uint32_t open_stream() except +
        WatchStream* stream(uint32_t slot)
        void close_stream(WatchStream* stream)
        void open_window(WatchStream* stream)
        void acknowledged(WatchStream* stream, size_t size)
        size_t share(const WatchStream& stream)
        bint watch(const KeyStore& store, WatchStream* stream, uint64_t id, string_view key, string_view end,
                   uint8_t flags, uint64_t start) except +
        bint cancel(WatchStream* stream, uint64_t id)
        void ask_progress(WatchStream* stream) except +
        bint pump(const KeyStore& store) except +
        bint endangered(const KeyStore& store)
        vector[uint32_t]& ready()
        string_view batch(const WatchStream& stream, size_t limit, uint32_t* count)
        void taken(WatchStream* stream, size_t size) except +
        size_t watchers()
        size_t watcher_bytes()
        size_t lagging()
        size_t bytes()

    const uint8_t ITEM_CREATED "quorumd::WATCH_CREATED"
    const uint8_t ITEM_EVENTS "quorumd::WATCH_EVENTS"
    const uint8_t ITEM_PROGRESS "quorumd::WATCH_PROGRESS"
    const uint8_t ITEM_ENDED "quorumd::WATCH_ENDED"
    const uint8_t FLAG_MORE "quorumd::WATCH_MORE"
    const uint8_t FLAG_PREV_KV "quorumd::WATCH_PREV_KV"
    const uint8_t FLAG_NO_PUT "quorumd::WATCH_NO_PUT"
    const uint8_t FLAG_NO_DELETE "quorumd::WATCH_NO_DELETE"
    const uint8_t FLAG_ANY "quorumd::WATCH_FLAGS"
    const uint8_t END_COMPACTED "quorumd::ENDED_COMPACTED"
    const uint8_t END_REJECTED "quorumd::ENDED_REJECTED"
    const uint8_t END_OVERLOADED "quorumd::ENDED_OVERLOADED"


cdef class Hub:
    cdef WatchHub* hub

    cdef WatchStream* at(self, uint32_t slot) except NULL

// What stands in a stream of watches: the layout of items and events (ARCHITECTURE.md has it too), and a queue of them.

#ifndef QUORUMD_WATCHITEMS_H
#define QUORUMD_WATCHITEMS_H

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "store.h"

namespace quorumd {

enum WatchItem : uint8_t { WATCH_CREATED = 1, WATCH_EVENTS = 2, WATCH_PROGRESS = 3, WATCH_ENDED = 4 };
enum WatchFlag : uint8_t { WATCH_PREV_KV = 1, WATCH_NO_PUT = 2, WATCH_NO_DELETE = 4, WATCH_FLAGS = 7 };
enum WatchEnd : uint8_t { ENDED_COMPACTED = 1, ENDED_REJECTED = 2, ENDED_OVERLOADED = 3 };
constexpr uint8_t WATCH_MORE = 1;  // flag of WATCH_EVENTS: the revision goes on in the watcher's next item

#pragma pack(push, 1)
struct WatchItemHeader {
    uint32_t length;  // of the whole item
    uint8_t kind;
    uint8_t flags;  // WATCH_MORE, or why it ended
    uint16_t reserved;
    uint64_t watch;  // 0: all of the stream
    uint64_t revision;
};
struct WatchEventHeader {
    uint8_t kind;   // 0 put, 1 delete
    uint8_t flags;  // 1: what the change replaced follows
    uint16_t reserved;
    uint32_t key_size;
    uint32_t value_size;
    uint32_t previous_size;
    uint64_t create_revision;
    uint64_t mod_revision;
    uint64_t version;
    uint64_t lease;
};
struct WatchPrevious {
    uint64_t create_revision;
    uint64_t mod_revision;
    uint64_t version;
    uint64_t lease;
};
#pragma pack(pop)
static_assert(sizeof(WatchItemHeader) == 24 && sizeof(WatchEventHeader) == 48 && sizeof(WatchPrevious) == 32, "layout");

inline const Version* replaced_by(const Change& change, uint8_t flags) {
    return (flags & WATCH_PREV_KV) != 0 ? change.previous() : nullptr;
}

// Bytes of a change's event for a watcher with these flags.
inline size_t event_size(uint8_t flags, const Change& change) {
    const Version* replaced = replaced_by(change, flags);
    size_t size = sizeof(WatchEventHeader) + change.record->key_size + change.version->size;
    return replaced == nullptr ? size : size + sizeof(WatchPrevious) + replaced->size;
}

// Appends `size` bytes of the change's event from `offset` on. What lies outside is not touched: an event is cut into
// any number of pieces, each of which costs its own bytes.
inline void encode_event(uint8_t flags, const Change& change, size_t offset, size_t size, std::string* out) {
    const Version* version = change.version;
    const Version* replaced = replaced_by(change, flags);
    std::string_view key = change.record->key();
    WatchEventHeader header{};
    header.kind = version->dead() ? 1 : 0;
    header.flags = replaced != nullptr ? 1 : 0;
    header.key_size = static_cast<uint32_t>(key.size());
    header.value_size = version->size;
    header.previous_size = replaced != nullptr ? replaced->size : 0;
    header.create_revision = version->create_revision;
    header.mod_revision = version->mod_revision;
    header.version = version->version;
    header.lease = version->lease;
    auto put = [&](std::string_view part) {
        if (offset >= part.size()) {
            offset -= part.size();
            return;
        }
        part = part.substr(offset, size);
        offset = 0;
        size -= part.size();
        out->append(part);
    };
    put({reinterpret_cast<const char*>(&header), sizeof header});
    if (replaced != nullptr) {
        WatchPrevious shown{replaced->create_revision, replaced->mod_revision, replaced->version, replaced->lease};
        put({reinterpret_cast<const char*>(&shown), sizeof shown});
    }
    put(key);
    put(version->value());
    if (replaced != nullptr) put(replaced->value());
}

// Items back to back, put in at the end and taken from the front.
class WatchItems {
public:
    bool empty() const { return front_ == bytes_.size(); }

    // An item without a body; its size.
    size_t append(WatchItem kind, uint8_t flags, uint64_t watch, uint64_t revision) {
        open_ = SIZE_MAX;
        return put_header(kind, flags, watch, revision, 0);
    }

    // Announces a piece of `size` bytes of the events of one revision and watcher, which the caller appends to bytes() at
    // once: as an item of its own, or as more of the last item if that is of them too and stays within `limit` bytes of
    // events. By how much the queue grows, the piece included.
    size_t append_events(uint64_t watch, uint64_t revision, size_t size, bool more, size_t limit) {
        size_t begin = bytes_.size(), header = 0;
        uint8_t flags = more ? WATCH_MORE : 0;
        WatchItemHeader* last = open_item(watch, revision);
        if (last != nullptr && last->length + size <= sizeof *last + limit) {
            last->length += static_cast<uint32_t>(size);
            last->flags = flags;
        } else {
            header = put_header(WATCH_EVENTS, flags, watch, revision, size);
            open_ = begin;
        }
        if (!more) open_ = SIZE_MAX;
        return header + size;
    }
    std::string* bytes() { return &bytes_; }

    // Nothing more comes of this revision: said in the last item, if that is of it and nobody took it; else false.
    bool close_events(uint64_t watch, uint64_t revision) {
        WatchItemHeader* last = open_item(watch, revision);
        if (last == nullptr) return false;
        last->flags = 0;
        open_ = SIZE_MAX;
        return true;
    }

    // The longest run of whole items at the front that fits `limit`, or the first item; and how many they are.
    std::string_view front(size_t limit, uint32_t* count) const {
        size_t at = front_;
        *count = 0;
        while (at < bytes_.size()) {
            uint32_t length;
            std::memcpy(&length, bytes_.data() + at, sizeof length);
            if (*count != 0 && at - front_ + length > limit) break;
            at += length;
            ++*count;
        }
        return std::string_view(bytes_).substr(front_, at - front_);
    }

    // Removes so many bytes, of whole items, from the front.
    void drop(size_t size) {
        front_ += size;
        if (open_ < front_) open_ = SIZE_MAX;
        if (empty()) {
            std::string rest;
            if (bytes_.capacity() > KEPT_BYTES) bytes_.swap(rest);
            bytes_.clear();
            front_ = 0;
        } else if (front_ >= KEPT_BYTES && front_ >= bytes_.size() / 2) {
            bytes_.erase(0, front_);  // each byte is moved once for each that was taken, at most
            if (open_ != SIZE_MAX) open_ -= front_;
            front_ = 0;
        }
    }

private:
    static constexpr size_t KEPT_BYTES = 64 * 1024;  // of memory that holds nothing

    size_t put_header(WatchItem kind, uint8_t flags, uint64_t watch, uint64_t revision, size_t body) {
        WatchItemHeader header{static_cast<uint32_t>(sizeof header + body), kind, flags, 0, watch, revision};
        bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
        return sizeof header;
    }

    WatchItemHeader* open_item(uint64_t watch, uint64_t revision) {
        if (open_ == SIZE_MAX) return nullptr;
        auto* header = reinterpret_cast<WatchItemHeader*>(&bytes_[open_]);  // packed: any address will do
        return header->watch == watch && header->revision == revision ? header : nullptr;
    }

    std::string bytes_;
    size_t front_ = 0;
    size_t open_ = SIZE_MAX;  // where the last item stands, if it is of events and says that more will come
};

}  // namespace quorumd

#endif

// The ordered key-value store: its revision, its keys, its byte quota. The rules of etcd's data model.

#ifndef QUORUMD_STORE_H
#define QUORUMD_STORE_H

#include <cstdint>
#include <string_view>

#include "keyindex.h"

namespace quorumd {

// What a key costs in the quota beyond its own bytes and its value's. Fixed, because the quota decides what is refused
// and so must not depend on how memory is laid out.
constexpr uint64_t KEY_OVERHEAD = 128;

class KeyStore {
public:
    explicit KeyStore(uint64_t quota) : quota_(quota) {}

    uint64_t revision() const { return revision_; }
    uint64_t bytes() const { return bytes_; }
    uint64_t quota() const { return quota_; }
    size_t size() const { return index_.size(); }

    Position end() const { return index_.end(); }
    Position next(Position at) const { return index_.next(at); }
    std::string_view key(Position at) const { return index_.record(at)->key(); }
    const Version& newest(Position at) const { return *index_.record(at)->newest; }
    size_t distance(Position from, Position to) const { return index_.distance(from, to); }

    Position seek(std::string_view key) const { return index_.lower_bound(key); }
    bool holds(Position at, std::string_view key) const { return index_.holds(at, key); }

    // etcd's naming of ranges: end "" is the single key, "\0" everything from key on, anything else [key, end).
    void range(std::string_view key, std::string_view range_end, Position* from, Position* to) const {
        *from = seek(key);
        if (range_end.empty()) {
            *to = holds(*from, key) ? next(*from) : *from;
        } else if (range_end == std::string_view("\0", 1)) {
            *to = end();
        } else {
            *to = key < range_end ? seek(range_end) : *from;
        }
    }

    // By how much a put raises bytes(); 0 if it does not.
    uint64_t growth(Position at, std::string_view key, std::string_view value) const {
        if (!holds(at, key)) return KEY_OVERHEAD + key.size() + value.size();
        uint64_t old = newest(at).size;
        return value.size() > old ? value.size() - old : 0;
    }

    bool fits(uint64_t growth) const { return growth == 0 || (bytes_ <= quota_ && growth <= quota_ - bytes_); }

    // `at` is seek(key). The change belongs to the revision that commit() begins; `at` is void afterwards.
    void put(Position at, std::string_view key, std::string_view value, uint64_t lease) {
        uint64_t now = revision_ + 1;
        if (holds(at, key)) {
            Record* record = index_.record(at);
            Version* version = resized(record->newest, value.size());
            bytes_ = bytes_ - version->size + value.size();
            record->newest = version;
            version->version += 1;
            fill(version, value, lease, now);
            return;
        }
        Record* record = Record::make(key);
        record->newest = Version::make(value.size());
        record->newest->create_revision = now;
        record->newest->version = 1;
        fill(record->newest, value, lease, now);
        bytes_ += KEY_OVERHEAD + key.size() + value.size();
        index_.insert(at, record);
    }

    // Deletes [from, to); the change belongs to the revision that commit() begins.
    void erase(Position from, Position to) {
        for (Position at = from; !(at == to); at = next(at)) bytes_ -= KEY_OVERHEAD + key(at).size() + newest(at).size;
        index_.erase(from, to);
    }

    // Every change since the last commit becomes one revision.
    void commit() { ++revision_; }

private:
    static void fill(Version* version, std::string_view value, uint64_t lease, uint64_t revision) {
        version->mod_revision = revision;
        version->lease = lease;
        version->size = static_cast<uint32_t>(value.size());
        std::memcpy(version->data(), value.data(), value.size());
    }

    // Room for `size` bytes of value in place of what `old` holds: the same buffer unless it is too small, or mostly
    // empty. All but capacity and value are as in `old`.
    static Version* resized(Version* old, size_t size) {
        if (size <= old->capacity && old->capacity / 2 <= size + 64) return old;
        Version* made = Version::make(size);
        uint32_t capacity = made->capacity;
        *made = *old;
        made->capacity = capacity;
        std::free(old);
        return made;
    }

    KeyIndex index_;
    uint64_t revision_ = 1;
    uint64_t bytes_ = 0;
    uint64_t quota_;
};

}  // namespace quorumd

#endif

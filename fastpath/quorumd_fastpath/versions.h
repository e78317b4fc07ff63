// A key's history: versions in a chain from the newest to the oldest, and the record that they hang on.

#ifndef QUORUMD_VERSIONS_H
#define QUORUMD_VERSIONS_H

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

namespace quorumd {

inline void* allocate(size_t size) {
    void* memory = std::malloc(size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

// One value of a key with all that a read returns about it, or a tombstone: the key was deleted at mod_revision. Never
// changes once it is made, but for `older`, which compaction cuts. `size` bytes of value follow the struct.
struct Version {
    uint64_t create_revision;  // a tombstone has 0
    uint64_t mod_revision;
    uint64_t version;  // puts since create_revision, from 1; a tombstone has 0
    uint64_t lease;
    Version* older;   // what this one replaced; nullptr if that was nothing, or is compacted
    Version* jump;    // the version of the height that is Record::distance() below; see Record::visible
    uint32_t height;  // counts a record's versions; may wrap
    uint32_t size;

    bool dead() const { return version == 0; }
    std::string_view value() const { return {reinterpret_cast<const char*>(this + 1), size}; }

    static Version* make(std::string_view value) {
        auto* made = static_cast<Version*>(allocate(sizeof(Version) + value.size()));
        made->size = static_cast<uint32_t>(value.size());
        if (!value.empty()) std::memcpy(made + 1, value.data(), value.size());
        return made;
    }
};

// A key; its bytes follow the struct. Exists as long as it has a version.
struct Record {
    Version* newest;
    uint32_t floor;  // height of the oldest version
    uint32_t key_size : 31;
    uint32_t dead : 1;  // newest is a tombstone

    std::string_view key() const { return {reinterpret_cast<const char*>(this + 1), key_size}; }

    static Record* make(std::string_view key) {
        auto* made = static_cast<Record*>(allocate(sizeof(Record) + key.size()));
        made->newest = nullptr;
        made->floor = 0;
        made->key_size = static_cast<uint32_t>(key.size()) & 0x7fffffff;
        made->dead = 0;
        std::memcpy(made + 1, key.data(), key.size());
        return made;
    }

    static void destroy(Record* record) {
        for (Version* version = record->newest; version != nullptr;) {
            Version* older = version->older;
            std::free(version);
            version = older;
        }
        std::free(record);
    }

    // The newest version at or below `revision`, a tombstone too, or nullptr. Takes steps in the order of the logarithm
    // of the versions above it (squared at worst), so that a key that is written all the time can be read at any
    // revision: each version of a height that is a multiple of 8 leads past as many as the height's lowest bit says, and
    // those in between lead to the one below them.
    const Version* visible(uint64_t revision) const {
        const Version* at = newest;
        while (at != nullptr && at->mod_revision > revision) {
            const Version* jump = reaches(at->height) ? at->jump : nullptr;
            at = jump != nullptr && jump->mod_revision > revision ? jump : at->older;
        }
        return at;
    }

    // `made` becomes the newest version. Looks at older versions than the newest only for every 16th, and then follows
    // one jump on average: those are in no cache.
    void push(Version* made) {
        made->older = newest;
        made->height = newest == nullptr ? 0 : newest->height + 1;
        made->jump = nullptr;
        if (newest == nullptr) {
            floor = 0;
        } else if (reaches(made->height)) {
            Version* target = newest->height % STRIDE == 0 ? newest : newest->jump;
            uint32_t height = made->height - distance(made->height);
            while (target->height != height) target = target->jump;
            made->jump = target;
        }
        newest = made;
        dead = made->dead();
    }

    // Everything older than `version` goes; the bytes that this frees are told to `freed(const Version&)`.
    template <typename Freed>
    void cut(Version* version, Freed freed) {
        for (Version* gone = version->older; gone != nullptr;) {
            Version* older = gone->older;
            freed(*gone);
            std::free(gone);
            gone = older;
        }
        version->older = nullptr;
        floor = version->height;
    }

private:
    static constexpr uint32_t STRIDE = 8;

    // How many versions a jump leads past; 0 for height 0, which has none.
    static uint32_t distance(uint32_t height) {
        return height % STRIDE != 0 ? height % STRIDE : height & (~height + 1);
    }

    // Whether a version of this height has a jump, and it leads to a version that still exists. Heights wrap.
    bool reaches(uint32_t height) const { return distance(height) - 1 < height - floor; }
};

}  // namespace quorumd

#endif

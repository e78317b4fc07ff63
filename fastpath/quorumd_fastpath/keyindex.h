// Keys in order. What lives here: records (a key and its value) and the ordered index of them.
//
// The index is a B-tree of two levels: runs of up to RUN_LIMIT records, and one run of the first record of each. A run
// is an array of (eight key bytes, record): the bytes that follow the prefix its keys share, so that a search stays in
// the array and follows a record's pointer only on a tie. Both levels use the same search.

#ifndef QUORUMD_KEYINDEX_H
#define QUORUMD_KEYINDEX_H

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

namespace quorumd {

inline void* allocate(size_t size) {
    void* memory = std::malloc(size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

// One value of a key with all that a read returns about it; `capacity` bytes of value follow the struct.
// Complete in itself, so that history is a chain of these: an `older` link here, and a tombstone where a key was
// deleted, are all that reads at a past revision and watches from one will need.
struct Version {
    uint64_t create_revision;
    uint64_t mod_revision;
    uint64_t version;  // puts since create_revision, from 1
    uint64_t lease;
    uint32_t size;
    uint32_t capacity;

    char* data() { return reinterpret_cast<char*>(this + 1); }
    std::string_view value() const { return {reinterpret_cast<const char*>(this + 1), size}; }

    static Version* make(size_t size) {
        size_t capacity = (size + 15) & ~size_t{15};
        auto* made = static_cast<Version*>(allocate(sizeof(Version) + capacity));
        made->capacity = static_cast<uint32_t>(capacity);
        return made;
    }
};

// A key; its bytes follow the struct. `newest` is where a key's history will hang.
struct Record {
    Version* newest;
    uint32_t key_size;

    std::string_view key() const { return {reinterpret_cast<const char*>(this + 1), key_size}; }

    static Record* make(std::string_view key) {
        auto* made = static_cast<Record*>(allocate(sizeof(Record) + key.size()));
        made->newest = nullptr;
        made->key_size = static_cast<uint32_t>(key.size());
        std::memcpy(made + 1, key.data(), key.size());
        return made;
    }

    static void destroy(Record* record) {
        std::free(record->newest);
        std::free(record);
    }
};

// Records in key order, owned by somebody else.
class Run {
public:
    size_t size() const { return slots_.size(); }
    Record* at(size_t i) const { return slots_[i].record; }

    // The first position whose key is not below `key`. First as if `key` had the prefix; whether it has is checked on
    // the record found, which the caller is going to look at anyway.
    size_t lower_bound(std::string_view key) const {
        if (slots_.empty()) return 0;
        size_t found = key.size() < skip_ ? 0 : search(key);
        int order = key.substr(0, skip_).compare(at(std::min(found, size() - 1))->key().substr(0, skip_));
        return order == 0 ? found : order < 0 ? 0 : size();
    }
    void insert(size_t position, Record* record) {
        if (slots_.empty()) {
            slots_.push_back({0, record});
            skip_ = record->key_size;
            return;
        }
        slots_.insert(slots_.begin() + static_cast<ptrdiff_t>(position), {0, record});
        admit(position, slots_[position == 0 ? 1 : 0].record);
    }

    void replace(size_t position, Record* record) {
        slots_[position].record = record;
        if (size() == 1) {
            skip_ = record->key_size;
            slots_[0].head = 0;
        } else {
            admit(position, slots_[position == 0 ? 1 : 0].record);
        }
    }

    void erase(size_t from, size_t to) {
        slots_.erase(slots_.begin() + static_cast<ptrdiff_t>(from), slots_.begin() + static_cast<ptrdiff_t>(to));
    }

    // Moves the upper half to `upper`, which is empty.
    void split(Run& upper) {
        auto middle = slots_.begin() + static_cast<ptrdiff_t>(size() / 2);
        upper.slots_.assign(middle, slots_.end());
        slots_.erase(middle, slots_.end());
        refresh();
        upper.refresh();
    }

    // Takes over everything in `next`, whose keys are all above ours.
    void merge(const Run& next) {
        slots_.insert(slots_.end(), next.slots_.begin(), next.slots_.end());
        refresh();
    }

private:
    struct Slot {
        uint64_t head;  // big-endian key bytes skip_ .. skip_ + 8, zero-padded; a tie says nothing
        Record* record;
    };

    static size_t shared_prefix(std::string_view a, std::string_view b, size_t limit) {
        limit = std::min({limit, a.size(), b.size()});
        size_t i = 0;
        while (i < limit && a[i] == b[i]) ++i;
        return i;
    }

    // lower_bound() among keys with our prefix.
    size_t search(std::string_view key) const {
        uint64_t head = head_of(key);
        size_t low = 0;
        for (size_t count = size(); count != 0;) {
            size_t half = count / 2;
            const Slot& slot = slots_[low + half];
            bool below = slot.head != head ? slot.head < head
                                           : slot.record->key().substr(skip_) < key.substr(skip_);
            if (below) {
                low += half + 1;
                count -= half + 1;
            } else {
                count = half;
            }
        }
        return low;
    }

    uint64_t head_of(std::string_view key) const {
        uint64_t head = 0;
        if (key.size() >= skip_ + 8) {
            std::memcpy(&head, key.data() + skip_, 8);
        } else if (key.size() > skip_) {
            std::memcpy(&head, key.data() + skip_, key.size() - skip_);
        }
        return __builtin_bswap64(head);
    }

    void fill_heads() {
        for (Slot& slot : slots_) slot.head = head_of(slot.record->key());
    }

    // The keys are in order, so what the first and the last share is shared by all.
    void refresh() {
        skip_ = shared_prefix(at(0)->key(), at(size() - 1)->key(), SIZE_MAX);
        fill_heads();
    }

    // Slot `position` has a new record: the shared prefix may have become shorter. `other` is any other record.
    void admit(size_t position, const Record* other) {
        std::string_view key = at(position)->key();
        size_t shared = shared_prefix(key, other->key(), skip_);
        if (shared < skip_) {
            skip_ = shared;
            fill_heads();
        } else {
            slots_[position].head = head_of(key);
        }
    }

    size_t skip_ = 0;  // every key begins with the same skip_ bytes (not always the longest such prefix)
    std::vector<Slot> slots_;
};

// A place in the index; valid until the next insert or erase.
struct Position {
    size_t run;
    size_t slot;

    bool operator==(const Position& other) const { return run == other.run && slot == other.slot; }
};

// Owns its records. Invariants: no run is empty; firsts_.at(i) == runs_[i]->at(0).
class KeyIndex {
public:
    static constexpr size_t RUN_LIMIT = 256;

    KeyIndex() = default;
    KeyIndex(const KeyIndex&) = delete;
    KeyIndex& operator=(const KeyIndex&) = delete;
    ~KeyIndex() {
        for (Position at{0, 0}; !(at == end()); at = next(at)) Record::destroy(record(at));
    }

    size_t size() const { return size_; }
    Position end() const { return {runs_.size(), 0}; }
    Record* record(Position at) const { return runs_[at.run]->at(at.slot); }
    Position next(Position at) const { return settle({at.run, at.slot + 1}); }

    // The first record whose key is not below `key`, or end().
    Position lower_bound(std::string_view key) const {
        size_t run = firsts_.lower_bound(key);
        if (run == 0) return {0, 0};
        return settle({run - 1, runs_[run - 1]->lower_bound(key)});
    }

    bool holds(Position at, std::string_view key) const { return !(at == end()) && record(at)->key() == key; }

    // Records in [from, to).
    size_t distance(Position from, Position to) const {
        if (from.run == to.run) return to.slot - from.slot;
        size_t count = runs_[from.run]->size() - from.slot + to.slot;
        for (size_t run = from.run + 1; run < to.run; ++run) count += runs_[run]->size();
        return count;
    }

    // `at` is lower_bound(record->key()), and the key is not there yet.
    void insert(Position at, Record* record) {
        ++size_;
        if (runs_.empty()) {
            add_run(0, std::make_unique<Run>(), record);
            return;
        }
        if (at.slot == 0 && at.run != 0) at = {at.run - 1, runs_[at.run - 1]->size()};
        Run& run = *runs_[at.run];
        if (run.size() == RUN_LIMIT) {
            if (at.run + 1 == runs_.size() && at.slot == run.size()) {  // keys that arrive in order fill whole runs
                add_run(runs_.size(), std::make_unique<Run>(), record);
                return;
            }
            auto upper = std::make_unique<Run>();
            run.split(*upper);
            size_t middle = run.size();
            firsts_.insert(at.run + 1, upper->at(0));
            runs_.insert(runs_.begin() + static_cast<ptrdiff_t>(at.run) + 1, std::move(upper));
            if (at.slot > middle) at = {at.run + 1, at.slot - middle};
        }
        runs_[at.run]->insert(at.slot, record);
        restore_first(at.run);
    }

    // Destroys the records in [from, to).
    void erase(Position from, Position to) {
        std::vector<Record*> gone;
        gone.reserve(distance(from, to));
        for (Position at = from; !(at == to); at = next(at)) gone.push_back(record(at));
        if (gone.empty()) return;
        size_t drop_to = to.run;
        if (from.run == to.run) {
            runs_[from.run]->erase(from.slot, to.slot);
            drop_to = from.run + 1;
        } else {
            runs_[from.run]->erase(from.slot, runs_[from.run]->size());
            if (to.slot != 0) runs_[to.run]->erase(0, to.slot);
        }
        size_t drop_from = from.run + (runs_[from.run]->size() != 0 ? 1 : 0);
        firsts_.erase(drop_from, drop_to);
        runs_.erase(runs_.begin() + static_cast<ptrdiff_t>(drop_from), runs_.begin() + static_cast<ptrdiff_t>(drop_to));
        restore_first(from.run);
        restore_first(from.run + 1);
        merge_small(from.run);
        // Only now: the searches above may still have looked at the keys.
        size_ -= gone.size();
        for (Record* record : gone) Record::destroy(record);
    }

private:
    Position settle(Position at) const {
        return at.slot == runs_[at.run]->size() ? Position{at.run + 1, 0} : at;
    }

    void add_run(size_t position, std::unique_ptr<Run> run, Record* only) {
        run->insert(0, only);
        firsts_.insert(position, only);
        runs_.insert(runs_.begin() + static_cast<ptrdiff_t>(position), std::move(run));
    }

    void restore_first(size_t run) {
        if (run < runs_.size() && firsts_.at(run) != runs_[run]->at(0)) firsts_.replace(run, runs_[run]->at(0));
    }

    // Deleting must not leave many nearly empty runs behind.
    void merge_small(size_t run) {
        for (size_t left = run == 0 ? 0 : run - 1; left <= run && left + 1 < runs_.size();) {
            size_t a = runs_[left]->size(), b = runs_[left + 1]->size();
            if (std::min(a, b) > RUN_LIMIT / 4 || a + b > RUN_LIMIT / 2) {
                ++left;
                continue;
            }
            runs_[left]->merge(*runs_[left + 1]);
            firsts_.erase(left + 1, left + 2);
            runs_.erase(runs_.begin() + static_cast<ptrdiff_t>(left) + 1);
        }
    }

    Run firsts_;
    std::vector<std::unique_ptr<Run>> runs_;
    size_t size_ = 0;
};

}  // namespace quorumd

#endif

// Keys in order: the ordered index of records. Deleted keys stay in it until their history is compacted.
//
// The index is a B-tree of two levels: runs of up to RUN_LIMIT records, and one run of the first record of each. A run
// is an array of (eight key bytes, record): the bytes that follow the prefix its keys share, so that a search stays in
// the array and follows a record's pointer only on a tie. Both levels use the same search.

#ifndef QUORUMD_KEYINDEX_H
#define QUORUMD_KEYINDEX_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "versions.h"

namespace quorumd {

// How many records a run holds, or several do, and how many of them are dead.
struct Tally {
    uint32_t records = 0;
    uint32_t dead = 0;

    bool all_dead() const { return dead == records; }
};

// The tallies of all runs, beside each other, with their sums by blocks: a range that spans thousands of runs is
// counted without a look at each of them.
class Tallies {
public:
    void set(size_t run, Tally tally) {
        Tally& block = blocks_[run / BLOCK];
        block.records += tally.records - runs_[run].records;
        block.dead += tally.dead - runs_[run].dead;
        runs_[run] = tally;
    }
    // The run has one record more, which is not dead.
    void grew(size_t run) {
        ++runs_[run].records;
        ++blocks_[run / BLOCK].records;
    }
    void insert(size_t run, Tally tally) {
        runs_.insert(runs_.begin() + static_cast<ptrdiff_t>(run), tally);
        sum_from(run / BLOCK);
    }
    void erase(size_t run) {
        runs_.erase(runs_.begin() + static_cast<ptrdiff_t>(run));
        sum_from(run / BLOCK);
    }

    // Of the runs in [from, to).
    size_t records(size_t from, size_t to) const { return sum<&Tally::records>(from, to); }
    size_t dead(size_t from, size_t to) const { return sum<&Tally::dead>(from, to); }

    // The first run in [from, to) with a record that is not dead, else `to`.
    size_t first_live(size_t from, size_t to) const {
        while (from < to) {
            if (from % BLOCK == 0 && to - from >= BLOCK && blocks_[from / BLOCK].all_dead()) {
                from += BLOCK;
            } else if (runs_[from].all_dead()) {
                ++from;
            } else {
                break;
            }
        }
        return from;
    }

private:
    static constexpr size_t BLOCK = 128;

    // Blocks `first` and later: all runs from there on have moved.
    void sum_from(size_t first) {
        blocks_.resize((runs_.size() + BLOCK - 1) / BLOCK);
        for (size_t block = first; block < blocks_.size(); ++block) {
            Tally total;
            for (size_t run = block * BLOCK, end = std::min(run + BLOCK, runs_.size()); run < end; ++run) {
                total.records += runs_[run].records;
                total.dead += runs_[run].dead;
            }
            blocks_[block] = total;
        }
    }

    template <uint32_t Tally::*FIELD>
    size_t sum(size_t from, size_t to) const {
        size_t total = 0;
        for (; from < to && from % BLOCK != 0; ++from) total += runs_[from].*FIELD;
        for (; from + BLOCK <= to; from += BLOCK) total += blocks_[from / BLOCK].*FIELD;
        for (; from < to; ++from) total += runs_[from].*FIELD;
        return total;
    }

    std::vector<Tally> runs_;
    std::vector<Tally> blocks_;
};

// Records in key order, owned by somebody else.
class Run {
public:
    size_t size() const { return slots_.size(); }
    Record* at(size_t i) const { return slots_[i].record; }

    // Of [from, to), those that are not dead. Looks at single records only where there are dead ones.
    size_t live(size_t from, size_t to) const {
        if (dead_ == 0) return to - from;
        if (from == 0 && to == size()) return size() - dead_;
        size_t count = 0;
        for (size_t i = from; i < to; ++i) count += at(i)->dead == 0;
        return count;
    }
    Tally tally() const { return {static_cast<uint32_t>(size()), static_cast<uint32_t>(dead_)}; }
    // A record of this run died, or came back to life.
    void died() { ++dead_; }
    void revived() { --dead_; }

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

    void erase(size_t position) {
        slots_.erase(slots_.begin() + static_cast<ptrdiff_t>(position));
    }

    // Moves the upper half to `upper`, which is empty.
    void split(Run& upper) {
        auto middle = slots_.begin() + static_cast<ptrdiff_t>(size() / 2);
        upper.slots_.assign(middle, slots_.end());
        slots_.erase(middle, slots_.end());
        refresh();
        upper.refresh();
        if (dead_ == 0) return;
        dead_ = 0;
        for (const Slot& slot : slots_) dead_ += slot.record->dead;
        for (const Slot& slot : upper.slots_) upper.dead_ += slot.record->dead;
    }

    // Takes over everything in `next`, whose keys are all above ours.
    void merge(const Run& next) {
        slots_.insert(slots_.end(), next.slots_.begin(), next.slots_.end());
        dead_ += next.dead_;
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
    size_t dead_ = 0;
    std::vector<Slot> slots_;
};

// A place in the index; valid until the next insert or erase.
struct Position {
    size_t run;
    size_t slot;

    bool operator==(const Position& other) const { return run == other.run && slot == other.slot; }
};

// Owns its records. Invariants: no run is empty; firsts_.at(i) == runs_[i]->at(0); tallies_ are those of
// runs_.
class KeyIndex {
public:
    static constexpr size_t RUN_LIMIT = 256;

    KeyIndex() = default;
    KeyIndex(const KeyIndex&) = delete;
    KeyIndex& operator=(const KeyIndex&) = delete;
    ~KeyIndex() {
        for (Position at{0, 0}; !(at == end()); at = next(at)) Record::destroy(record(at));
    }

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

    // Records in [from, to) that are not dead.
    size_t live(Position from, Position to) const {
        if (from.run == to.run) return from.run == runs_.size() ? 0 : runs_[from.run]->live(from.slot, to.slot);
        size_t count = runs_[from.run]->live(from.slot, runs_[from.run]->size());
        count += tallies_.records(from.run + 1, to.run) - tallies_.dead(from.run + 1, to.run);
        return to.slot == 0 ? count : count + runs_[to.run]->live(0, to.slot);
    }

    // Records in [from, to), dead ones too.
    size_t count(Position from, Position to) const {
        if (from.run == to.run) return to.slot - from.slot;
        return runs_[from.run]->size() - from.slot + tallies_.records(from.run + 1, to.run) + to.slot;
    }

    // Leaves out whole runs of dead records: a place in [at, to] before which, from `at` on, there are only such.
    Position skip_dead(Position at, Position to) const {
        return at.slot != 0 ? at : Position{tallies_.first_live(at.run, to.run), 0};
    }

    // The record at `at` died, or came back to life: its `dead` has just changed.
    void died(Position at) {
        runs_[at.run]->died();
        note(at.run);
    }
    void revived(Position at) {
        runs_[at.run]->revived();
        note(at.run);
    }

    // `at` is lower_bound(record->key()), and the key, which is not dead, is not there yet.
    void insert(Position at, Record* record) {
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
            tallies_.insert(at.run + 1, upper->tally());
            runs_.insert(runs_.begin() + static_cast<ptrdiff_t>(at.run) + 1, std::move(upper));
            note(at.run);
            if (at.slot > middle) at = {at.run + 1, at.slot - middle};
        }
        runs_[at.run]->insert(at.slot, record);
        tallies_.grew(at.run);
        restore_first(at.run);
    }

    // Destroys the record at `at`, which is dead.
    void erase(Position at) {
        Record* gone = record(at);
        runs_[at.run]->revived();
        runs_[at.run]->erase(at.slot);
        if (runs_[at.run]->size() == 0) {
            remove_run(at.run);
        } else {
            note(at.run);
            restore_first(at.run);
        }
        merge_small(at.run);
        Record::destroy(gone);  // only now: the searches above may still have looked at its key
    }

private:
    Position settle(Position at) const {
        return at.slot == runs_[at.run]->size() ? Position{at.run + 1, 0} : at;
    }

    void add_run(size_t position, std::unique_ptr<Run> run, Record* only) {
        run->insert(0, only);
        firsts_.insert(position, only);
        tallies_.insert(position, run->tally());
        runs_.insert(runs_.begin() + static_cast<ptrdiff_t>(position), std::move(run));
    }

    void remove_run(size_t position) {
        firsts_.erase(position);
        tallies_.erase(position);
        runs_.erase(runs_.begin() + static_cast<ptrdiff_t>(position));
    }

    // The run has more or fewer records, or dead ones, than before.
    void note(size_t run) { tallies_.set(run, runs_[run]->tally()); }

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
            note(left);
            remove_run(left + 1);
        }
    }

    Run firsts_;
    Tallies tallies_;
    std::vector<std::unique_ptr<Run>> runs_;
};

}  // namespace quorumd

#endif

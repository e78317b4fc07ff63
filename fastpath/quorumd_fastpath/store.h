// The ordered key-value store with its history: revisions, keys, changes, compaction, byte quota. The rules of etcd's
// data model; leases are leases.h's.
//
// Everything here is a function of the entries applied: the bytes that the quota counts too, so how much a compaction
// has reclaimed is decided by entries, never by time.

#ifndef QUORUMD_STORE_H
#define QUORUMD_STORE_H

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string_view>

#include "keyindex.h"

namespace quorumd {

// What a key, and each of its versions, costs in the quota beyond its own bytes. Fixed, because the quota decides what
// is refused and so must not depend on how memory is laid out; about what it costs in memory.
constexpr uint64_t KEY_OVERHEAD = 80;
constexpr uint64_t VERSION_OVERHEAD = 96;
// Of everything that decides what a command does, and is no part of the log: limits, overheads, budgets, the order of
// steps. A log says which it goes by, because it is replayed from its first entry. limits.py has the same number.
constexpr uint64_t RULES_VERSION = 3;

// What an entry reclaims when a compaction has freed some, besides twice what the changes of the entry before will
// cost: reclaiming goes on under any load, catches up with it, and no entry takes more than some 10 us longer for it.
// The unit is what it takes to let go of a change that replaced nothing, 20 ns. Measured against it, with nothing in a
// cache: to free a version, besides one for each KiB of its value, and to take a deleted key out of the index.
constexpr uint64_t RECLAIMED_PER_ENTRY = 512;
constexpr uint64_t VERSION_COST = 4;
constexpr uint64_t TOMBSTONE_COST = 30;
constexpr uint64_t KEY_BYTES_OF_A_UNIT = 128;  // of a deleted key: it is compared with others to be found
// Rules of version 1 counted changes, all alike.
constexpr uint64_t RECLAIMED_BY_COUNT = 16;

// Work, in looks at a key: see KeyStore::work.
constexpr uint64_t SEEK_WORK = 16;
constexpr uint64_t CHANGE_WORK = 8;  // to delete a key
constexpr uint64_t BYTES_OF_A_LOOK = 64;
constexpr uint64_t RUNS_OF_A_LOOK = 8;
constexpr uint64_t RUNS_OF_A_COUNT = 256;  // that it looks at; blocks of the others are summed up already

enum class Compaction : uint8_t { DONE, COMPACTED, FUTURE };

// One version that came into being: what a watch reports. `version->older` is what the change replaced. Both live until
// an entry is applied after a compaction to the change's revision or above.
struct Change {
    Record* record;
    Version* version;

    uint64_t revision() const { return version->mod_revision; }
    // nullptr: the key was not there.
    const Version* previous() const {
        const Version* older = version->older;
        return older == nullptr || older->dead() ? nullptr : older;
    }
};

class KeyStore {
public:
    explicit KeyStore(uint64_t quota) : quota_(quota) {}

    uint64_t revision() const { return revision_; }
    // Reads below it and changes up to it are refused; 0: nothing was compacted yet.
    uint64_t compacted() const { return compacted_; }
    // All changes of this revision, and of those above it, can still be walked, compacted or not, until an entry is
    // applied: for who had begun before. The revision of the last change that is gone may be so in part only.
    uint64_t held_from() const { return gone_ + 1; }
    uint64_t quota() const { return quota_; }
    // The rules that decide from here on, of a version that there is.
    void set_rules(uint64_t version, uint64_t quota) {
        rules_ = version;
        quota_ = quota;
    }
    uint64_t rules() const { return rules_; }
    // What counts against the quota: all keys and versions held; and what would without history.
    uint64_t bytes() const { return bytes_; }
    uint64_t live_bytes() const { return live_bytes_; }
    size_t size() const { return live_; }

    // What was done so far, in the time that a walk takes for a key (some 20 ns); by which a node knows when to look
    // after other things. It decides nothing that is replicated.
    uint64_t work() const { return work_; }
    void spend(uint64_t work) const { work_ += work; }
    // Likewise for bytes that are copied or compared.
    void spend_bytes(uint64_t bytes) const { work_ += bytes / BYTES_OF_A_LOOK; }

    Position end() const { return index_.end(); }
    Position next(Position at) const {
        spend(1);
        return index_.next(at);
    }
    Position seek(std::string_view key) const {
        spend(SEEK_WORK);
        return index_.lower_bound(key);
    }
    // The record at `at`, dead or alive.
    Record* record(Position at) const { return index_.record(at); }
    // Keys in [from, to) that exist at the newest revision.
    uint64_t live(Position from, Position to) const {
        spend(runs(from, to));
        return index_.live(from, to);
    }
    // How many there are to walk over, the dead ones of `only_dead` or all; counted no further than to beyond `most`.
    uint64_t length(Position from, Position to, size_t most, bool only_dead) const {
        uint64_t count = index_.count(from, to);
        spend(runs(from, to));
        if (only_dead) count -= live(from, to);
        return std::min<uint64_t>(count, most + 1);
    }
    // For who looks for keys of the newest revision in [at, to): `at`, or a place behind it, and behind dead ones only.
    Position skip_dead(Position at, Position to) const { return index_.skip_dead(at, to); }

    // The record of `key` if it exists at the newest revision, else nullptr. `at` is seek(key).
    Record* find(Position at, std::string_view key) const {
        return index_.holds(at, key) && record(at)->dead == 0 ? record(at) : nullptr;
    }
    Record* find(std::string_view key) const { return find(seek(key), key); }

    // etcd's naming of ranges: end "" is the single key, "\0" everything from key on, anything else [key, end).
    void range(std::string_view key, std::string_view range_end, Position* from, Position* to) const {
        *from = seek(key);
        if (range_end.empty()) {
            *to = index_.holds(*from, key) ? next(*from) : *from;
        } else if (range_end == std::string_view("\0", 1)) {
            *to = end();
        } else {
            *to = key < range_end ? seek(range_end) : *from;
        }
    }

    // By how much a put raises bytes(). `at` is seek(key).
    uint64_t growth(Position at, std::string_view key, size_t value_size) const {
        return VERSION_OVERHEAD + value_size + (index_.holds(at, key) ? 0 : KEY_OVERHEAD + key.size());
    }

    bool fits(uint64_t growth) const { return growth == 0 || (bytes_ <= quota_ && growth <= quota_ - bytes_); }

    // `at` is seek(key). The change belongs to the revision that commit() begins; `at` is void afterwards.
    Record* put(Position at, std::string_view key, std::string_view value, uint64_t lease) {
        Version* made = Version::make(value);
        made->mod_revision = revision_ + 1;
        made->lease = lease;
        if (!index_.holds(at, key)) {
            Record* record = Record::make(key);
            bytes_ += KEY_OVERHEAD + key.size();
            create(record, made);
            index_.insert(at, record);
            return record;
        }
        Record* record = index_.record(at);
        if (record->dead != 0) {
            index_.revived(at);
            create(record, made);
        } else {
            const Version* old = record->newest;
            live_bytes_ = live_bytes_ - old->size + made->size;
            made->create_revision = old->create_revision;
            made->version = old->version + 1;
            add(record, made);
        }
        return record;
    }

    // Deletes the key at `at`, which exists; positions stay valid. The change belongs to the revision that commit()
    // begins.
    void erase(Position at) {
        spend(CHANGE_WORK);
        Record* record = index_.record(at);
        live_bytes_ -= cost(*record);
        --live_;
        Version* tombstone = Version::make({});
        tombstone->mod_revision = revision_ + 1;
        tombstone->create_revision = tombstone->version = tombstone->lease = 0;
        add(record, tombstone);
        index_.died(at);
    }

    // Every change since the last commit becomes one revision.
    void commit() { ++revision_; }

    // Whether a compaction has freed what reclaim() has yet to reclaim.
    bool reclaiming() const { return reclaimed_ != compacted_; }

    // From now on reads below `revision` and changes up to it are refused; reclaim() frees what only they need.
    Compaction compact(uint64_t revision) {
        if (revision <= compacted_) return Compaction::COMPACTED;
        if (revision > revision_) return Compaction::FUTURE;
        compacted_ = revision;
        return Compaction::DONE;
    }

    // Frees some of the history that is to go; once for each entry applied, before it.
    void reclaim() {
        uint64_t budget = (rules_ == 1 ? RECLAIMED_BY_COUNT : RECLAIMED_PER_ENTRY) + 2 * added_;
        added_ = 0;
        reclaim(budget);
    }
    // As much of it as the budget lasts for; the change that exhausts it may cost more than is left.
    void reclaim(uint64_t budget) {
        while (reclaiming() && budget != 0) {
            if (changes_.empty() || changes_.front().revision() > compacted_) {
                reclaimed_ = compacted_;
                return;
            }
            Change change = changes_.front();
            prefetch();
            changes_.pop_front();
            ++first_change_;
            gone_ = change.revision();
            uint64_t effort = this->effort(*change.record, *change.version);
            spend(effort);
            budget -= std::min(budget, effort);
            release(change);
        }
    }

    // -- changes, oldest first, numbered since the beginning ---------------------------------------------------------
    // To walk those of revision R on, R >= held_from(): for (n = seek_change(R); n != changes_end(); ++n) change(n).
    // Changes of one revision stand together, in the order of its operations. A number stays that of its change; before
    // using one again after entries were applied, its revision must still be held_from() or above.

    uint64_t changes_end() const { return first_change_ + changes_.size(); }
    const Change& change(uint64_t number) const { return changes_[number - first_change_]; }
    uint64_t seek_change(uint64_t revision) const {
        auto below = [](const Change& change, uint64_t wanted) { return change.revision() < wanted; };
        auto found = std::lower_bound(changes_.begin(), changes_.end(), revision, below);
        return first_change_ + static_cast<uint64_t>(found - changes_.begin());
    }
    // Changes whose history is still held, those included that a compaction has yet to reclaim.
    size_t changes() const { return changes_.size(); }

private:
    // Work of a count between two places.
    static uint64_t runs(Position from, Position to) {
        return std::min<uint64_t>(to.run - from.run, RUNS_OF_A_COUNT) / RUNS_OF_A_LOOK;
    }

    static uint64_t cost(const Record& record) {
        return KEY_OVERHEAD + record.key_size + VERSION_OVERHEAD + record.newest->size;
    }

    void create(Record* record, Version* made) {
        made->create_revision = made->mod_revision;
        made->version = 1;
        add(record, made);
        live_bytes_ += cost(*record);
        ++live_;
    }

    void add(Record* record, Version* made) {
        record->push(made);
        bytes_ += VERSION_OVERHEAD + made->size;
        changes_.push_back({record, made});
        added_ += effort(*record, *made);
    }

    // What it costs to reclaim the change that made this version.
    uint64_t effort(const Record& record, const Version& version) const {
        if (rules_ == 1) return 1;
        const Version* replaced = version.older;
        uint64_t freed = replaced == nullptr ? 0 : VERSION_COST + replaced->size / 1024;
        return 1 + freed + (version.dead() ? TOMBSTONE_COST + record.key_size / KEY_BYTES_OF_A_UNIT : 0);
    }

    // What was written long ago is in no cache: it is asked for a few changes before it is needed, first the change's
    // own record and version, then what the version replaced.
    void prefetch() const {
        constexpr size_t AHEAD = 16;
        if (changes_.size() <= AHEAD) return;
        const Change& far = changes_[AHEAD];
        __builtin_prefetch(far.record, 1);
        __builtin_prefetch(far.version, 1);
        const Version* replaced = changes_[AHEAD / 2].version->older;
        if (replaced != nullptr) __builtin_prefetch(replaced, 1);
    }

    // No reader may ask for what this change replaced any more. Older versions of the key went with earlier changes. A
    // tombstone goes too, with its key; unless newer versions hang on it: then with the next of those.
    void release(const Change& change) {
        change.record->cut(change.version, [this](const Version& gone) { bytes_ -= VERSION_OVERHEAD + gone.size; });
        if (change.record->newest != change.version || !change.version->dead()) return;
        bytes_ -= VERSION_OVERHEAD + KEY_OVERHEAD + change.record->key_size;
        index_.erase(seek(change.record->key()));
    }

    KeyIndex index_;
    std::deque<Change> changes_;
    uint64_t first_change_ = 0;  // number of changes_.front()
    uint64_t added_ = 0;         // what reclaiming the changes since reclaim() was called last will cost
    uint64_t revision_ = 1;
    uint64_t compacted_ = 0;
    uint64_t reclaimed_ = 0;  // compacted_ once all that it freed is reclaimed
    uint64_t gone_ = 0;       // revision of the last change that was reclaimed
    uint64_t bytes_ = 0;
    uint64_t live_bytes_ = 0;
    size_t live_ = 0;
    mutable uint64_t work_ = 0;
    uint64_t rules_ = RULES_VERSION;  // until the log says another
    uint64_t quota_;
};

}  // namespace quorumd

#endif

// Ranges of keys as they are at a revision, and key-value pairs in the bodies of replies.

#ifndef QUORUMD_RANGES_H
#define QUORUMD_RANGES_H

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "commands.h"
#include "store.h"

namespace quorumd {

// limits.py has the same number; a test compares them.
constexpr size_t PAGE_SIZE = 1024 * 1024;
constexpr size_t KV_HEADER_SIZE = 40;

// A key as some revision shows it.
struct Pair {
    const Record* record;
    const Version* version;

    size_t size(bool with_value) const {
        return KV_HEADER_SIZE + record->key_size + (with_value ? version->size : 0);
    }
};

// How many bytes of keys and values the ranges of one reply may still add. The very first pair always goes in, so that
// a client that pages gets on; with `reserved` bytes promised to replaced values there is no such exception.
class Budget {
public:
    explicit Budget(size_t reserved) : left_(reserved < PAGE_SIZE ? PAGE_SIZE - reserved : 0), fresh_(reserved == 0) {}

    bool take(size_t size) {
        if (size > left_ && !fresh_) return false;
        left_ -= std::min(size, left_);
        fresh_ = false;
        return true;
    }

private:
    size_t left_;
    bool fresh_;
};

// The body of a reply, as it grows.
class Body {
public:
    explicit Body(std::string* out) : out_(*out) {}

    size_t size() const { return out_.size(); }

    template <typename T>
    void append(T value) {
        out_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    }

    template <typename T>
    void patch(size_t offset, T value) {
        std::memcpy(&out_[offset], &value, sizeof(T));
    }

    void append_bytes(std::string_view bytes) { out_.append(bytes); }

    void append_pair(const Pair& pair, bool with_value) {
        std::string_view key = pair.record->key();
        std::string_view value = with_value ? pair.version->value() : std::string_view();
        append(pair.version->create_revision);
        append(pair.version->mod_revision);
        append(pair.version->version);
        append(pair.version->lease);
        append(static_cast<uint32_t>(key.size()));
        append(static_cast<uint32_t>(value.size()));
        out_.append(key);
        out_.append(value);
    }

private:
    std::string& out_;
};

// How many keys the ranges of one command may look at, beside the one that looks at most: that one walk is what people
// ask for, and what a transaction of some bytes must not ask for a thousand times. While it runs, a node does nothing
// else. limits.py has the same number; a test compares them.
constexpr size_t MAX_LOOKS = 100'000;

class Looks {
public:
    // Whether that is still allowed. No summand need be counted further than to beyond MAX_LOOKS.
    bool add(uint64_t looks) {
        total_ += looks;
        most_ = std::max(most_, looks);
        return total_ - most_ <= MAX_LOOKS;
    }

private:
    uint64_t total_ = 0;
    uint64_t most_ = 0;
};

// Runs one RANGE after the other.
class RangeReader {
public:
    explicit RangeReader(const KeyStore* store) : store_(*store) {}

    // As in etcd, judged at the revision before the transaction that the range is in.
    Verdict check(const Operation& op) const {
        if (op.second == 0) return GOOD;
        if (op.second > store_.revision()) return {FUTURE_REVISION, "the revision is in the future"};
        if (op.second < store_.compacted()) return {COMPACTED, "the revision is compacted"};
        return GOOD;
    }

    // How many keys read() will look at beyond those that it answers with, at most. `deleted`: some may be gone by then.
    uint64_t looks(const Operation& op, bool deleted) {
        if (op.rest.empty()) return 0;
        options_ = op.range_options();
        bool picks = options_.skip != 0 || options_.min_mod_revision != 0 || options_.max_mod_revision != 0 ||
                     options_.min_create_revision != 0 || options_.max_create_revision != 0;
        bool all = op.second != 0 || picks || sorts();
        if (!all && op.has(COUNT_ONLY)) return 0;
        all = all || deleted;
        Position from, to;
        store_.range(op.key, op.rest, &from, &to);
        return store_.length(from, to, MAX_LOOKS, !all);
    }

    // Appends the body of the reply. Revision 0 shows also what the transaction around has changed so far.
    void read(const Operation& op, Budget* budget, Body* body) {
        options_ = op.range_options();
        newest_ = op.second == 0;
        revision_ = op.second;
        Position from, to;
        store_.range(op.key, op.rest, &from, &to);
        bool counted = !op.has(UNCOUNTED);
        header_ = body->size();
        body->append(uint64_t{0});
        body->append(uint8_t{0});
        body->append(uint32_t{0});
        // The number of keys of the newest revision is known without looking at them.
        bool walk = counted && !newest_;
        uint64_t count = 0;
        if (counted && newest_) count = store_.live(from, to);
        if (sorts()) {
            sorted(op, from, to, &count, budget, body, walk);
        } else if (!op.has(COUNT_ONLY) || walk) {
            in_order(op, from, to, &count, budget, body, walk);
        }
        body->patch(header_, count);
    }

private:
    // etcd sorts ascending where a target but no order is given. Keys are in ascending order anyway.
    bool sorts() const { return options_.target != BY_KEY || options_.order == DESCENDING; }

    // The pair at `at`, or one without a version.
    Pair visible(Position at) const {
        const Record* record = store_.record(at);
        if (newest_) return {record, record->dead != 0 ? nullptr : record->newest};
        const Version* version = record->visible(revision_);
        return {record, version == nullptr || version->dead() ? nullptr : version};
    }

    bool passes(const Version& version) const {
        auto within = [](uint64_t revision, uint64_t low, uint64_t high) {
            return revision >= low && (high == 0 || revision <= high);
        };
        return within(version.mod_revision, options_.min_mod_revision, options_.max_mod_revision) &&
               within(version.create_revision, options_.min_create_revision, options_.max_create_revision);
    }

    // `at`, or a place behind it, if all keys before are dead. What a transaction is allowed (looks()) counts these all
    // the same: that is part of the rules.
    Position onward(Position at, Position to) const { return newest_ ? store_.skip_dead(at, to) : at; }

    // In key order. With `walk`, all keys are looked at to count them.
    void in_order(const Operation& op, Position from, Position to, uint64_t* count, Budget* budget, Body* body,
                  bool walk) {
        bool with_value = !op.has(KEYS_ONLY), wanted = !op.has(COUNT_ONLY), more = false;
        uint64_t skip = options_.skip;
        uint32_t taken = 0;
        for (Position at = onward(from, to); !(at == to) && (walk || !more); at = onward(store_.next(at), to)) {
            Pair pair = visible(at);
            if (pair.version == nullptr) continue;
            *count += walk ? 1 : 0;
            if (!wanted || more || !passes(*pair.version)) continue;
            if (skip != 0) {
                --skip;
            } else if ((op.number != 0 && taken == op.number) || !budget->take(pair.size(with_value))) {
                more = true;
            } else {
                body->append_pair(pair, with_value);
                ++taken;
            }
        }
        finish(taken, more, body);
    }

    // All pairs that pass are picked, and as many as the reply can hold are brought into order.
    void sorted(const Operation& op, Position from, Position to, uint64_t* count, Budget* budget, Body* body,
                bool walk) {
        bool with_value = !op.has(KEYS_ONLY), wanted = !op.has(COUNT_ONLY);
        std::vector<Pair> picked;
        for (Position at = onward(from, to); !(at == to) && (walk || wanted); at = onward(store_.next(at), to)) {
            Pair pair = visible(at);
            if (pair.version == nullptr) continue;
            *count += walk ? 1 : 0;
            if (wanted && passes(*pair.version)) picked.push_back(pair);
        }
        uint64_t size = picked.size(), skip = std::min(options_.skip, size);
        uint64_t held = PAGE_SIZE / KV_HEADER_SIZE + 1;
        if (op.number != 0) held = std::min(held, op.number);
        uint64_t end = skip + std::min(held, size - skip);
        std::partial_sort(picked.begin(), picked.begin() + static_cast<ptrdiff_t>(end), picked.end(),
                          [this](const Pair& a, const Pair& b) { return before(a, b); });
        uint64_t at = skip;
        for (; at < end && budget->take(picked[at].size(with_value)); ++at) body->append_pair(picked[at], with_value);
        finish(static_cast<uint32_t>(at - skip), at < size, body);
    }

    // Equal ones stay in the order of their keys, whichever way the others go.
    bool before(const Pair& a, const Pair& b) const {
        store_.spend(1);
        int order = compare(a, b);
        if (options_.order == DESCENDING) order = -order;
        return order != 0 ? order < 0 : keys(a, b) < 0;
    }

    int keys(const Pair& a, const Pair& b) const {
        store_.spend_bytes(std::min(a.record->key_size, b.record->key_size));
        return sign(a.record->key().compare(b.record->key()));
    }

    int compare(const Pair& a, const Pair& b) const {
        auto three_way = [](uint64_t x, uint64_t y) { return x < y ? -1 : x > y ? 1 : 0; };
        switch (options_.target) {
            case BY_VERSION: return three_way(a.version->version, b.version->version);
            case BY_CREATE: return three_way(a.version->create_revision, b.version->create_revision);
            case BY_MOD: return three_way(a.version->mod_revision, b.version->mod_revision);
            case BY_VALUE:
                store_.spend_bytes(std::min(a.version->size, b.version->size));
                return sign(a.version->value().compare(b.version->value()));
            default: return keys(a, b);
        }
    }

    static int sign(int order) { return order < 0 ? -1 : order > 0 ? 1 : 0; }

    void finish(uint32_t taken, bool more, Body* body) {
        body->patch(header_ + 8, static_cast<uint8_t>(more));
        body->patch(header_ + 9, taken);
    }

    const KeyStore& store_;
    RangeOptions options_;
    uint64_t revision_ = 0;
    bool newest_ = true;
    size_t header_ = 0;
};

}  // namespace quorumd

#endif

// Commands: from bytes to checked operations. daemon/quorumd/commands documents the layouts of commands and reply
// bodies; what one side accepts the other must too.
//
// Every command is checked as a whole before it changes anything: one that fails leaves no trace but its reply.

#ifndef QUORUMD_COMMANDS_H
#define QUORUMD_COMMANDS_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "cursor.h"

namespace quorumd {

enum OpCode : uint8_t {
    PUT = 1,
    DELETE_RANGE = 2,
    RANGE = 3,
    TXN = 4,
    COMPACT = 5,
    LEASE_GRANT = 6,
    LEASE_REVOKE = 7,
    LEASE_KEEP_ALIVE = 8,
    LEASE_TTL = 9,
    LEASE_LIST = 10,
};

// limits.py has the same numbers; a test compares them.
constexpr size_t MAX_KEY_SIZE = 32 * 1024;
constexpr size_t MAX_VALUE_SIZE = 1024 * 1024;
constexpr size_t MAX_TXN_OPS = 128;        // in one list of a transaction
constexpr size_t MAX_TXN_DEPTH = 8;        // transactions in each other
constexpr size_t MAX_TXN_TOTAL = 1024;     // operations and compares of a transaction and all within it

enum PutFlag : uint8_t { PUT_PREV_KV = 1, PUT_IGNORE_VALUE = 2, PUT_IGNORE_LEASE = 4 };
enum RangeFlag : uint8_t { KEYS_ONLY = 1, COUNT_ONLY = 2, UNCOUNTED = 4, HAS_OPTIONS = 8 };
enum SortTarget : uint8_t { BY_KEY = 0, BY_VERSION = 1, BY_CREATE = 2, BY_MOD = 3, BY_VALUE = 4 };
enum SortOrder : uint8_t { UNSORTED = 0, ASCENDING = 1, DESCENDING = 2 };

// How a RANGE picks and sorts; 0 everywhere for one that does neither. Packed in the command as it stands here.
struct RangeOptions {
    uint64_t skip = 0;  // this many of the sorted, filtered result are left out in front: to read it page by page
    uint64_t min_mod_revision = 0;
    uint64_t max_mod_revision = 0;
    uint64_t min_create_revision = 0;
    uint64_t max_create_revision = 0;
    uint8_t target = BY_KEY;
    uint8_t order = UNSORTED;
    uint8_t reserved[6] = {};
};
static_assert(sizeof(RangeOptions) == 48, "the layout is packed");

// What a range of keys names; see KeyStore::range for `end`.
struct Span {
    std::string_view key;
    std::string_view end;

    bool covers(std::string_view other) const {
        if (end.empty()) return other == key;
        return other >= key && (end == std::string_view("\0", 1) || other < end);
    }
};

// Views into the command's bytes.
struct Operation {
    uint8_t code;
    uint8_t flags;
    std::string_view key;
    std::string_view rest;   // PUT: the value; else the end of the range
    uint64_t number;         // PUT: the lease; RANGE: the limit; TXN: its place in Command; COMPACT: the revision; else id
    uint64_t second;         // RANGE: the revision; LEASE_GRANT: the TTL in ms; LEASE_TTL: how many keys to leave out
    const uint8_t* options;  // RANGE: nullptr without any

    bool has(uint8_t flag) const { return (flags & flag) != 0; }
    bool prev_kv() const { return code != RANGE && has(PUT_PREV_KV); }
    Span span() const { return {key, code == PUT ? std::string_view() : rest}; }
    RangeOptions range_options() const {
        RangeOptions found;
        if (options != nullptr) std::memcpy(&found, options, sizeof found);
        return found;
    }
};

struct Comparison {
    uint8_t target;  // version, create, mod, value, lease
    uint8_t result;  // = > < !=
    Span span;
    std::string_view operand;
};

// Consecutive elements of Command's operations or compares.
struct Slice {
    uint32_t first = 0;
    uint32_t count = 0;
};

struct Transaction {
    Slice compares, then, orelse;
};

inline Verdict check_size(std::string_view key, std::string_view end) {
    if (key.empty()) return {REJECTED, "the key is empty"};
    if (key.size() > MAX_KEY_SIZE) return {TOO_LARGE, "the key is above 32 KiB"};
    if (end.size() > MAX_KEY_SIZE) return {TOO_LARGE, "the end of the range is above 32 KiB"};
    return GOOD;
}

inline Verdict check_put(const Operation& op) {
    if (op.rest.size() > MAX_VALUE_SIZE) return {TOO_LARGE, "the value is above 1 MiB"};
    if (op.has(PUT_IGNORE_VALUE) && !op.rest.empty()) return {REJECTED, "ignore_value takes no value"};
    if (op.has(PUT_IGNORE_LEASE) && op.number != 0) return {REJECTED, "ignore_lease takes no lease"};
    return check_size(op.key, {});
}

inline Verdict check_range(const Operation& op) {
    RangeOptions options = op.range_options();
    constexpr uint8_t NOTHING[sizeof options] = {};
    if (options.target > BY_VALUE || options.order > DESCENDING) return {REJECTED, "unknown order"};
    if (std::memcmp(options.reserved, NOTHING, sizeof options.reserved) != 0) return {REJECTED, "reserved bits are set"};
    if (op.options != nullptr && std::memcmp(op.options, NOTHING, sizeof NOTHING) == 0) {
        return {REJECTED, "options that say nothing"};
    }
    return check_size(op.key, op.rest);
}

// PUT, DELETE_RANGE or RANGE.
inline Verdict parse_operation(const uint8_t* data, size_t size, Operation* out) {
    Cursor cursor(data, size);
    *out = Operation{};
    out->code = cursor.number<uint8_t>();
    out->flags = cursor.number<uint8_t>();
    uint16_t reserved = cursor.number<uint16_t>();
    uint32_t key_size = cursor.number<uint32_t>();
    uint32_t rest_size = cursor.number<uint32_t>();
    if (out->code < PUT || out->code > RANGE) return {REJECTED, "unknown operation"};
    if (out->code != DELETE_RANGE) out->number = cursor.number<uint64_t>();
    if (out->code == RANGE) {
        out->second = cursor.number<uint64_t>();
        if (out->has(HAS_OPTIONS)) {
            out->options = cursor.here();
            cursor.bytes(sizeof(RangeOptions));
        }
    }
    out->key = cursor.bytes(key_size);
    out->rest = cursor.bytes(rest_size);
    if (!cursor.finished()) return {REJECTED, "malformed operation"};
    constexpr uint8_t FLAGS[] = {0, 7, 1, 15};
    if ((out->flags & ~FLAGS[out->code]) != 0 || reserved != 0) return {REJECTED, "reserved bits are set"};
    return out->code == PUT ? check_put(*out) : out->code == RANGE ? check_range(*out) : check_size(out->key, out->rest);
}

// COMPACT and all about leases: one number, or two.
inline Verdict parse_numbers(const uint8_t* data, size_t size, Operation* out) {
    Cursor cursor(data, size);
    *out = Operation{};
    out->code = cursor.number<uint8_t>();
    out->flags = cursor.number<uint8_t>();
    uint16_t reserved = cursor.number<uint16_t>();
    uint32_t reserved_too = cursor.number<uint32_t>();
    out->number = cursor.number<uint64_t>();
    if (out->code == LEASE_GRANT || out->code == LEASE_TTL) out->second = cursor.number<uint64_t>();
    if (!cursor.finished()) return {REJECTED, "malformed operation"};
    uint8_t flags = out->code == LEASE_TTL ? 1 : 0;
    bool named = out->code == LEASE_LIST && out->number != 0;
    if ((out->flags & ~flags) != 0 || reserved != 0 || reserved_too != 0 || named) {
        return {REJECTED, "reserved bits are set"};
    }
    return GOOD;
}

// One command; reused, so that parsing allocates nothing. A transaction's operations, and those of the transactions
// in it, stand in one vector; those of one list stand together.
class Command {
public:
    Verdict parse(const uint8_t* data, size_t size) {
        compares_.clear();
        txns_.clear();
        ops_.resize(1);
        work_ = 0;
        uint8_t code = size == 0 ? 0 : data[0];
        if (code == TXN) return parse_txn(Cursor(data, size), 1, &ops_[0]);
        if (code >= COMPACT && code <= LEASE_LIST) return parse_numbers(data, size, &ops_[0]);
        return parse_operation(data, size, &ops_[0]);
    }

    // What parsing took beyond its bytes, in steps.
    uint64_t work() const { return work_; }
    // What the command is; operation(0).
    const Operation& root() const { return ops_[0]; }
    const Operation& operation(size_t i) const { return ops_[i]; }
    const Comparison& compare(size_t i) const { return compares_[i]; }
    const Transaction& transaction(size_t i) const { return txns_[i]; }
    size_t transactions() const { return txns_.size(); }

    // Whether it changes, or may change, what is replicated.
    bool writes() const {
        return std::any_of(ops_.begin(), ops_.end(), [](const Operation& op) {
            return op.code != RANGE && op.code != TXN && op.code < LEASE_KEEP_ALIVE;
        });
    }

private:
    // A key that a list changes, and which of its operations does.
    struct Changed {
        std::string_view key;
        size_t by;
        size_t same = 0;  // once they are in order: so many from this one on are by the same operation

        bool operator<(const Changed& other) const { return key < other.key; }
    };
    struct Deleted {
        Span span;
        size_t by;
    };
    struct Changes {
        std::vector<Changed> puts;
        std::vector<Deleted> deletes;
    };

    // `op` is void afterwards: the vector it lies in grows.
    Verdict parse_txn(Cursor cursor, size_t depth, Operation* op) {
        if (depth > MAX_TXN_DEPTH) return {TOO_LARGE, "transactions are nested more than 8 deep"};
        *op = Operation{};
        op->code = cursor.number<uint8_t>();
        op->flags = cursor.number<uint8_t>();
        size_t place = op->number = txns_.size();
        uint32_t compares = cursor.number<uint16_t>();
        uint32_t then = cursor.number<uint16_t>();
        uint32_t orelse = cursor.number<uint16_t>();
        if (cursor.failed()) return {REJECTED, "malformed transaction"};
        if (op->flags != 0) return {REJECTED, "reserved bits are set"};
        if (std::max({compares, then, orelse}) > MAX_TXN_OPS) return {TOO_LARGE, "more than 128 operations"};
        if (ops_.size() - 1 + compares_.size() + compares + then + orelse > MAX_TXN_TOTAL) {
            return {TOO_LARGE, "more than 1024 operations and compares in all"};
        }
        txns_.emplace_back();
        Verdict verdict = parse_compares(cursor, compares, &txns_[place].compares);
        Slice branches[2];
        if (verdict.ok()) verdict = parse_branch(cursor, then, depth, &branches[0]);
        if (verdict.ok()) verdict = parse_branch(cursor, orelse, depth, &branches[1]);
        if (!verdict.ok()) return verdict;
        if (!cursor.finished()) return {REJECTED, "malformed transaction"};
        txns_[place].then = branches[0];
        txns_[place].orelse = branches[1];
        if (depth != 1) return GOOD;
        for (const Slice& branch : branches) {
            verdict = check_changes(branch);
            if (!verdict.ok()) return verdict;
        }
        return GOOD;
    }

    Verdict parse_compares(Cursor& cursor, uint32_t count, Slice* out) {
        *out = {static_cast<uint32_t>(compares_.size()), count};
        for (uint32_t i = 0; i < count; ++i) {
            Comparison compare;
            compare.target = cursor.number<uint8_t>();
            compare.result = cursor.number<uint8_t>();
            uint16_t ranged = cursor.number<uint16_t>();
            uint32_t key_size = cursor.number<uint32_t>();
            uint32_t operand_size = cursor.number<uint32_t>();
            uint32_t end_size = ranged == 1 ? cursor.number<uint32_t>() : 0;
            compare.span.key = cursor.bytes(key_size);
            compare.operand = cursor.bytes(operand_size);
            compare.span.end = cursor.bytes(end_size);
            if (cursor.failed()) return {REJECTED, "malformed transaction"};
            if (compare.target > 4 || compare.result > 3 || ranged > 1) return {REJECTED, "unknown comparison"};
            if (ranged == 1 && end_size == 0) return {REJECTED, "an end that says nothing"};
            if (compare.target != 3 && operand_size != 8) return {REJECTED, "the operand must have 8 bytes"};
            Verdict verdict = check_size(compare.span.key, compare.span.end);
            if (!verdict.ok()) return verdict;
            compares_.push_back(compare);
        }
        return GOOD;
    }

    Verdict parse_branch(Cursor& cursor, uint32_t count, size_t depth, Slice* out) {
        *out = {static_cast<uint32_t>(ops_.size()), count};
        ops_.resize(ops_.size() + count);
        for (uint32_t i = 0; i < count; ++i) {
            uint32_t size = cursor.number<uint32_t>();
            const uint8_t* start = cursor.here();
            cursor.bytes(size);
            if (cursor.failed()) return {REJECTED, "malformed transaction"};
            Operation* op = &ops_[out->first + i];
            Verdict verdict = size != 0 && start[0] == TXN ? parse_txn(Cursor(start, size), depth + 1, op)
                                                           : parse_operation(start, size, op);
            if (!verdict.ok()) return verdict;
        }
        return GOOD;
    }

    // etcd's rule (checkIntervals): all changes of a transaction share one revision, so a key may be put only once in
    // it, and not put and deleted. The two branches of a transaction exclude each other. Stricter than etcd in one
    // case: of two nested transactions beside each other, a later one may not delete what the earlier one puts either.
    Verdict check_changes(const Slice& branch) {
        if (branch.count < 2 && txns_.size() == 1) return GOOD;
        Changes& changes = changes_;
        changes.puts.clear();
        changes.deletes.clear();
        return collect(branch, &changes);
    }

    // Adds what the list changes, or tells that it changes a key twice.
    Verdict collect(const Slice& branch, Changes* out) {
        size_t first_put = out->puts.size(), first_delete = out->deletes.size();
        for (uint32_t i = branch.first; i < branch.first + branch.count; ++i) {
            const Operation& op = ops_[i];
            if (op.code == PUT) out->puts.push_back({op.key, i});
            if (op.code == DELETE_RANGE) out->deletes.push_back({op.span(), i});
            if (op.code != TXN) continue;
            size_t puts = out->puts.size(), deletes = out->deletes.size();
            Verdict verdict = collect(txns_[op.number].then, out);
            if (verdict.ok()) verdict = collect(txns_[op.number].orelse, out);
            if (!verdict.ok()) return verdict;
            for (size_t k = puts; k < out->puts.size(); ++k) out->puts[k].by = i;
            for (size_t k = deletes; k < out->deletes.size(); ++k) out->deletes[k].by = i;
        }
        auto begin = out->puts.begin() + static_cast<ptrdiff_t>(first_put), end = out->puts.end();
        std::sort(begin, end);
        constexpr Verdict DUPLICATE{REJECTED, "duplicate key in a transaction"};
        auto clash = [](const Changed& a, const Changed& b) { return a.key == b.key && a.by != b.by; };
        if (std::adjacent_find(begin, end, clash) != end) return DUPLICATE;
        // What one operation puts and deletes was compared within it: only whether all puts that a delete covers are by
        // its own operation is asked, and so without a look at each.
        for (auto put = end; put != begin;) {
            --put;
            put->same = put + 1 != end && put[1].by == put->by ? put[1].same + 1 : 1;
        }
        for (size_t k = first_delete; k < out->deletes.size(); ++k) {
            const Deleted& deleted = out->deletes[k];
            ++work_;
            auto put = std::lower_bound(begin, end, Changed{deleted.span.key, 0});
            auto covered = [&](const Changed& change) { return deleted.span.covers(change.key); };
            if (put == end || !covered(*put)) continue;
            if (put->by != deleted.by) return DUPLICATE;
            auto other = put + static_cast<ptrdiff_t>(put->same);
            if (other != end && covered(*other)) return DUPLICATE;
        }
        return GOOD;
    }

    std::vector<Operation> ops_;
    std::vector<Comparison> compares_;
    std::vector<Transaction> txns_;
    Changes changes_;
    uint64_t work_ = 0;  // of this parse
};

}  // namespace quorumd

#endif

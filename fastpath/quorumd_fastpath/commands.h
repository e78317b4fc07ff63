// Commands: from bytes to checked operations, and their execution on the store. daemon/quorumd/commands.py documents
// the layouts of commands and reply bodies; what one side accepts the other must too.
//
// Every command is checked as a whole before it changes anything: one that fails leaves no trace but its reply.

#ifndef QUORUMD_COMMANDS_H
#define QUORUMD_COMMANDS_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "store.h"

namespace quorumd {

enum Status : uint8_t {
    OK = 0,
    REJECTED = 2,
    TOO_LARGE = 3,
    NO_SPACE = 6,
    SESSION_EXPIRED = 7,
    WINDOW_FULL = 8,
    ANSWERED = 9,
    TOO_MANY_SESSIONS = 10,
    REPLY_EVICTED = 12,
    COMPACTED = 13,
};

enum OpCode : uint8_t { PUT = 1, DELETE_RANGE = 2, RANGE = 3, TXN = 4 };

// limits.py has the same numbers; a test compares them.
constexpr size_t MAX_KEY_SIZE = 32 * 1024;
constexpr size_t MAX_VALUE_SIZE = 1024 * 1024;
constexpr size_t MAX_TXN_OPS = 128;
constexpr size_t PAGE_SIZE = 1024 * 1024;
constexpr size_t KV_HEADER_SIZE = 40;
// Replaced and deleted values in one reply: at least the largest single one must fit.
constexpr size_t MAX_PREVIOUS_SIZE = MAX_VALUE_SIZE + MAX_KEY_SIZE + KV_HEADER_SIZE;

// Outcome of a step: OK, or why not. The reason is a literal.
struct Verdict {
    Status status;
    const char* reason;

    bool ok() const { return status == OK; }
};

constexpr Verdict GOOD{OK, ""};

// Reads packed little-endian fields; after running out once it fails for good and yields zeros.
class Cursor {
public:
    Cursor(const uint8_t* data, size_t size) : at_(data), left_(size) {}

    template <typename T>
    T number() {
        T value = 0;
        if (left_ < sizeof(T)) {
            fail();
            return value;
        }
        std::memcpy(&value, at_, sizeof(T));
        skip(sizeof(T));
        return value;
    }

    std::string_view bytes(size_t size) {
        if (left_ < size) {
            fail();
            return {};
        }
        std::string_view taken(reinterpret_cast<const char*>(at_), size);
        skip(size);
        return taken;
    }

    const uint8_t* here() const { return at_; }
    bool finished() const { return !failed_ && left_ == 0; }
    bool failed() const { return failed_; }

private:
    void skip(size_t size) {
        at_ += size;
        left_ -= size;
    }
    void fail() {
        failed_ = true;
        left_ = 0;
    }

    const uint8_t* at_;
    size_t left_;
    bool failed_ = false;
};

// Views into the command's bytes.
struct Operation {
    uint8_t code;
    uint8_t flags;
    std::string_view key;
    std::string_view rest;  // PUT: the value; else the end of the range
    uint64_t number;        // PUT: the lease; RANGE: the limit
    uint64_t revision;      // RANGE

    bool prev_kv() const { return code != RANGE && (flags & 1) != 0; }
    bool keys_only() const { return (flags & 1) != 0; }
    bool count_only() const { return (flags & 2) != 0; }
    // A key that this range names. Only for DELETE_RANGE and RANGE.
    bool covers(std::string_view other) const {
        if (rest.empty()) return other == key;
        return other >= key && (rest == std::string_view("\0", 1) || other < rest);
    }
};

struct Comparison {
    uint8_t target;  // version, create, mod, value, lease
    uint8_t result;  // = > < !=
    std::string_view key;
    std::string_view operand;
};

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
    if (out->code == RANGE) out->revision = cursor.number<uint64_t>();
    out->key = cursor.bytes(key_size);
    out->rest = cursor.bytes(rest_size);
    if (!cursor.finished()) return {REJECTED, "malformed operation"};
    if ((out->flags & (out->code == RANGE ? ~3 : ~1)) != 0 || reserved != 0) return {REJECTED, "reserved bits are set"};
    if (out->key.empty()) return {REJECTED, "the key is empty"};
    if (out->key.size() > MAX_KEY_SIZE) return {TOO_LARGE, "the key is above 32 KiB"};
    if (out->code == PUT) {
        if (out->rest.size() > MAX_VALUE_SIZE) return {TOO_LARGE, "the value is above 1 MiB"};
    } else if (out->rest.size() > MAX_KEY_SIZE) {
        return {TOO_LARGE, "the end of the range is above 32 KiB"};
    }
    return GOOD;
}

// One command; reused, so that parsing allocates nothing.
class Command {
public:
    Verdict parse(const uint8_t* data, size_t size) {
        compares_.clear();
        then_.clear();
        orelse_.clear();
        txn_ = size != 0 && data[0] == TXN;
        if (txn_) return parse_txn(data, size);
        then_.resize(1);
        return parse_operation(data, size, &then_[0]);
    }

    bool txn() const { return txn_; }
    const std::vector<Comparison>& compares() const { return compares_; }
    const std::vector<Operation>& then() const { return then_; }
    const std::vector<Operation>& orelse() const { return orelse_; }
    bool writes() const { return writes(then_) || writes(orelse_); }

    static bool writes(const std::vector<Operation>& branch) {
        return std::any_of(branch.begin(), branch.end(), [](const Operation& op) { return op.code != RANGE; });
    }

private:
    Verdict parse_txn(const uint8_t* data, size_t size) {
        Cursor cursor(data, size);
        cursor.number<uint8_t>();
        uint8_t flags = cursor.number<uint8_t>();
        size_t compares = cursor.number<uint16_t>();
        size_t then = cursor.number<uint16_t>();
        size_t orelse = cursor.number<uint16_t>();
        if (cursor.failed()) return {REJECTED, "malformed transaction"};
        if (flags != 0) return {REJECTED, "reserved bits are set"};
        if (std::max({compares, then, orelse}) > MAX_TXN_OPS) return {TOO_LARGE, "more than 128 operations"};
        for (size_t i = 0; i < compares; ++i) {
            Verdict verdict = parse_compare(cursor);
            if (!verdict.ok()) return verdict;
        }
        Verdict verdict = parse_branch(cursor, then, then_);
        if (verdict.ok()) verdict = parse_branch(cursor, orelse, orelse_);
        if (!verdict.ok()) return verdict;
        if (!cursor.finished()) return {REJECTED, "malformed transaction"};
        return GOOD;
    }

    Verdict parse_compare(Cursor& cursor) {
        Comparison compare;
        compare.target = cursor.number<uint8_t>();
        compare.result = cursor.number<uint8_t>();
        uint16_t reserved = cursor.number<uint16_t>();
        uint32_t key_size = cursor.number<uint32_t>();
        uint32_t operand_size = cursor.number<uint32_t>();
        compare.key = cursor.bytes(key_size);
        compare.operand = cursor.bytes(operand_size);
        if (cursor.failed()) return {REJECTED, "malformed transaction"};
        if (compare.target > 4 || compare.result > 3 || reserved != 0) return {REJECTED, "unknown comparison"};
        if (compare.target != 3 && operand_size != 8) return {REJECTED, "the operand must have 8 bytes"};
        if (compare.key.empty()) return {REJECTED, "the key is empty"};
        if (compare.key.size() > MAX_KEY_SIZE) return {TOO_LARGE, "the key is above 32 KiB"};
        compares_.push_back(compare);
        return GOOD;
    }

    Verdict parse_branch(Cursor& cursor, size_t count, std::vector<Operation>& branch) {
        for (size_t i = 0; i < count; ++i) {
            uint32_t size = cursor.number<uint32_t>();
            const uint8_t* start = cursor.here();
            cursor.bytes(size);
            if (cursor.failed()) return {REJECTED, "malformed transaction"};
            Operation op;
            Verdict verdict = parse_operation(start, size, &op);
            if (!verdict.ok()) return verdict;
            branch.push_back(op);
        }
        return check_overlap(branch);
    }

    // etcd's rule: all changes of a branch share one revision, so a key may change only once in it.
    Verdict check_overlap(const std::vector<Operation>& branch) {
        if (branch.size() < 2) return GOOD;
        puts_.clear();
        for (const Operation& op : branch) {
            if (op.code == PUT) puts_.push_back(op.key);
        }
        std::sort(puts_.begin(), puts_.end());
        constexpr Verdict DUPLICATE{REJECTED, "duplicate key in a transaction"};
        if (std::adjacent_find(puts_.begin(), puts_.end()) != puts_.end()) return DUPLICATE;
        for (const Operation& op : branch) {
            if (op.code != DELETE_RANGE) continue;
            auto first = std::lower_bound(puts_.begin(), puts_.end(), op.key);
            if (first != puts_.end() && op.covers(*first)) return DUPLICATE;
        }
        return GOOD;
    }

    bool txn_ = false;
    std::vector<Comparison> compares_;
    std::vector<Operation> then_;
    std::vector<Operation> orelse_;
    std::vector<std::string_view> puts_;
};

}  // namespace quorumd

#endif

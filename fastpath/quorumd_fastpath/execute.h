// Execution of parsed commands on the store, and the bodies of their replies.

#ifndef QUORUMD_EXECUTE_H
#define QUORUMD_EXECUTE_H

#include "commands.h"

namespace quorumd {

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

constexpr Verdict TOO_MUCH{TOO_LARGE, "prev_kv asks for more than a reply holds"};
constexpr Verdict OVER_QUOTA{NO_SPACE, "the store is over its quota"};

class Executor {
public:
    explicit Executor(KeyStore* store) : store_(*store) {}

    // Runs the command and appends the body of its reply to `body`; unless the verdict is OK nothing has changed and
    // nothing was appended.
    Verdict run(const Command& command, std::string* body) {
        body_ = body;
        changed_ = false;
        Verdict verdict = command.txn() ? run_txn(command) : run_simple(command.then()[0]);
        if (changed_) store_.commit();
        return verdict;
    }

private:
    template <typename T>
    void append(T value) {
        body_->append(reinterpret_cast<const char*>(&value), sizeof(T));
    }

    template <typename T>
    void patch(size_t offset, T value) {
        std::memcpy(&(*body_)[offset], &value, sizeof(T));
    }

    void append_kv(Position at, bool with_value) {
        std::string_view key = store_.key(at);
        const Version& version = store_.newest(at);
        std::string_view value = with_value ? version.value() : std::string_view();
        append(version.create_revision);
        append(version.mod_revision);
        append(version.version);
        append(version.lease);
        append(static_cast<uint32_t>(key.size()));
        append(static_cast<uint32_t>(value.size()));
        body_->append(key);
        body_->append(value);
    }

    size_t kv_size(Position at, bool with_value) const {
        return KV_HEADER_SIZE + store_.key(at).size() + (with_value ? store_.newest(at).size : 0);
    }

    // Bytes that prev_kv adds to the reply, counted no further than to where they are too many.
    size_t previous_size(const Operation& op) const {
        if (!op.prev_kv()) return 0;
        Position from, to;
        store_.range(op.key, op.code == PUT ? std::string_view() : op.rest, &from, &to);
        size_t size = 0;
        for (; !(from == to) && size <= MAX_PREVIOUS_SIZE; from = store_.next(from)) size += kv_size(from, true);
        return size;
    }

    Verdict run_simple(const Operation& op) {
        Budget budget(0);
        switch (op.code) {
            case PUT: {
                Position at = store_.seek(op.key);
                if (!store_.fits(store_.growth(at, op.key, op.rest))) return OVER_QUOTA;
                put(op, at);
                return GOOD;
            }
            case DELETE_RANGE:
                if (previous_size(op) > MAX_PREVIOUS_SIZE) return TOO_MUCH;
                erase(op);
                return GOOD;
            default: {
                Verdict verdict = check_revision(op, false);
                if (verdict.ok()) range(op, &budget);
                return verdict;
            }
        }
    }

    void put(const Operation& op, Position at) {
        if (op.prev_kv() && store_.holds(at, op.key)) append_kv(at, true);
        store_.put(at, op.key, op.rest, op.number);
        changed_ = true;
    }

    void erase(const Operation& op) {
        Position from, to;
        store_.range(op.key, op.rest, &from, &to);
        uint64_t count = store_.distance(from, to);
        append(count);
        append(op.prev_kv() ? static_cast<uint32_t>(count) : uint32_t{0});
        if (count == 0) return;
        if (op.prev_kv()) {
            for (Position at = from; !(at == to); at = store_.next(at)) append_kv(at, true);
        }
        store_.erase(from, to);
        changed_ = true;
    }

    void range(const Operation& op, Budget* budget) {
        Position from, to;
        store_.range(op.key, op.rest, &from, &to);
        size_t header = body_->size();
        append(static_cast<uint64_t>(store_.distance(from, to)));
        append(uint8_t{0});
        append(uint32_t{0});
        if (op.count_only()) return;
        uint32_t taken = 0;
        Position at = from;
        for (; !(at == to); at = store_.next(at), ++taken) {
            if (op.number != 0 && taken == op.number) break;
            if (!budget->take(kv_size(at, !op.keys_only()))) break;
            append_kv(at, !op.keys_only());
        }
        patch(header + 8, static_cast<uint8_t>(at == to ? 0 : 1));
        patch(header + 9, taken);
    }

    // Only the newest revision is held. In a branch that also writes, "newest" would move under the range.
    Verdict check_revision(const Operation& op, bool branch_writes) const {
        if (op.revision == 0) return GOOD;
        if (op.revision > store_.revision()) return {REJECTED, "the revision is in the future"};
        if (op.revision < store_.revision() || branch_writes) return {COMPACTED, "the revision is no longer held"};
        return GOOD;
    }

    bool holds(const Comparison& compare) const {
        Position at = store_.seek(compare.key);
        bool exists = store_.holds(at, compare.key);
        if (compare.target == 3) {
            // As in etcd: a missing key has no value, not an empty one.
            return exists && relation(compare.result, store_.newest(at).value().compare(compare.operand));
        }
        uint64_t operand, actual = 0;
        std::memcpy(&operand, compare.operand.data(), sizeof operand);
        if (exists) {
            const Version& version = store_.newest(at);
            const uint64_t targets[] = {version.version, version.create_revision, version.mod_revision, 0,
                                        version.lease};
            actual = targets[compare.target];
        }
        return relation(compare.result, actual < operand ? -1 : actual > operand ? 1 : 0);
    }

    static bool relation(uint8_t result, int order) {
        switch (result) {
            case 0: return order == 0;
            case 1: return order > 0;
            case 2: return order < 0;
            default: return order != 0;
        }
    }

    // Everything that could make an operation of the branch fail, judged on the state before it. That is exact: no key
    // is put twice, or put and deleted (Command::check_overlap). Two deletes of a key are both counted, and room that
    // a delete makes is not credited to the branch's own puts.
    Verdict check_branch(const std::vector<Operation>& branch, size_t* previous) const {
        bool branch_writes = Command::writes(branch);
        uint64_t growth = 0;
        *previous = 0;
        for (const Operation& op : branch) {
            if (op.code == RANGE) {
                Verdict verdict = check_revision(op, branch_writes);
                if (!verdict.ok()) return verdict;
            }
            if (op.code == PUT) growth += store_.growth(store_.seek(op.key), op.key, op.rest);
            *previous += previous_size(op);
            if (*previous > MAX_PREVIOUS_SIZE) return TOO_MUCH;
        }
        if (!store_.fits(growth)) return OVER_QUOTA;
        return GOOD;
    }

    Verdict run_txn(const Command& command) {
        const auto& compares = command.compares();
        auto holds_now = [this](const Comparison& compare) { return holds(compare); };
        bool succeeded = std::all_of(compares.begin(), compares.end(), holds_now);
        const std::vector<Operation>& branch = succeeded ? command.then() : command.orelse();
        size_t previous = 0;
        Verdict verdict = check_branch(branch, &previous);
        if (!verdict.ok()) return verdict;
        append(static_cast<uint8_t>(succeeded));
        append(static_cast<uint32_t>(branch.size()));
        Budget budget(previous);
        for (const Operation& op : branch) {
            append(op.code);
            size_t length = body_->size();
            append(uint32_t{0});
            if (op.code == PUT) {
                put(op, store_.seek(op.key));
            } else if (op.code == DELETE_RANGE) {
                erase(op);
            } else {
                range(op, &budget);
            }
            patch(length, static_cast<uint32_t>(body_->size() - length - 4));
        }
        return GOOD;
    }

    KeyStore& store_;
    std::string* body_ = nullptr;
    bool changed_ = false;
};

}  // namespace quorumd

#endif

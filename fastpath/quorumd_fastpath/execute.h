// Execution of parsed commands on store and leases, and the bodies of their replies.

#ifndef QUORUMD_EXECUTE_H
#define QUORUMD_EXECUTE_H

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "commands.h"
#include "leases.h"
#include "ranges.h"
#include "store.h"

namespace quorumd {

// Replaced and deleted values in one reply: at least the largest single one must fit.
constexpr size_t MAX_PREVIOUS_SIZE = MAX_VALUE_SIZE + MAX_KEY_SIZE + KV_HEADER_SIZE;

constexpr Verdict TOO_MUCH{TOO_LARGE, "prev_kv asks for more than a reply holds"};
constexpr Verdict TOO_FAR{TOO_LARGE, "the ranges of the transaction look at too many keys together"};
constexpr Verdict OVER_QUOTA{NO_SPACE, "the store is over its quota"};
constexpr Verdict NO_LEASE{LEASE_NOT_FOUND, "there is no such lease"};

class Executor {
public:
    Executor(KeyStore* store, Leases* leases) : store_(*store), leases_(*leases), ranges_(store) {}

    // Runs PUT, DELETE_RANGE, RANGE or TXN and appends the body of its reply; unless the verdict is OK nothing has
    // changed and nothing was appended.
    Verdict run(const Command& command, std::string* out) {
        Body body(out);
        const Operation& op = command.root();
        if (op.code == TXN) return run_txn(command, &body);
        Budget budget(0);
        switch (op.code) {
            case PUT: {
                Position at = store_.seek(op.key);
                Verdict verdict = check_put(op, at);
                if (!verdict.ok()) return verdict;
                if (!store_.fits(growth(op, at))) return OVER_QUOTA;
                put(op, at, &body);
                break;
            }
            case DELETE_RANGE:
                if (previous_size(op) > MAX_PREVIOUS_SIZE) return TOO_MUCH;
                erase(op, &body);
                break;
            default: {
                Verdict verdict = ranges_.check(op);
                if (verdict.ok()) ranges_.read(op, &budget, &body);
                return verdict;
            }
        }
        commit();
        return GOOD;
    }

    // Deletes the lease's keys, in their order and at one revision, and ends it. Returns how many there were.
    uint64_t revoke(uint64_t id, Lease* lease) {
        std::vector<Record*> keys(lease->keys.begin(), lease->keys.end());
        leases_.remove(id);
        for (Record* record : keys) store_.erase(store_.seek(record->key()));
        changed_ = !keys.empty();
        commit();
        return keys.size();
    }

private:
    void commit() {
        if (changed_) store_.commit();
        changed_ = false;
    }

    // -- one operation -------------------------------------------------------------------------------------------

    // etcd's rules for what a put asks of the key, and of the lease, as they were before the transaction around it.
    Verdict check_put(const Operation& op, Position at) {
        if (op.has(PUT_IGNORE_VALUE | PUT_IGNORE_LEASE) && store_.find(at, op.key) == nullptr) {
            return {KEY_NOT_FOUND, "there is no such key, whose value or lease could stay"};
        }
        return op.number != 0 && leases_.find(op.number) == nullptr ? NO_LEASE : GOOD;
    }

    uint64_t growth(const Operation& op, Position at) const {
        size_t size = op.has(PUT_IGNORE_VALUE) ? store_.record(at)->newest->size : op.rest.size();
        return store_.growth(at, op.key, size);
    }

    Position onward(Position at, Position to) const { return store_.skip_dead(at, to); }

    // Bytes that prev_kv adds to the reply, counted no further than to where they are too many.
    size_t previous_size(const Operation& op) const {
        if (!op.prev_kv()) return 0;
        Position from, to;
        Span span = op.span();
        store_.range(span.key, span.end, &from, &to);
        size_t size = 0;
        for (from = onward(from, to); !(from == to) && size <= MAX_PREVIOUS_SIZE; from = onward(store_.next(from), to)) {
            const Record* record = store_.record(from);
            if (record->dead == 0) size += Pair{record, record->newest}.size(true);
        }
        return size;
    }

    void put(const Operation& op, Position at, Body* body) {
        const Record* old = store_.find(at, op.key);
        uint64_t old_lease = 0;
        std::string_view value = op.rest;
        if (old != nullptr) {
            if (op.prev_kv()) body->append_pair({old, old->newest}, true);
            if (op.has(PUT_IGNORE_VALUE)) value = old->newest->value();
            old_lease = old->newest->lease;
        }
        uint64_t lease = op.has(PUT_IGNORE_LEASE) ? old_lease : op.number;
        Record* record = store_.put(at, op.key, value, lease);
        if ((old_lease | lease) != 0) leases_.move(record, old_lease, lease);
        changed_ = true;
    }

    void erase(const Operation& op, Body* body) {
        Position from, to;
        store_.range(op.key, op.rest, &from, &to);
        uint64_t count = store_.live(from, to);
        body->append(count);
        body->append(op.prev_kv() ? static_cast<uint32_t>(count) : uint32_t{0});
        if (count == 0) return;
        for (Position at = onward(from, to); !(at == to); at = onward(store_.next(at), to)) {
            Record* record = store_.record(at);
            if (record->dead != 0) continue;
            if (op.prev_kv()) body->append_pair({record, record->newest}, true);
            if (record->newest->lease != 0) leases_.move(record, record->newest->lease, 0);
            store_.erase(at);
        }
        changed_ = true;
    }

    // -- transactions --------------------------------------------------------------------------------------------

    Verdict run_txn(const Command& command, Body* body) {
        command_ = &command;
        taken_.assign(command.transactions(), false);
        Needs needs;
        if (!choose(0, &needs.looks)) return TOO_FAR;
        Verdict verdict = check(0, &needs);
        if (!verdict.ok()) return verdict;
        if (!store_.fits(needs.growth)) return OVER_QUOTA;
        Budget budget(needs.previous);
        perform(0, &budget, body);
        commit();
        return GOOD;
    }

    const Slice& branch(size_t txn) const {
        const Transaction& chosen = command_->transaction(txn);
        return taken_[txn] ? chosen.then : chosen.orelse;
    }

    template <typename Visit>
    void each(const Slice& slice, Visit visit) const {
        for (uint32_t i = slice.first; i < slice.first + slice.count; ++i) visit(command_->operation(i));
    }

    // Which branch each transaction takes. As in etcd, all compares are judged on the state before the outermost one:
    // what an operation beside a nested transaction writes does not show in its compares. False: they look too far.
    bool choose(size_t txn, Looks* looks) {
        const Slice& compares = command_->transaction(txn).compares;
        bool succeeded = true;
        for (uint32_t i = compares.first; succeeded && i < compares.first + compares.count; ++i) {
            const Comparison& compare = command_->compare(i);
            Position from, to;
            store_.range(compare.span.key, compare.span.end, &from, &to);
            if (!looks->add(store_.length(from, to, MAX_LOOKS, false))) return false;
            succeeded = holds(compare, from, to);
        }
        taken_[txn] = succeeded;
        bool near = true;
        each(branch(txn), [&](const Operation& op) {
            if (near && op.code == TXN) near = choose(op.number, looks);
        });
        return near;
    }

    // A range holds if each of its keys does; an empty one, if a key that is all zeros and has no value would.
    bool holds(const Comparison& compare, Position from, Position to) const {
        bool any = false;
        for (Position at = onward(from, to); !(at == to); at = onward(store_.next(at), to)) {
            const Record* record = store_.record(at);
            if (record->dead != 0) continue;
            if (!holds(compare, record->newest)) return false;
            any = true;
        }
        return any || holds(compare, nullptr);
    }

    bool holds(const Comparison& compare, const Version* version) const {
        if (compare.target == 3) {
            // As in etcd: a missing key has no value, not an empty one.
            if (version == nullptr) return false;
            store_.spend_bytes(std::min<size_t>(version->size, compare.operand.size()));
            return relation(compare.result, version->value().compare(compare.operand));
        }
        uint64_t operand, actual = 0;
        std::memcpy(&operand, compare.operand.data(), sizeof operand);
        if (version != nullptr) {
            const uint64_t targets[] = {version->version, version->create_revision, version->mod_revision, 0,
                                        version->lease};
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

    struct Needs {
        uint64_t growth = 0;
        size_t previous = 0;
        Looks looks;
        bool deletes = false;
    };

    // Everything that could make an operation of the chosen branches fail, judged on the state before all of them. That
    // is exact: no key is put twice, or put and deleted (Command::check_changes). Two deletes of a key are both
    // counted.
    Verdict check(size_t txn, Needs* needs) {
        const Slice& slice = branch(txn);
        for (uint32_t i = slice.first; i < slice.first + slice.count; ++i) {
            const Operation& op = command_->operation(i);
            Verdict verdict = GOOD;
            if (op.code == TXN) {
                verdict = check(op.number, needs);
            } else if (op.code == RANGE) {
                verdict = ranges_.check(op);
                if (verdict.ok() && !needs->looks.add(ranges_.looks(op, needs->deletes))) return TOO_FAR;
            } else if (op.code == DELETE_RANGE) {
                Position from, to;
                store_.range(op.key, op.rest, &from, &to);
                if (!needs->looks.add(store_.length(from, to, MAX_LOOKS, false))) return TOO_FAR;
                needs->deletes = needs->deletes || !op.rest.empty();
            } else if (op.code == PUT) {
                Position at = store_.seek(op.key);
                verdict = check_put(op, at);
                if (verdict.ok()) needs->growth += growth(op, at);
            }
            if (!verdict.ok()) return verdict;
            needs->previous += previous_size(op);
            if (needs->previous > MAX_PREVIOUS_SIZE) return TOO_MUCH;
        }
        return GOOD;
    }

    void perform(size_t txn, Budget* budget, Body* body) {
        const Slice& slice = branch(txn);
        body->append(static_cast<uint8_t>(taken_[txn]));
        body->append(slice.count);
        each(slice, [&](const Operation& op) {
            body->append(op.code);
            size_t length = body->size();
            body->append(uint32_t{0});
            switch (op.code) {
                case PUT: put(op, store_.seek(op.key), body); break;
                case DELETE_RANGE: erase(op, body); break;
                case RANGE: ranges_.read(op, budget, body); break;
                default: perform(op.number, budget, body);
            }
            body->patch(length, static_cast<uint32_t>(body->size() - length - 4));
        });
    }

    KeyStore& store_;
    Leases& leases_;
    RangeReader ranges_;
    bool changed_ = false;
    const Command* command_ = nullptr;  // of the transaction under way
    std::vector<bool> taken_;           // whether each of its transactions takes `then`
};

}  // namespace quorumd

#endif

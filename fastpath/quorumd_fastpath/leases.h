// Leases: keys that live as long as their lease. What is replicated: which leases there are, their TTL, generation and
// keys. What is not, and never reaches replies of the log or the digest: deadlines, of the leader's monotonic clock.
//
// A lease ends only by an entry: a revocation, or an expiry that names its generation. Deadlines only say when to
// propose one, so a wrong clock or a deposed leader can make an expiry late, or propose one that is void.

#ifndef QUORUMD_LEASES_H
#define QUORUMD_LEASES_H

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "versions.h"

namespace quorumd {

// limits.py has the same numbers; a test compares them.
constexpr uint64_t MIN_LEASE_TTL_MS = 1000;
constexpr uint64_t MAX_LEASE_TTL_MS = uint64_t{366} * 24 * 3600 * 1000;
constexpr size_t MAX_LEASES = 100'000;

struct KeyOrder {
    bool operator()(const Record* a, const Record* b) const { return a->key() < b->key(); }
};

struct Lease {
    uint64_t ttl_ms;
    uint64_t generation;  // index of the entry that granted it: tells it from an earlier lease of the same id
    std::set<Record*, KeyOrder> keys;
    // Of this node alone.
    uint64_t deadline;   // ns
    bool armed = false;     // it has its place in the queue of deadlines
    bool expiring = false;  // its expiry was proposed
    bool put_off = false;   // since it was touched; see Leases::put_off

    uint64_t ttl_ns() const { return ttl_ms * 1'000'000; }
};

struct DueLease {
    uint64_t id;
    uint64_t generation;
};

class Leases {
public:
    size_t size() const { return leases_.size(); }
    const std::map<uint64_t, Lease>& all() const { return leases_; }

    Lease* find(uint64_t id) {
        auto at = leases_.find(id);
        return at == leases_.end() ? nullptr : &at->second;
    }

    // `id` is free.
    void grant(uint64_t id, uint64_t ttl_ms, uint64_t generation, uint64_t now) {
        Lease& lease = leases_[id];
        lease.ttl_ms = ttl_ms;
        lease.generation = generation;
        lease.deadline = now + lease.ttl_ns();
        arm(id, &lease, lease.deadline);
    }

    // Its keys were deleted, which detached them.
    void remove(uint64_t id) { leases_.erase(id); }

    // The record's key goes from one lease to another; 0 is none. `to` exists.
    void move(Record* record, uint64_t from, uint64_t to) {
        if (from == to) return;
        if (Lease* lease = from == 0 ? nullptr : find(from)) lease->keys.erase(record);
        if (Lease* lease = to == 0 ? nullptr : find(to)) lease->keys.insert(record);
    }

    // A client keeps the lease alive: a full TTL from `now` on. nullptr: it is gone, or its expiry is proposed.
    const Lease* touch(uint64_t id, uint64_t now) {
        Lease* lease = find(id);
        if (lease == nullptr || lease->expiring) return nullptr;
        lease->deadline = now + lease->ttl_ns();
        lease->put_off = false;
        arm(id, lease, lease->deadline);
        return lease;
    }

    // An expiry was proposed: it may be applied any time, so nobody may be told that the lease lives.
    void expiring(uint64_t id) {
        if (Lease* lease = find(id)) lease->expiring = true;
    }

    // Every lease gets a full TTL from `now` on, by a leader that begins. Of the expiries that it proposed in an earlier
    // term, those that may still be applied are before whatever it answers in this one.
    void rearm(uint64_t now) {
        queue_.clear();
        for (auto& [id, lease] : leases_) {
            lease.expiring = lease.put_off = false;
            lease.deadline = now + lease.ttl_ns();
            lease.armed = true;
            queue_.push_back({lease.deadline, id, lease.generation});
        }
        std::make_heap(queue_.begin(), queue_.end());
    }

    // After a stall: nothing falls due before `until`. Each lease only once until it is touched, or under a leader that
    // is always slow none would ever end. Expiries that are proposed stay so.
    void put_off(uint64_t until) {
        if (next_due() >= until) return;
        for (auto& [id, lease] : leases_) {
            if (lease.put_off || lease.deadline >= until) continue;
            lease.deadline = until;
            lease.put_off = true;
        }
    }

    // At most `limit` leases whose deadline has passed, earliest first. Unless their expiry is proposed, or they are
    // touched, they are named again from `again` on.
    std::vector<DueLease> due(uint64_t now, uint64_t again, size_t limit) {
        std::vector<DueLease> found;
        while (found.size() < limit && !queue_.empty() && queue_.front().deadline <= now) {
            Deadline first = pop();
            Lease* lease = find(first.id);
            if (lease == nullptr || lease->generation != first.generation) continue;
            lease->armed = false;
            if (lease->expiring) continue;
            if (lease->deadline > now) {  // touched or put off since it was queued
                arm(first.id, lease, lease->deadline);
            } else {
                found.push_back({first.id, first.generation});
            }
        }
        for (const DueLease& named : found) {
            Lease* lease = find(named.id);
            lease->put_off = true;  // it was due: no stall later on spares it
            arm(named.id, lease, again);
        }
        return found;
    }

    // Before that due() names nothing.
    uint64_t next_due() const { return queue_.empty() ? UINT64_MAX : queue_.front().deadline; }

private:
    // Touching and putting off only move Lease::deadline: the queue finds out when the old one comes up.
    struct Deadline {
        uint64_t deadline;
        uint64_t id;
        uint64_t generation;

        // std's heaps have the greatest in front.
        bool operator<(const Deadline& other) const {
            return std::pair(deadline, id) > std::pair(other.deadline, other.id);
        }
    };

    void arm(uint64_t id, Lease* lease, uint64_t at) {
        if (lease->armed) return;
        if (queue_.size() > 2 * leases_.size() + 64) forget_ended();
        lease->armed = true;
        queue_.push_back({at, id, lease->generation});
        std::push_heap(queue_.begin(), queue_.end());
    }

    Deadline pop() {
        std::pop_heap(queue_.begin(), queue_.end());
        Deadline first = queue_.back();
        queue_.pop_back();
        return first;
    }

    // Revoked leases leave their places in the queue behind.
    void forget_ended() {
        auto ended = [this](const Deadline& queued) {
            Lease* lease = find(queued.id);
            return lease == nullptr || lease->generation != queued.generation;
        };
        queue_.erase(std::remove_if(queue_.begin(), queue_.end(), ended), queue_.end());
        std::make_heap(queue_.begin(), queue_.end());
    }

    std::map<uint64_t, Lease> leases_;
    std::vector<Deadline> queue_;  // a heap; one place for each armed lease
};

}  // namespace quorumd

#endif

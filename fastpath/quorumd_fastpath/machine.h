// The state machine: what one log entry does to store, leases and sessions, what is answered, and the running digest.
//
// Deterministic: the same entries leave the same state, replies and digest on every node, whatever `now` is and however
// the entries were batched.

#ifndef QUORUMD_MACHINE_H
#define QUORUMD_MACHINE_H

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>

#include "execute.h"
#include "leases.h"
#include "sessions.h"

namespace quorumd {

static_assert(MAX_LEASES * 8 + 4 <= PAGE_SIZE, "a reply lists all leases");

enum Kind : uint8_t {
    NOOP = 0,
    COMMAND = 1,
    OPEN_SESSION = 2,
    CLOSE_SESSION = 3,
    EXPIRE_SESSION = 4,
    EXPIRE_LEASE = 8,     // session.low is the lease; of both expiries seq is the generation, answered_below the NOOP
    COMPACT_HISTORY = 9,  // seq is the revision; session.low, unless 0: only reclaims, and how much
    RULES = 10,           // seq is the quota, session.low the version of the rules
};

// limits.py has the same number; a test compares them.
constexpr uint64_t DIGEST_EVERY = 1024;
constexpr size_t CHECKPOINTS_KEPT = 64;

struct Entry {
    uint8_t kind;
    SessionId session;
    uint64_t seq;
    uint64_t answered_below;
    const uint8_t* command;
    size_t size;
};

// `body` stays valid until the next call of any method.
struct Answer {
    Status status;
    uint64_t revision;
    const char* body;
    size_t size;
};

struct Checkpoint {
    uint64_t index;
    uint64_t digest;
};

class Machine {
public:
    // `key`: anything that clients cannot know; nothing that is replicated depends on it.
    Machine(uint64_t quota, size_t session_limit, uint64_t key)
        : store(quota), sessions(session_limit, key), executor_(&store, &leases) {}

    KeyStore store;
    Leases leases;
    Sessions sessions;

    uint64_t applied() const { return applied_; }
    uint64_t digest() const { return digest_; }
    uint64_t executed() const { return executed_; }
    // The version of the rules that the log has said commands are judged by, 0: none yet.
    uint64_t rules() const { return ruled_ ? store.rules() : 0; }
    // The newest NOOP: every leadership begins with one.
    uint64_t leadership() const { return leadership_; }

    // Applies the entry at applied() + 1. seal() must follow.
    Answer apply(const Entry& entry, uint64_t now) {
        reset_body();
        store.reclaim();
        ++applied_;
        switch (entry.kind) {
            case NOOP:
                leadership_ = applied_;
                return answer(GOOD);
            case COMMAND:
                return apply_command(entry, now);
            case OPEN_SESSION:
                return answer(sessions.open(entry.session, now));
            case CLOSE_SESSION:
                sessions.close(entry.session);
                return answer(GOOD);
            case EXPIRE_SESSION:
                return answer(expire(entry));
            case EXPIRE_LEASE:
                return answer(expire_lease(entry));
            case COMPACT_HISTORY:
                return answer(keep_house(entry));
            case RULES:
                return answer(rule(entry));
            default:
                return answer({REJECTED, "this kind of entry is not logged"});
        }
    }

    // Chains what apply() just did into the digest. `entry_crc` covers the entry's whole record, so that a session id
    // that differs between two nodes shows at once; `body_crc` covers the answer's body.
    void seal(uint32_t entry_crc, Status status, uint32_t body_crc) {
        uint64_t digest = mix(digest_, applied_);
        digest = mix(digest, uint64_t{entry_crc} << 32 | body_crc);
        digest_ = mix(digest, store.revision() ^ uint64_t{status} << 56);
        if (applied_ % DIGEST_EVERY != 0) return;
        checkpoints_.push_back({applied_, digest_});
        if (checkpoints_.size() > CHECKPOINTS_KEPT) checkpoints_.pop_front();
    }

    Checkpoint checkpoint() const { return checkpoints_.empty() ? Checkpoint{0, 0} : checkpoints_.back(); }

    std::optional<uint64_t> digest_at(uint64_t index) const {
        for (const Checkpoint& checkpoint : checkpoints_) {
            if (checkpoint.index == index) return checkpoint.digest;
        }
        return std::nullopt;
    }

    // A command that only reads, outside the log. `now`: what a leader's clock says, by which it keeps leases alive and
    // tells what is left of them; nothing: whoever answers may not lead.
    Answer read(const uint8_t* command, size_t size, std::optional<uint64_t> now) {
        reset_body();
        Verdict verdict = parse(command, size);
        if (verdict.ok() && command_.writes()) verdict = {REJECTED, "a read may not write"};
        if (!verdict.ok()) return answer(verdict);
        const Operation& op = command_.root();
        switch (op.code) {
            case LEASE_KEEP_ALIVE: return answer(now ? keep_alive(op.number, *now) : ONLY_LEADER);
            case LEASE_TTL: return answer(now ? time_to_live(op, *now) : ONLY_LEADER);
            case LEASE_LIST: return answer(list_leases());
            default: return answer(executor_.run(command_, &body_));
        }
    }

    // A session's keep-alive, outside the log too.
    Answer keep_session(SessionId id, std::optional<uint64_t> now) {
        reset_body();
        return answer(now ? sessions.touch(id, *now) : ONLY_LEADER);
    }

private:
    // As in Sessions::touch.
    static constexpr Verdict ENDING{OVERLOADED, "the lease is about to end; ask again"};
    static constexpr Verdict SUPERSEDED{REJECTED, "another leadership has begun since"};
    static constexpr Verdict ONLY_LEADER{REJECTED, "only the leader, asked for the newest state, can say"};

    static uint64_t mix(uint64_t state, uint64_t word) {
        state = (state ^ word) * 0x9e3779b97f4a7c15ull;
        state ^= state >> 32;
        state *= 0xd6e8feb86659fd93ull;
        return state ^ state >> 29;
    }

    // A large body's memory is not kept for the next one.
    void reset_body() {
        if (body_.capacity() > 256 * 1024) {
            std::string().swap(body_);
        } else {
            body_.clear();
        }
    }

    Verdict parse(const uint8_t* command, size_t size) {
        Verdict verdict = command_.parse(command, size);
        store.spend(command_.work());
        return verdict;
    }

    Answer answer(Verdict verdict) {
        if (!verdict.ok()) body_ = verdict.reason;
        return {verdict.status, store.revision(), body_.data(), body_.size()};
    }

    Answer apply_command(const Entry& entry, uint64_t now) {
        Session* session = sessions.find(entry.session);
        if (session == nullptr) return answer({SESSION_EXPIRED, ""});
        sessions.seen(session, now);
        Window& window = session->window;
        window.advance(entry.answered_below);
        if (entry.seq < window.base()) return answer({ANSWERED, ""});
        if (const Done* done = window.find(entry.seq)) return replay(*done);
        if (!window.fits(entry.seq)) return answer({WINDOW_FULL, ""});
        ++executed_;
        Verdict verdict = parse(entry.command, entry.size);
        if (verdict.ok()) verdict = execute(entry, now);
        Answer made = answer(verdict);
        window.add(entry.seq, made.status, made.revision, body_);
        return made;
    }

    Verdict execute(const Entry& entry, uint64_t now) {
        const Operation& op = command_.root();
        switch (op.code) {
            case COMPACT: return compact(op.number);
            case LEASE_GRANT: return grant(entry, op, now);
            case LEASE_REVOKE: return revoke(op.number);
            case LEASE_KEEP_ALIVE:
            case LEASE_TTL:
            case LEASE_LIST: return {REJECTED, "this operation is not logged"};
            default: return executor_.run(command_, &body_);
        }
    }

    static Answer replay(const Done& done) {
        // Only a body that mattered makes a difference: a refusal without its reason is still that refusal.
        bool lost = done.state == Done::EVICTED && done.status == OK;
        const char* body = done.body != nullptr ? done.body->data() : nullptr;
        return {lost ? REPLY_EVICTED : done.status, done.revision, body, done.body != nullptr ? done.body->size : 0};
    }

    // Whether another leadership has begun since an expiry was proposed: its leader may have kept alive what the
    // earlier one gave up. In Multi-Paxos such a proposal can still be chosen after that, in a slot that no leader in
    // between used. Under rules 1 and 2 expiries did not say.
    bool superseded(const Entry& expiry) const {
        return expiry.answered_below != 0 && expiry.answered_below != leadership_;
    }

    // A session that did something after the leader gave it up lives on.
    Verdict expire(const Entry& entry) {
        Session* session = sessions.find(entry.session);
        if (session == nullptr) return {SESSION_EXPIRED, ""};
        if (superseded(entry)) return SUPERSEDED;
        if (session->generation != entry.seq) return {REJECTED, "the session's generation has moved"};
        sessions.close(entry.session);
        return GOOD;
    }

    Verdict compact(uint64_t revision) {
        switch (store.compact(revision)) {
            case Compaction::COMPACTED: return {COMPACTED, "the revision is compacted already"};
            case Compaction::FUTURE: return {FUTURE_REVISION, "the revision is in the future"};
            default: return GOOD;
        }
    }

    // A compaction of the leader's, or more reclaiming than an entry does in passing. Never both at once: who follows
    // the changes has to see what a compaction gives up before it is gone.
    Verdict keep_house(const Entry& entry) {
        if (entry.session.low == 0 || store.rules() == 1) return compact(entry.seq);
        store.reclaim(entry.session.low);
        return GOOD;
    }

    // Other rules than these would make another history of the same log.
    Verdict rule(const Entry& entry) {
        uint64_t version = entry.session.low;
        if (version == 0 || version > RULES_VERSION) {
            throw std::runtime_error("the log goes by rules of version " + std::to_string(version) +
                                     ", this version of quorumd has " + std::to_string(RULES_VERSION));
        }
        store.set_rules(version, entry.seq);
        ruled_ = true;
        return GOOD;
    }

    // -- leases: what is replicated ------------------------------------------------------------------------------

    Verdict grant(const Entry& entry, const Operation& op, uint64_t now) {
        if (op.second > MAX_LEASE_TTL_MS) return {TOO_LARGE, "the TTL is above 366 days"};
        if (op.number != 0 && leases.find(op.number) != nullptr) return {LEASE_EXISTS, "the lease exists"};
        if (leases.size() >= MAX_LEASES) return {NO_SPACE, "there are as many leases as the cluster allows"};
        uint64_t id = op.number != 0 ? op.number : free_lease(entry);
        uint64_t ttl = std::max(op.second, MIN_LEASE_TTL_MS);
        leases.grant(id, ttl, applied_, now);
        Body body(&body_);
        body.append(id);
        body.append(ttl);
        return GOOD;
    }

    // Of 63 bits, as etcd's, and as hard to guess as the session is: out of the entry, so the same on every node.
    uint64_t free_lease(const Entry& entry) {
        uint64_t id = mix(mix(entry.session.low, entry.session.high), applied_) >> 1;
        while (id == 0 || leases.find(id) != nullptr) id = (id + 1) & (UINT64_MAX >> 1);
        return id;
    }

    Verdict revoke(uint64_t id) {
        Lease* lease = leases.find(id);
        if (lease == nullptr) return NO_LEASE;
        Body(&body_).append(executor_.revoke(id, lease));
        return GOOD;
    }

    // A lease that was granted again under its old id lives on.
    Verdict expire_lease(const Entry& entry) {
        Lease* lease = leases.find(entry.session.low);
        if (lease == nullptr) return NO_LEASE;
        if (superseded(entry)) return SUPERSEDED;
        if (lease->generation != entry.seq) return {REJECTED, "the lease's generation has moved"};
        return revoke(entry.session.low);
    }

    // -- leases: what only the leader's clock knows --------------------------------------------------------------

    Verdict keep_alive(uint64_t id, uint64_t now) {
        const Lease* lease = leases.touch(id, now);
        if (lease == nullptr) return leases.find(id) == nullptr ? NO_LEASE : ENDING;
        Body(&body_).append(lease->ttl_ms);
        return GOOD;
    }

    Verdict time_to_live(const Operation& op, uint64_t now) {
        const Lease* lease = leases.find(op.number);
        if (lease == nullptr) return NO_LEASE;
        Body body(&body_);
        uint64_t left = lease->expiring || lease->deadline <= now ? 0 : lease->deadline - now;
        body.append(lease->ttl_ms);
        body.append(left / 1'000'000);
        body.append(static_cast<uint64_t>(lease->keys.size()));
        size_t header = body.size();
        body.append(uint8_t{0});
        body.append(uint32_t{0});
        if (!op.has(1)) return GOOD;
        auto at = lease->keys.begin();
        for (uint64_t skip = op.second; skip != 0 && at != lease->keys.end(); --skip) {
            store.spend(1);
            ++at;
        }
        Budget budget(0);
        uint32_t taken = 0;
        for (; at != lease->keys.end() && budget.take(4 + (*at)->key_size); ++at, ++taken) {
            body.append(static_cast<uint32_t>((*at)->key_size));
            body.append_bytes((*at)->key());
        }
        store.spend(taken);
        body.patch(header, static_cast<uint8_t>(at != lease->keys.end()));
        body.patch(header + 1, taken);
        return GOOD;
    }

    Verdict list_leases() {
        Body body(&body_);
        store.spend(leases.size());
        body.append(static_cast<uint32_t>(leases.size()));
        for (const auto& [id, lease] : leases.all()) body.append(id);
        return GOOD;
    }

    Executor executor_;
    Command command_;
    std::string body_;
    std::deque<Checkpoint> checkpoints_;
    uint64_t applied_ = 0;
    uint64_t digest_ = 0;
    uint64_t executed_ = 0;
    uint64_t leadership_ = 0;
    bool ruled_ = false;
};

}  // namespace quorumd

#endif

// The state machine: what one log entry does to store and sessions, what is answered, and the running digest.
//
// Deterministic: the same entries leave the same state, replies and digest on every node, whatever `now` is and however
// the entries were batched.

#ifndef QUORUMD_MACHINE_H
#define QUORUMD_MACHINE_H

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "execute.h"
#include "sessions.h"

namespace quorumd {

enum Kind : uint8_t {
    NOOP = 0,
    COMMAND = 1,
    OPEN_SESSION = 2,
    CLOSE_SESSION = 3,
    EXPIRE_SESSION = 4,
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
    Machine(uint64_t quota, size_t session_limit) : store(quota), sessions(session_limit), executor_(&store) {}

    KeyStore store;
    Sessions sessions;

    uint64_t applied() const { return applied_; }
    uint64_t digest() const { return digest_; }
    uint64_t executed() const { return executed_; }

    // Applies the entry at applied() + 1. seal() must follow.
    Answer apply(const Entry& entry, uint64_t now) {
        reset_body();
        ++applied_;
        switch (entry.kind) {
            case NOOP:
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

    // A command that only reads, outside the log.
    Answer read(const uint8_t* command, size_t size) {
        reset_body();
        Verdict verdict = command_.parse(command, size);
        if (verdict.ok() && command_.writes()) verdict = {REJECTED, "a read may not write"};
        if (verdict.ok()) verdict = executor_.run(command_, &body_);
        return answer(verdict);
    }

private:
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
        if (entry.seq - window.base() >= WINDOW_OPS) return answer({WINDOW_FULL, ""});
        if (const Done* done = window.find(entry.seq)) return replay(*done);
        ++executed_;
        Verdict verdict = command_.parse(entry.command, entry.size);
        if (verdict.ok()) verdict = executor_.run(command_, &body_);
        Answer made = answer(verdict);
        window.add(entry.seq, made.status, made.revision, body_);
        return made;
    }

    static Answer replay(const Done& done) {
        // Only a body that mattered makes a difference: a refusal without its reason is still that refusal.
        bool lost = done.state == Done::EVICTED && done.status == OK;
        return {lost ? REPLY_EVICTED : done.status, done.revision, done.body, done.size};
    }

    // A session that did something after the leader gave it up lives on.
    Verdict expire(const Entry& entry) {
        Session* session = sessions.find(entry.session);
        if (session == nullptr) return {SESSION_EXPIRED, ""};
        if (session->generation != entry.seq) return {REJECTED, "the session's generation has moved"};
        sessions.close(entry.session);
        return GOOD;
    }

    Executor executor_;
    Command command_;
    std::string body_;
    std::deque<Checkpoint> checkpoints_;
    uint64_t applied_ = 0;
    uint64_t digest_ = 0;
    uint64_t executed_ = 0;
};

}  // namespace quorumd

#endif

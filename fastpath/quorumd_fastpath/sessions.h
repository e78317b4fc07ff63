// Client sessions: which operations were executed and what was answered, so that a retry executes nothing twice.
//
// All of it is replicated state, but for what a session has of this node alone, and the key of the tables. Lookups go
// through hash tables; nothing whose order matters may iterate them (expired() sorts).

#ifndef QUORUMD_SESSIONS_H
#define QUORUMD_SESSIONS_H

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "cursor.h"
#include "versions.h"

namespace quorumd {

// limits.py has the same numbers; a test compares them.
constexpr uint64_t WINDOW_OPS = 1024;
constexpr size_t WINDOW_BYTES = 1024 * 1024;
// Of all sessions together: the bodies of answers, and the slots of windows beyond SMALL_WINDOW each.
constexpr size_t ALL_WINDOWS_BYTES = 256 * 1024 * 1024;
constexpr size_t ALL_WINDOWS_OPS = 4 * 1024 * 1024;
constexpr uint64_t SMALL_WINDOW = 4;
constexpr size_t HELD_OVERHEAD = 64;  // what a body costs beyond its size
// Ended sessions that are remembered. Datagrams are duplicated and delayed: without this, a late copy of the request
// that opened a session would open it again, empty, and late copies of its writes would execute a second time. As many
// as may end at once, when a partition outlasts their TTL, and those of the minute before.
constexpr size_t ENDED_KEPT = 128 * 1024;

// 128 random bits; `high` and `low` are the two little-endian halves of the 16 bytes.
struct SessionId {
    uint64_t high;
    uint64_t low;

    bool operator==(const SessionId& other) const { return high == other.high && low == other.low; }
    // The order of the 16 bytes.
    bool operator<(const SessionId& other) const {
        if (high != other.high) return __builtin_bswap64(high) < __builtin_bswap64(other.high);
        return __builtin_bswap64(low) < __builtin_bswap64(other.low);
    }
};

// Clients choose their ids: without a secret key they could choose ids that all fall together. Differs between nodes;
// the order of the tables is nothing that anybody sees.
struct SessionHash {
    uint64_t key = 0;

    size_t operator()(const SessionId& id) const {
        unsigned __int128 product = id.high ^ key ^ 0x9e3779b97f4a7c15ull;
        product *= (id.low ^ turned()) | 1;
        return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64) ^ id.low;
    }

private:
    uint64_t turned() const { return (key << 32 | key >> 32) * 0xbf58476d1ce4e5b9ull; }
};

class Window;

// The body of an answer; its bytes follow the struct. In the order of the log among those of all sessions.
struct Held {
    Held* older;
    Held* newer;
    Window* window;
    uint64_t seq;
    uint32_t size;

    char* data() { return reinterpret_cast<char*>(this + 1); }
};

// What the windows of all sessions hold, and the oldest of it.
struct Holdings {
    Held* oldest = nullptr;
    Held* newest = nullptr;
    size_t bytes = 0;
    size_t ops = 0;  // slots of windows, beyond SMALL_WINDOW each

    void add(Held* held) {
        held->older = newest;
        held->newer = nullptr;
        (newest != nullptr ? newest->newer : oldest) = held;
        newest = held;
        bytes += held->size + HELD_OVERHEAD;
    }

    void remove(Held* held) {
        (held->older != nullptr ? held->older->newer : oldest) = held->newer;
        (held->newer != nullptr ? held->newer->older : newest) = held->older;
        bytes -= held->size + HELD_OVERHEAD;
        std::free(held);
    }
};

// One executed operation and its answer.
struct Done {
    enum State : uint8_t { NOTHING, KEPT, EVICTED };

    uint64_t revision;
    Held* body;
    Status status;
    State state;
};

// The executed operations of one session with base <= seq < base + WINDOW_OPS. Memory grows with the distance between
// the oldest unanswered operation and the newest executed one: a few slots for most, and the last answer, of which the
// client says with its next operation only that it has it. `all` must outlive the window.
class Window {
public:
    explicit Window(Holdings* all) : all_(all) {}
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;
    ~Window() {
        drop(span_);
        resize(0);
    }

    // Everything below is answered: the client's answered_below, the highest seen.
    uint64_t base() const { return base_; }
    size_t bytes() const { return bytes_; }

    const Done* find(uint64_t seq) const {
        if (seq < base_ || seq - base_ >= span_) return nullptr;
        const Done& done = slot(seq);
        return done.state == Done::NOTHING ? nullptr : &done;
    }

    // The client has every answer below `base`.
    void advance(uint64_t base) {
        if (base <= base_) return;
        drop(std::min<uint64_t>(base - base_, span_));
        base_ = base;
        oldest_body_ = std::max(oldest_body_, base);
        if (capacity_ > SMALL_WINDOW && span_ * 4 <= capacity_) {
            resize(span_ == 0 ? 0 : capacity_for(span_, SMALL_WINDOW));
        }
    }

    // Whether an operation that is not below base is within the window, and all windows together have room for it.
    bool fits(uint64_t seq) const {
        if (seq - base_ >= WINDOW_OPS) return false;
        uint64_t capacity = capacity_for(seq - base_ + 1, capacity_);
        return capacity <= std::max(capacity_, SMALL_WINDOW) ||
               all_->ops + excess(capacity) - excess(capacity_) <= ALL_WINDOWS_OPS;
    }

    // base <= seq, fits(seq), and find(seq) is nullptr.
    void add(uint64_t seq, Status status, uint64_t revision, const std::string& body) {
        uint64_t offset = seq - base_;
        if (uint64_t capacity = capacity_for(offset + 1, capacity_); capacity > capacity_) resize(capacity);
        for (; span_ <= offset; ++span_) slot(base_ + span_) = Done{};
        Done& done = slot(seq);
        done.revision = revision;
        done.status = status;
        done.state = Done::KEPT;
        if (body.empty()) return;
        done.body = static_cast<Held*>(allocate(sizeof(Held) + body.size()));
        *done.body = {nullptr, nullptr, this, seq, static_cast<uint32_t>(body.size())};
        std::memcpy(done.body->data(), body.data(), body.size());
        all_->add(done.body);
        bytes_ += body.size();
        oldest_body_ = std::min(oldest_body_, seq);
        evict(seq);
        // This answer, which is on its way, is the newest of all, and smaller than the limit.
        while (all_->bytes > ALL_WINDOWS_BYTES) all_->oldest->window->forget(all_->oldest->seq);
    }

private:
    Done& slot(uint64_t seq) const { return ring_[seq & (capacity_ - 1)]; }

    static uint64_t excess(uint64_t capacity) { return capacity > SMALL_WINDOW ? capacity - SMALL_WINDOW : 0; }

    static uint64_t capacity_for(uint64_t span, uint64_t least) {
        uint64_t capacity = std::max(least, SMALL_WINDOW);
        while (capacity < span) capacity *= 2;
        return capacity;
    }

    // The slots in use fit `capacity`: a power of two, or 0.
    void resize(uint64_t capacity) {
        auto* ring = capacity != 0 ? static_cast<Done*>(allocate(capacity * sizeof(Done))) : nullptr;
        for (uint64_t i = 0; i < span_; ++i) ring[(base_ + i) & (capacity - 1)] = slot(base_ + i);
        std::free(ring_);
        ring_ = ring;
        all_->ops = all_->ops + excess(capacity) - excess(capacity_);
        capacity_ = capacity;
    }

    void release(Done& done) {
        if (done.body == nullptr) return;
        bytes_ -= done.body->size;
        all_->remove(done.body);
        done.body = nullptr;
    }

    // Of an operation only what is in its slot is known from now on.
    void forget(uint64_t seq) {
        Done& done = slot(seq);
        release(done);
        done.state = Done::EVICTED;
    }

    // Forgets the `count` oldest slots.
    void drop(uint64_t count) {
        for (uint64_t i = 0; i < count; ++i) release(slot(base_ + i));
        base_ += count;
        span_ -= count;
    }

    // Over the limit the bodies of the lowest seqs go first, never that of `newest`: its answer is on its way.
    void evict(uint64_t newest) {
        for (; bytes_ > WINDOW_BYTES && oldest_body_ - base_ < span_; ++oldest_body_) {
            if (oldest_body_ != newest && slot(oldest_body_).body != nullptr) forget(oldest_body_);
        }
        // A gap that was skipped may still be filled, and `newest` may be evicted later.
        if (oldest_body_ > newest) oldest_body_ = newest;
    }

    Holdings* all_;
    Done* ring_ = nullptr;
    uint64_t capacity_ = 0;  // a power of two, or 0
    uint64_t base_ = 1;
    uint64_t span_ = 0;         // slots in use: base_ .. base_ + span_
    uint64_t oldest_body_ = 1;  // no lower seq holds a body
    size_t bytes_ = 0;
};

struct Session {
    explicit Session(Holdings* all) : window(all) {}

    uint64_t generation = 0;  // raised by every applied entry of the session
    // Of this node alone, neither replicated nor digested.
    uint64_t last_seen = 0;  // ns of its monotonic clock
    uint64_t named_at = 0;   // expired() does not name it again before
    bool expiring = false;   // its expiry was proposed; void once the generation moves
    bool put_off = false;    // since it was seen; see Leases::put_off
    Window window;
};

struct Expired {
    SessionId id;
    uint64_t generation;
};

class Sessions {
public:
    Sessions(size_t limit, uint64_t key) : open_(8, SessionHash{key}), ended_(8, SessionHash{key}), limit_(limit) {}
    Sessions(const Sessions&) = delete;  // the windows point into it
    Sessions& operator=(const Sessions&) = delete;

    size_t size() const { return open_.size(); }
    const Holdings& holdings() const { return holdings_; }
    size_t limit() const { return limit_; }

    Session* find(SessionId id) {
        auto at = open_.find(id);
        return at == open_.end() ? nullptr : &at->second;
    }

    // Opening what is open is fine: the answer may have been lost.
    Verdict open(SessionId id, uint64_t now) {
        Session* session = find(id);
        if (session == nullptr) {
            if (ended_.count(id) != 0) return {SESSION_EXPIRED, "the session has ended"};
            if (open_.size() >= limit_) return {TOO_MANY_SESSIONS, ""};
            session = &open_.try_emplace(id, &holdings_).first->second;
        }
        seen(session, now);
        return GOOD;
    }

    // Counts an applied entry.
    void seen(Session* session, uint64_t now) {
        session->generation += 1;
        session->expiring = false;
        refresh(session, now);
    }

    // Its client keeps the session alive: a full TTL from `now` on. Not if it has ended, nor if its expiry is proposed:
    // then it is neither alive nor gone, and lives on if this node is deposed before that is committed.
    Verdict touch(SessionId id, uint64_t now) {
        Session* session = find(id);
        if (session == nullptr) return {SESSION_EXPIRED, ""};
        if (session->expiring) return {OVERLOADED, "the session is about to end; ask again"};
        refresh(session, now);
        return GOOD;
    }

    // An expiry was proposed: it may be applied any time, so nobody may be told that the session lives.
    void expiring(SessionId id) {
        if (Session* session = find(id)) session->expiring = true;
    }

    // Ends a session; closing what is not open is fine: the answer may have been lost.
    void close(SessionId id) {
        if (open_.erase(id) == 0) return;
        if (ended_order_.size() < ENDED_KEPT) {
            ended_order_.push_back(id);
        } else {
            ended_.erase(ended_order_[ended_next_]);
            ended_order_[ended_next_] = id;
            ended_next_ = (ended_next_ + 1) % ENDED_KEPT;
        }
        ended_.insert(id);
    }

    // Every session gets a full TTL from `now` on; see Leases::rearm.
    void rearm(uint64_t now) {
        for (auto& [id, session] : open_) {
            session.last_seen = now;
            session.named_at = 0;
            session.expiring = session.put_off = false;
        }
        oldest_seen_ = now;
    }

    // See Leases::put_off; `ttl` is what expired() is told.
    void put_off(uint64_t until, uint64_t ttl) {
        if (until < ttl || oldest_seen_ >= until - ttl) return;
        oldest_seen_ = UINT64_MAX;
        for (auto& [id, session] : open_) {
            if (!session.put_off && session.last_seen < until - ttl) {
                session.last_seen = until - ttl;
                session.put_off = true;
            }
            oldest_seen_ = std::min(oldest_seen_, session.last_seen);
        }
    }

    // Up to `limit` sessions not seen for `ttl`, those of the lowest ids, in their order; without those whose expiry is
    // proposed. Each is named again from `again` on: it may not have been proposed after all.
    std::vector<Expired> expired(uint64_t now, uint64_t ttl, uint64_t again, size_t limit) {
        std::vector<Expired> found;
        if (age(oldest_seen_, now) < ttl) return found;
        oldest_seen_ = now;
        for (const auto& [id, session] : open_) {
            oldest_seen_ = std::min(oldest_seen_, session.last_seen);
            if (age(session.last_seen, now) >= ttl && session.named_at <= now && !session.expiring) {
                found.push_back({id, session.generation});
            }
        }
        auto end = found.begin() + std::min(limit, found.size());
        auto by_id = [](const Expired& a, const Expired& b) { return a.id < b.id; };
        std::partial_sort(found.begin(), end, found.end(), by_id);
        found.erase(end, found.end());
        for (const Expired& expired : found) find(expired.id)->named_at = again;
        return found;
    }

private:
    void refresh(Session* session, uint64_t now) {
        session->last_seen = now;
        session->put_off = false;
        oldest_seen_ = std::min(oldest_seen_, now);
    }

    static uint64_t age(uint64_t seen, uint64_t now) { return now > seen ? now - seen : 0; }

    Holdings holdings_;
    std::unordered_map<SessionId, Session, SessionHash> open_;
    std::unordered_set<SessionId, SessionHash> ended_;
    std::vector<SessionId> ended_order_;  // a ring once it is full
    size_t ended_next_ = 0;
    uint64_t oldest_seen_ = UINT64_MAX;  // no session's last_seen is below: most calls of expired() need no walk
    size_t limit_;
};

}  // namespace quorumd

#endif

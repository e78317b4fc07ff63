// Outcomes, and reading packed fields without leaving the bytes.

#ifndef QUORUMD_CURSOR_H
#define QUORUMD_CURSOR_H

#include <cstdint>
#include <cstring>
#include <string_view>

namespace quorumd {

enum Status : uint8_t {
    OK = 0,
    REJECTED = 2,
    TOO_LARGE = 3,
    OVERLOADED = 5,
    NO_SPACE = 6,
    SESSION_EXPIRED = 7,
    WINDOW_FULL = 8,
    ANSWERED = 9,
    TOO_MANY_SESSIONS = 10,
    REPLY_EVICTED = 12,
    COMPACTED = 13,
    LEASE_NOT_FOUND = 14,
    LEASE_EXISTS = 15,
    KEY_NOT_FOUND = 16,
    FUTURE_REVISION = 17,
};

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

}  // namespace quorumd

#endif

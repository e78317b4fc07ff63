// Whom a key concerns: interests in single keys by hash, interests in ranges in an interval tree.
//
// The tree is a treap of the distinct ranges, ordered by where they begin; each node knows which range of its subtree
// reaches farthest, so that a search leaves out whatever ends before the key (CLRS, "Interval trees"). An event that
// concerns nobody costs one look into the hash and one at the tree's root path, however many interests there are.
//
// That a path is short, and recursion shallow, rests on priorities that whoever chooses the ranges cannot foresee: they
// come of the seed, which is secret and the node's own (Seidel and Aragon, "Randomized Search Trees"). So does the key
// of the hash, or clients could choose keys that all fall together.

#ifndef QUORUMD_WATCHINDEX_H
#define QUORUMD_WATCHINDEX_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quorumd {

// What a watcher asks for, named as ranges are (store.h): end "" is the single key, "\0" everything from key on.
struct Interest {
    std::string key;
    std::string end;
    size_t place = 0;  // the index's: position among those with the same key and end

    bool single() const { return end.empty(); }
    bool open() const { return end.size() == 1 && end[0] == '\0'; }
    bool sensible() const { return single() || open() || key < end; }
    size_t names_bytes() const { return 2 * (key.size() + end.size()); }  // its own and the index's copy
};

// splitmix64: the next of the numbers that come of a seed.
inline uint64_t next_random(uint64_t& state) {
    uint64_t mixed = state += 0x9e3779b97f4a7c15ull;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
    return mixed ^ mixed >> 31;
}

// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): who does not know the key finds no two
// strings that fall together. Of this process alone: the order of the bytes of a word matters to nobody.
class KeyedHash {
public:
    explicit KeyedHash(uint64_t seed) : low_(next_random(seed)), high_(next_random(seed)) {}

    size_t operator()(const std::string& text) const {
        uint64_t v0 = low_ ^ 0x736f6d6570736575ull, v1 = high_ ^ 0x646f72616e646f6dull;
        uint64_t v2 = low_ ^ 0x6c7967656e657261ull, v3 = high_ ^ 0x7465646279746573ull;
        auto round = [&] {
            v0 += v1, v2 += v3, v1 = turn(v1, 13) ^ v0, v3 = turn(v3, 16) ^ v2;
            v0 = turn(v0, 32) + v3, v2 += v1, v3 = turn(v3, 21) ^ v0, v1 = turn(v1, 17) ^ v2;
            v2 = turn(v2, 32);
        };
        const char* at = text.data();
        size_t left = text.size();
        uint64_t word;
        for (; left >= sizeof word; left -= sizeof word, at += sizeof word) {
            std::memcpy(&word, at, sizeof word);
            v3 ^= word;
            round();
            v0 ^= word;
        }
        word = 0;
        std::memcpy(&word, at, left);
        word |= static_cast<uint64_t>(text.size()) << 56;
        v3 ^= word;
        round();
        v0 ^= word;
        v2 ^= 0xff;
        round(), round(), round();
        return v0 ^ v1 ^ v2 ^ v3;
    }

private:
    static uint64_t turn(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

    uint64_t low_, high_;
};

// Owns no interest. Those with equal key and end share a node.
class WatchIndex {
public:
    explicit WatchIndex(uint64_t seed) : keys_(8, KeyedHash(~seed)), seed_(seed) {}
    WatchIndex(const WatchIndex&) = delete;
    WatchIndex& operator=(const WatchIndex&) = delete;
    ~WatchIndex() { destroy(root_); }

    // `interest` is sensible() and stays where it is until remove().
    void add(Interest* interest) {
        Members* members;
        if (interest->single()) {
            auto& held = keys_[interest->key];
            members = &held;
        } else {
            Span* span = find(*interest);
            if (span == nullptr) {
                span = new Span{interest->key, interest->end, interest->open(), {}, next_random(seed_)};
                span->reach = span;
                root_ = insert(root_, span);
            }
            members = &span->members;
        }
        interest->place = members->size();
        members->push_back(interest);
    }

    void remove(Interest* interest) {
        if (interest->single()) {
            auto found = keys_.find(interest->key);
            drop(found->second, interest);
            if (found->second.empty()) keys_.erase(found);
            return;
        }
        Span* span = find(*interest);
        drop(span->members, interest);
        if (span->members.empty()) {
            root_ = erase(root_, span);
            delete span;
        }
    }

    // Calls found(Interest*) for each that `key` concerns. Nothing may be added or removed meanwhile. Returns how many
    // nodes of the tree were looked at.
    template <typename Found>
    uint64_t each(std::string_view key, Found found) {
        if (!keys_.empty()) {
            probe_.assign(key.data(), key.size());
            auto single = keys_.find(probe_);
            if (single != keys_.end()) {
                for (Interest* interest : single->second) found(interest);
            }
        }
        uint64_t looked_at = 0;
        visit(root_, key, found, looked_at);
        return looked_at;
    }

private:
    using Members = std::vector<Interest*>;

    struct Span {
        std::string key;
        std::string end;
        bool open;  // has no end
        Members members;
        uint64_t priority;  // of a parent: not below its children's
        Span* left = nullptr;
        Span* right = nullptr;
        const Span* reach = nullptr;  // the one of this subtree that ends last

        bool covers_end(std::string_view at) const { return open || at < std::string_view(end); }
    };

    static void drop(Members& members, Interest* interest) {
        members[interest->place] = members.back();
        members[interest->place]->place = interest->place;
        members.pop_back();
    }

    static bool before(const Interest& a, const Span& b) {
        int order = a.key.compare(b.key);
        return order < 0 || (order == 0 && a.end < b.end);
    }
    static bool before(const Span& a, const Span& b) {
        int order = a.key.compare(b.key);
        return order < 0 || (order == 0 && a.end < b.end);
    }

    Span* find(const Interest& wanted) const {
        Span* at = root_;
        while (at != nullptr && !(at->key == wanted.key && at->end == wanted.end)) {
            at = before(wanted, *at) ? at->left : at->right;
        }
        return at;
    }

    static const Span* later(const Span* a, const Span* b) {
        if (b == nullptr || a->open) return a;
        return b->open || a->end < b->end ? b : a;
    }

    static void refresh(Span* at) {
        at->reach = at;
        if (at->left != nullptr) at->reach = later(at->reach, at->left->reach);
        if (at->right != nullptr) at->reach = later(at->reach, at->right->reach);
    }

    static Span* insert(Span* at, Span* made) {
        if (at == nullptr) return made;
        if (before(*made, *at)) {
            at->left = insert(at->left, made);
            if (at->left->priority > at->priority) {
                Span* up = at->left;
                at->left = up->right;
                up->right = at;
                refresh(at);
                at = up;
            }
        } else {
            at->right = insert(at->right, made);
            if (at->right->priority > at->priority) {
                Span* up = at->right;
                at->right = up->left;
                up->left = at;
                refresh(at);
                at = up;
            }
        }
        refresh(at);
        return at;
    }

    static Span* merge(Span* left, Span* right) {
        if (left == nullptr) return right;
        if (right == nullptr) return left;
        Span* top;
        if (left->priority > right->priority) {
            top = left;
            left->right = merge(left->right, right);
        } else {
            top = right;
            right->left = merge(left, right->left);
        }
        refresh(top);
        return top;
    }

    static Span* erase(Span* at, Span* gone) {
        if (at == gone) return merge(at->left, at->right);
        if (before(*gone, *at)) {
            at->left = erase(at->left, gone);
        } else {
            at->right = erase(at->right, gone);
        }
        refresh(at);
        return at;
    }

    template <typename Found>
    static void visit(Span* at, std::string_view key, Found& found, uint64_t& looked_at) {
        while (at != nullptr && at->reach->covers_end(key)) {
            ++looked_at;
            visit(at->left, key, found, looked_at);
            if (key < std::string_view(at->key)) return;
            if (at->covers_end(key)) {
                for (Interest* interest : at->members) found(interest);
            }
            at = at->right;
        }
    }

    static void destroy(Span* at) {
        if (at == nullptr) return;
        destroy(at->left);
        destroy(at->right);
        delete at;
    }

    std::unordered_map<std::string, Members, KeyedHash> keys_;
    Span* root_ = nullptr;
    uint64_t seed_;  // of priorities. Nobody is shown one, so nobody can infer the next
    std::string probe_;  // keeps its memory from one search to the next
};

}  // namespace quorumd

#endif

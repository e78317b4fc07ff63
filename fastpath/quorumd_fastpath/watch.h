// Watches: from the store's changes to the items of streams. What lives here: which watcher has got how far, and the
// bytes of events; numbers, acknowledgements and time are watchplane.py's. ARCHITECTURE.md has the layout of items.
//
// A watcher is *in step* or *behind*. One in step is given each change right after it is applied (feed). One that began
// in the past, or whose stream had no room, is behind: it reads on from history by revision, in walks that all who are
// behind share (walk), until it is in step again. Nothing is kept for it but its position, so a slow watcher costs its
// stream's window and no more.
//
// A walk is an elevator: it goes on where the last one stopped, and takes along whoever has room as it passes. Only at
// the end of a lap the next one begins with whoever is farthest behind. So who begins in the past holds up nobody else.
// A compaction of what was just fed begins a lap with those who were in step: the next entry reclaims what they lack.
// It stops as soon as a turn's work is done, also amid a change that many want, or amid a large event.
//
// Streams share total_bytes: each may have outstanding at most what is still free of it (Choudhury and Hahne, "Dynamic
// Queue Length Thresholds"), so the fuller all are together, the less each may hold; and however full, a small part,
// `least_`, so that whoever acknowledges gets on.
//
// Invariants:
// - Each change that a watcher wants is put in its stream once, in order. A position names the first byte not yet put.
// - Events of one revision and watcher are pieces of one run of bytes, each but the last marked MORE; whoever reads the
//   stream has the revision when a piece without the mark came. So any revision fits any window.
// - Progress is only said when everything up to it is in the stream.
// - A lap ends, at the revision that was the newest when it began, however fast there are more. Walks come past
//   everybody before that revision once a lap, and whoever has room then is given something.
// - If requests are only taken of a stream that has no more than twice share() outstanding, or than 2 * least_ while
//   its window is closed, all streams together hold no more than total_bytes, and 2 * least_ for each stream, and an
//   item without a body for each watcher and each stream.
// - No pointer into the store outlives a call.

#ifndef QUORUMD_WATCH_H
#define QUORUMD_WATCH_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "store.h"
#include "watchindex.h"
#include "watchitems.h"

namespace quorumd {

struct WatchLimits {
    size_t watchers;
    size_t watcher_bytes;  // of the names (keys and ends) of all watchers, with the index's copies
    size_t window_bytes;   // of one stream: put in it and not acknowledged
    size_t total_bytes;    // of all streams, but for least_ of each
    size_t piece_bytes;    // of events in one item
    uint64_t turn_cost;    // changes, watchers found, events put in streams and their bytes, in one feed or walk
};

constexpr uint64_t NODES_PER_COST = 8;  // so many nodes of the index take as long to look at as one event to put
constexpr size_t BYTES_PER_COST = 512;  // of an event: so many take as long to put as one more event
constexpr size_t LEAST_PARTS = 16;      // of a piece: least_ is one of them
constexpr size_t LEAST_BYTES = 64;      // and no less: an item's header and something of an event, twice

struct WatchStream;

struct Watcher : Interest {
    WatchStream* stream = nullptr;
    uint64_t id = 0;
    uint8_t flags = 0;
    bool behind = false;
    bool open = false;      // a piece of `revision` is in the stream, and its last is not
    uint64_t revision = 0;  // in step: wants nothing below it. Behind: position, with the two that follow
    uint64_t sub = 0;       // changes of `revision` that are done with
    size_t offset = 0;      // bytes of the next change's event that are in the stream
    size_t need = 0;        // room without which it cannot go on
    uint64_t walk = 0;      // the last one that it had no room in, or that began beyond it
    uint64_t since = 0;     // the last walk before it fell behind
    size_t behind_place = 0;
};

struct WatchStream {
    uint32_t slot = 0;
    bool used = false;
    bool ready = false;  // listed in ready_
    bool progress_wanted = false;
    size_t window = 0;
    size_t outstanding = 0;  // bytes of items that are not acknowledged, whether taken or not
    size_t behind = 0;       // watchers that are
    WatchItems items;        // that nobody has taken
    // By id. Ordered: clients choose ids, and could choose such as fall together in a hash.
    std::map<uint64_t, std::unique_ptr<Watcher>> watchers;
};

class WatchHub {
public:
    // `seed` is random, and known to no client (watchindex.h).
    WatchHub(const WatchLimits& limits, uint64_t seed)
        : limits_(limits),
          least_(std::min(limits.window_bytes, std::max(limits.piece_bytes / LEAST_PARTS, LEAST_BYTES))),
          index_(seed) {}

    // -- streams -----------------------------------------------------------------------------------------------------

    // A stream's window is closed until open_window(): no events are put in it.
    uint32_t open_stream() {
        if (free_.empty()) {
            streams_.push_back(std::make_unique<WatchStream>());
            free_.push_back(static_cast<uint32_t>(streams_.size() - 1));
        }
        uint32_t slot = free_.back();
        free_.pop_back();
        WatchStream& stream = *streams_[slot];
        stream.slot = slot;
        stream.used = true;
        return slot;
    }

    WatchStream* stream(uint32_t slot) {
        return slot < streams_.size() && streams_[slot]->used ? streams_[slot].get() : nullptr;
    }

    void close_stream(WatchStream* stream) {
        for (auto& held : stream->watchers) forget(held.second.get());
        total_ -= stream->outstanding;
        uint32_t slot = stream->slot;
        *stream = WatchStream();
        stream->slot = slot;
        free_.push_back(slot);
    }

    void open_window(WatchStream* stream) { stream->window = limits_.window_bytes; }

    void acknowledged(WatchStream* stream, size_t bytes) {
        bytes = std::min(bytes, stream->outstanding);
        stream->outstanding -= bytes;
        total_ -= bytes;
    }

    // So much may be outstanding in the stream at present. It shrinks as others fill theirs, also below what is there.
    size_t share(const WatchStream& stream) const {
        size_t left = limits_.total_bytes - std::min(limits_.total_bytes, total_);
        return std::min(stream.window, std::max(left, least_));
    }

    // -- watchers ----------------------------------------------------------------------------------------------------

    // False if the stream has a watcher of this id. What else may be wrong is said in the stream.
    bool watch(const KeyStore& store, WatchStream* stream, uint64_t id, std::string_view key, std::string_view end,
               uint8_t flags, uint64_t start) {
        if (stream->watchers.count(id) != 0) return false;
        auto made = std::make_unique<Watcher>();
        Watcher* watcher = made.get();
        watcher->key = key;
        watcher->end = end;
        watcher->stream = stream;
        watcher->id = id;
        watcher->flags = flags;
        watcher->revision = start == 0 ? fed_revision_ + 1 : start;
        if (!watcher->sensible()) {
            put_item(stream, WATCH_ENDED, ENDED_REJECTED, id, fed_revision_);
        } else if (watchers_ >= limits_.watchers || names_bytes_ + watcher->names_bytes() > limits_.watcher_bytes) {
            put_item(stream, WATCH_ENDED, ENDED_OVERLOADED, id, fed_revision_);
        } else if (watcher->revision <= store.compacted()) {
            put_item(stream, WATCH_ENDED, ENDED_COMPACTED, id, store.compacted());
        } else {
            stream->watchers.emplace(id, std::move(made));
            index_.add(watcher);
            ++watchers_;
            names_bytes_ += watcher->names_bytes();
            put_item(stream, WATCH_CREATED, 0, id, fed_revision_);
            if (watcher->revision <= fed_revision_) fall_behind(watcher);
        }
        return true;
    }

    // Nothing is put in the stream for it any more; what is there stays.
    bool cancel(WatchStream* stream, uint64_t id) {
        auto found = stream->watchers.find(id);
        if (found == stream->watchers.end()) return false;
        forget(found->second.get());
        stream->watchers.erase(found);
        return true;
    }

    // How far all watchers of the stream have got is to be said as soon as none is behind.
    void ask_progress(WatchStream* stream) {
        if (stream->progress_wanted) return;
        stream->progress_wanted = true;
        progress_.push_back(stream->slot);
    }

    // -- a turn ------------------------------------------------------------------------------------------------------

    // Puts what was applied in the streams, and continues those that are behind; a bounded amount of work. Returns
    // whether there is more to do at once. To be called after each apply, before the next.
    bool pump(const KeyStore& store) {
        if (watchers_ == 0) {
            fed_ = store.changes_end();
        } else if (fed_ != store.changes_end()) {
            feed(store);
        }
        if (compacted_ != store.compacted()) {
            compacted_ = store.compacted();
            if (fed_revision_ < compacted_) begin_lap(store, fed_revision_ + 1);
        }
        fed_revision_ = store.revision();
        bool more = !behind_.empty() && walk(store);
        if (!progress_.empty()) say_progress();
        return more;
    }

    // Whether a walk can do something for one that lacks what the next entry may reclaim.
    bool endangered(const KeyStore& store) const {
        auto lacks = [&](const Watcher* watcher) {
            return watcher->revision <= store.compacted() && watcher->revision >= store.held_from() &&
                   can_go_on(*watcher);
        };
        return store.reclaiming() && std::any_of(behind_.begin(), behind_.end(), lacks);
    }

    // Streams with something to take; each is named once, and again when more is put in it after take().
    std::vector<uint32_t>& ready() { return ready_; }

    // See WatchItems::front. taken() removes what it gave.
    std::string_view batch(const WatchStream& stream, size_t limit, uint32_t* count) const {
        return stream.items.front(limit, count);
    }

    void taken(WatchStream* stream, size_t size) {
        stream->items.drop(size);
        stream->ready = false;
        if (!stream->items.empty()) list_ready(stream);
    }

    size_t watchers() const { return watchers_; }
    size_t watcher_bytes() const { return names_bytes_; }
    size_t lagging() const { return behind_.size(); }
    size_t bytes() const { return total_; }

private:
    static bool wants(const Watcher& watcher, const Change& change) {
        uint8_t unwanted = change.version->dead() ? WATCH_NO_DELETE : WATCH_NO_PUT;
        return (watcher.flags & unwanted) == 0;
    }

    void forget(Watcher* watcher) {
        if (watcher->behind) catch_up(watcher);
        index_.remove(watcher);
        --watchers_;
        names_bytes_ -= watcher->names_bytes();
    }

    void fall_behind(Watcher* watcher) {
        watcher->behind = true;
        watcher->behind_place = behind_.size();
        watcher->need = 0;
        watcher->walk = 0;
        watcher->since = walk_;
        behind_.push_back(watcher);
        ++watcher->stream->behind;
    }

    void catch_up(Watcher* watcher) {
        watcher->behind = false;
        watcher->sub = 0;
        watcher->offset = 0;
        behind_[watcher->behind_place] = behind_.back();
        behind_[watcher->behind_place]->behind_place = watcher->behind_place;
        behind_.pop_back();
        --watcher->stream->behind;
    }

    size_t room(const WatchStream& stream) const {
        size_t most = share(stream);
        return most - std::min(most, stream.outstanding);
    }

    // The largest piece for the stream at present: with nothing outstanding there is room for it, header and all.
    size_t piece(const WatchStream& stream) const { return std::min(limits_.piece_bytes, share(stream) / 2); }

    // Whether a walk can do something for it. Its share may have shrunk since `need` was noted; then smaller pieces do.
    bool can_go_on(const Watcher& watcher) const {
        const WatchStream& stream = *watcher.stream;
        size_t need = std::min(watcher.need, piece(stream) + sizeof(WatchItemHeader));
        return stream.window != 0 && room(stream) >= need;
    }

    // -- those in step -----------------------------------------------------------------------------------------------

    void feed(const KeyStore& store) {
        uint64_t at = fed_, end = store.changes_end();
        fed_ = end;
        if (at < end - store.changes()) {  // reclaimed before it was fed: the walk says so to whom it concerns
            all_behind(fed_revision_ + 1, 0);
            return;
        }
        uint64_t revision = 0, sub = 0, cost = 0;
        put_ = 0;
        for (; at != end; ++at, ++sub) {
            const Change& change = store.change(at);
            if (change.revision() != revision) {
                close_open(revision);
                revision = change.revision();
                sub = 0;
            }
            if (cost + put_ >= limits_.turn_cost) {
                all_behind(revision, sub);
                return;
            }
            bool last = at + 1 == end || store.change(at + 1).revision() != revision;
            ++cost;
            uint64_t looked_at = index_.each(change.record->key(), [&](Interest* interest) {
                auto* watcher = static_cast<Watcher*>(interest);
                if (watcher->behind || revision < watcher->revision || !wants(*watcher, change)) {
                    ++cost;
                    return;
                }
                size_t size = event_size(watcher->flags, change);
                if (put_ >= limits_.turn_cost || size > limits_.piece_bytes ||
                    room(*watcher->stream) < sizeof(WatchItemHeader) + size) {
                    // `open` stays: the walk ends what was begun.
                    watcher->revision = revision;
                    watcher->sub = sub;
                    fall_behind(watcher);
                    ++cost;
                    return;
                }
                put_event(watcher, change, 0, size, !last);
                if (last) {
                    watcher->open = false;
                } else {
                    note_open(watcher, revision);
                }
            });
            cost += looked_at / NODES_PER_COST;
        }
        close_open(revision);
    }

    // Nobody in step was given anything at or after this position; also not who waits for a later revision.
    void all_behind(uint64_t revision, uint64_t sub) {
        for (auto& stream : streams_) {
            for (auto& held : stream->watchers) {
                Watcher* watcher = held.second.get();
                if (watcher->behind) continue;
                if (watcher->revision <= revision) {
                    watcher->revision = revision;
                    watcher->sub = sub;
                }
                fall_behind(watcher);
            }
        }
        opened_.clear();
    }

    void note_open(Watcher* watcher, uint64_t revision) {
        watcher->revision = revision;
        if (!watcher->open) {
            watcher->open = true;
            opened_.push_back(watcher);
        }
    }

    // The revision's changes are over: whoever was told that there is more of them learns that there is not.
    void close_open(uint64_t revision) {
        for (Watcher* watcher : opened_) {
            if (watcher->behind || !watcher->open) continue;
            end_revision(watcher, revision);
        }
        opened_.clear();
    }

    void end_revision(Watcher* watcher, uint64_t revision) {
        watcher->open = false;
        if (!watcher->stream->items.close_events(watcher->id, revision)) {
            put_item(watcher->stream, WATCH_EVENTS, 0, watcher->id, revision);
        }
    }

    // -- those behind ------------------------------------------------------------------------------------------------

    // The next walk begins with who is at this revision or beyond it; so does who fell behind there a moment ago.
    void begin_lap(const KeyStore& store, uint64_t revision) {
        lap_revision_ = revision;
        lap_sub_ = 0;
        lap_walk_ = walk_ + 1;
        lap_end_ = store.revision();
    }

    // One walk over history, from whoever has room and comes first where the last one stopped or after it; if that is
    // nobody, or the lap is over, from whoever is farthest behind. Returns whether another one could go on at once.
    bool walk(const KeyStore& store) {
        ++walk_;
        Watcher *first = nullptr, *farthest = nullptr;
        opened_.clear();
        for (size_t i = behind_.size(); i-- != 0;) {
            Watcher* watcher = behind_[i];
            if (watcher->revision < store.held_from()) {
                end_compacted(store, watcher);
                continue;
            }
            if (!can_go_on(*watcher)) {
                watcher->walk = walk_;
                continue;
            }
            if (farthest == nullptr || before(*watcher, farthest->revision, farthest->sub)) farthest = watcher;
            bool ahead = !passed(*watcher);
            if (ahead && (first == nullptr || before(*watcher, first->revision, first->sub))) first = watcher;
            if (watcher->open) opened_.push_back(watcher);
        }
        if (farthest == nullptr) return false;
        bool left_out = false;
        if (first == nullptr) {
            first = farthest;
            lap_end_ = store.revision();
        } else {
            left_out = leave_out(first->revision, first->sub);
        }
        uint64_t revision = first->revision, sub = first->sub;
        bool more = scan(store, &revision, &sub);
        opened_.clear();
        bool lap_over = !more || revision > lap_end_;
        if (revision != lap_revision_ || sub != lap_sub_) lap_walk_ = walk_;
        lap_revision_ = lap_over ? UINT64_MAX : revision;
        lap_sub_ = lap_over ? UINT64_MAX : sub;
        // Whoever took part and found room has got as far as the walk.
        for (size_t i = behind_.size(); i-- != 0;) {
            Watcher* watcher = behind_[i];
            if (watcher->walk == walk_ || !before(*watcher, revision, sub)) {
                if (!more && watcher->walk != walk_) catch_up(watcher);
                continue;
            }
            watcher->revision = revision;
            watcher->sub = sub;
            watcher->offset = 0;
            if (!more) catch_up(watcher);
        }
        return more || left_out;
    }

    // Who is before the walk's beginning would miss what lies between: it takes no part, and waits for the next lap, as
    // does who was passed. Returns whether there is anybody who could have gone on.
    bool leave_out(uint64_t revision, uint64_t sub) {
        bool any = false;
        for (Watcher* watcher : behind_) {
            if (watcher->walk == walk_ || !(passed(*watcher) || before(*watcher, revision, sub))) continue;
            watcher->walk = walk_;
            any = true;
        }
        return any;
    }

    // Whether this lap is past it. Also of whoever begins at the very change that takes the walk several turns, or
    // those who do could hold it there.
    bool passed(const Watcher& watcher) const {
        if (before(watcher, lap_revision_, lap_sub_)) return true;
        return watcher.revision == lap_revision_ && watcher.sub == lap_sub_ && watcher.since >= lap_walk_;
    }

    static bool before(const Watcher& watcher, uint64_t revision, uint64_t sub) {
        return watcher.revision < revision || (watcher.revision == revision && watcher.sub < sub);
    }

    // From a position on; to where it came. Returns whether that is short of the end.
    bool scan(const KeyStore& store, uint64_t* revision, uint64_t* sub) {
        uint64_t at = store.seek_change(*revision), end = store.changes_end(), cost = 0;
        put_ = 0;
        if (at != end && store.change(at).revision() != *revision) *sub = 0;  // nothing was changed at that revision
        at += *sub;
        for (; at != end; ++at, ++*sub) {
            const Change& change = store.change(at);
            if (change.revision() != *revision) {
                *revision = change.revision();
                *sub = 0;
            }
            if (cost + put_ >= limits_.turn_cost) return true;
            bool last = at + 1 == end || store.change(at + 1).revision() != *revision;
            ++cost;
            bool done = true;
            uint64_t looked_at = index_.each(change.record->key(), [&](Interest* interest) {
                auto* watcher = static_cast<Watcher*>(interest);
                bool beyond = watcher->revision > *revision || (watcher->revision == *revision && watcher->sub > *sub);
                if (!watcher->behind || watcher->walk == walk_ || beyond || !wants(*watcher, change)) {
                    ++cost;
                    return;
                }
                done = continue_at(watcher, change, *revision, *sub, last) && done;
            });
            cost += looked_at / NODES_PER_COST;
            if (!done) return true;  // the next walk begins with this change, and whoever has not got it
            if (last) end_opened(*revision);
        }
        *revision = store.revision() + 1;
        *sub = 0;
        return false;
    }

    // Puts the event, or what is left of it, in the stream in pieces as there is room; or stops the watcher here. False
    // if that is because the turn's work is done: only what was put counts, or amid a crowd nobody might get on.
    bool continue_at(Watcher* watcher, const Change& change, uint64_t revision, uint64_t sub, bool last) {
        size_t offset = watcher->revision == revision && watcher->sub == sub ? watcher->offset : 0;
        size_t size = event_size(watcher->flags, change);
        while (offset != size) {
            size_t piece = std::min(size - offset, this->piece(*watcher->stream));
            size_t need = piece + sizeof(WatchItemHeader);
            bool has_room = room(*watcher->stream) >= need;
            if (!has_room || put_ >= limits_.turn_cost) {
                watcher->revision = revision;
                watcher->sub = sub;
                watcher->offset = offset;
                watcher->need = need;
                if (!has_room) watcher->walk = walk_;
                ++put_;
                return !has_room;
            }
            offset += piece;
            bool more = !last || offset != size;
            put_event(watcher, change, offset - piece, piece, more);
            if (more) note_open(watcher, revision);
            if (!more) watcher->open = false;
        }
        // Amid a walk that others hold up it must not look as if it lacked something of a revision that it has.
        watcher->need = 0;
        watcher->revision = last ? revision + 1 : revision;
        watcher->sub = last ? 0 : sub + 1;
        watcher->offset = 0;
        return true;
    }

    void end_opened(uint64_t revision) {
        size_t kept = 0;
        for (Watcher* watcher : opened_) {
            if (!watcher->open) continue;
            if (watcher->revision == revision && watcher->walk != walk_) {
                end_revision(watcher, revision);
            } else {
                opened_[kept++] = watcher;
            }
        }
        opened_.resize(kept);
    }

    void end_compacted(const KeyStore& store, Watcher* watcher) {
        WatchStream* stream = watcher->stream;
        uint64_t id = watcher->id;
        put_item(stream, WATCH_ENDED, ENDED_COMPACTED, id, store.compacted());
        cancel(stream, id);
    }

    void say_progress() {
        size_t kept = 0;
        for (uint32_t slot : progress_) {
            WatchStream* stream = this->stream(slot);
            if (stream == nullptr || !stream->progress_wanted) continue;
            if (stream->behind != 0) {
                progress_[kept++] = slot;
                continue;
            }
            stream->progress_wanted = false;
            put_item(stream, WATCH_PROGRESS, 0, 0, fed_revision_);
        }
        progress_.resize(kept);
    }

    // -- bytes -------------------------------------------------------------------------------------------------------

    void list_ready(WatchStream* stream) {
        if (stream->ready) return;
        stream->ready = true;
        ready_.push_back(stream->slot);
    }

    void count(WatchStream* stream, size_t bytes) {
        stream->outstanding += bytes;
        total_ += bytes;
        list_ready(stream);
    }

    void put_item(WatchStream* stream, WatchItem kind, uint8_t flags, uint64_t id, uint64_t revision) {
        count(stream, stream->items.append(kind, flags, id, revision));
    }

    void put_event(Watcher* watcher, const Change& change, size_t offset, size_t size, bool more) {
        WatchStream* stream = watcher->stream;
        WatchItems& items = stream->items;
        count(stream, items.append_events(watcher->id, change.revision(), size, more, limits_.piece_bytes));
        encode_event(watcher->flags, change, offset, size, items.bytes());
        put_ += 1 + size / BYTES_PER_COST;
    }

    WatchLimits limits_;
    size_t least_;  // of share(): what each stream may have outstanding, however much the others have
    WatchIndex index_;
    std::vector<std::unique_ptr<WatchStream>> streams_;
    std::vector<uint32_t> free_;
    std::vector<uint32_t> ready_;
    std::vector<uint32_t> progress_;
    std::vector<Watcher*> behind_;
    std::vector<Watcher*> opened_;  // within one feed or walk
    size_t watchers_ = 0;
    size_t names_bytes_ = 0;  // of those
    size_t total_ = 0;
    uint64_t fed_ = 0;           // number of the first change that was not fed
    uint64_t fed_revision_ = 1;  // everything up to it was fed
    uint64_t compacted_ = 0;     // the store's, when it was fed
    uint64_t walk_ = 0;
    uint64_t lap_revision_ = UINT64_MAX;  // where the last walk stopped; beyond everybody: the lap is over
    uint64_t lap_sub_ = UINT64_MAX;
    uint64_t lap_walk_ = 0;  // the walk that came there
    uint64_t lap_end_ = 0;
    uint64_t put_ = 0;  // of the turn's cost in this feed or walk: what was put in streams, or found no room
};

}  // namespace quorumd

#endif

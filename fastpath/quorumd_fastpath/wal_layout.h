// The packed layouts of the log on disk, version 2, with their sizes asserted. Little-endian, moved by memcpy only.
#ifndef QUORUMD_WAL_LAYOUT_H
#define QUORUMD_WAL_LAYOUT_H

#include <stdint.h>

#pragma pack(push, 1)

// The first block of a segment; what follows up to 512 bytes is zero.
typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t crc;            // over the 512 bytes with this field zero
    uint64_t number;
    uint64_t segment_bytes;
    uint64_t nonce;
    uint64_t cluster;
    uint64_t node;
    uint64_t term;           // the full hard state, so that dropping older segments never drops a vote
    uint64_t vote;
    uint64_t first_index;    // next index to append when the segment was begun
    uint64_t commit;
    uint32_t prev_chain;     // where the previous segment's chain ended
    uint32_t reserved;
} qwal_segment_packed;

typedef struct {
    uint32_t magic;
    uint32_t crc;            // over this header with this field zero, seeded by the segment's seed
    uint32_t length;         // header and records, without the padding
    uint32_t records;
    uint64_t position;       // of this header: number * segment_bytes + offset
    uint64_t synced_to;      // everything below this position was known durable when the batch was begun
    uint64_t commit;
    uint32_t chain_in;
    uint32_t reserved;
    uint64_t seq;
    uint64_t reserved2;
} qwal_batch_packed;

typedef struct {
    uint32_t crc;            // over this header with this field zero, seeded by the running chain
    uint32_t payload_crc;
    uint32_t payload_length;
    uint8_t kind;            // 1 hard state, 2 append, 3 truncate, 4 accept, 5 re-accept (both from version 2 on)
    uint8_t flags;
    uint16_t reserved;
    uint64_t index;
    uint32_t count;
    uint32_t reserved2;
    uint64_t term;
} qwal_record_packed;

#pragma pack(pop)

static_assert(sizeof(qwal_segment_packed) == 96, "segment header");
static_assert(sizeof(qwal_batch_packed) == 64, "batch header");
static_assert(sizeof(qwal_record_packed) == 40, "record header");

#endif  // QUORUMD_WAL_LAYOUT_H

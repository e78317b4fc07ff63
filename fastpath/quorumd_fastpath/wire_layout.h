// The packed layouts of wire and log, with their sizes asserted. Little-endian (crc32c.h refuses other machines);
// read and written by memcpy only, since nothing in a datagram is aligned.
#ifndef QUORUMD_WIRE_LAYOUT_H
#define QUORUMD_WIRE_LAYOUT_H

#include <stdint.h>

#pragma pack(push, 1)

typedef struct {
    uint32_t magic;
    uint8_t version;
    uint8_t kind;
    uint16_t flags;
    uint64_t cluster;
    uint32_t group;
    uint16_t sender;
    uint16_t receiver;
    uint64_t sender_incarnation;
    uint64_t receiver_incarnation;
    uint64_t term;
    uint64_t index;
    uint64_t commit;
    uint32_t count;
    uint32_t payload_length;
    uint32_t crc;
    uint32_t reserved;
} qheader_packed;

typedef struct {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t reserved;
    uint64_t session_hi;
    uint64_t session_lo;
    uint64_t seq;
    uint64_t answered_below;
} qentry_packed;

typedef struct {
    uint32_t length;
    uint8_t status;
    uint8_t kind;
    uint16_t reserved;
    uint64_t session_lo;
    uint64_t seq;
    uint64_t revision;
} qreply_packed;

#pragma pack(pop)

static_assert(sizeof(qheader_packed) == 80, "frame header");
static_assert(sizeof(qentry_packed) == 40, "entry record header");
static_assert(sizeof(qreply_packed) == 32, "reply record header");

#endif  // QUORUMD_WIRE_LAYOUT_H

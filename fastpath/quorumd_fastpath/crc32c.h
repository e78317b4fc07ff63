// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 B.4): processor instructions where there are some,
// tables of eight bytes a step elsewhere. Every function here works on the raw register, without the inversions.
#ifndef QUORUMD_CRC32C_H
#define QUORUMD_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define QUORUMD_CRC_TARGET __attribute__((target("sse4.2")))
#define QUORUMD_CRC_NAME "sse4.2"
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#if defined(__clang__)
#define QUORUMD_CRC_TARGET __attribute__((target("crc")))
#else
#define QUORUMD_CRC_TARGET __attribute__((target("+crc")))
#endif
#define QUORUMD_CRC_NAME "armv8"
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "quorumd supports little-endian machines only"
#endif

typedef uint32_t (*qcrc_function)(uint32_t, const unsigned char *, size_t);

static uint32_t qcrc_tables[8][256];

static inline uint64_t qcrc_load(const unsigned char *data) {
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

static uint32_t qcrc_by_table(uint32_t crc, const unsigned char *data, size_t size) {
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = qcrc_load(data) ^ crc;
        crc = qcrc_tables[7][word & 255] ^ qcrc_tables[6][(word >> 8) & 255] ^ qcrc_tables[5][(word >> 16) & 255] ^
              qcrc_tables[4][(word >> 24) & 255] ^ qcrc_tables[3][(word >> 32) & 255] ^
              qcrc_tables[2][(word >> 40) & 255] ^ qcrc_tables[1][(word >> 48) & 255] ^ qcrc_tables[0][word >> 56];
    }
    for (; size > 0; data++, size--)
        crc = (crc >> 8) ^ qcrc_tables[0][(crc ^ *data) & 255];
    return crc;
}

#if defined(QUORUMD_CRC_TARGET)

#if defined(__x86_64__)
#define QCRC_STEP8(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define QCRC_STEP1(crc, byte) _mm_crc32_u8((crc), (byte))
static bool qcrc_supported(void) { return __builtin_cpu_supports("sse4.2"); }
#else
#define QCRC_STEP8(crc, word) __crc32cd((crc), (word))
#define QCRC_STEP1(crc, byte) __crc32cb((crc), (byte))
static bool qcrc_supported(void) { return (getauxval(AT_HWCAP) & (1UL << 7)) != 0; /* HWCAP_CRC32 */ }
#endif

// The instruction takes three cycles but starts every cycle: three lanes side by side keep it busy. A lane's register
// is then moved past the bytes of the lanes behind it by these tables (lane length in bytes, one table per register byte).
#define QCRC_LONG 4096
#define QCRC_SHORT 256
static uint32_t qcrc_skip_long[4][256];
static uint32_t qcrc_skip_short[4][256];

static inline uint32_t qcrc_skip(const uint32_t (*table)[256], uint32_t crc) {
    return table[0][crc & 255] ^ table[1][(crc >> 8) & 255] ^ table[2][(crc >> 16) & 255] ^ table[3][crc >> 24];
}

static QUORUMD_CRC_TARGET uint32_t qcrc_lanes(uint32_t crc, const unsigned char *data, size_t lane,
                                              const uint32_t (*table)[256]) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < lane; i += 8) {
        crc = QCRC_STEP8(crc, qcrc_load(data + i));
        second = QCRC_STEP8(second, qcrc_load(data + lane + i));
        third = QCRC_STEP8(third, qcrc_load(data + 2 * lane + i));
    }
    crc = qcrc_skip(table, crc) ^ second;
    return qcrc_skip(table, crc) ^ third;
}

static QUORUMD_CRC_TARGET uint32_t qcrc_by_instruction(uint32_t crc, const unsigned char *data, size_t size) {
    for (; size >= 3 * QCRC_LONG; data += 3 * QCRC_LONG, size -= 3 * QCRC_LONG)
        crc = qcrc_lanes(crc, data, QCRC_LONG, qcrc_skip_long);
    for (; size >= 3 * QCRC_SHORT; data += 3 * QCRC_SHORT, size -= 3 * QCRC_SHORT)
        crc = qcrc_lanes(crc, data, QCRC_SHORT, qcrc_skip_short);
    for (; size >= 8; data += 8, size -= 8)
        crc = QCRC_STEP8(crc, qcrc_load(data));
    for (; size > 0; data++, size--)
        crc = QCRC_STEP1(crc, *data);
    return crc;
}

// The register is linear: what `zeros` zero bytes do to it follows from what they do to each of its 32 bits.
static QUORUMD_CRC_TARGET void qcrc_fill_skip(uint32_t (*table)[256], size_t zeros) {
    for (int position = 0; position < 4; position++) {
        for (int bit = 0; bit < 8; bit++) {
            uint32_t crc = 1u << (8 * position + bit);
            for (size_t i = 0; i < zeros; i += 8)
                crc = QCRC_STEP8(crc, 0);
            for (int value = 0; value < (1 << bit); value++)
                table[position][value | (1 << bit)] = table[position][value] ^ crc;
        }
    }
}

#endif  // QUORUMD_CRC_TARGET

// Fills the tables and picks the fastest way on this processor; called once, at import.
static qcrc_function qcrc_choose(const char **name) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
        qcrc_tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++)
            qcrc_tables[table][byte] =
                (qcrc_tables[table - 1][byte] >> 8) ^ qcrc_tables[0][qcrc_tables[table - 1][byte] & 255];
#if defined(QUORUMD_CRC_TARGET)
    if (qcrc_supported()) {
        qcrc_fill_skip(qcrc_skip_long, QCRC_LONG);
        qcrc_fill_skip(qcrc_skip_short, QCRC_SHORT);
        *name = QUORUMD_CRC_NAME;
        return qcrc_by_instruction;
    }
#endif
    *name = "table";
    return qcrc_by_table;
}

#endif  // QUORUMD_CRC32C_H

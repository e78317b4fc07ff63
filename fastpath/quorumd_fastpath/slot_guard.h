// A slab's slots share one allocation, so the address sanitizer alone would not see a decoder that reads behind its
// datagram into the next slot. In sanitized builds what a slot does not use is off limits; in others this is nothing.
#ifndef QUORUMD_SLOT_GUARD_H
#define QUORUMD_SLOT_GUARD_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>

// Bytes [0, used) of the slot may be touched, [used, size) may not.
static inline void guard_slot(const char* slot, size_t used, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(slot, used);
    ASAN_POISON_MEMORY_REGION(slot + used, size - used);
}
#else
static inline void guard_slot(const char*, size_t, size_t) {}
#endif

#endif  // QUORUMD_SLOT_GUARD_H

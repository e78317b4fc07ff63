from libc.stdint cimport uint32_t

# Finished CRC-32C in, finished CRC-32C out: update(update(0, a), b) == update(0, a + b).
cdef uint32_t crc32c_update(uint32_t seed, const void* data, size_t size) noexcept nogil

# distutils: language = c++
"""CRC-32C over frames and log records; the arithmetic is in crc32c.h."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t


cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*qcrc_function)(uint32_t, const unsigned char*, size_t) noexcept nogil
    uint32_t qcrc_by_table(uint32_t crc, const unsigned char* data, size_t size) noexcept
    qcrc_function qcrc_choose(const char** name) noexcept


cdef const char* chosen_name = NULL
cdef qcrc_function chosen = qcrc_choose(&chosen_name)


cdef uint32_t crc32c_update(uint32_t seed, const void* data, size_t size) noexcept nogil:
    return ~chosen(~seed, <const unsigned char*>data, size)


cdef uint32_t over_buffer(object data, uint32_t seed, qcrc_function function) except? 0:
    cdef Py_buffer view
    cdef uint32_t crc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    if view.len >= 65536:
        with nogil:
            crc = ~function(~seed, <const unsigned char*>view.buf, view.len)
    else:
        crc = ~function(~seed, <const unsigned char*>view.buf, view.len)
    PyBuffer_Release(&view)
    return crc


def crc32c(data, uint32_t seed=0):
    """CRC-32C of `data`, continuing from the finished CRC `seed`: crc32c(b, crc32c(a)) == crc32c(a + b)."""
    return over_buffer(data, seed, chosen)


def crc32c_table(data, uint32_t seed=0):
    """The same without processor instructions: what a machine that lacks them runs."""
    return over_buffer(data, seed, <qcrc_function>qcrc_by_table)


def implementation():
    """How this process computes: "sse4.2", "armv8" or "table"."""
    return chosen_name.decode("ascii")

"""The data directory on Linux (disk.py), as far as real files are needed."""

import os

import pytest

from quorumd import limits
from quorumd.disk import RealDisk

BYTES = 64 * limits.KIB


@pytest.fixture
def disk(tmp_path):
    disk = RealDisk(tmp_path)
    disk.open()
    yield disk
    disk.close()


def open_segments(disk):
    names = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd_is_open(fd))
    return sum(name.startswith(f"{disk.directory}/wal-") for name in names)


def fd_is_open(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_long_log_takes_few_descriptors(disk):
    """One stayed open for each segment; at the usual limit of 1024 all replicas came to a stop at the same time."""
    for number in range(1, 3 * limits.OPEN_SEGMENTS):
        disk.create(number, BYTES)
        disk.begin_segment(number, b"header of %d" % number)
    assert open_segments(disk) <= limits.OPEN_SEGMENTS
    for number in range(1, 3 * limits.OPEN_SEGMENTS):
        assert bytes(disk.load(number)[:11]) == (b"header of %d" % number)[:11]


def test_what_a_thread_still_reads_stays_open(disk):
    disk.create(1, BYTES)
    disk.begin_segment(1, b"header of 1")
    assert disk.read(1, 0, 11, 7)
    for number in range(2, 3 * limits.OPEN_SEGMENTS):  # its tag is that of one of these too
        disk.create(number, BYTES)
        if not disk._read:  # the answer is not taken in yet
            assert disk._reading == {7: 1}
            disk._close_idle()
            assert 1 in disk._fds
        disk.begin_segment(number, b"header")
    while not (answers := disk.reads()):
        disk._wait_for_worker(1.0)
        disk._worker_signalled = True
    assert list(answers) == [(7, b"header of 1")]
    assert disk._reading == {}


def test_a_segment_that_is_removed_is_closed(disk):
    disk.create(1, BYTES)
    disk.begin_segment(1, b"header")
    disk.remove(1)
    assert open_segments(disk) == 0

"""The data directory on Linux (disk.py), as far as real files are needed."""

import errno
import json
import os
import subprocess
import sys

import pytest
from addresses import free_ports, private_host

from quorumd import limits
from quorumd.disk import RealDisk
from quorumd.errors import DiskError, NoRoom
from quorumd.ports import Meta
from quorumd.supervisor.policy import NodeExit

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


def test_a_stamp_that_finds_no_room_leaves_the_old_one_and_passes(disk):
    disk.write_meta(Meta(5, 1, 7))
    (disk.directory / "meta.json.tmp").symlink_to("/dev/full")
    with pytest.raises(NoRoom, match=r"meta\.json: No space left"):
        disk.write_meta(Meta(5, 1, 8))
    assert disk.read_meta() == Meta(5, 1, 7)
    (disk.directory / "meta.json.tmp").unlink()
    disk.write_meta(Meta(5, 1, 8))
    assert disk.read_meta() == Meta(5, 1, 8)


@pytest.mark.parametrize(("number", "passes"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_only_a_lack_of_room_passes(disk, monkeypatch, number, passes):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskError) as raised:
        disk.write_meta(Meta(5, 1, 8))
    assert isinstance(raised.value, NoRoom) == passes


def test_a_segment_that_finds_no_room_at_the_start_passes(disk):
    (disk.directory / "wal-0000000000000001.seg.tmp").symlink_to("/dev/full")
    with pytest.raises(NoRoom, match="No space left"):
        disk.create(1, BYTES)


def test_a_node_that_starts_on_a_full_disk_may_be_started_again(tmp_path):
    host = private_host()
    peer, client = free_ports(host, 2)
    (tmp_path / "one.yaml").write_text(
        f"cluster: test\ndata_dir: state\nnodes:\n  - {{id: 1, peer: '{host}:{peer}', client: '{host}:{client}'}}\n"
    )
    directory = tmp_path / "state" / "node-1"
    directory.mkdir(parents=True)
    (directory / "meta.json.tmp").symlink_to("/dev/full")
    node = [sys.executable, "-m", "quorumd", "node", str(tmp_path / "one.yaml"), "--id", "1", "--bootstrap", "1"]
    done = subprocess.run(node, capture_output=True, check=False, timeout=60)
    assert done.returncode == NodeExit.NO_ROOM, done.stderr
    (event,) = (json.loads(line) for line in (directory / "node.log").read_text().splitlines())
    assert event["event"] == "no_room" and "meta.json: No space left" in event["reason"], event

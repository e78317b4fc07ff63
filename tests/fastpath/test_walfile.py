"""The log's threads on real files. Completion is awaited on their eventfds, with a deadline only for a broken build."""

import errno
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from quorumd_fastpath import walfile, walframe

SEGMENT_BYTES = 1 << 20
DEADLINE_S = 30


def make_batch(offset, seq, term=1):
    batch = walframe.Batch(4096, 512)
    batch.begin(0, SEGMENT_BYTES, offset, 1, 2, 0, 0, seq)
    batch.hard_state(term, 1)
    batch.finish()
    return batch


def await_readable(source):
    readable, _, _ = select.select([source.fileno()], [], [], DEADLINE_S)
    assert readable, "nothing completed"


def await_durable(wal, seq):
    """Reaps until `seq` is durable; the batches that came back, in order."""
    done = []
    while True:
        await_readable(wal)
        durable, error, completed = wal.reap()
        assert error == 0
        done += completed
        if durable >= seq:
            return done


def await_done(worker, count):
    results = []
    while len(results) < count:
        await_readable(worker)
        results += worker.done()
    return results


@pytest.fixture
def wal():
    thread = walfile.WalThread()
    thread.start()
    yield thread
    thread.stop(drain=False)


@pytest.fixture
def worker():
    thread = walfile.FileWorker()
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def opened():
    """open(path, flags) -> fd, closed at the end (after the threads are stopped)."""
    fds = []

    def open_file(path, flags=os.O_RDWR | os.O_CREAT):
        fds.append(os.open(path, flags, 0o600))
        return fds[-1]

    yield open_file
    for fd in fds:
        os.close(fd)


@pytest.fixture
def segment(opened, tmp_path):
    return opened(tmp_path / "segment")


# -- WalThread ------------------------------------------------------------------------------------------------------


def test_what_is_submitted_becomes_durable_in_order(segment, wal):
    batches = [make_batch(512 * i, i) for i in range(1, 201)]
    for i, batch in enumerate(batches, 1):
        wal.submit(segment, 512 * i, batch, i)
    assert await_durable(wal, 200) == batches
    assert os.pread(segment, 512 * 200, 512) == b"".join(bytes(batch.data()) for batch in batches)
    assert wal.idle
    assert wal.queued_bytes == 0
    assert 1 <= wal.sync_count <= 200
    assert wal.last_sync_ns // 1000 <= wal.fsync_p99_us() * 1000 + 1000
    assert wal.oldest_pending_ns(time.monotonic_ns()) == 0


def test_one_cycle_spans_several_files_and_gaps(opened, tmp_path, wal):
    files = [opened(tmp_path / f"segment-{i}") for i in range(20)]
    wanted = []
    seq = 0
    for fd in files:
        for offset in (512, 1024, 4096):
            seq += 1
            batch = make_batch(offset, seq, term=seq)
            wal.submit(fd, offset, batch, seq)
            wanted.append((fd, offset, batch))
    await_durable(wal, seq)
    for fd, offset, batch in wanted:
        assert os.pread(fd, 512, offset) == bytes(batch.data())


def test_a_batch_is_busy_until_it_is_reaped(segment, wal):
    batch = make_batch(512, 1)
    wal.submit(segment, 512, batch, 1)
    for misuse in (lambda: batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 0, 0, 2),
                   lambda: wal.submit(segment, 512, batch, 2),
                   lambda: wal.submit_inline(segment, 512, batch, 2)):
        with pytest.raises(RuntimeError):
            misuse()
    await_durable(wal, 1)
    batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 0, 0, 2)
    with pytest.raises(RuntimeError):
        wal.submit(segment, 512, batch, 2)  # not finished


def test_inline_write_is_durable_on_return(segment):
    wal = walfile.WalThread()  # needs no thread
    batch = make_batch(512, 5)
    wal.submit_inline(segment, 512, batch, 5)
    assert os.pread(segment, 512, 512) == bytes(batch.data())
    assert wal.reap() == (5, 0, [])
    assert wal.sync_count == 1
    batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 0, 0, 6)
    with pytest.raises(ValueError, match="seq 4"):
        wal.submit_inline(segment, 512, make_batch(512, 4), 4)


def test_inline_write_never_overtakes_the_queue(segment, wal):
    large = walframe.Batch(32 << 20)
    large.begin(0, 64 << 20, 512, 1, 2, 0, 0, 0)
    while large.append_data(bytes([0, 0, 16, 0]) + bytes((1 << 20) - 4), 1, 1, 1):
        pass
    large.finish()
    small = walframe.Batch(4096)
    # The thread has 32 MiB to write before the inline write is tried; a machine may yet be odd enough to finish them.
    for attempt in range(100):
        wal.submit(segment, 512, large, 2 * attempt)
        small.begin(0, 64 << 20, 512, 1, 2, 0, 0, 0)
        small.finish()
        try:
            wal.submit_inline(segment, 512, small, 2 * attempt + 1)
        except RuntimeError as refused:
            assert "overtake" in str(refused)
            break
        await_durable(wal, 2 * attempt)
    else:
        pytest.fail("an inline write was never refused")
    assert await_durable(wal, 2 * attempt) == [large]
    assert os.pread(segment, 512, 512) == bytes(large.data()[:512])


@pytest.mark.parametrize("inline", [False, True])
def test_the_first_error_sticks_and_nothing_is_written_after(wal, segment, opened, tmp_path, inline):
    read_only = opened(tmp_path / "read-only", os.O_RDONLY | os.O_CREAT)
    if inline:
        with pytest.raises(OSError, match="Bad file descriptor"):
            wal.submit_inline(read_only, 512, make_batch(512, 1), 1)
    else:
        wal.submit(read_only, 512, make_batch(512, 1), 1)
        await_readable(wal)
    assert wal.reap() == (0, errno.EBADF, [])
    assert wal.error == errno.EBADF
    for submit in (wal.submit, wal.submit_inline):
        with pytest.raises(OSError, match="Bad file descriptor"):
            submit(segment, 512, make_batch(512, 2), 2)
    wal.stop(drain=True)
    assert os.fstat(segment).st_size == 0
    assert wal.reap() == (0, errno.EBADF, [])
    assert wal.sync_count == 0


def test_a_full_disk_is_an_error(wal, opened):
    wal.submit(opened("/dev/full", os.O_RDWR), 0, make_batch(512, 1), 1)
    await_readable(wal)
    assert wal.reap()[:2] == (0, errno.ENOSPC)


def test_stall_figure_is_the_age_of_the_oldest_unsynced_job(wal, opened):
    before = time.monotonic_ns()
    wal.submit(opened("/dev/full", os.O_RDWR), 0, make_batch(512, 1), 1)
    after = time.monotonic_ns()
    await_readable(wal)
    assert wal.queued_bytes == 512
    now = after + 10**9
    assert now - after <= wal.oldest_pending_ns(now) <= now - before
    assert wal.oldest_pending_ns(0) == 0


def test_the_queue_is_bounded(opened):
    wal = walfile.WalThread(queue_limit=3)  # rounded up to 4
    wal.start()
    broken = opened("/dev/full", os.O_RDWR)
    with pytest.raises((BufferError, OSError)) as caught:
        for seq in range(1, 100):
            wal.submit(broken, 0, make_batch(512, seq), seq)
    assert seq <= 5
    wal.stop(drain=False)
    assert isinstance(caught.value, BufferError) or caught.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match="queue"):
        walfile.WalThread(0)


def test_stop_drains(segment, wal):
    for seq in range(1, 50):
        wal.submit(segment, 512 * seq, make_batch(512 * seq, seq), seq)
    wal.stop(drain=True)
    assert wal.reap() == (49, 0, [])
    assert os.fstat(segment).st_size == 50 * 512
    assert wal.fileno() == -1


def test_stop_frees_the_batches_and_can_be_repeated(segment, wal):
    batch = make_batch(512, 1)
    wal.submit(segment, 512, batch, 1)
    wal.stop(drain=False)
    wal.stop()
    batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 0, 0, 2)
    batch.finish()
    with pytest.raises(RuntimeError, match="does not run"):
        wal.submit(segment, 512, batch, 2)
    with pytest.raises(RuntimeError, match="started before"):
        wal.start()


def test_nothing_is_made_before_start(segment):
    fds = set(os.listdir("/proc/self/fd"))
    tasks = set(os.listdir("/proc/self/task"))
    wal = walfile.WalThread()
    worker = walfile.FileWorker()
    assert set(os.listdir("/proc/self/fd")) == fds
    assert set(os.listdir("/proc/self/task")) == tasks
    assert (wal.fileno(), worker.fileno()) == (-1, -1)
    assert wal.reap() == (0, 0, [])
    assert wal.fsync_p99_us() == 0
    assert worker.done() == []
    with pytest.raises(RuntimeError):
        wal.submit(segment, 512, make_batch(512, 1), 1)
    with pytest.raises(RuntimeError):
        worker.read(segment, 0, 1, 1)
    wal.stop()
    worker.stop()


def test_dropping_a_running_thread_joins_it(segment):
    tasks = set(os.listdir("/proc/self/task"))
    wal = walfile.WalThread()
    worker = walfile.FileWorker()
    wal.start()
    worker.start()
    assert len(os.listdir("/proc/self/task")) == len(tasks) + 2
    wal.submit(segment, 512, make_batch(512, 1), 1)
    worker.read(segment, 0, 1, 1)
    del wal, worker
    assert set(os.listdir("/proc/self/task")) == tasks


def test_the_thread_needs_no_gil(segment, wal):
    # This thread holds the GIL from submit to the answer of select(0): were it needed, nothing could complete.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(DEADLINE_S)
    try:
        wal.submit(segment, 512, make_batch(512, 1), 1)
        deadline = time.monotonic() + DEADLINE_S
        while not wal.idle and time.monotonic() < deadline:
            pass
        assert wal.idle
    finally:
        sys.setswitchinterval(interval)


@pytest.fixture
def tasks():
    """Of this process, before the test makes any."""
    return set(os.listdir("/proc/self/task"))


def test_signals_stay_with_the_main_thread(tasks, wal, worker):
    assert wal.fileno() >= 0
    assert worker.fileno() >= 0
    ours = set(os.listdir("/proc/self/task")) - tasks
    assert len(ours) == 2
    for task in ours:
        with open(f"/proc/self/task/{task}/status", encoding="ascii") as lines:
            blocked = int(next(line for line in lines if line.startswith("SigBlk")).split()[1], 16)
        assert blocked >> (signal.SIGTERM - 1) & 1
        assert blocked >> (signal.SIGINT - 1) & 1


def test_a_forked_child_does_not_wait_for_a_thread_it_does_not_have(tmp_path):
    code = """
import os, sys
from quorumd_fastpath import walfile
wal, worker = walfile.WalThread(), walfile.FileWorker()
wal.start(); worker.start()
child = os.fork()
if child == 0:
    wal.stop(); worker.stop()
    del wal, worker
    os._exit(7)
wal.stop(); worker.stop()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=DEADLINE_S, cwd=tmp_path, check=False).returncode == 7


# -- FileWorker -----------------------------------------------------------------------------------------------------


def test_prepare_makes_a_whole_file(tmp_path, worker):
    size = 3 * 1024 * 1024 + 512
    worker.prepare(tmp_path / "new.tmp", tmp_path / "new", size, b"header", 1)
    worker.prepare(str(tmp_path / "bare.tmp"), os.fsencode(tmp_path / "bare"), 1024, None, 2)
    assert await_done(worker, 2) == [("prepare", 1, 0, None), ("prepare", 2, 0, None)]
    assert (tmp_path / "new").read_bytes() == b"header" + bytes(size - 6)
    assert (tmp_path / "bare").read_bytes() == bytes(1024)
    assert sorted(os.listdir(tmp_path)) == ["bare", "new"]
    # Zero-filled, not a hole: a later fdatasync has no file-system transaction to commit.
    assert (tmp_path / "new").stat().st_blocks * 512 >= size
    assert worker.queued == 0


def test_prepare_replaces_what_a_crash_left(tmp_path, worker):
    (tmp_path / "new.tmp").write_bytes(b"x" * 9000)
    worker.prepare(tmp_path / "new.tmp", tmp_path / "new", 1024, b"h", 1)
    assert await_done(worker, 1) == [("prepare", 1, 0, None)]
    assert (tmp_path / "new").read_bytes() == b"h" + bytes(1023)


def test_recycling_writes_only_the_header(tmp_path, worker):
    (tmp_path / "old.tmp").write_bytes(b"x" * 4096)
    worker.prepare(tmp_path / "old.tmp", tmp_path / "new", 4096, b"h" * 512, 1, recycle=True)
    assert await_done(worker, 1) == [("prepare", 1, 0, None)]
    assert (tmp_path / "new").read_bytes() == b"h" * 512 + b"x" * 3584
    (tmp_path / "short.tmp").write_bytes(b"x" * 100)
    worker.prepare(tmp_path / "short.tmp", tmp_path / "new2", 4096, b"h", 2, recycle=True)
    assert await_done(worker, 1) == [("prepare", 2, errno.EINVAL, None)]
    assert os.listdir(tmp_path) == ["new"]


def test_prepare_cleans_up_after_an_error(tmp_path, worker):
    os.symlink("/dev/full", tmp_path / "full.tmp")
    (tmp_path / "directory").mkdir()
    worker.prepare(tmp_path / "full.tmp", tmp_path / "full", 1024, None, 1)
    worker.prepare(tmp_path / "new.tmp", tmp_path / "directory", 1024, None, 2)
    worker.prepare(tmp_path / "missing/new.tmp", tmp_path / "missing/new", 1024, None, 3)
    results = await_done(worker, 3)
    assert [(tag, error) for _, tag, error, _ in results] == [
        (1, errno.ENOSPC), (2, errno.EISDIR), (3, errno.ENOENT)]
    assert os.listdir(tmp_path) == ["directory"]
    with pytest.raises(ValueError, match="path"):
        worker.prepare("", tmp_path / "new", 1024, None, 4)
    with pytest.raises(ValueError, match="header"):
        worker.prepare("a", "b", 3, b"four", 4)


def test_reads_come_back_whole_or_not_at_all(segment, worker):
    content = os.urandom(100_000)
    os.pwrite(segment, content, 0)
    worker.read(segment, 1000, 50_000, 7)
    worker.read(segment, 0, 100_001, 8)
    worker.read(segment, 5, 0, 9)
    worker.read(-1, 0, 10, 10)
    assert await_done(worker, 4) == [
        ("read", 7, 0, content[1000:51_000]),
        ("read", 8, errno.ENODATA, None),
        ("read", 9, 0, b""),
        ("read", 10, errno.EBADF, None),
    ]
    with pytest.raises(ValueError, match="read of"):
        worker.read(segment, 0, (1 << 30) + 1, 11)


def test_the_worker_takes_only_so_many_jobs(segment):
    worker = walfile.FileWorker(queue_limit=2)
    worker.start()
    os.pwrite(segment, b"12345", 0)
    worker.read(segment, 0, 1, 1)
    worker.read(segment, 1, 1, 2)
    with pytest.raises(BufferError):
        worker.read(segment, 2, 1, 3)  # finished or not: nothing was collected yet
    assert await_done(worker, 2) == [("read", 1, 0, b"1"), ("read", 2, 0, b"2")]
    worker.read(segment, 2, 1, 3)
    worker.stop(drain=True)
    assert worker.done() == [("read", 3, 0, b"3")]


def test_stop_gives_up_a_file_being_filled(tmp_path):
    worker = walfile.FileWorker()
    worker.start()
    worker.prepare(tmp_path / "new.tmp", tmp_path / "new", 1 << 40, None, 1)
    worker.stop()
    assert worker.done() in ([], [("prepare", 1, errno.ECANCELED, None)])
    assert os.listdir(tmp_path) == []


# -- the blocking helpers -------------------------------------------------------------------------------------------


def test_blocking_helpers(segment, tmp_path, opened):
    walfile.write_sync(segment, 3, b"abc")
    walfile.write_sync(segment, 1, memoryview(b""))
    assert os.pread(segment, 10, 0) == b"\0\0\0abc"
    walfile.fdatasync_fd(segment)
    walfile.fsync_dir(tmp_path)
    for call, error in (
        (lambda: walfile.write_sync(opened("/dev/full", os.O_RDWR), 0, b"x"), errno.ENOSPC),
        (lambda: walfile.fdatasync_fd(-1), errno.EBADF),
        (lambda: walfile.fsync_dir(tmp_path / "missing"), errno.ENOENT),
    ):
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            call()
        assert caught.value.errno == error

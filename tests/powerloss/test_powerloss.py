"""Power loss on real files: nothing that was acknowledged is gone, and the test that says so can fail.

POWERLOSS_ROUNDS and POWERLOSS_SEED choose a longer run; bench/prove_powerloss.py is the same as a script.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from brokenbuilds import with_early_replies, without_fdatasync
from powercluster import Broken, Promises, Trial, check_keys, check_overwritten

from quorumd.chaos import preload
from quorumd.chaos.platter import SECTOR, Platter, survivors
from quorumd.errors import ConfigError

ROUNDS = int(os.environ.get("POWERLOSS_ROUNDS", "3"))
SEED = int(os.environ.get("POWERLOSS_SEED", "1"))
ROUNDS_TO_BE_CAUGHT = 15
ALL, NOTHING = (1.0, 1.0), (0.0, 0.0)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return preload.compile_library(tmp_path_factory.mktemp("powerloss"))


# -- the nodes ------------------------------------------------------------------------------------------------------


def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(library, tmp_path):
    outcome = Trial(tmp_path, library, seed=SEED).run(ROUNDS)
    assert outcome.broken == "", outcome
    assert outcome.rounds == ROUNDS
    assert min(outcome.acknowledged, outcome.increments, outcome.losses["sectors_lost"]) > 0, outcome
    shutil.rmtree(tmp_path)


def test_a_build_that_forgets_to_sync_is_caught(library, tmp_path):
    shadow = without_fdatasync(tmp_path)
    outcome = Trial(tmp_path, library, seed=SEED, shadows=[shadow]).run(ROUNDS_TO_BE_CAUGHT, cut_at_founding=False)
    assert "acknowledged" in outcome.broken, outcome  # a write, or the later value of a register
    assert outcome.acknowledged > 0
    shutil.rmtree(tmp_path)


def test_replies_before_the_sync_are_caught(library, tmp_path):
    shadow = with_early_replies(tmp_path)
    outcome = Trial(tmp_path, library, seed=SEED, shadows=[shadow]).run(ROUNDS_TO_BE_CAUGHT, cut_at_founding=False)
    assert "acknowledged" in outcome.broken, outcome
    shutil.rmtree(tmp_path)


# -- the verdict, by what it must object to -------------------------------------------------------------------------


KEPT = {b"unique/1": b"one", b"register/1": b"5", b"counter/1": b"3"}


class Memory:
    """What a load was promised, and a cluster that holds `found`."""

    def __init__(self, found):
        self.found = found
        self.promises = Promises(
            unique={b"unique/1": b"one"},
            issued={b"unique/1": b"one", b"unique/2": b"two"},
            registers={b"register/1": (4, 6)},
            increments=Counter({b"counter/1": 3}),
        )

    def read_all(self, prefix):
        return {key: value for key, value in self.found.items() if key.startswith(prefix)}

    def check(self):
        check_keys(self.promises, self.read_all(b"unique/"), b"unique/")
        check_overwritten(self)


@pytest.mark.parametrize("found", [KEPT, {**KEPT, b"unique/2": b"two"}, {**KEPT, b"register/1": b"6"}])
def test_a_store_that_keeps_its_promises_passes(found):
    Memory(found).check()


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({b"unique/1": None}, "1 of 1 acknowledged writes are lost"),
        ({b"unique/1": b"two"}, "a value that nobody wrote"),
        ({b"unique/3": b"three"}, "a value that nobody wrote"),
        ({b"register/1": b"3"}, "but 4 was acknowledged"),
        ({b"register/1": None}, "but 4 was acknowledged"),
        ({b"register/1": b"7"}, "6 asked for"),
        ({b"counter/1": b"2"}, "counter/1 is 2 after 3 increments"),
        ({b"counter/1": b"4"}, "counter/1 is 4 after 3 increments"),
    ],
)
def test_a_broken_promise_is_named(change, objection):
    found = {key: value for key, value in {**KEPT, **change}.items() if value is not None}
    with pytest.raises(Broken, match=objection):
        Memory(found).check()


# -- the preload library, by what small programs leave behind -------------------------------------------------------


@pytest.fixture
def programs(library, tmp_path):
    """Runs programs that can lose power, in the directory `platter.cache`."""
    platter = Platter(tmp_path)

    def run(program):
        prelude = "import os\nnew = os.O_RDWR | os.O_CREAT\nhere = os.open('.', os.O_RDONLY)\n"
        environment = {**os.environ, **platter.environment(library, "0-0")}
        command = [sys.executable, "-c", prelude + program]
        done = subprocess.run(command, env=environment, cwd=platter.cache, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return platter, run


CALLS = {
    "pwrite": "os.pwrite(fd, b'new', 0)",
    "pwritev": "os.pwritev(fd, [b'n', b'ew'], 0)",
    "write": "os.write(fd, b'new')",
    "writev": "os.writev(fd, [b'n', b'ew'])",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("sync", ["os.fsync(fd)", "os.fdatasync(fd)", ""])
def test_what_was_written_survives_if_it_was_synced(programs, call, sync):
    platter, run = programs
    run("fd = os.open('f', new)\nos.pwrite(fd, b'old', 0)\nos.fsync(fd)\nos.fsync(here)")
    run(f"fd = os.open('f', new)\nos.fsync(fd)\n{call}\nassert os.pread(fd, 3, 0) == b'new'\n{sync}")
    assert (platter.cache / "f").read_bytes() == b"new"
    platter.cut(random.Random(1), ALL)
    assert (platter.cache / "f").read_bytes() == (b"new" if sync else b"old")


def test_a_sync_covers_what_an_earlier_process_wrote(programs):
    platter, run = programs
    run("os.pwrite(os.open('f', new), b'new', 0)\nos.fsync(here)")
    run("os.fdatasync(os.open('f', os.O_RDONLY))")
    platter.cut(random.Random(1), ALL)
    assert (platter.cache / "f").read_bytes() == b"new"


def test_a_sync_covers_its_own_file_only(programs):
    platter, run = programs
    run("one, two = os.open('1', new), os.open('2', new)\nos.write(one, b'1')\nos.write(two, b'2')\nos.fsync(here)")
    run("one, two = os.open('1', new), os.open('2', new)\nos.fsync(one)")
    platter.cut(random.Random(1), ALL)
    assert (platter.cache / "1").read_bytes() == b"1"
    assert (platter.cache / "2").read_bytes() == b""


@pytest.mark.parametrize("call", ["os.ftruncate(fd, 2)", "os.close(os.open('f', os.O_RDWR | os.O_TRUNC))"])
@pytest.mark.parametrize("synced", [True, False])
def test_a_size_survives_if_it_was_synced(programs, call, synced):
    platter, run = programs
    run("fd = os.open('f', new)\nos.pwrite(fd, b'long', 0)\nos.fsync(fd)\nos.fsync(here)\n" + call
        + ("\nos.fsync(fd)" if synced else ""))
    size = (platter.cache / "f").stat().st_size
    assert size < 4
    platter.cut(random.Random(1), ALL)
    assert (platter.cache / "f").stat().st_size == (size if synced else 4)


def test_a_new_name_survives_only_if_its_directory_was_synced(programs):
    platter, run = programs
    run("fd = os.open('before', new)\nos.write(fd, b'x')\nos.fsync(fd)\nos.mkdir('d')\nos.fsync(here)\n"
        "fd = os.open('after', new)\nos.write(fd, b'x')\nos.fsync(fd)\nos.mkdir('e')")
    platter.cut(random.Random(1), ALL)
    assert sorted(os.listdir(platter.cache)) == ["before", "d"]


RENAME = (
    "old, fresh = os.open('f', new), os.open('f.tmp', new)\nos.write(old, b'old')\nos.fsync(old)\nos.fsync(here)\n"
    "os.write(fresh, b'fresh')\nos.fsync(fresh)\nos.rename('f.tmp', 'f')\n"
)


def test_a_rename_is_undone_as_a_whole_unless_its_directory_was_synced(programs):
    platter, run = programs
    run(RENAME)
    assert (platter.cache / "f").read_bytes() == b"fresh"
    platter.cut(random.Random(1), ALL)
    assert {path.name: path.read_bytes() for path in platter.cache.iterdir()} == {"f": b"old", "f.tmp": b"fresh"}
    run("os.rename('f.tmp', 'f')\nos.fsync(here)")
    platter.cut(random.Random(1), ALL)
    assert {path.name: path.read_bytes() for path in platter.cache.iterdir()} == {"f": b"fresh"}


def test_a_disk_may_have_written_what_nobody_asked_for(programs):
    platter, run = programs
    run(RENAME)
    platter.cut(random.Random(1), NOTHING)
    assert {path.name: path.read_bytes() for path in platter.cache.iterdir()} == {"f": b"fresh"}
    platter.cut(random.Random(1), ALL)  # and what survived one cut survives the next
    assert (platter.cache / "f").read_bytes() == b"fresh"


def test_an_inode_number_is_not_used_again_while_the_platter_knows_it(programs):
    platter, run = programs
    run("for i in range(20):\n fd = os.open('f', new)\n os.write(fd, b'%d' % i)\n os.fsync(fd)\n os.fsync(here)\n"
        " os.close(fd)\n os.unlink('f')")
    platter.cut(random.Random(1), ALL)
    assert (platter.cache / "f").read_bytes() == b"19"


GROW = {
    **CALLS,
    "ftruncate": "os.ftruncate(fd, 9)",
    "posix_fallocate": "os.posix_fallocate(fd, 0, 9)",
}


@pytest.mark.parametrize("call", GROW.values(), ids=GROW)
@pytest.mark.parametrize(
    ("name", "is_full", "refused"), [("wal-1.seg", True, True), ("wal-1.seg", False, False), ("meta.json", True, False)]
)
def test_a_full_disk_refuses_what_grows_a_log_file(library, tmp_path, call, name, is_full, refused):
    here, control = tmp_path / "here", tmp_path / "full"
    here.mkdir()
    if is_full:
        control.touch()
    program = f"import os\nfd = os.open({name!r}, os.O_RDWR | os.O_CREAT)\n{call}"
    environment = {**os.environ, **preload.environment(library, here, full=control)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=here, capture_output=True, text=True, check=False
    )
    assert ("No space left on device" in done.stderr) is refused
    assert ((here / name).stat().st_size == 0) is refused


def test_a_full_disk_takes_what_overwrites(library, tmp_path):
    (tmp_path / "full").touch()
    (tmp_path / "wal-1.seg").write_bytes(b"old")
    program = "import os\nos.pwrite(os.open('wal-1.seg', os.O_RDWR), b'new', 0)"
    environment = {**os.environ, **preload.environment(library, tmp_path, full=tmp_path / "full")}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "wal-1.seg").read_bytes() == b"new"


def test_damage_outlives_a_power_cut(programs):
    platter, run = programs
    run("fd = os.open('f', new)\nos.write(fd, b'abc')\nos.fsync(fd)\nos.fsync(here)")
    platter.damage(platter.cache / "f", 1, 0x20)
    platter.cut(random.Random(1), ALL)
    assert (platter.cache / "f").read_bytes() == b"aBc"


def test_a_missing_compiler_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(ConfigError, match="need a C compiler and there is no 'no-such-compiler' here"):
        preload.compile_library(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_sectors_are_lost_kept_or_torn_and_nothing_else(seed):
    rng = random.Random(seed)
    old, new = rng.randbytes(200 * SECTOR), rng.randbytes(300 * SECTOR)
    losses = Counter()
    survived = survivors(new, old, rng, (0.5, 0.5), losses)
    assert losses["sectors"] == 300
    assert 100 < losses["sectors_lost"] < 200
    assert losses["sectors_torn"] > 0
    found = Counter()
    for at in range(0, len(survived), SECTOR):
        sector, was = survived[at : at + SECTOR], old[at : at + SECTOR].ljust(SECTOR, b"\0")
        torn = any(sector == new[at : at + cut] + was[cut:] for cut in range(1, SECTOR))
        assert sector == was or sector == new[at : at + SECTOR] or torn
        found["kept"] += sector == new[at : at + SECTOR]
    assert abs(300 - losses["sectors_lost"] - losses["sectors_torn"] - found["kept"]) <= 2  # torn at byte 0 is lost

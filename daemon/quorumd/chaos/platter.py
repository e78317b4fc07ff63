"""The power cut: what of two trees, the page cache and the platter (see powerloss.c), is there when the lights come on.

Every process on the tree must be dead. Each sector that differs is, on its own, lost (as the platter has it), kept
(the disk wrote it before anybody asked), or torn. Each change of a directory is lost or kept, a rename as a whole.
Afterwards both trees are the same: what survived is durable.
"""

import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from quorumd.chaos.preload import environment
from quorumd.limits import SECTOR_BYTES as SECTOR

BLOCK = 128 * SECTOR
TORN = 0.1  # of the sectors that are not lost: disks write sectors whole, but nothing here may depend on it
# Diagnostics for people, of which nothing is promised. Kept, so that they can tell what went wrong.
KEPT = re.compile(r"node\.log(\.\d+)?")


class Binding(NamedTuple):
    """What a directory says of a name."""

    kind: str  # "f" or "d"
    inode: int


Entries = dict[str, Binding]


class Platter:
    """The two trees below `base`: `cache` is the processes' directory, `disk` the preload library's."""

    def __init__(self, base: Path) -> None:
        self.cache = base / "cache"
        self.disk = base / "disk"
        self.losses: Counter[str] = Counter()
        for directory in (self.cache, self.disk / "data", self.disk / "held" / "new", self.disk / "names" / "new"):
            directory.mkdir(parents=True)
        self._write_names(self.cache)

    def environment(self, library: Path, sync_us: str, full: Path | None = None) -> dict[str, str]:
        """What a process runs with, so that it can lose power; arguments as preload.environment."""
        return environment(library, self.cache, platter=self.disk, sync_us=sync_us, full=full)

    def damage(self, path: Path, offset: int, mask: int) -> None:
        """Flips the bits of `mask` in one byte of a file of `cache`, in both trees: no cut heals it."""
        for target in (path, self.disk / "data" / str(path.stat().st_ino)):
            if target.exists() and target.stat().st_size > offset:
                flip(target, offset, mask)

    def cut(self, rng: random.Random, lose: tuple[float, float] = (0.8, 1.0)) -> Counter[str]:
        """The power fails. lose: the range that each file's and directory's share of losses is drawn from.

        Returns what was not durable and what became of it; `losses` is the sum over all cuts.
        """
        for left_behind in (*(self.disk / "held" / "new").iterdir(), *(self.disk / "names" / "new").iterdir()):
            left_behind.unlink()
        losses: Counter[str] = Counter()
        alive: set[int] = set()
        self._cut_directory(self.cache, rng, lose, losses, alive)
        for kind in ("data", "held", "names"):
            for path in (self.disk / kind).iterdir():
                if path.name != "new" and int(path.name) not in alive:
                    path.unlink()
        self.losses += losses
        return losses

    # -- names ------------------------------------------------------------------------------------------------------

    def _cut_directory(
        self, path: Path, rng: random.Random, lose: tuple[float, float], losses: Counter[str], alive: set[int]
    ) -> None:
        share = rng.uniform(*lose)
        cached, durable = entries(path), self._read_names(path)
        for names in changes(cached, durable):
            losses["changes"] += 1
            if rng.random() < share:
                losses["changes_lost"] += 1
                self._undo(path, names, cached, durable)
        alive.add(path.stat().st_ino)
        for name, (kind, inode) in entries(path).items():
            alive.add(inode)
            if kind == "d":
                self._cut_directory(path / name, rng, lose, losses, alive)
                continue
            held = self.disk / "held" / str(inode)
            if not held.exists():
                os.link(path / name, held)
            if not KEPT.fullmatch(name):
                self._cut_file(path / name, inode, rng, lose, losses)
        self._write_names(path)

    def _undo(self, path: Path, names: set[str], cached: Entries, durable: Entries) -> None:
        for name in sorted(names):
            if name in cached:
                if cached[name].kind == "d":
                    shutil.rmtree(path / name)
                else:
                    (path / name).unlink()
        for name in sorted(names):
            if name in durable:
                if durable[name].kind == "d":
                    raise ValueError(f"{path / name}: a directory that was removed cannot come back")
                os.link(self.disk / "held" / str(durable[name].inode), path / name)

    def _read_names(self, path: Path) -> Entries:
        try:
            lines = self._names(path).read_text().splitlines()
        except FileNotFoundError:
            return {}
        parts = (line.split(" ", 2) for line in lines)
        return {name: Binding(kind, int(inode)) for kind, inode, name in parts}

    def _write_names(self, path: Path) -> None:
        found = sorted(entries(path).items())
        self._names(path).write_text("".join(f"{b.kind} {b.inode} {name}\n" for name, b in found))

    def _names(self, path: Path) -> Path:
        return self.disk / "names" / str(path.stat().st_ino)

    # -- bytes ------------------------------------------------------------------------------------------------------

    def _cut_file(
        self, path: Path, inode: int, rng: random.Random, lose: tuple[float, float], losses: Counter[str]
    ) -> None:
        data = self.disk / "data" / str(inode)
        data.touch()
        cached, durable = path.read_bytes(), data.read_bytes()
        if cached == durable:
            return
        survived = survivors(cached, durable, rng, lose, losses)
        for target, old in ((path, cached), (data, durable)):
            with target.open("r+b") as file:
                for at in different(survived, old):
                    file.seek(at)
                    file.write(survived[at : at + SECTOR])
                file.truncate(len(survived))


def flip(path: Path, offset: int, mask: int) -> None:
    """Flips the bits of `mask` in the byte at `offset`."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def entries(path: Path) -> Entries:
    """The files and directories in `path`."""
    found: Entries = {}
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            found[entry.name] = Binding("d", entry.inode())
        elif entry.is_file(follow_symlinks=False):
            found[entry.name] = Binding("f", entry.inode())
    return found


def changes(cached: Entries, durable: Entries) -> Iterator[set[str]]:
    """Sets of names that changed together: those that one inode had or has, and those that changed hands with them."""
    left = {
        name
        for name in cached.keys() | durable.keys()
        if cached.get(name) != durable.get(name) and not KEPT.fullmatch(name)
    }
    while left:
        group = {min(left)}
        while True:
            inodes = {b.inode for name in group for b in (cached.get(name), durable.get(name)) if b}
            joined = {
                name for name in left if any(b and b.inode in inodes for b in (cached.get(name), durable.get(name)))
            }
            if joined <= group:
                break
            group |= joined
        left -= group
        yield group


def different(one: bytes, other: bytes) -> Iterator[int]:
    """Offsets of the sectors in which the two differ, ascending; a sector that only one has counts."""
    for block in range(0, max(len(one), len(other)), BLOCK):
        if one[block : block + BLOCK] != other[block : block + BLOCK]:
            for at in range(block, min(block + BLOCK, max(len(one), len(other))), SECTOR):
                if one[at : at + SECTOR] != other[at : at + SECTOR]:
                    yield at


def survivors(
    cached: bytes, durable: bytes, rng: random.Random, lose: tuple[float, float], losses: Counter[str]
) -> bytes:
    """What is left of a file of which `cached` was written and `durable` was synced.

    Either each sector is lost on its own, or, as likely, all from one point on, by offset: what a log loses if the
    disk wrote in order. Both keep at most the share that `lose` leaves.
    """
    places = list(different(cached, durable))
    share = rng.uniform(*lose)
    in_order = rng.random() < 0.5
    kept_in_order = round(len(places) * (1 - share))
    survived = bytearray(durable)
    for number, at in enumerate(places):
        losses["sectors"] += 1
        lost = number >= kept_in_order if in_order else rng.random() < share
        if lost:
            losses["sectors_lost"] += 1
            continue
        sector = cached[at : at + SECTOR]
        if rng.random() < TORN and sector:
            losses["sectors_torn"] += 1
            cut = rng.randrange(len(sector))
            sector = sector[:cut] + durable[at + cut : at + len(sector)].ljust(len(sector) - cut, b"\0")
        if len(survived) < at + len(sector):  # the file grew this far, with holes where sectors were lost
            survived.extend(bytes(at + len(sector) - len(survived)))
        survived[at : at + len(sector)] = sector
    if len(cached) < len(durable) and rng.random() >= share:
        del survived[len(cached) :]
    return bytes(survived)

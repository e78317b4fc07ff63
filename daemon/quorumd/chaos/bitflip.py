"""Which bit to flip: one that the log itself says is on the disk, so that its loss can be no torn write."""

import random
import struct
from pathlib import Path
from typing import Final, NamedTuple

from quorumd.errors import ConfigError
from quorumd.limits import SECTOR_BYTES
from quorumd_fastpath import walframe

# Of a batch header, as ARCHITECTURE.md has it: magic, length, position, synced_to.
_BATCH: Final = struct.Struct("<4s4xI4xQQ")
_MAGIC: Final = b"QBAT"
SEGMENTS: Final = "wal-*.seg"


class Place(NamedTuple):
    """One bit of one file."""

    path: Path
    offset: int
    mask: int


def choose(directory: Path, rng: random.Random) -> Place:
    """A bit of a batch that lies wholly below what a later one knew to be synced. The node must be down.

    Raises ConfigError if its log holds no such batch.
    """
    batches: list[tuple[Path, int, int, int]] = []  # file, offset, WAL position, length
    synced_to = 0
    for path in sorted(directory.glob(SEGMENTS)):
        data = path.read_bytes()
        header = walframe.decode_segment_header(data)
        if header is None:
            continue  # made ahead
        end = walframe.scan(data, header, SECTOR_BYTES, header.seed).end_offset
        offset = SECTOR_BYTES
        while offset < end:
            magic, length, position, synced = _BATCH.unpack_from(data, offset)
            if magic != _MAGIC:
                break
            batches.append((path, offset, position, length))
            synced_to = max(synced_to, synced)
            offset += -(-length // SECTOR_BYTES) * SECTOR_BYTES
    known = [batch for batch in batches if batch[2] + batch[3] <= synced_to]
    if not known:
        raise ConfigError(f"no batch in {directory} is known to be synced yet; let it run for longer")
    path, offset, _, length = rng.choice(known)
    return Place(path, offset + rng.randrange(length), 1 << rng.randrange(8))

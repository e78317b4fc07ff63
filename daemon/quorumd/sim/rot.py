"""Decay of what a disk holds: only where it must be noticed, that is below what the log itself knows to be synced.

Damage to the very last batches of a node that was busy cannot be told from a write that never finished (recovery.py);
to claim more would be to test a promise that nobody made.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from quorumd import limits
from quorumd.sim.disk import SECTOR
from quorumd.sim.machine import Machine
from quorumd.sim.network import flipped
from quorumd_fastpath import walframe


class _Extent(NamedTuple):
    """A record with its payload, or a segment's header, in bytes of its segment."""

    number: int
    begin: int
    end: int


def synced(machine: Machine) -> list[_Extent]:
    """What lies on the platter below the highest position that some batch knew to be synced: records, and the headers
    of the segments that have such."""
    found: list[tuple[int, _Extent]] = []
    synced_to = 0
    for number, platter in sorted(machine.disk.platter.items()):
        data = memoryview(platter)
        header = walframe.decode_segment_header(data)
        if header is None:
            continue
        result = walframe.scan(data, header, SECTOR, header.seed)
        synced_to = max(synced_to, result.synced_to)
        for *_, length, position in result.records:
            begin = position - number * limits.MIN_SEGMENT_BYTES
            found.append((position, _Extent(number, begin, begin + walframe.RECORD_HEADER_BYTES + length)))
    records = [extent for position, extent in found if position + extent.end - extent.begin <= synced_to]
    return records + [_Extent(number, 0, SECTOR) for number in dict.fromkeys(extent.number for extent in records)]


def _choice(extents: Sequence[_Extent], dice: random.Random) -> _Extent:
    """One of them. A header as often as every fourth time, although there are far more records."""
    headers = [extent for extent in extents if not extent.begin]
    return dice.choice(headers if dice.random() < 0.25 else extents)


def flip_synced_bit(machine: Machine, dice: random.Random) -> bool:
    """One bit of something synced changes; False if there is none."""
    extents = synced(machine)
    if not extents:
        return False
    number, begin, end = _choice(extents, dice)
    machine.disk.rot(number, begin, flipped(bytes(machine.disk.platter[number][begin:end]), dice))
    return True


def misdirect_write(machine: Machine, dice: random.Random) -> bool:
    """A sector of something synced gets the content of another sector; False if there are no two that differ."""
    extents = synced(machine)
    if len(extents) < 2:
        return False
    here, there = _choice(extents, dice), _choice(extents, dice)
    source = there.begin // SECTOR * SECTOR
    target = dice.randrange(here.begin // SECTOR, -(-here.end // SECTOR)) * SECTOR
    written = bytes(machine.disk.platter[there.number][source : source + SECTOR])
    begin, end = max(here.begin, target), min(here.end, target + SECTOR)
    platter = machine.disk.platter[here.number]
    if platter[begin:end] == written[begin - target : end - target]:
        return False
    machine.disk.rot(here.number, target, written)
    return True

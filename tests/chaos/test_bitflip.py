"""The bit that is flipped was certainly on the disk, and its batch is damaged afterwards."""

import random

import pytest

from quorumd.chaos import bitflip
from quorumd.chaos.platter import flip
from quorumd.commands import Kind, encode_record
from quorumd.errors import ConfigError
from quorumd.limits import MIN_SEGMENT_BYTES, SECTOR_BYTES
from quorumd_fastpath import walframe

FIELDS = {"nonce": 99, "cluster": 7, "node": 1, "term": 1, "vote": 1, "first_index": 1, "commit": 0, "prev_chain": 0}


def write_log(directory, batches):
    """One segment; `batches` is the synced_to of each, counted in batches before it."""
    header = walframe.encode_segment_header(number=1, segment_bytes=MIN_SEGMENT_BYTES, **FIELDS)
    decoded = walframe.decode_segment_header(header)
    data = bytearray(header)
    places = [MIN_SEGMENT_BYTES + len(data)]
    chain = decoded.seed
    for number, synced in enumerate(batches, 1):
        batch = walframe.Batch(MIN_SEGMENT_BYTES)
        batch.begin(1, MIN_SEGMENT_BYTES, len(data), decoded.seed, chain, places[synced], 0, number)
        batch.hard_state(number, 1)
        batch.append_data(encode_record(Kind.NOOP, bytes(16), 0, 0, bytes(300 * number)), number, 1, 1)
        batch.finish()
        chain = batch.chain
        data += batch.data()
        places.append(MIN_SEGMENT_BYTES + len(data))
    data += bytes(MIN_SEGMENT_BYTES - len(data))
    path = directory / "wal-0000000000000001.seg"
    path.write_bytes(data)
    (directory / "wal-0000000000000002.seg").write_bytes(bytes(MIN_SEGMENT_BYTES))  # made ahead
    return path, [place - MIN_SEGMENT_BYTES for place in places]


def scanned(path):
    data = path.read_bytes()
    header = walframe.decode_segment_header(data)
    return walframe.scan(data, header, SECTOR_BYTES, header.seed)


@pytest.mark.parametrize("seed", range(60))
def test_the_bit_lies_in_a_batch_that_a_later_one_knew_to_be_synced(tmp_path, seed):
    path, places = write_log(tmp_path, [0, 1, 2, 2, 3])
    assert scanned(path).batches == 5
    place = bitflip.choose(tmp_path, random.Random(seed))
    assert place.path == path
    assert places[0] <= place.offset < places[3]  # the fifth says that three are synced
    flip(*place)
    hit = sum(place.offset >= end for end in places[1:])
    assert scanned(path).batches == hit  # the damaged batch ends the scan
    flip(*place)
    assert scanned(path).batches == 5


def test_every_synced_batch_is_hit_now_and_then(tmp_path):
    _, places = write_log(tmp_path, [0, 1, 2, 2, 3])
    offsets = [bitflip.choose(tmp_path, random.Random(seed)).offset for seed in range(60)]
    assert {sum(offset >= place for place in places) for offset in offsets} == {1, 2, 3}


@pytest.mark.parametrize("batches", [[], [0, 0, 0]])
def test_a_log_of_which_nothing_is_known_to_be_synced_is_refused(tmp_path, batches):
    write_log(tmp_path, batches)
    with pytest.raises(ConfigError, match="known to be synced yet"):
        bitflip.choose(tmp_path, random.Random(1))

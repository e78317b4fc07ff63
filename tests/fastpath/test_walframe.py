"""WAL framing against its plain-Python twin: the same bytes are written, and any bytes get the same verdict."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumd_fastpath import reference_wal as reference
from quorumd_fastpath import walframe
from quorumd_fastpath.reference_wal import Header, Item
from quorumd_fastpath.ring import Ring

SEGMENT_BYTES = 16 * 1024
U64 = st.integers(0, 2**64 - 1)
unhurried = settings(deadline=None)  # the machine may be busy: no test is about time


def make_header(number=3, nonce=77, prev_chain=9):
    header = Header(number, SEGMENT_BYTES, nonce, 5, 2, 8, 1, 100, 90, prev_chain, 0)
    found = reference.decode_segment_header(reference.encode_segment_header(header))
    assert found is not None
    return found


def record(size, fill=b"x"):
    """An entry record of `size` bytes, at least 40."""
    return struct.pack("<IBBHQQQQ", size, 1, 0, 0, 1, 2, 3, 0) + fill * (size - 40)


sizes = st.integers(40, 900)
append_items = st.builds(
    lambda kind, index, term, lengths, fill: Item(
        kind, index, len(lengths), term, b"".join(record(n, bytes([fill])) for n in lengths)
    ),
    st.sampled_from([walframe.APPEND, walframe.ACCEPT]), st.integers(1, 2**40), U64,
    st.lists(sizes, min_size=1, max_size=5), st.integers(0, 255),
)
items = st.one_of(
    append_items,
    st.builds(lambda term, vote: Item(1, vote, 0, term, b""), U64, st.integers(0, 2**16)),
    st.builds(lambda last: Item(3, last, 0, 0, b""), st.integers(0, 2**40)),
    st.builds(
        lambda first, count, term: Item(5, first, count, term, b""), st.integers(1, 2**40), st.integers(1, 99), U64
    ),
)
batches = st.lists(st.lists(items, max_size=5), max_size=6)


def fill(batch, item):
    if item.kind == walframe.HARD_STATE:
        return batch.hard_state(item.term, item.index)
    if item.kind == walframe.TRUNCATE:
        return batch.truncate(item.index)
    if item.kind == walframe.REACCEPT:
        return batch.reaccept(item.index, item.count, item.term)
    return batch.append_data(item.payload, item.index, item.count, item.term, item.kind)


def write_segment(header, groups, rest=0):
    """A segment of the reference's batches, as far as they fit, zeros (or the byte `rest`) after; and their ends."""
    out = bytearray(reference.encode_segment_header(header))
    chain = header.seed
    ends = [len(out)]
    for seq, group in enumerate(groups):
        position = header.number * SEGMENT_BYTES + len(out)
        data, after = reference.encode_batch(header, len(out), chain, (position - 512, 90 + seq, seq), group)
        if len(out) + len(data) > SEGMENT_BYTES:
            break
        out += data
        chain = after
        ends.append(len(out))
    return out + bytes([rest]) * (SEGMENT_BYTES - len(out)), ends


def verdicts(data, header, offset=512, chain=None):
    """What both say about the same bytes; fails unless they agree."""
    chain = header.seed if chain is None else chain
    found = walframe.scan(data, walframe.SegmentHeader(*header), offset, chain)
    assert tuple(found) == tuple(reference.scan(bytes(data), header, offset, chain))
    for start in (0, found.stop_offset, found.stop_offset + 1):
        synced = walframe.highest_synced(data, walframe.SegmentHeader(*header), start)
        assert synced == reference.highest_synced(bytes(data), header, start)
    claimed(data, header.number * SEGMENT_BYTES)
    return found


def claimed(data, base):
    """What batch headers of a segment claim whose own header is not asked; fails unless both say the same."""
    found = walframe.claimed_synced(data, base)
    assert found == reference.claimed_synced(bytes(data), base)
    return found


# -- segment headers ----------------------------------------------------------------------------------------------


@unhurried
@given(U64, U64, st.integers(0, 2**32 - 1), st.integers(0, 2**20))
def test_segment_header_is_the_same_on_both_sides(nonce, other, prev_chain, number):
    header = Header(number, SEGMENT_BYTES, nonce, other, 3, other, 4, other, other, prev_chain, 0)
    block = walframe.encode_segment_header(*header[:-1])
    assert block == reference.encode_segment_header(header)
    found = walframe.decode_segment_header(block)
    assert tuple(found) == tuple(reference.decode_segment_header(block))
    assert found[:-1] == header[:-1]


@unhurried
@given(st.integers(0, 511), st.integers(1, 255))
def test_any_changed_byte_of_a_segment_header_is_noticed(at, change):
    block = bytearray(reference.encode_segment_header(make_header()))
    block[at] ^= change
    assert walframe.decode_segment_header(block) is None
    assert reference.decode_segment_header(block) is None


@pytest.mark.parametrize(("version", "read"), [(0, False), (1, True), (2, True), (3, False)])
def test_the_version_before_is_read(version, read):
    header = make_header()
    block = reference.encode_segment_header(header, version)
    for found in (walframe.decode_segment_header(block), reference.decode_segment_header(block)):
        assert (found is not None) == read
        assert found is None or tuple(found)[:-1] == header[:-1]


@pytest.mark.parametrize("length", [0, 1, 8, 511])
def test_a_short_segment_header_is_none(length):
    assert walframe.decode_segment_header(reference.encode_segment_header(make_header())[:length]) is None


def test_segment_sizes_no_segment_can_have():
    for number, size in ((0, 0), (0, 512), (0, 1000), (2**63, 1024)):
        with pytest.raises(ValueError, match="segment"):
            walframe.encode_segment_header(number, size, 1, 1, 1, 1, 1, 1, 1, 1)
        assert walframe.decode_segment_header(reference.encode_segment_header(Header(number, size, *[1] * 9))) is None


def test_the_version_of_a_newer_format_is_told_from_a_flipped_bit():
    block = bytearray(reference.encode_segment_header(make_header()))
    assert walframe.segment_version(block) == walframe.FORMAT_VERSION
    block[8] = 7
    assert walframe.segment_version(block) is None
    block = reference.encode_segment_header(make_header(), version=7)
    assert walframe.segment_version(block) == 7
    assert walframe.decode_segment_header(block) is None
    assert walframe.segment_version(b"QRMDWAL1\x01") is None
    assert walframe.segment_version(bytes(512)) is None


# -- writing ------------------------------------------------------------------------------------------------------


@unhurried
@given(st.lists(items, max_size=6), U64, st.integers(0, 2**32 - 1))
def test_batch_writes_what_the_reference_writes(group, seq, chain):
    header = make_header()
    offset = 1024
    batch = walframe.Batch(SEGMENT_BYTES, 512)
    batch.begin(header.number, SEGMENT_BYTES, offset, header.seed, chain, 5, 6, seq)
    written = [item for item in group if fill(batch, item)]
    size = batch.finish()
    expected, after = reference.encode_batch(header, offset, chain, (5, 6, seq), written)
    assert bytes(batch.data()) == expected
    assert (size, len(batch), batch.chain, batch.records) == (len(expected), len(expected), after, len(written))


@unhurried
@given(st.lists(sizes, min_size=1, max_size=40), st.sampled_from([walframe.APPEND, walframe.ACCEPT]), st.data())
def test_append_from_the_ring_equals_append_of_the_same_bytes(lengths, kind, data):
    ring = Ring(8192, 64)
    index = 1
    for length in lengths:
        ring.pin = index
        assert ring.append(record(length, bytes([index])), index, 1)
        index += 1
    first = data.draw(st.integers(ring.first, ring.last))
    last = data.draw(st.integers(first, ring.last))
    finished = []
    for source in ("ring", "bytes"):
        batch = walframe.Batch(SEGMENT_BYTES, 512)
        batch.begin(3, SEGMENT_BYTES, 512, 1, 2, 3, 4, 5)
        if source == "ring":
            assert batch.append(ring, first, last, 7, kind)
        else:
            assert batch.append_data(ring.copy(first, last), first, last - first + 1, 7, kind)
        batch.finish()
        finished.append(bytes(batch.data()))
    assert finished[0] == finished[1]


def test_padding_is_zero_whatever_the_memory_held():
    batch = walframe.Batch(8192)
    for size in (2000, 40):
        batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 3, 4, 5)
        assert batch.append_data(record(size, b"\xff"), 1, 1, 1)
        end = len(batch)
        batch.finish()
        assert not any(batch.data()[end:])


def test_a_record_that_does_not_fit_changes_nothing():
    batch = walframe.Batch(1024, 512)
    batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 3, 4, 5)
    assert batch.room == 1024 - 64 - 40
    assert not batch.append_data(record(batch.room + 1), 1, 1, 1)
    assert batch.append_data(record(batch.room), 1, 1, 1)
    assert batch.room == 0
    assert not batch.hard_state(1, 1)
    assert not batch.truncate(1)
    assert (batch.records, batch.finish()) == (1, 1024)
    # The end of the segment bounds it too, and then nothing may touch the next segment.
    batch.begin(0, SEGMENT_BYTES, SEGMENT_BYTES - 512, 1, 2, 3, 4, 5)
    assert batch.room == 512 - 64 - 40


def test_misuse_of_a_batch_is_refused():
    batch = walframe.Batch(4096)
    for call in (batch.finish, batch.data, lambda: batch.chain, lambda: batch.truncate(1)):
        with pytest.raises(RuntimeError):
            call()
    for offset in (0, 100, SEGMENT_BYTES):
        with pytest.raises(ValueError, match="offset"):
            batch.begin(0, SEGMENT_BYTES, offset, 1, 2, 0, 0, 0)
    with pytest.raises(ValueError, match="synced_to"):
        batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 513, 0, 0)
    batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 512, 0, 0)
    for data, count in ((b"", 0), (record(40), 2), (record(41)[:-1], 1), (record(80) + b"x", 1), (bytes(40), 1)):
        with pytest.raises(ValueError, match="entry records"):
            batch.append_data(data, 1, count, 1)
    with pytest.raises(LookupError):
        batch.append(Ring(4096, 16), 1, 1, 1)
    for first, count in ((0, 1), (1, 0), (2**64 - 1, 1)):
        with pytest.raises(ValueError, match="entries from"):
            batch.reaccept(first, count, 1)
    for kind in (0, walframe.HARD_STATE, walframe.TRUNCATE, walframe.REACCEPT, 255):
        with pytest.raises(ValueError, match="no entries"):
            batch.append_data(record(40), 1, 1, 1, kind)
        with pytest.raises(ValueError, match="no entries"):
            batch.append(Ring(4096, 16), 1, 1, 1, kind)
    assert batch.records == 0
    batch.finish()
    with batch.data() as view:
        assert view.readonly
        with pytest.raises(BufferError):
            batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 0, 0, 0)
    batch.begin(0, SEGMENT_BYTES, 512, 1, 2, 0, 0, 0)
    with pytest.raises(ValueError, match="limit"):
        walframe.Batch(512)


# -- reading ------------------------------------------------------------------------------------------------------


@unhurried
@given(batches)
def test_scan_returns_what_was_written(groups):
    header = make_header()
    data, ends = write_segment(header, groups)
    found = verdicts(data, header)
    groups = groups[: len(ends) - 1]
    assert found.stop == (None if ends[-1] == SEGMENT_BYTES else "end")
    assert (found.end_offset, found.stop_offset, found.batches) == (ends[-1], ends[-1], len(groups))
    assert found.commit == (90 + len(groups) - 1 if groups else 0)
    back = [Item(kind, index, count, term, bytes(data[at : at + length]))
            for kind, index, count, term, at, length, _ in found.records]
    assert back == [item for group in groups for item in group]
    if groups:
        assert walframe.highest_synced(data, walframe.SegmentHeader(*header), 512) == (
            header.number * SEGMENT_BYTES + ends[-2] - 512, header.number * SEGMENT_BYTES + ends[-2])
    base = header.number * SEGMENT_BYTES
    assert claimed(data, base) == (base + ends[-2] - 512 if groups else None)
    assert claimed(data, base + 512) is None  # of another place
    assert claimed(bytes(512) + data[512:], base) == claimed(data, base)
    if groups:  # ends within the last header
        assert claimed(data[: ends[-2] + 63], base) == (base + ends[-3] - 512 if len(groups) > 1 else None)


@unhurried
@given(batches.filter(bool), st.data())
def test_scan_continues_in_the_middle(groups, data):
    header = make_header()
    segment, _ = write_segment(header, groups)
    whole = verdicts(segment, header)
    upto = data.draw(st.integers(0, whole.batches))
    first = verdicts(segment[: write_segment(header, groups[:upto])[1][-1]], header)
    second = verdicts(segment, header, first.end_offset, first.end_chain)
    assert first.records + second.records == whole.records
    assert (second.end_offset, second.end_chain) == (whole.end_offset, whole.end_chain)


@settings(unhurried, max_examples=300)
@given(batches.filter(any), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4))
def test_changed_bytes_never_pass(groups, changes):
    header = make_header()
    data, ends = write_segment(header, groups)
    intact = verdicts(data, header)
    damaged = bytearray(data)
    for where, change in changes:
        damaged[512 + int(where * (ends[-1] - 513))] ^= change
    found = verdicts(damaged, header)
    # What survives is a prefix of the truth, batch by batch; padding is the only place that may change unnoticed.
    assert found.records == intact.records[: len(found.records)]
    assert found.end_offset in ends
    if found.batches < intact.batches:
        assert found.stop is not None
        assert bytes(data[found.end_offset :]) != bytes(damaged[found.end_offset :])


@unhurried
@given(batches, batches, st.integers(0, 255))
def test_a_recycled_segment_shows_nothing_of_its_past(past, present, junk):
    old, _ = write_segment(make_header(nonce=1), past, junk)
    header = make_header(nonce=2)
    new, ends = write_segment(header, present)
    recycled = new[: ends[-1]] + old[ends[-1] :]
    found = verdicts(recycled, header)
    assert found.end_offset == ends[-1]
    assert found.records == verdicts(new, header).records
    assert found.stop in (None, "end", "bad_header")
    assert walframe.highest_synced(recycled, walframe.SegmentHeader(*header), ends[-1]) == (0, 0)


@unhurried
@given(batches.filter(lambda groups: len(groups) > 1), st.data())
def test_a_misplaced_batch_does_not_pass(groups, data):
    header = make_header()
    segment, ends = write_segment(header, groups)
    which = data.draw(st.integers(0, len(ends) - 2))
    batch = segment[ends[which] : ends[which + 1]]
    to = data.draw(st.sampled_from([at for at in range(512, SEGMENT_BYTES - len(batch), 512) if at != ends[which]]))
    moved = bytearray(SEGMENT_BYTES)
    moved[to : to + len(batch)] = batch
    for chain in (header.seed, reference.BATCH.unpack_from(batch)[7]):
        assert verdicts(moved, header, to, chain).stop == "bad_header"


def test_a_batch_left_over_from_before_a_cut_does_not_follow_the_new_one():
    header = make_header()
    hard = [[Item(1, 1, 0, term, b"")] for term in (1, 2, 3)]
    before, ends = write_segment(header, hard)
    # The second batch was torn and cut; another one of the same size was written over it.
    after, _ = write_segment(header, [hard[0], [Item(1, 2, 0, 9, b"")]])
    found = verdicts(after[: ends[2]] + before[ends[2] :], header)
    assert (found.stop, found.stop_offset, found.batches) == ("bad_chain", ends[2], 2)


def test_every_stop_is_named():
    header = make_header()
    payload = record(600)
    groups = [[Item(2, 100, 1, 4, record(40))], [Item(2, 101, 1, 4, record(50)), Item(2, 102, 1, 4, payload)]]
    data, ends = write_segment(header, groups)
    payload_at = data.index(payload)

    def damage(at):
        changed = bytearray(data)
        changed[at] ^= 1
        found = verdicts(changed, header)
        assert found.stop_offset == ends[1]
        return found.stop, found.stop_index

    assert damage(payload_at + 300) == ("bad_payload", 102)
    assert damage(payload_at - 40) == ("bad_record", 102)
    assert damage(ends[1] + 64) == ("bad_record", 101)
    assert damage(ends[1] + 20) == ("bad_header", 101)
    assert damage(ends[1]) == ("end", 101)
    cut = verdicts(data[: ends[2] - 512], header)
    assert (cut.stop, cut.stop_offset, cut.stop_index) == ("overrun", ends[1], 101)
    # A header that promises more or fewer records than the batch has room for, with every CRC right.
    for records, length in ((1, 64), (0, 64 + 40), (2**32 - 1, 1024), (0, 63)):
        lying = reference.BATCH.pack(reference.BATCH_MAGIC, 0, length, records, 3 * SEGMENT_BYTES + 512, 0, 0,
                                     header.seed, 0, 0, 0)
        crc = reference.crc32c(lying, header.seed)
        segment = data[:512] + lying[:4] + struct.pack("<I", crc) + lying[8:] + bytes(SEGMENT_BYTES - 576)
        assert verdicts(segment, header).stop == ("overrun" if length < 64 else "bad_record")


@settings(unhurried, max_examples=200)
@given(st.binary(max_size=3000), st.integers(0, 6))
def test_random_bytes_never_pass(junk, sectors):
    header = make_header()
    data = reference.encode_segment_header(header) + bytes(512 * sectors) + junk
    found = verdicts(data, header)
    assert not found.records
    walframe.decode_segment_header(junk)
    walframe.segment_version(junk)


@settings(unhurried, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), U64, st.integers(0, 2**32 - 1), st.binary(max_size=100)),
                max_size=4), st.integers(0, 200), st.integers(0, 2))
def test_lies_with_the_right_crc_are_judged_alike(lies, cut, flags):
    """Whoever knows the seed can make any record pass its CRC: sizes and counts must still be checked."""
    header = make_header()
    data, _ = reference.encode_batch(header, 512, header.seed, (0, 0, 0),
                                     [Item(kind, index, count, flags, body) for kind, index, count, body in lies])
    segment = reference.encode_segment_header(header) + data
    verdicts(segment[: len(segment) - cut], header)


def test_scan_starts_at_sector_boundaries_only():
    header = walframe.SegmentHeader(*make_header())
    for offset in (0, 100, 513):
        with pytest.raises(ValueError, match="offset"):
            walframe.scan(bytes(1024), header, offset, 0)
    assert walframe.scan(b"", header, 512, 5).end_chain == 5
    assert walframe.highest_synced(b"", header, 0) == (0, 0)
    assert walframe.highest_synced(bytes(1024), header, 2**63) == (0, 0)

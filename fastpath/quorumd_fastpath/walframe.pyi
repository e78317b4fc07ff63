from typing import Literal, NamedTuple, TypeAlias

from typing_extensions import Buffer

from quorumd_fastpath.ring import Ring

SECTOR_BYTES: int
BATCH_HEADER_BYTES: int
RECORD_HEADER_BYTES: int
FORMAT_VERSION: int
OLDEST_VERSION: int
HARD_STATE: int
APPEND: int
TRUNCATE: int
ACCEPT: int
REACCEPT: int

StopReason: TypeAlias = Literal["end", "bad_header", "overrun", "bad_chain", "bad_record", "bad_payload"]
Record: TypeAlias = tuple[int, int, int, int, int, int, int]
"""(kind, index, count, term, payload_offset, payload_length, position); HARD_STATE: index is the vote."""

class SegmentHeader(NamedTuple):
    """The first block of a segment; `seed` follows from its CRC and nonce."""

    number: int
    segment_bytes: int
    nonce: int
    cluster: int
    node: int
    term: int
    vote: int
    first_index: int
    commit: int
    prev_chain: int
    seed: int

class ScanResult(NamedTuple):
    """What scan() found; its docstring says what each stop means."""

    records: list[Record]
    end_offset: int
    end_chain: int
    commit: int
    synced_to: int
    seq: int
    batches: int
    stop: StopReason | None
    stop_offset: int
    stop_index: int

class Batch:
    """One group commit being framed; begin() resets it."""

    def __init__(self, limit_bytes: int, initial_bytes: int = 65536) -> None: ...
    def __len__(self) -> int: ...
    def begin(
        self,
        segment_number: int,
        segment_bytes: int,
        offset: int,
        seed: int,
        chain: int,
        synced_to: int,
        commit: int,
        seq: int,
    ) -> None: ...
    @property
    def room(self) -> int: ...
    @property
    def records(self) -> int: ...
    def hard_state(self, term: int, vote: int) -> bool: ...
    def truncate(self, last: int) -> bool: ...
    def reaccept(self, first: int, count: int, term: int) -> bool: ...
    def append(self, ring: Ring, first: int, last: int, term: int, kind: int = 2) -> bool: ...
    def append_data(self, data: Buffer, first: int, count: int, term: int, kind: int = 2) -> bool: ...
    def finish(self) -> int: ...
    def check_finished(self) -> None: ...
    @property
    def chain(self) -> int: ...
    def data(self) -> memoryview: ...

def encode_segment_header(
    number: int,
    segment_bytes: int,
    nonce: int,
    cluster: int,
    node: int,
    term: int,
    vote: int,
    first_index: int,
    commit: int,
    prev_chain: int,
) -> bytes: ...
def decode_segment_header(data: Buffer) -> SegmentHeader | None: ...
def segment_version(data: Buffer) -> int | None: ...
def scan(data: Buffer, header: SegmentHeader, offset: int, chain: int) -> ScanResult: ...
def highest_synced(data: Buffer, header: SegmentHeader, from_offset: int) -> tuple[int, int]: ...
def claimed_synced(data: Buffer, base: int) -> int | None: ...

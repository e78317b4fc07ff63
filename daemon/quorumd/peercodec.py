"""The engine's messages as frames: header fields and fixed bodies, both ways. Pure; who may speak is transport.py's.

The layouts are documented in ARCHITECTURE.md. AppendEntries with entries is not here: its bytes go by reference from
the ring, which transport.py and the fastpath see to.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.types import Index, NodeId, Term
from quorumd_fastpath import wire

PRE = 1
TRANSFER = 2
GRANTED = 1
PRE_REPLY = 2
REJECTED = 1
DISK_FULL = 1 << 8  # in every reply that a follower sends: it cannot take growing entries

BODY_VOTE = struct.Struct("<Q")  # last_term
BODY_APPEND = struct.Struct("<QQQ")  # prev_term, entries_term, 0
BODY_APPEND_REPLY = struct.Struct("<QQQQQ")  # hint_index, hint_term, applied, digest_index, digest
BODY_HINT = struct.Struct("<QQ")  # the first two of them
BODY_HEARTBEAT = struct.Struct("<QQ")  # digest_index, digest agreed on by a majority
BODY_REPORT = struct.Struct("<QQQ")  # applied, digest_index, digest: the body of a heartbeat's reply


class Report(NamedTuple):
    """What a node says of itself in every acknowledgement, packed once for many of them (see `report`)."""

    flags: int
    body: bytes


Reporter: TypeAlias = Callable[[], Report]
Encoded: TypeAlias = tuple[int, int, Index, Index, bytes]
"""A frame but for addresses and incarnations: kind, flags, index, commit, payload."""


class Decoded(NamedTuple):
    """A message, and what rode on it: a digest at an index (0: none), and whether a follower's disk is full."""

    message: Any
    digest_index: Index = 0
    digest: int = 0
    disk_full: bool | None = None


class RunFields(NamedTuple):
    """What the body of a frame with entries says, and where they are (sources.py); None: there are none."""

    prev_term: Term
    entries_term: Term
    entries: int
    source: object


class EntryRun(NamedTuple):
    """A message that carries entries first..last of one term out of the log, as its frames need it; none: first - 1."""

    kind: int
    flags: int
    to: NodeId
    term: Term
    first: Index
    last: Index
    commit: Index
    prev_term: Term
    entries_term: Term


def report(applied: Index, digest_index: Index, digest: int, *, disk_full: bool) -> Report:
    """The Report of a node that applied so far, had `digest` at `digest_index`, and takes growing entries or not."""
    return Report(DISK_FULL * disk_full, BODY_REPORT.pack(applied, digest_index, digest))


def nothing_to_report() -> Report:
    """Of a node that has not opened its log."""
    return report(0, 0, 0, disk_full=False)


def verdict(index: Index, digest: int) -> bytes:
    """Body of a heartbeat: the newest index whose digest a majority agrees on; 0 for none yet."""
    return BODY_HEARTBEAT.pack(index, digest)


def _get_vote(frame: wire.Frame, body: memoryview) -> Decoded:
    (last_term,) = BODY_VOTE.unpack(body)
    pre, transfer = bool(frame[3] & PRE), bool(frame[3] & TRANSFER)
    return Decoded(RequestVote(frame[5], frame[6], frame[9], frame[10], last_term, pre, transfer))


def _get_vote_reply(frame: wire.Frame, body: memoryview) -> Decoded:
    granted, pre = bool(frame[3] & GRANTED), bool(frame[3] & PRE_REPLY)
    return Decoded(RequestVoteReply(frame[5], frame[6], frame[9], granted, pre))


def _get_append_reply(frame: wire.Frame, body: memoryview) -> Decoded:
    hint_index, hint_term, _applied, digest_index, digest = BODY_APPEND_REPLY.unpack(body)
    rejected = bool(frame[3] & REJECTED)
    match, refused = (0, frame[10]) if rejected else (frame[10], 0)
    reply = AppendEntriesReply(
        frame[5], frame[6], frame[9], match, rejected, frame[11], hint_index, hint_term, refused
    )
    return Decoded(reply, digest_index, digest, bool(frame[3] & DISK_FULL))


def _get_heartbeat(frame: wire.Frame, body: memoryview) -> Decoded:
    digest_index, digest = BODY_HEARTBEAT.unpack(body)
    return Decoded(Heartbeat(frame[5], frame[6], frame[9], frame[11], frame[10]), digest_index, digest)


def _get_heartbeat_reply(frame: wire.Frame, body: memoryview) -> Decoded:
    _applied, digest_index, digest = BODY_REPORT.unpack(body)
    reply = HeartbeatReply(frame[5], frame[6], frame[9], frame[10], frame[11])
    return Decoded(reply, digest_index, digest, bool(frame[3] & DISK_FULL))


def _get_timeout_now(frame: wire.Frame, body: memoryview) -> Decoded:
    return Decoded(TimeoutNow(frame[5], frame[6], frame[9]))


def _put_vote(m: RequestVote, report: Reporter, verdict: bytes) -> Encoded:
    flags = PRE * m.pre | TRANSFER * m.transfer
    return wire.KIND_REQUEST_VOTE, flags, m.last_index, 0, BODY_VOTE.pack(m.last_term)


def _put_vote_reply(m: RequestVoteReply, report: Reporter, verdict: bytes) -> Encoded:
    return wire.KIND_REQUEST_VOTE_REPLY, GRANTED * m.granted | PRE_REPLY * m.pre, 0, 0, b""


def _put_append_reply(m: AppendEntriesReply, report: Reporter, verdict: bytes) -> Encoded:
    flags, body = report()
    flags |= REJECTED * m.rejected
    hint = BODY_HINT.pack(m.hint_index, m.hint_term)
    index = m.refused if m.rejected else m.match
    return wire.KIND_APPEND_ENTRIES_REPLY, flags, index, m.prev_index, hint + body


def _put_heartbeat(m: Heartbeat, report: Reporter, verdict: bytes) -> Encoded:
    return wire.KIND_HEARTBEAT, 0, m.round, m.commit, verdict


def _put_heartbeat_reply(m: HeartbeatReply, report: Reporter, verdict: bytes) -> Encoded:
    flags, body = report()
    return wire.KIND_HEARTBEAT_REPLY, flags, m.round, m.last, body


def _put_timeout_now(m: TimeoutNow, report: Reporter, verdict: bytes) -> Encoded:
    return wire.KIND_TIMEOUT_NOW, 0, 0, 0, b""


def _get_append(frame: wire.Frame, run: RunFields) -> AppendEntries | None:
    if run.entries_term > frame[9] or run.prev_term > frame[9]:
        return None
    return AppendEntries(
        frame[5], frame[6], frame[9], frame[10], run.prev_term, frame[11], run.entries_term, run.entries, run.source
    )


def _put_append(m: AppendEntries) -> EntryRun:
    first, last = m.prev_index + 1, m.prev_index + m.entries
    return EntryRun(wire.KIND_APPEND_ENTRIES, 0, m.to, m.term, first, last, m.commit, m.prev_term, m.entries_term)


class Codec(NamedTuple):
    """The frames that one engine speaks.

    `decoders` by kind raise struct.error for a body that cannot be; `encoders` by type of message are given who reports
    for this node and what a heartbeat carries (see `verdict`). The other two are of messages that carry entries; a run
    decoder returns None for what cannot be.
    """

    decoders: Mapping[int, Callable[[wire.Frame, memoryview], Decoded]]
    encoders: Mapping[type, Callable[[Any, Reporter, bytes], Encoded]]
    run_decoders: Mapping[int, Callable[[wire.Frame, RunFields], Any]]
    run_encoders: Mapping[type, Callable[[Any], EntryRun]]


SHARED = Codec(
    decoders={
        wire.KIND_HEARTBEAT: _get_heartbeat,
        wire.KIND_HEARTBEAT_REPLY: _get_heartbeat_reply,
        wire.KIND_TIMEOUT_NOW: _get_timeout_now,
    },
    encoders={Heartbeat: _put_heartbeat, HeartbeatReply: _put_heartbeat_reply, TimeoutNow: _put_timeout_now},
    run_decoders={},
    run_encoders={},
)
RAFT = Codec(
    decoders={
        **SHARED.decoders,
        wire.KIND_REQUEST_VOTE: _get_vote,
        wire.KIND_REQUEST_VOTE_REPLY: _get_vote_reply,
        wire.KIND_APPEND_ENTRIES_REPLY: _get_append_reply,
    },
    encoders={
        **SHARED.encoders,
        RequestVote: _put_vote,
        RequestVoteReply: _put_vote_reply,
        AppendEntriesReply: _put_append_reply,
    },
    run_decoders={wire.KIND_APPEND_ENTRIES: _get_append},
    run_encoders={AppendEntries: _put_append},
)

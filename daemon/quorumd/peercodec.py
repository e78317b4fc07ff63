"""The engine's messages as frames: header fields and fixed bodies, both ways. Pure; who may speak is transport.py's.

The layouts are documented in ARCHITECTURE.md. AppendEntries with entries is not here: its bytes go by reference from
the ring, which transport.py and the fastpath see to.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from quorumd.consensus.messages import (
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.types import Index
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
BODY_HEARTBEAT = struct.Struct("<QQ")  # digest_index, digest agreed on by a majority
BODY_HEARTBEAT_REPLY = struct.Struct("<QQQ")  # applied, digest_index, digest


class Report(NamedTuple):
    """What a node says of itself in every acknowledgement."""

    applied: Index
    digest_index: Index
    digest: int
    disk_full: bool


class Encoded(NamedTuple):
    """A frame but for addresses and incarnations."""

    kind: int
    flags: int
    index_: int
    commit: int
    payload: bytes


class Decoded(NamedTuple):
    """A message, and what rode on it: a digest at an index (0: none), and whether a follower's disk is full."""

    message: PeerMessage
    digest_index: Index = 0
    digest: int = 0
    disk_full: bool | None = None


def decode(frame: wire.Frame, body: memoryview) -> Decoded | None:
    """The message in a frame; None for a kind that is not here. Raises struct.error for a body of the wrong size."""
    decoder = _DECODERS.get(frame[2])
    return None if decoder is None else decoder(frame, body)


def encode(message: PeerMessage, report: Report, agreed: tuple[Index, int]) -> Encoded:
    """The frame of a message; `agreed` is the newest (index, digest) that a majority has."""
    return _ENCODERS[type(message)](message, report, agreed)


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
    reply = AppendEntriesReply(
        frame[5], frame[6], frame[9], frame[10], rejected, frame[11], hint_index, hint_term
    )
    return Decoded(reply, digest_index, digest, bool(frame[3] & DISK_FULL))


def _get_heartbeat(frame: wire.Frame, body: memoryview) -> Decoded:
    digest_index, digest = BODY_HEARTBEAT.unpack(body)
    return Decoded(Heartbeat(frame[5], frame[6], frame[9], frame[11], frame[10]), digest_index, digest)


def _get_heartbeat_reply(frame: wire.Frame, body: memoryview) -> Decoded:
    _applied, digest_index, digest = BODY_HEARTBEAT_REPLY.unpack(body)
    reply = HeartbeatReply(frame[5], frame[6], frame[9], frame[10], frame[11])
    return Decoded(reply, digest_index, digest, bool(frame[3] & DISK_FULL))


def _get_timeout_now(frame: wire.Frame, body: memoryview) -> Decoded:
    return Decoded(TimeoutNow(frame[5], frame[6], frame[9]))


_DECODERS: dict[int, Callable[[wire.Frame, memoryview], Decoded]] = {
    wire.KIND_REQUEST_VOTE: _get_vote,
    wire.KIND_REQUEST_VOTE_REPLY: _get_vote_reply,
    wire.KIND_APPEND_ENTRIES_REPLY: _get_append_reply,
    wire.KIND_HEARTBEAT: _get_heartbeat,
    wire.KIND_HEARTBEAT_REPLY: _get_heartbeat_reply,
    wire.KIND_TIMEOUT_NOW: _get_timeout_now,
}


def _put_vote(m: RequestVote, report: Report, agreed: tuple[Index, int]) -> Encoded:
    flags = PRE * m.pre | TRANSFER * m.transfer
    return Encoded(wire.KIND_REQUEST_VOTE, flags, m.last_index, 0, BODY_VOTE.pack(m.last_term))


def _put_vote_reply(m: RequestVoteReply, report: Report, agreed: tuple[Index, int]) -> Encoded:
    return Encoded(wire.KIND_REQUEST_VOTE_REPLY, GRANTED * m.granted | PRE_REPLY * m.pre, 0, 0, b"")


def _put_append_reply(m: AppendEntriesReply, report: Report, agreed: tuple[Index, int]) -> Encoded:
    body = BODY_APPEND_REPLY.pack(m.hint_index, m.hint_term, report.applied, report.digest_index, report.digest)
    flags = REJECTED * m.rejected | DISK_FULL * report.disk_full
    return Encoded(wire.KIND_APPEND_ENTRIES_REPLY, flags, m.match, m.prev_index, body)


def _put_heartbeat(m: Heartbeat, report: Report, agreed: tuple[Index, int]) -> Encoded:
    return Encoded(wire.KIND_HEARTBEAT, 0, m.round, m.commit, BODY_HEARTBEAT.pack(*agreed))


def _put_heartbeat_reply(m: HeartbeatReply, report: Report, agreed: tuple[Index, int]) -> Encoded:
    body = BODY_HEARTBEAT_REPLY.pack(report.applied, report.digest_index, report.digest)
    return Encoded(wire.KIND_HEARTBEAT_REPLY, DISK_FULL * report.disk_full, m.round, m.last, body)


def _put_timeout_now(m: TimeoutNow, report: Report, agreed: tuple[Index, int]) -> Encoded:
    return Encoded(wire.KIND_TIMEOUT_NOW, 0, 0, 0, b"")


_ENCODERS: dict[type, Callable[[Any, Report, tuple[Index, int]], Encoded]] = {
    RequestVote: _put_vote,
    RequestVoteReply: _put_vote_reply,
    AppendEntriesReply: _put_append_reply,
    Heartbeat: _put_heartbeat,
    HeartbeatReply: _put_heartbeat_reply,
    TimeoutNow: _put_timeout_now,
}

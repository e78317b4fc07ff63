"""Multi-Paxos's messages as frames, both ways; see peercodec.py."""

import struct
from typing import Any, Final

from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Refused, Run, Values
from quorumd.peercodec import (
    BODY_REPORT,
    DISK_FULL,
    PRE,
    SHARED,
    TRANSFER,
    Codec,
    Decoded,
    Encoded,
    EntryRun,
    Reporter,
    RunFields,
)
from quorumd_fastpath import wire

GRANTED: Final = 1
PRE_PROMISE: Final = 2
IS_CHOSEN: Final = 1

BODY_PROMISE = struct.Struct("<HHI")  # part, parts, number of runs; then those
BODY_RUN = struct.Struct("<QQQ")  # first, last, ballot
BODY_ABOVE = struct.Struct("<QQ")  # first, last: any number of them behind the report
BODY_FETCH = struct.Struct("<Q")  # the ballot in which the slots were accepted; 0: chosen ones


def _get_prepare(frame: wire.Frame, body: memoryview) -> Decoded:
    _empty(body)
    pre, transfer = bool(frame[3] & PRE), bool(frame[3] & TRANSFER)
    return Decoded(Prepare(frame[5], frame[6], frame[9], frame[10], pre, transfer))


def _get_promise(frame: wire.Frame, body: memoryview) -> Decoded:
    part, parts, count = BODY_PROMISE.unpack(body[: BODY_PROMISE.size])
    runs = tuple(Run(*fields) for fields in BODY_RUN.iter_unpack(body[BODY_PROMISE.size :]))
    if len(runs) != count or part >= parts or not _ascending([run[:2] for run in runs]):
        raise struct.error("a promise's runs ascend, and are as many as it says")
    granted, pre = bool(frame[3] & GRANTED), bool(frame[3] & PRE_PROMISE)
    return Decoded(Promise(frame[5], frame[6], frame[9], granted, pre, frame[10], frame[11], part, parts, runs))


def _get_accepted(frame: wire.Frame, body: memoryview) -> Decoded:
    _applied, digest_index, digest = BODY_REPORT.unpack(body[: BODY_REPORT.size])
    above = tuple(BODY_ABOVE.iter_unpack(body[BODY_REPORT.size :]))
    if not _ascending(above):
        raise struct.error("what was accepted behind holes ascends")
    accepted = Accepted(frame[5], frame[6], frame[9], frame[10], above)
    return Decoded(accepted, digest_index, digest, bool(frame[3] & DISK_FULL))


def _get_refused(frame: wire.Frame, body: memoryview) -> Decoded:
    _empty(body)
    return Decoded(Refused(frame[5], frame[6], frame[9]))


def _get_fetch(frame: wire.Frame, body: memoryview) -> Decoded:
    (accepted_in,) = BODY_FETCH.unpack(body)
    return Decoded(Fetch(frame[5], frame[6], frame[9], frame[10], frame[11], accepted_in))


def _empty(body: memoryview) -> None:
    if len(body):
        raise struct.error("this frame has no body")


def _ascending(ranges: Any) -> bool:
    """Whether (first, last) pairs are ranges, in order and apart from each other."""
    end = 0
    for first, last in ranges:
        if not end < first <= last:
            return False
        end = last
    return True


def _put_prepare(m: Prepare, report: Reporter, verdict: bytes) -> Encoded:
    return wire.KIND_PREPARE, PRE * m.pre | TRANSFER * m.transfer, m.first, 0, b""


def _put_promise(m: Promise, report: Reporter, verdict: bytes) -> Encoded:
    flags = GRANTED * m.granted | PRE_PROMISE * m.pre
    runs = b"".join([BODY_RUN.pack(*run) for run in m.accepted])
    return wire.KIND_PROMISE, flags, m.chosen, m.retained, BODY_PROMISE.pack(m.part, m.parts, len(m.accepted)) + runs


def _put_accepted(m: Accepted, report: Reporter, verdict: bytes) -> Encoded:
    flags, body = report()
    above = b"".join([BODY_ABOVE.pack(*run) for run in m.above])
    return wire.KIND_ACCEPTED, flags, m.match, 0, body + above


def _put_refused(m: Refused, report: Reporter, verdict: bytes) -> Encoded:
    return wire.KIND_REFUSED, 0, 0, 0, b""


def _put_fetch(m: Fetch, report: Reporter, verdict: bytes) -> Encoded:
    return wire.KIND_FETCH, 0, m.first, m.last, BODY_FETCH.pack(m.accepted_in)


# -- messages that carry entries ----------------------------------------------------------------------------------


def _get_accept(frame: wire.Frame, run: RunFields) -> Accept | None:
    if run.entries and run.entries_term != frame[9]:  # without entries it asks what was accepted
        return None
    return Accept(frame[5], frame[6], frame[9], frame[10] + 1, run.entries, frame[11], run.source)


def _get_values(frame: wire.Frame, run: RunFields) -> Values | None:
    if not run.entries:
        return None
    is_chosen = bool(frame[3] & IS_CHOSEN)
    return Values(frame[5], frame[6], frame[9], frame[10] + 1, run.entries, run.entries_term, is_chosen, run.source)


def _put_accept(m: Accept) -> EntryRun:
    return EntryRun(wire.KIND_ACCEPT, 0, m.to, m.ballot, m.first, m.first + m.entries - 1, m.chosen, 0, m.ballot)


def _put_values(m: Values) -> EntryRun:
    flags, last = IS_CHOSEN * m.is_chosen, m.first + m.entries - 1
    return EntryRun(wire.KIND_VALUES, flags, m.to, m.ballot, m.first, last, 0, 0, m.accepted_in)


PAXOS = Codec(
    decoders={
        **SHARED.decoders,
        wire.KIND_PREPARE: _get_prepare,
        wire.KIND_PROMISE: _get_promise,
        wire.KIND_ACCEPTED: _get_accepted,
        wire.KIND_REFUSED: _get_refused,
        wire.KIND_FETCH: _get_fetch,
    },
    encoders={
        **SHARED.encoders,
        Prepare: _put_prepare,
        Promise: _put_promise,
        Accepted: _put_accepted,
        Refused: _put_refused,
        Fetch: _put_fetch,
    },
    run_decoders={wire.KIND_ACCEPT: _get_accept, wire.KIND_VALUES: _get_values},
    run_encoders={Accept: _put_accept, Values: _put_values},
)

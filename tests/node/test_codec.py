"""Engine messages as frames: every message survives both ways, and no bytes do worse than to be refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd import limits, paxoscodec, peercodec
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Refused, Run, Values
from quorumd.peercodec import RunFields

NUMBER = st.integers(0, limits.MAX_NUMBER - 1)
NODE = st.integers(1, 65535)
ENTRIES = st.integers(1, 1 << 20)


@st.composite
def ranges(draw):
    """(first, last) pairs that ascend and do not touch."""
    edges = sorted(draw(st.sets(st.integers(1, 1 << 40), max_size=20)))
    return [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=False)]


@st.composite
def promises(draw):
    parts = draw(st.integers(1, 9))
    runs = tuple(Run(*pair, draw(NUMBER)) for pair in draw(ranges()))
    return Promise(
        draw(NODE), draw(NODE), draw(NUMBER), draw(st.booleans()), draw(st.booleans()), draw(NUMBER), draw(NUMBER),
        draw(st.integers(0, parts - 1)), parts, runs,
    )  # fmt: skip


SHARED = st.one_of(
    st.builds(Heartbeat, NODE, NODE, NUMBER, NUMBER, NUMBER),
    st.builds(HeartbeatReply, NODE, NODE, NUMBER, NUMBER, NUMBER),
    st.builds(TimeoutNow, NODE, NODE, NUMBER),
)
RAFT = st.one_of(
    SHARED,
    st.builds(RequestVote, NODE, NODE, NUMBER, NUMBER, NUMBER, st.booleans(), st.booleans()),
    st.builds(RequestVoteReply, NODE, NODE, NUMBER, st.booleans(), st.booleans()),
    st.builds(AppendEntriesReply, NODE, NODE, NUMBER, NUMBER, st.just(False), NUMBER, NUMBER, NUMBER, st.just(0)),
    st.builds(AppendEntriesReply, NODE, NODE, NUMBER, st.just(0), st.just(True), NUMBER, NUMBER, NUMBER, NUMBER),
)
PAXOS = st.one_of(
    SHARED,
    st.builds(Prepare, NODE, NODE, NUMBER, NUMBER, st.booleans(), st.booleans()),
    promises(),
    st.builds(Accepted, NODE, NODE, NUMBER, NUMBER, ranges().map(tuple)),
    st.builds(Refused, NODE, NODE, NUMBER),
    st.builds(Fetch, NODE, NODE, NUMBER, NUMBER, NUMBER, NUMBER),
)
RAFT_RUNS = st.tuples(NUMBER, NUMBER).flatmap(
    lambda terms: st.builds(
        AppendEntries, NODE, NODE, st.just(max(terms)), NUMBER, st.just(min(terms)), NUMBER, st.just(max(terms)),
        ENTRIES, st.just("bytes"),
    )
)  # fmt: skip
FIRST = st.integers(1, limits.MAX_NUMBER - 1)
PAXOS_RUNS = st.one_of(
    st.builds(Accept, NODE, NODE, NUMBER, FIRST, ENTRIES, NUMBER, st.just("bytes")),
    st.builds(Values, NODE, NODE, NUMBER, FIRST, ENTRIES, NUMBER, st.booleans(), st.just("bytes")),
)


def framed(kind, flags, message, index, commit, count=0):
    """The fields of a received frame, in wire.Frame's order."""
    return 0, 0, kind, flags, 0, message.sender, message.to, 1, 1, message.term, index, commit, count, 1


def there_and_back(codec, message):
    report = peercodec.report(3, 2, 77, disk_full=False)
    encode = codec.encoders[type(message)]
    kind, flags, index, commit, body = encode(message, lambda: report, peercodec.verdict(2, 77))
    return codec.decoders[kind](framed(kind, flags, message, index, commit), memoryview(body))


@given(RAFT)
def test_raft_messages_survive(message):
    assert there_and_back(peercodec.RAFT, message).message == message


@given(PAXOS)
def test_paxos_messages_survive(message):
    assert there_and_back(paxoscodec.PAXOS, message).message == message


@given(st.one_of(RAFT_RUNS.map(lambda m: (peercodec.RAFT, m)), PAXOS_RUNS.map(lambda m: (paxoscodec.PAXOS, m))))
def test_messages_with_entries_survive(pair):
    codec, message = pair
    run = codec.run_encoders[type(message)](message)
    assert run.last - run.first + 1 == message.entries
    frame = framed(run.kind, run.flags, message, run.first - 1, run.commit, message.entries)
    fields = RunFields(run.prev_term, run.entries_term, message.entries, "bytes")
    assert codec.run_decoders[run.kind](frame, fields) == message


@pytest.mark.parametrize("codec", [peercodec.RAFT, paxoscodec.PAXOS], ids=["raft", "paxos"])
@given(data=st.data())
def test_random_bodies_are_refused_or_decoded(codec, data):
    kind = data.draw(st.sampled_from(sorted(codec.decoders)))
    body = data.draw(st.binary(max_size=200))
    message = Refused(1, 2, data.draw(NUMBER))
    frame = framed(kind, data.draw(st.integers(0, 65535)), message, data.draw(NUMBER), data.draw(NUMBER))
    try:
        decoded = codec.decoders[kind](frame, memoryview(body))
    except struct.error:
        return
    assert decoded.message.sender == 1


def test_an_accept_of_entries_from_another_ballot_is_refused():
    """Phase 2a proposes in the sender's ballot and in no other."""
    accept = paxoscodec.PAXOS.run_decoders[paxoscodec.PAXOS.run_encoders[Accept](Accept(1, 2, 9, 1, 1, 0)).kind]
    frame = framed(34, 0, Refused(1, 2, 9), 0, 0, 1)
    assert accept(frame, RunFields(0, 9, 1, "bytes")) is not None
    assert accept(frame, RunFields(0, 8, 1, "bytes")) is None

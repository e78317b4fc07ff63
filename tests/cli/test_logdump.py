"""`quorumd logdump` on segments framed by the production code."""

import json

import pytest

from quorumd import commands
from quorumd.cli.main import run
from quorumd.commands import Compare, DeleteRange, Kind, Put, Txn, encode, encode_record
from quorumd_fastpath import walframe

SEGMENT_BYTES = 4 << 20
SESSION = bytes(range(16))


def segment(*batches, damage: int | None = None) -> bytes:
    """A segment with these batches; each is a function that fills a Batch."""
    head = walframe.encode_segment_header(7, SEGMENT_BYTES, 99, 0xABC, 2, 3, 1, 10, 9, 0)
    header = walframe.decode_segment_header(head)
    content, chain, synced_to = bytearray(head), header.seed, 0
    for number, fill in enumerate(batches):
        batch = walframe.Batch(SEGMENT_BYTES)
        batch.begin(7, SEGMENT_BYTES, len(content), header.seed, chain, synced_to, 9, number)
        fill(batch)
        batch.finish()
        content += bytes(batch.data())
        chain, synced_to = batch.chain, 7 * SEGMENT_BYTES + len(content)
    if damage is not None:
        content[damage] ^= 1
    return bytes(content).ljust(SEGMENT_BYTES, b"\0")


def entries() -> list[bytes]:
    txn = Txn((Compare(b"k", "version", "=", 0),), (Put(b"k", b"v"),), (DeleteRange(b"a", b"c"),))
    return [
        encode_record(Kind.NOOP, bytes(16), 0, 0),
        encode_record(Kind.OPEN_SESSION, SESSION, 0, 0),
        encode_record(Kind.COMMAND, SESSION, 1, 1, encode(Put(b"greeting", b"\xff" * 100))),
        encode_record(Kind.COMMAND, SESSION, 2, 1, encode(txn)),
        encode_record(Kind.EXPIRE_SESSION, SESSION, 3, 0),
    ]


def append(batch) -> None:
    records = entries()
    batch.append_data(b"".join(records), 10, len(records), 4)


BATCHES = (lambda batch: batch.hard_state(4, 2), append, lambda batch: batch.truncate(12), lambda batch: None)


@pytest.fixture
def dump(tmp_path, capfd):
    def call(content: bytes, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "wal-0000000000000007.seg"
        path.write_bytes(content)
        code = run(["logdump", str(path), *options])
        return code, *capfd.readouterr()

    return call


def test_every_record_is_an_object_a_line(dump):
    code, out, err = dump(segment(*BATCHES), "--json")
    assert (code, err) == (0, "")
    head, state, run_, cut, end = map(json.loads, out.splitlines())
    assert head == {
        "record": "segment", "number": 7, "segment_bytes": SEGMENT_BYTES, "cluster": "0000000000000abc", "node": 2,
        "term": 3, "vote": 1, "first_index": 10, "commit": 9,
    }  # fmt: skip
    assert (state["record"], state["term"], state["vote"]) == ("hard-state", 4, 2)
    assert (run_["record"], run_["term"], run_["index"], run_["count"]) == ("append", 4, 10, 5)
    assert (cut["record"], cut["last_kept"]) == ("truncate", 12)
    assert (end["batches"], end["commit"], end["reason"], end["verdict"]) == (4, 9, "end", "good")
    assert [entry["kind"] for entry in run_["entries"]] == [
        "noop", "open_session", "command", "command", "expire_session",
    ]  # fmt: skip
    assert run_["entries"][2] == {
        "index": 12, "kind": "command", "session": SESSION.hex(), "seq": 1, "answered_below": 1,
        "command": {"op": "Put", "key": "greeting", "value": {"base64": "/" * 133 + "w=="}},
    }  # fmt: skip
    assert run_["entries"][3]["command"] == {
        "op": "Txn",
        "compares": [{"op": "Compare", "key": "k", "target": "version", "result": "=", "operand": 0}],
        "then": [{"op": "Put", "key": "k", "value": "v"}],
        "orelse": [{"op": "DeleteRange", "key": "a", "end": "c"}],
    }
    assert run_["entries"][4]["generation"] == 3


def test_people_read_one_line_an_entry(dump):
    code, out, _ = dump(segment(*BATCHES))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("segment    number=7 ")
    assert lines[3] == "        10 noop"
    assert f"session={SESSION.hex()} seq=1 Put(key='greeting', value='" in lines[5]
    assert lines[5].endswith("... (100 bytes))")
    assert lines[-1].endswith("verdict=good")


def test_a_torn_tail_is_named(dump):
    content = segment(*BATCHES[:2], damage=walframe.SECTOR_BYTES * 2 + 200)
    end = json.loads(dump(content, "--json")[1].splitlines()[-1])
    assert end["reason"] == "bad_payload"
    assert end["verdict"] == "torn at entry 10: a write that never finished"


def test_damage_below_what_was_durable_is_corruption(dump):
    content = segment(*BATCHES, damage=walframe.SECTOR_BYTES * 2 + 200)
    end = json.loads(dump(content, "--json")[1].splitlines()[-1])
    assert end["verdict"].startswith("corrupt from entry 10 on: position ")


def test_a_command_that_makes_no_sense_does_not_stop_the_dump(dump):
    def nonsense(batch) -> None:
        batch.append_data(encode_record(Kind.COMMAND, SESSION, 1, 1, b"\xee"), 10, 1, 4)

    out = dump(segment(nonsense), "--json")[1]
    assert "unreadable" in json.loads(out.splitlines()[1])["entries"][0]


def test_a_segment_that_was_only_prepared(dump):
    code, out, _ = dump(bytes(SEGMENT_BYTES), "--json")
    assert code == 0
    assert json.loads(out)["reason"] == "unused"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\n", "is no segment of a write-ahead log, or its first block is damaged"),
        (b"x" * 10_000, "is no segment of a write-ahead log, or its first block is damaged"),
    ],
)
def test_other_files_are_refused(dump, content, complaint):
    code, out, err = dump(content)
    assert (code, out) == (1, "")
    assert err == f"quorumd: {err.split()[1]} {complaint}\n"


def test_the_kinds_of_entries_are_those_of_the_log():
    assert {kind.name.lower() for kind in commands.Kind} >= {"noop", "command", "open_session", "expire_session"}


def test_records_of_a_log_with_holes_are_named(dump):
    records = entries()[:2]

    def accept(batch) -> None:
        assert batch.append_data(b"".join(records), 20, 2, 0x10002, walframe.ACCEPT)
        assert batch.reaccept(20, 2, 0x20001)

    code, out, err = dump(segment(accept), "--json")
    assert (code, err) == (0, "")
    _, accepted, again, _ = map(json.loads, out.splitlines())
    assert (accepted["record"], accepted["term"], accepted["index"], accepted["count"]) == ("accept", 0x10002, 20, 2)
    assert [entry["index"] for entry in accepted["entries"]] == [20, 21]
    assert again == {"record": "re-accept", "position": again["position"], "term": 0x20001, "index": 20, "count": 2}


def test_what_a_leader_adds_of_its_own(dump):
    def fill(batch) -> None:
        records = [
            encode_record(Kind.EXPIRE_LEASE, bytes(8) + (77).to_bytes(8, "little"), 3, 9),
            encode_record(Kind.COMPACT, bytes(16), 1000, 0),
        ]
        batch.append_data(b"".join(records), 10, len(records), 4)

    _, out, _ = dump(segment(fill), "--json")
    assert json.loads(out.splitlines()[1])["entries"] == [
        {"index": 10, "kind": "expire_lease", "lease": 77, "generation": 3, "leadership": 9},
        {"index": 11, "kind": "compact", "revision": 1000},
    ]
    assert "lease=77 generation=3 leadership=9" in dump(segment(fill))[1]

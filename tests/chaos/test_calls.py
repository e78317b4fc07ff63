"""Operations of the history format and of the client library, into each other."""

import pytest

from quorumd.chaos import calls
from quorumd.commands import (
    Compare,
    DeleteRange,
    DeleteResult,
    KeyValue,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)
from quorumd.errors import ProtocolError


def found(*pairs, more=False):
    kvs = tuple(KeyValue(key, value, 1, 1, 1, 0) for key, value in pairs)
    return RangeResult(9, kvs, more, len(kvs))


TXN = calls.txn([("a", "version", "=", 0), ("b", "value", "!=", "1.1")], [("write", "a", "1.2"), ("read", "b")],
                [("write", "a", None)])


@pytest.mark.parametrize(
    ("call", "request_", "writes"),
    [
        (calls.read("a"), Range(b"a"), False),
        (calls.read("a", stale=True), Range(b"a"), False),
        (calls.span("a", "b"), Range(b"a", b"b"), False),
        (calls.write("a", "1.1"), Put(b"a", b"1.1"), True),
        (calls.write("a", "1.1~3"), Put(b"a", b"1.1~3 ..."), True),
        (calls.write("a", None), DeleteRange(b"a"), True),
        (calls.cas("a", None, "1.1"), Txn([Compare.version(b"a", "=", 0)], [Put(b"a", b"1.1")], []), True),
        (calls.cas("a", "1.1~2", "1.2"), Txn([Compare.value(b"a", "=", b"1.1~2 ..")], [Put(b"a", b"1.2")], []), True),
        (
            TXN,
            Txn(
                [Compare.version(b"a", "=", 0), Compare.value(b"b", "!=", b"1.1")],
                [Put(b"a", b"1.2"), Range(b"b")], [DeleteRange(b"a")],
            ),
            True,
        ),
        (calls.txn([], [("read", "a")]), Txn([], [Range(b"a")], []), False),
    ],
)
def test_a_call_asks_for_what_it_records(call, request_, writes):
    if isinstance(request_, Txn):
        assert [list(part) for part in (call.request.compares, call.request.then, call.request.orelse)] == [
            list(part) for part in (request_.compares, request_.then, request_.orelse)
        ]
    else:
        assert call.request == request_
    assert calls.writes(call) is writes


@pytest.mark.parametrize(
    ("call", "result", "answer"),
    [
        (calls.read("a"), found((b"a", b"1.1")), calls.Answer(9, "1.1")),
        (calls.read("a"), found((b"a", b"1.1~3 ...")), calls.Answer(9, "1.1~3")),
        (calls.read("a"), found(), calls.Answer(9, None)),
        (calls.span("a", "c"), found((b"a", b"1"), (b"b", b"2")), calls.Answer(9, [["a", "1"], ["b", "2"]])),
        (calls.write("a", "1"), PutResult(9), calls.Answer(9)),
        (calls.write("a", None), DeleteResult(9, 1), calls.Answer(9)),
        (calls.cas("a", None, "1"), TxnResult(9, False, ()), calls.Answer(9, succeeded=False)),
        (
            TXN, TxnResult(9, True, (PutResult(9), found((b"b", b"2")))),
            calls.Answer(9, succeeded=True, results=[None, "2"]),
        ),
        (TXN, TxnResult(9, False, (DeleteResult(9, 0),)), calls.Answer(9, succeeded=False, results=[None])),
    ],
)
def test_an_answer_says_what_the_history_wants(call, result, answer):
    assert calls.answer_of(call, result) == answer


@pytest.mark.parametrize(
    "damaged",
    [
        calls.stored("7.3~32768")[:100], calls.stored("7.3~32768")[:10] + bytes(32768), calls.stored("7.3~3") + b".",
        calls.stored("7.3~3")[:-1] + b",", b"7.3~3" + bytes(4), b"7.3~3", b"7.3 ...", b"7.3 ", b"7.\xff",
    ],
)
def test_a_value_that_was_cut_or_damaged_has_a_token_of_nobody(damaged):
    token = calls.token_of(damaged)
    assert token.startswith(f"corrupt, {len(damaged)} bytes that begin with b'7.") and len(token) < 250
    assert calls.number(token) is None and calls.stored(token) == token.encode()


@pytest.mark.parametrize("token", ["1.1", "1.1~3", "7.3~32768", "105:2.4", "-3", ""])
def test_a_value_as_it_was_stored_has_its_token(token):
    assert calls.token_of(calls.stored(token)) == token


@pytest.mark.parametrize("token", ["1.1~x", "1.1~-5", "1.1~999999999999", "1.1~\u0663", "\ufffd~"])
def test_a_damaged_token_can_still_be_compared_with(token):
    assert calls.stored(token) == token.encode()


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("-12", -12), ("", None), ("1.5", None), ("--5", None), (" 5", None), ("1_0", None), ("9" * 5000, None)],
)
def test_numbers_are_digits_and_a_sign(text, number):
    assert calls.number(text) == number


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (calls.read("a"), found((b"a", b"1"), (b"b", b"2"))),
        (calls.read("a"), PutResult(9)),
        (calls.span("a", "b"), found((b"a", b"1"), more=True)),
    ],
)
def test_an_answer_to_another_question_is_no_answer(call, result):
    with pytest.raises(ProtocolError):
        calls.answer_of(call, result)

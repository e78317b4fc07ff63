"""The small language of `quorumd txn`: what each line means, and what is refused."""

import click
import pytest

from quorumd.cli import txn
from quorumd.cli.main import run
from quorumd.commands import ALL, Compare, DeleteRange, KeyValue, Put, PutResult, Range, RangeResult, TxnResult


@pytest.mark.parametrize(
    ("line", "compare"),
    [
        ("create k = 0", Compare.create_revision(b"k", "=", 0)),
        ("mod 'a b' != 12", Compare.mod_revision(b"a b", "!=", 12)),
        ("version k < 3", Compare.version(b"k", "<", 3)),
        ('value k = "x y"', Compare.value(b"k", "=", b"x y")),
        ("value k = 7", Compare.value(b"k", "=", b"7")),
        ("lease k = ff", Compare.lease(b"k", "=", 255)),
        ("lease k = 0", Compare.lease(b"k", "=", 0)),
        ('value("a b") = "it is"', Compare.value(b"a b", "=", b"it is")),
        ('mod("k")>"3"', Compare.mod_revision(b"k", ">", 3)),
        ("create --prefix a/ = 0", Compare.create_revision(b"a/", "=", 0, b"a0")),
    ],
)
def test_compares(line, compare):
    assert txn.parse_compare(line) == compare


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("put k v", Put(b"k", b"v")),
        ("put k ''", Put(b"k", b"")),
        ("put --lease 1f k v", Put(b"k", b"v", 31)),
        ("get k", Range(b"k")),
        ("get --prefix k", Range(b"k", b"l")),
        ("del --prefix '\udcff'", DeleteRange(b"\xff", ALL)),
        ("del k", DeleteRange(b"k")),
    ],
)
def test_operations(line, operation):
    assert txn.parse_operation(line) == operation


BAD_COMPARES = [
    *("", "k = 0", "creat k = 0", "create k == 0", "create k = x", "create k = -1", "lease k = zz", "value k = 'x"),
]
BAD_OPERATIONS = ["", "put k", "put --lease 0 k v", "put --lease xy k v", "set k v", "get", "get a b", "del"]


@pytest.mark.parametrize("line", BAD_COMPARES)
def test_bad_compares(line):
    with pytest.raises(click.UsageError):
        txn.parse_compare(line)


@pytest.mark.parametrize("line", BAD_OPERATIONS)
def test_bad_operations(line):
    with pytest.raises(click.UsageError):
        txn.parse_operation(line)


@pytest.mark.parametrize(
    ("text", "paragraphs"),
    [
        ("", ((), (), ())),
        ("a\nb\n", (("a", "b"), (), ())),
        ("a\n\nb\n\nc\n", (("a",), ("b",), ("c",))),
        ("\nb\n", ((), ("b",), ())),
        ("\n\nc\n\n\n", ((), (), ("c",))),
    ],
)
def test_paragraphs(text, paragraphs):
    assert txn.read_paragraphs(text) == paragraphs


def test_a_fourth_paragraph_is_refused():
    with pytest.raises(click.UsageError, match="three paragraphs"):
        txn.read_paragraphs("a\n\nb\n\nc\n\nd\n")


class Recorder:
    """A client that answers every transaction alike."""

    def __init__(self, result):
        self.result, self.asked = result, []

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        return None

    def txn(self, *parts):
        self.asked.append(parts)
        return self.result


@pytest.fixture
def answer(monkeypatch):
    def with_result(result):
        client = Recorder(result)
        monkeypatch.setattr(txn, "connect", lambda timeout_s: client)
        return client

    return with_result


def test_the_command(answer, monkeypatch, capfdbinary):
    kv = KeyValue(b"k", b"\xff", 2, 5, 3, 0)
    client = answer(TxnResult(9, False, (PutResult(9), RangeResult(9, (kv,), False, 1))))
    monkeypatch.setenv("QUORUMD_FENCING_TOKEN", "17")
    monkeypatch.setenv("QUORUMD_FENCING_KEY", "quorumd/lock/x/1-1")
    assert run(["txn", "--guard", "--if", "create a > 0", "--then", "put a b", "--else", "get k"]) == 1
    conditions = [Compare.create_revision(b"a", ">", 0), Compare.create_revision(b"quorumd/lock/x/1-1", "=", 17)]
    assert client.asked == [(conditions, [Put(b"a", b"b")], [Range(b"k")])]
    assert capfdbinary.readouterr().out == b"FAILURE\nOK\nk\t\xff\n"
    assert run(["txn", "--then", "get k", "--json"]) == 1
    assert b'"value": {"base64": "/w=="}' in capfdbinary.readouterr().out


def test_a_guard_outside_of_a_lock_is_a_usage_error(monkeypatch, capfd):
    monkeypatch.delenv("QUORUMD_FENCING_TOKEN", raising=False)
    assert run(["txn", "--guard", "--then", "put a b"]) == 2
    assert "quorumd lock" in capfd.readouterr().err

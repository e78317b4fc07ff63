"""The command and the page: words, exit codes, files."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from quorumd.checker.history import dump, pair
from quorumd.checker.linearizability import check
from quorumd.checker.page import page
from quorumd.cli.main import run

from . import generate
from .cases import cases

CASES = {case.name: case for case in cases()}


@pytest.fixture
def command(tmp_path, capfd):
    def call(events, *options):
        dump(events, tmp_path / "h.jsonl")
        code = run(["check", str(tmp_path / "h.jsonl"), *options])
        return code, *capfd.readouterr()

    return call


def test_a_good_history(command, tmp_path):
    code, out, err = command(CASES["one after the other"].events())
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{tmp_path / 'h.jsonl'}: linearizable (by revisions, 4 steps)",
        "  operations: 4, processes: 2, keys: 1", "  read: 1 ok", "  write: 1 ok", "  cas: 1 ok", "  range: 1 ok",
    ]  # fmt: skip
    assert not (tmp_path / "h.html").exists()


def test_a_violation_is_named_and_shown_beside_the_history(command, tmp_path):
    code, out, err = command(CASES["stale read"].without_revisions())
    assert (code, err) == (1, "")
    assert "NOT linearizable (by search" in out
    assert 'no order explains process 1 read "a" -> "1"' in out
    assert out.splitlines()[-1] == f"shown in {tmp_path / 'h.html'}"
    assert "Not linearizable" in (tmp_path / "h.html").read_text()


def test_the_page_goes_where_html_says(command, tmp_path):
    code, _, _ = command(CASES["one after the other"].events(), "--html", str(tmp_path / "other.html"))
    assert code == 0
    assert "Linearizable" in (tmp_path / "other.html").read_text()
    code, _, _ = command(CASES["stale read"].events(), "--html", str(tmp_path / "other.html"))
    assert code == 1
    assert not (tmp_path / "h.html").exists()


def test_no_time_is_no_verdict(command, tmp_path):
    code, out, _ = command(CASES["stale read"].without_revisions(), "--seconds", "0")
    assert code == 3
    assert "not decided" in out
    assert not (tmp_path / "h.html").exists()


def test_what_cannot_be_read_is_one_line(tmp_path, capfd):
    path = tmp_path / "h.jsonl"
    path.write_text('{"process": 0}\n')
    assert run(["check", str(path)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f'quorumd: {path}:1: field "type" is missing; every event has process, type, f and time_ns\n'
    path.write_text("\n")
    assert run(["check", str(path)]) == 2
    assert capfd.readouterr().err == f"quorumd: {path}: no operation in it; was it recorded at all?\n"
    path.write_bytes(b"\xff\xfe\n")
    assert run(["check", str(path)]) == 2
    assert run(["check", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize("name", ["counters of a key", "a read asked to be stale may be old"])
def test_what_needs_revisions_is_refused_without(command, name):
    code, _, err = command(CASES[name].without_revisions())
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(r"operation 3 .*revisions", err)


def test_nodes_do_not_carry_the_checker():
    code = "import sys, quorumd.cli.main; sys.exit(any('checker' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


class Shape(HTMLParser):
    """Counts elements and checks that they nest."""

    VOID = frozenset({"meta", "rect", "line"})

    def __init__(self, text):
        super().__init__()
        self.open, self.bars, self.named, self.rows, self.links = [], 0, 0, 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        self.bars += tag == "rect"
        self.named += tag == "rect" and "named" in found["class"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_data(self, data):
        self.rows += data.startswith("process ") and self.open[-1] == "text"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_a_window_around_the_violation():
    events = generate.history(5, operations=600, processes=20, keys="abcdefgh", values=None, unknown=0.02, stale=0)
    late = [event for event in events if event.type == "ok" and event.f == "read" and event.value is not None][-9]
    late.value = "<never & nowhere>"
    operations = pair(events)
    verdict = check(operations)
    assert verdict.ok is False
    text = page(operations, verdict)
    shape = Shape(text)
    assert not shape.open and not shape.links
    assert 80 < shape.bars < 130
    assert shape.named == len(verdict.operations)
    assert 10 < shape.rows < 40
    assert "<never" not in text and "&lt;never &amp; nowhere&gt;" in text
    assert f"{shape.bars} of 600 operations are shown" in text


def test_the_page_of_nothing():
    shape = Shape(page([], check([])))
    assert (shape.open, shape.bars) == ([], 0)

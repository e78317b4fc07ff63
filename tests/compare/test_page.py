"""The page: one file, well formed, nothing from outside, nothing unescaped."""

import re
from html.parser import HTMLParser

import pytest

from quorumd.compare import plots
from quorumd.compare.advice import advise
from quorumd.compare.page import page
from quorumd.compare.plots import Chart, Series

from .canned import contender, document, failed

VOID = {"meta"}


class Checker(HTMLParser):
    """Whether every element is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in ("p", "html", "body"):
            self.open.pop()
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def render(measure):
    whole = document(measure)
    return page({**whole, "advice": advise(whole)})


def both(point):
    found = [contender("raft", (900, 1000, 1100)), contender("paxos", (1900, 2000, 2100))]
    if point.nodes == 5:
        found.append(contender("paxos 4+2", (9, 9, 9), quorums=(4, 2), commits_without=3, elects_without=1))
    return found


def nothing_at_all(point):
    return [failed("raft", "no <leader>"), failed("paxos", "no leader & no end")]


@pytest.mark.parametrize("measure", [both, nothing_at_all])
def test_it_is_well_formed_and_needs_nothing_beside_itself(measure):
    text = render(measure)
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert set(checker.open) <= {"html", "body"}
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(|<script", text)
    assert "prefers-color-scheme: dark" in text
    assert text.lstrip().startswith("<!doctype html>")


def test_it_shows_a_chart_for_every_metric_of_every_axis():
    text = render(both)
    assert text.count("<svg") == 1 + 3 * 9
    # Base: 2 + 3 contenders at 3 and 5 nodes, 2 at 0 and 5 % loss, 2 at 10 ms; five metrics have a spread.
    assert text.count(" whisker") == 5 * (2 + 3 + 2 + 2 + 2)
    assert "Raft or Paxos: choose paxos" in text
    assert "Operations a second: 2,000 with paxos, 1,000 with raft." in text
    assert "operations a second at 5 % loss: 2,000 with paxos, 1,000 with raft" in text


def test_a_table_leaves_out_columns_in_which_nobody_has_anything_to_say():
    base, everything = (part.partition("</table>")[0] for part in render(both).split("<th>point</th>")[1:])
    assert "<th>down: commits</th>" not in base and "<th>down: commits</th>" in everything
    assert "<th>ops/s</th>" in base


def test_what_comes_from_outside_is_escaped():
    text = render(nothing_at_all)
    assert "Raft or Paxos: no recommendation" in text
    assert "no &lt;leader&gt;" in text and "<leader>" not in text
    assert "made &lt;up&gt;" in text and "a &amp; b" in text


def test_a_chart_leaves_out_what_was_not_measured():
    chart = Chart("t", "u", ["1", "2", "3"], [Series("a", "raft", [1.0, None, 3.0], [(0.5, 2.0), None, None])])
    drawn = plots.svg(chart)
    assert drawn.count("<circle") == 2 and drawn.count("whisker") == 1
    assert plots.svg(Chart("t", "u", ["1"], [Series("a", "raft", [None])])) == ""


@pytest.mark.parametrize(("most", "ticks"), [(1.0, [0, 0.5, 1.0]), (97, [0, 50, 100]), (4321, [0, 2000, 4000, 6000])])
def test_axes_begin_at_nothing_and_have_round_ticks(most, ticks):
    assert plots.Scale(0.1, most, log=False).ticks == ticks


def test_log_axes_have_decades():
    scale = plots.Scale(0.3, 45.0, log=True)
    assert scale.ticks == pytest.approx([0.1, 1, 10, 100])
    assert scale.y(0.1) > scale.y(1) > scale.y(100)

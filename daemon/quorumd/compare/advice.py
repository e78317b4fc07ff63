"""Which engine to choose for what was measured, and why. Pure: plain data in, sentences out.

Two engines differ in a figure only if every round says so. Rounds of both alternate, so each pair saw the same machine;
a difference that one pair contradicts, or one below the margin, is none. That is a sign test, not a confidence
interval: with three rounds two equal engines look different in one figure of four, which the margin makes rarer.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from quorumd.compare.document import figures
from quorumd.types import PAXOS, RAFT

MARGIN: Final = 1.1
"""Differences of less than a tenth decide nothing."""


class Finding(NamedTuple):
    """One figure in which one engine is better. ratio: how many times, above 1."""

    what: str
    better: str
    ratio: float
    sentence: str


def advise(document: Mapping[str, Any]) -> dict[str, Any]:
    """{"choose": an engine, or "either", "reason": sentence, "findings": [...], "flexible": sentences}."""
    found = findings(document)
    wins = {name: [finding for finding in found if finding.better == name] for name in (RAFT, PAXOS)}
    broken = [name for name in (RAFT, PAXOS) if figures(document["points"][0], name) is None]
    if len(broken) == 1:
        choose = RAFT if broken[0] == PAXOS else PAXOS
        reason = f"{broken[0]} could not be measured at the base point"
    elif len(wins[RAFT]) == len(wins[PAXOS]):
        choose = "either"
        reason = (
            "no figure differs in every round by a tenth or more" if not found else
            f"{_list([finding.sentence for finding in found])}; neither outweighs the other"
        )
    else:
        choose = max(wins, key=lambda name: len(wins[name]))
        other = [finding.sentence for finding in found if finding.better != choose]
        against = f"; against it: {_list(other)}" if other else ""
        reason = _list([finding.sentence for finding in wins[choose]]) + against
    return {
        "choose": choose, "reason": reason, "findings": [finding._asdict() for finding in found],
        "flexible": flexible(document),
    }


def findings(document: Mapping[str, Any]) -> list[Finding]:
    """Every figure in which one of raft and paxos is better: at the base point, and at the end of each axis."""
    points = document["points"]
    where = [("at the base point", points[0])]
    for factor, numbers in document["axes"].items():
        worst = points[max(numbers, key=lambda number: points[number][factor])]
        if all(worst is not point for _, point in where):
            where.append((f"at {_value(factor, worst[factor])}", worst))
    found = []
    for place, point in where:
        one, other = figures(point, RAFT), figures(point, PAXOS)
        if one is None or other is None:
            continue
        candidates = [
            _compare(f"operations a second {place}", _rates(one), _rates(other), more_is_better=True),
            _compare(f"p99 latency {place}", _tails(one), _tails(other), more_is_better=False),
        ]
        if point is points[0]:
            candidates.append(_failover(one, other))
        found += [finding for finding in candidates if finding]
    return found


def _rates(contender: Mapping[str, Any]) -> list[float]:
    return [float(each["ops_per_s"]) for each in contender["rounds"]]


def _tails(contender: Mapping[str, Any]) -> list[float]:
    return [float(each["latency_us"]["p99"]) for each in contender["rounds"]]


def _failover(one: Mapping[str, Any], other: Mapping[str, Any]) -> Finding | None:
    """Kills draw their timeouts at random, so not pairs are compared but one side's worst with the other's best."""
    gaps = [[gap for gap in each["failover_s"] if gap is not None] for each in (one, other)]
    if not all(gaps) or not (max(gaps[0]) * MARGIN < min(gaps[1]) or max(gaps[1]) * MARGIN < min(gaps[0])):
        return None
    return _verdict("time from a leader's kill to the next write", *map(statistics.median, gaps), more_is_better=False)


def _compare(
    what: str, raft: Sequence[float], paxos: Sequence[float], *, more_is_better: bool
) -> Finding | None:
    pairs = list(zip(raft, paxos, strict=False))
    if not pairs or not (all(a > b for a, b in pairs) or all(a < b for a, b in pairs)):
        return None
    return _verdict(what, statistics.median(raft), statistics.median(paxos), more_is_better=more_is_better)


def _verdict(what: str, raft: float, paxos: float, *, more_is_better: bool) -> Finding | None:
    ratio = max(raft, paxos) / max(min(raft, paxos), 1e-9)
    if ratio < MARGIN:
        return None
    better = RAFT if (raft > paxos) is more_is_better else PAXOS
    worse = PAXOS if better == RAFT else RAFT
    share = f"{ratio:.2f} times" if more_is_better else f"1/{ratio:.2f} of"
    return Finding(what, better, round(ratio, 3), f"{what}: {better} has {share} {worse}'s")


def flexible(document: Mapping[str, Any]) -> list[str]:
    """What quorums that are no majorities buy and cost beside the same engine with majorities, a sentence a point."""
    found = []
    for point in document["points"]:
        for each in point["contenders"]:
            plain = figures(point, str(each["engine"]))
            if not each["quorums"] or plain is None or not each["ops"] or each["commits_without"] is None:
                continue
            phase1, phase2 = each["quorums"]
            buys = f"commits with {each['commits_without']} of {point['nodes']} nodes down instead of " \
                   f"{plain['commits_without']}"
            costs = f"elects a leader with {each['elects_without']} down instead of {plain['elects_without']}"
            speed = (
                f"{each['ops_per_s'] / plain['ops_per_s']:.2f} times the operations a second at "
                f"{each['latency_us']['p50'] / plain['latency_us']['p50']:.2f} times the median latency"
            )
            found.append(
                f"quorums {{phase1: {phase1}, phase2: {phase2}}} {buys}, once a leader is elected; {costs}; {speed}."
            )
    return found


def _value(factor: str, value: float) -> str:
    return {"nodes": f"{value} nodes", "loss_percent": f"{value} % loss", "delay_ms": f"{value:g} ms delay"}[factor]


def _list(sentences: Sequence[str]) -> str:
    return "; ".join(sentences)

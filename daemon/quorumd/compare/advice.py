"""Which engine to choose for what was measured, and why. Pure: plain data in, sentences out.

The base point decides: it is the workload as the file says it. What differs elsewhere is told beside it.

Two engines differ in a figure only if every round says so, and by the margin. Rounds of both alternate, so each pair
saw the same machine. That is a sign test: of two equal engines, six rounds call one figure of thirty-two different
before the margin is asked, three rounds one of four; with fewer than MIN_ROUNDS nothing is called different.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from quorumd.compare.document import figures, waits
from quorumd.types import PAXOS, RAFT

MARGIN: Final = 1.1
"""Differences of less than a tenth decide nothing."""
MOST_TIMES: Final = 1000.0
MIN_ROUNDS: Final = 3
MIN_KILLS: Final = 5
"""Of equal engines, one in 126 would have all of five gaps below all of the other's five; of three, one in ten."""


class Finding(NamedTuple):
    """One figure in which one engine is better. ratio: how many times, above 1. base: at the base point."""

    what: str
    better: str
    ratio: float
    base: bool
    sentence: str


def advise(document: Mapping[str, Any]) -> dict[str, Any]:
    """{"choose": an engine, "either" or "neither", "reason": sentence, "findings": [...], "flexible": sentences}."""
    found = findings(document)
    here = [finding for finding in found if finding.base]
    wins = {name: [finding for finding in here if finding.better == name] for name in (RAFT, PAXOS)}
    broken = [name for name in (RAFT, PAXOS) if _is_broken(figures(document["points"][0], name))]
    if len(broken) == 2:
        choose, reason = "neither", "neither could be measured at the base point"
    elif broken:
        choose = RAFT if broken[0] == PAXOS else PAXOS
        reason = f"{broken[0]} could not be measured at the base point"
    elif len(wins[RAFT]) == len(wins[PAXOS]):
        choose = "either"
        if here:
            reason = f"{_list(here)}; neither outweighs the other"
        elif all(len(each["rounds"]) < MIN_ROUNDS for each in document["points"][0]["contenders"]):
            reason = f"fewer than {MIN_ROUNDS} rounds cannot tell two engines apart"
        else:
            reason = "at the base point no figure differs in every round by a tenth or more"
    else:
        choose = max(wins, key=lambda name: len(wins[name]))
        against = wins[PAXOS if choose == RAFT else RAFT]
        reason = _list(wins[choose]) + (f"; against it: {_list(against)}" if against else "")
    return {
        "choose": choose, "reason": reason, "findings": [finding._asdict() for finding in found],
        "flexible": flexible(document),
    }


def _is_broken(contender: Mapping[str, Any] | None) -> bool:
    """Whether nothing was measured, or the cluster failed while it was."""
    return contender is None or bool(contender["failed"])


def findings(document: Mapping[str, Any]) -> list[Finding]:
    """Every figure in which one of raft and paxos is better: at the base point, and at the far end of each axis."""
    points = document["points"]
    where = [("", points[0])]
    for factor, numbers in document["axes"].items():
        worst = points[max(numbers, key=lambda number: points[number][factor])]
        if all(worst is not point for _, point in where):
            where.append((f" at {_value(factor, worst[factor])}", worst))
    found = []
    for place, point in where:
        one, other = figures(point, RAFT), figures(point, PAXOS)
        if one is None or other is None:
            continue
        candidates = [
            _compare(_OPS._replace(name=f"{_OPS.name}{place}"), _rates(one), _rates(other)),
            _compare(_TAIL._replace(name=f"{_TAIL.name}{place}"), _latencies(one, "p99"), _latencies(other, "p99")),
            _compare(_CPU._replace(name=f"{_CPU.name}{place}"), _cpu(one), _cpu(other)),
            _failover(_GAP._replace(name=f"{_GAP.name}{place}"), one, other),
        ]
        found += [finding._replace(base=not place) for finding in candidates if finding]
    return found


class _Figure(NamedTuple):
    name: str
    form: str
    divisor: float
    more_is_better: bool = False


_OPS: Final = _Figure("operations a second", "{:,.0f}", 1, more_is_better=True)
_TAIL: Final = _Figure("p99 latency", "{:.1f} ms", 1000)
_CPU: Final = _Figure("CPU per operation", "{:.0f} us", 1)
_GAP: Final = _Figure("time from a leader's kill to the next write", "{:.2f} s", 1)


def _rates(contender: Mapping[str, Any]) -> list[float]:
    return [float(each["ops_per_s"]) for each in contender["rounds"]]


def _latencies(contender: Mapping[str, Any], percentile: str) -> list[float]:
    return [float(each["latency_us"][percentile]) for each in contender["rounds"]]


def _cpu(contender: Mapping[str, Any]) -> list[float]:
    return [float(each["cpu_us_per_op"]) for each in contender["rounds"]]


def _failover(figure: _Figure, one: Mapping[str, Any], other: Mapping[str, Any]) -> Finding | None:
    """Kills draw their timeouts at random, so not pairs are compared but one side's worst with the other's best."""
    raft, paxos = (waits(each) for each in (one, other))
    if min(len(raft), len(paxos)) < MIN_KILLS or not (max(raft) < min(paxos) or max(paxos) < min(raft)):
        return None
    return _verdict(figure, statistics.median(raft), statistics.median(paxos))


def _compare(figure: _Figure, raft: Sequence[float], paxos: Sequence[float]) -> Finding | None:
    return _verdict(figure, statistics.median(raft), statistics.median(paxos)) if _differ(raft, paxos) else None


def _differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether every round says the same of two contenders."""
    pairs = list(zip(one, other, strict=False))
    return len(pairs) >= MIN_ROUNDS and (all(a > b for a, b in pairs) or all(a < b for a, b in pairs))


def _verdict(figure: _Figure, raft: float, paxos: float) -> Finding | None:
    ratio = min(max(raft, paxos) / max(min(raft, paxos), 1e-9), MOST_TIMES)
    if ratio < MARGIN:
        return None
    better, worse = (RAFT, PAXOS) if (raft > paxos) is figure.more_is_better else (PAXOS, RAFT)
    told = {
        name: figure.form.format(value / figure.divisor) if math.isfinite(value) else "none in time"
        for name, value in ((RAFT, raft), (PAXOS, paxos))
    }
    sentence = f"{figure.name}: {told[better]} with {better}, {told[worse]} with {worse}"
    return Finding(figure.name, better, round(ratio, 3), base=False, sentence=sentence)


def flexible(document: Mapping[str, Any]) -> list[str]:
    """What quorums that are no majorities buy and cost beside the same engine with majorities, a sentence a point."""
    found = []
    for point in document["points"]:
        for each in point["contenders"]:
            plain = figures(point, str(each["engine"]))
            if not each["quorums"] or plain is None or _is_broken(each) or _is_broken(plain):
                continue
            phase1, phase2 = each["quorums"]
            buys = f"commits with {each['commits_without']} of {point['nodes']} nodes down instead of " \
                   f"{plain['commits_without']}"
            costs = f"elects a leader with {each['elects_without']} down instead of {plain['elects_without']}"
            speed = "; ".join(
                f"{name} {statistics.median(own) / statistics.median(theirs):.2f} times"
                for name, own, theirs in (
                    ("operations a second", _rates(each), _rates(plain)),
                    ("median latency", _latencies(each, "p50"), _latencies(plain, "p50")),
                )
                if _differ(own, theirs)
            ) or "neither throughput nor median latency differs in every round"
            quorums = f"{{phase1: {phase1}, phase2: {phase2}}}"
            found.append(f"Paxos with quorums {quorums} {buys}, once a leader is elected; {costs}; {speed}.")
    return found


def _value(factor: str, value: float) -> str:
    return {"nodes": f"{value} nodes", "loss_percent": f"{value} % loss", "delay_ms": f"{value:g} ms delay"}[factor]


def _list(found: Sequence[Finding]) -> str:
    return "; ".join(finding.sentence for finding in found)

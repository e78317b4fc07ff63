"""What must hold after a run, besides that every wait ended in time: a list of sentences, empty if all is well.

The history must be linearizable (quorumd.checker says so); what the workload promised itself must have been kept; all
nodes must have come to the same state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quorumd.chaos.calls import number
from quorumd.chaos.workload import ACCOUNTS, COUNTERS, OPENING, Tally
from quorumd.checker.history import Operation
from quorumd.checker.verdict import Verdict
from quorumd.client.probe import Status
from quorumd.types import NodeId

TOTAL = OPENING * len(ACCOUNTS)
Check = Callable[[Sequence[Operation]], Verdict]


@dataclass
class Report:
    """What a run showed. ok: None if nothing is wrong, and the checker did not decide in time."""

    seed: int
    faults: Sequence[str]
    nodes: int
    seconds: float = 0.0
    rounds: int = 0
    injected: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    increments: int = 0
    leases: dict[str, int] = field(default_factory=dict)
    """How many were granted, kept alive, revoked, and found to have expired."""
    watched: int = 0
    """Revisions that the spectator was told."""
    watch_unjudged: str = ""
    """Why that was not held to the whole history, as where the run outlived what nodes keep of it; empty: it was."""
    restarts: int = 0
    recovery_s: float = 0.0
    """The longest time from the last heal of a round to the success of a write begun after it."""
    linearizable: bool | None = None
    undecided: str = ""
    violations: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    """Sentences about evidence that could not be written."""
    directory: str = ""
    """Where everything was kept; empty if it was not."""

    @property
    def ok(self) -> bool | None:
        return False if self.violations else self.linearizable

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"ok": self.ok, **{name: value for name, value in vars(self).items() if name != "linearizable"}}


def broken_promises(tally: Tally, final: Mapping[str, str | None]) -> list[str]:
    """What the workload was promised and did not get. final: every key as read after all was healed."""
    found = list(tally.nonsense)
    for counter in COUNTERS:
        least = tally.acknowledged[counter]
        most = least + tally.unknown[counter]
        value = number(final.get(counter) or "0")
        if value is None:
            found.append(f"{counter} is lost: it holds {final[counter]!r}")
        elif not least <= value <= most:
            found.append(
                f"{counter} is {value} after {least} acknowledged increments and {tally.unknown[counter]} of unknown "
                f"outcome: {'lost' if value < least else 'executed more than once'}"
            )
    for total, times in sorted(tally.sums.items()):
        if total != TOTAL:
            found.append(f"both accounts together held {total} instead of {TOTAL} in {times} reads at one revision")
    first, second = (number(str(final.get(account)).partition(":")[0]) for account in ACCOUNTS)
    if first is None or second is None:
        found.append(f"the accounts are lost: {({account: final.get(account) for account in ACCOUNTS})}")
    elif first + second != TOTAL:
        found.append(f"both accounts together hold {first + second} at the end instead of {TOTAL}")
    return found


def agreed(statuses: Mapping[NodeId, Status], voters: Sequence[NodeId]) -> bool:
    """Whether all voters are up, follow one leader, and have applied the same entries with the same results."""
    states = [
        tuple(statuses[node].get(name) for name in ("leader", "term", "applied", "digest"))
        for node in voters if node in statuses and statuses[node].get("voter")
    ]
    return len(states) == len(voters) and len(set(states)) == 1 and states[0][0] is not None


def human(report: Report) -> str:
    """The report for people."""
    counts = ", ".join(f"{report.outcomes.get(name, 0):,} {name}" for name in ("ok", "fail", "info"))
    plural = "" if report.rounds == 1 else "s"
    injected = ", ".join(f"{name} {count}" for name, count in report.injected.items())
    leases = ", ".join(f"{count:,} {name}" for name, count in report.leases.items())
    errors = ", ".join(f"{name} {count:,}" for name, count in sorted(report.errors.items()))
    lines = [
        f"{report.rounds} round{plural} in {report.seconds:.0f} s, seed {report.seed}; operations: {counts}",
        f"leases: {leases or 'none'}",
        f"faults: {injected or 'none'}; {report.restarts} restarts; "
        f"longest recovery {report.recovery_s:.2f} s; {report.increments} increments; "
        f"{report.watched:,} revisions watched"
        f"{f', but not judged: {report.watch_unjudged}' if report.watch_unjudged else ''}",
        f"errors: {errors or 'none'}",
        *(f"VIOLATION: {violation}" for violation in report.violations),
        *report.unwritten,
    ]
    if report.ok:
        lines.append("linearizable, exactly once, every node agrees")
    elif report.ok is None:
        lines.append(f"undecided: {report.undecided}")
    if report.directory:
        lines.append(f"kept in {report.directory}")
    return "\n".join(lines)

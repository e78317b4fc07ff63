"""What a checker says about a history."""

from dataclasses import dataclass, field

from quorumd.checker.history import Operation


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and what it rests on."""

    ok: bool | None
    """True: linearizable. False: it is not, and no longer search would find otherwise. None: not decided in time."""
    reason: str
    """One sentence: the rule that is broken and by what, or why nothing was decided."""
    checker: str = ""
    """Which one decided: "revisions" or "search"."""
    operations: list[Operation] = field(default_factory=list)
    """Those that cannot be ordered, the one that breaks the order first. Empty unless ok is False."""
    steps: int = 0
    """Work done: operations applied to a state."""

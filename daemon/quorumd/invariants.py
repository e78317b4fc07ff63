"""Our bugs stop the process; a peer's fault never does.

`invariant` is for what only a defect of this program can break. It survives `python -O`, unlike `assert`.
A leaf: imports nothing of ours.
"""


class InvariantBroken(Exception):
    """A defect of this program. Never caught below the top of the process."""


def invariant(condition: object, message: str) -> None:
    """Raises InvariantBroken(message) unless `condition` is true."""
    if not condition:
        raise InvariantBroken(message)

"""What a session knows of its lease, whichever client keeps it alive."""

from collections.abc import Callable
from typing import ClassVar

from quorumd.limits import SECOND
from quorumd.recipes.errors import SessionLost
from quorumd.recipes.lease import Lease
from quorumd.types import Nanoseconds


class SessionBase:
    """The lease, once it is granted, and whether it may still be relied on. Asks nobody.

    clock: by which the lease was granted (see sinceboot.py). process: the id of the process that runs.
    """

    HOW_TO_OPEN: ClassVar[str]

    def __init__(self, ttl: float, clock: Callable[[], Nanoseconds], process: Callable[[], int]) -> None:
        if not ttl > 0:
            raise ValueError(f"ttl must be positive, not {ttl!r} seconds")
        self.ttl = ttl
        self._lease: Lease | None = None
        self._pid = 0  # whose the lease is
        self._clock = clock
        self._process = process

    @property
    def lease(self) -> Lease:
        """Its lease. Raises RuntimeError before `open`, SessionLost in a forked child."""
        if self._lease is None:
            raise RuntimeError(f"the session is not open: {self.HOW_TO_OPEN}")
        if self._pid != self._process():
            raise SessionLost(f"the session is process {self._pid}'s; a forked child opens one of its own")
        return self._lease

    def require(self) -> None:
        """Raises SessionLost unless it is alive."""
        self.lease.require(self._clock())

    @property
    def alive(self) -> bool:
        """Whether it is open, this process's, and not lost as far as can be told without asking anybody."""
        return self._lease is not None and self._pid == self._process() and self._lease.alive(self._clock())

    def remaining(self) -> float:
        """Seconds for which it is certainly alive, if no further sign of life gets through; 0.0 if it is not."""
        lease = self._lease
        if lease is None or not self.alive:
            return 0.0
        return max(0, lease.safe_until - self._clock()) / SECOND

"""What a recipe's object is to a forked child: it has the parent's memory, and none of its threads and tasks."""

import os
from secrets import token_hex

from quorumd.errors import ConnectionLost
from quorumd.recipes.queue import Queue


def new_producer() -> bytes:
    """A producer's name that no other object has, of no process."""
    return token_hex(8).encode()


class ProducerPerProcess:
    """Called before a queue's scripts: in each process the object is a producer of its own, in a forked child too."""

    def __init__(self, logic: Queue) -> None:
        self._logic = logic
        self._pid = os.getpid()

    def __call__(self) -> None:
        if self._pid != os.getpid():
            self._logic.producer, self._pid = new_producer(), os.getpid()


class OneProcess:
    """Whose something is, from `claim` on: one process's."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = 0

    def claim(self) -> None:
        """It is this process's. Raises ConnectionLost if it is another's."""
        self.require()
        self._pid = os.getpid()

    @property
    def elsewhere(self) -> bool:
        """Whether it is another process's."""
        return self._pid not in (0, os.getpid())

    def require(self) -> None:
        """Raises ConnectionLost if it is another process's."""
        if self.elsewhere:
            raise ConnectionLost(f"the {self._what} is process {self._pid}'s; a forked child opens one of its own")

"""Leader election: a lock whose owner says who it is, and that others may watch."""

from dataclasses import dataclass

from quorumd.commands import Put, Range, RangeResult, Txn
from quorumd.recipes import line as lines
from quorumd.recipes.effects import Emit, Script, clock, insist, news, read
from quorumd.recipes.errors import NotHeld
from quorumd.recipes.fencing import Token
from quorumd.recipes.keys import end_of, prefix_of
from quorumd.recipes.lease import Lease
from quorumd.recipes.line import Line
from quorumd.recipes.lock import Lock


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads: what it proclaimed, and its fencing token."""

    value: bytes
    token: Token


def first_of(prefix: bytes) -> Range:
    """Reads who came first."""
    return Range(prefix, end_of(prefix), limit=1, sort_target="create", order="ascend", uncounted=True)


def leader_of(view: RangeResult) -> Leader | None:
    """The first of a line is its owner."""
    if not view.kvs:
        return None
    first = view.kvs[0]
    return Leader(first.value, Token(first.create_revision, first.key))


class Election:
    """The observers' side, which needs no session."""

    def __init__(self, name: bytes | str) -> None:
        self.prefix = prefix_of("election", name)

    def leader(self, timeout: float | None = None) -> Script[Leader | None]:
        """Who leads now; None: nobody. timeout: seconds, None: the client's default."""
        until = lines.deadline((yield from clock()), timeout)
        return leader_of((yield from read(first_of(self.prefix), until)))

    def observe(self) -> Script[None]:
        """A stream: who leads now, then each change that lasts until it is looked at. None: nobody does.

        Goes on over leader changes, restarts and compactions; a leadership that is over before it was seen is skipped.
        """
        told = False
        last: Leader | None = None
        while True:
            view = yield from insist(lambda until: read(first_of(self.prefix), until))
            now = leader_of(view)
            if not told or now != last:
                told, last = True, now
                yield Emit(now)
            key, end = (self.prefix, end_of(self.prefix)) if now is None else (now.token.key, b"")
            yield from news(key, end, view.revision)


class Candidate(Lock):
    """One candidate's side: a lock whose `value` says who leads. `acquire` is to campaign, `release` is to resign."""

    def __init__(self, lease: Lease, name: bytes | str, value: bytes = b"") -> None:
        super().__init__(lease, name, value=value)

    def _line(self, name: bytes | str) -> Line:
        prefix = prefix_of("election", name)
        return Line(prefix, prefix)

    def proclaim(self, value: bytes, timeout: float | None = None) -> Script[None]:
        """Says something else, without a new election. Raises NotHeld unless this candidate leads."""
        token = self.token
        if token is None:
            raise NotHeld("this candidate does not lead")
        until = lines.deadline((yield from clock()), timeout)
        saying = Txn([token.guard()], [Put(token.key, value, self.lease.id)])
        if not (yield from lines.persist(self.lease, saying, until)).succeeded:
            raise NotHeld("this candidate does not lead any more")
        self.value = value

"""A counter that many add to."""

from quorumd.commands import Compare, Put, Range, RangeResult, Txn
from quorumd.errors import Rejected
from quorumd.recipes.effects import Script, clock, found, read, transact
from quorumd.recipes.keys import prefix_of
from quorumd.recipes.line import deadline


class Counter:
    """An integer of any size, 0 until somebody adds to it; kept as decimal text in one key."""

    def __init__(self, name: bytes | str) -> None:
        self.key = prefix_of("counter", name) + b"value"

    def value(self, timeout: float | None = None) -> Script[int]:
        """Its value now. timeout: seconds, None: the client's default."""
        until = deadline((yield from clock()), timeout)
        return self._number((yield from read(Range(self.key), until)))

    def add(self, amount: int = 1, timeout: float | None = None) -> Script[int]:
        """Adds `amount`, which may be negative, and returns the sum. No two additions see the same sum.

        Raises what the client raises; after an Indefinite error it may have been added, and adding again may add twice.
        """
        until = deadline((yield from clock()), timeout)
        now = yield from read(Range(self.key), until)
        while True:
            total = self._number(now) + amount
            seen = now.kvs[0].mod_revision if now.kvs else 0
            compare = Compare.mod_revision(self.key, "=", seen)
            result = yield from transact(Txn([compare], [Put(self.key, b"%d" % total)], [Range(self.key)]), until)
            if result.succeeded:
                return total
            now = found(result, 0)

    def _number(self, view: RangeResult) -> int:
        if not view.kvs:
            return 0
        text = view.kvs[0].value
        try:
            return int(text)
        except ValueError:
            raise Rejected(f"{self.key!r} holds {text[:40]!r}, which is no number") from None

"""Fencing tokens: what makes a lock safe although a process may pause at any moment."""

from typing import Self

from quorumd.commands import Compare


class Token(int):
    """The creation revision of the owner's key: each later owner's is higher. An int, to hand to any other system.

    A store that remembers the highest token it has seen and refuses lower ones is safe from a former owner that does
    not know yet that it is one. quorumd itself needs no memory: put `guard()` among the compares of a txn.
    """

    key: bytes

    def __new__(cls, revision: int, key: bytes) -> Self:
        """The token of the owner whose key `key` was created at `revision`."""
        token = super().__new__(cls, revision)
        token.key = key
        return token

    def guard(self) -> Compare:
        """Holds exactly as long as the owner's key exists: a txn with it does nothing once ownership has ended."""
        return Compare.create_revision(self.key, "=", int(self))

    def __str__(self) -> str:
        return int.__repr__(self)

    def __repr__(self) -> str:
        return f"Token({int(self)}, {self.key!r})"

    def __reduce__(self) -> "tuple[type[Token], tuple[int, bytes]]":
        return type(self), (int(self), self.key)

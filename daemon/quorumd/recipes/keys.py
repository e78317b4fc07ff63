"""Where recipes keep their keys.

    quorumd/KIND/NAME/...      KIND: lock, rwlock, semaphore, election, barrier, ...
    quorumd/lock/NAME/LEASE-N  a contender: its session's lease (16 hex digits), a number that the session never reuses

NAME is the user's, any bytes, empty too, with "%" written as "%25" and "/" as "%2F": no name's keys are among another's
(a lock "a" must not meet the contenders of a lock "a/b"), and what is readable stays so.
"""

from typing import Final

from quorumd.commands import ALL
from quorumd.limits import RECIPE_NAME_BYTES

ROOT: Final = b"quorumd/"


def prefix_of(kind: str, name: bytes | str) -> bytes:
    """The prefix of all keys of one thing. Raises TypeError, or ValueError for a name above RECIPE_NAME_BYTES."""
    return ROOT + kind.encode() + b"/" + escaped(name) + b"/"


def escaped(name: bytes | str) -> bytes:
    """A name as one part of a key; a str is UTF-8."""
    raw = name.encode() if isinstance(name, str) else name
    if not isinstance(raw, bytes):
        raise TypeError(f"a name is bytes or str, not {type(name).__name__}")
    if len(raw) > RECIPE_NAME_BYTES:
        raise ValueError(f"the name has {len(raw)} bytes, at most {RECIPE_NAME_BYTES} are allowed")
    return raw.replace(b"%", b"%25").replace(b"/", b"%2F")


def unescaped(part: bytes) -> bytes:
    """The name that `escaped` made this part of."""
    return part.replace(b"%2F", b"/").replace(b"%25", b"%")


def end_of(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else ALL

"""Operations collected first and sent together."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from quorumd.client.calls import bytes_only, compare_and_set
from quorumd.commands import Compare, DeleteRange, Op, Put, Range, Result, Txn, TxnOp
from quorumd.errors import QuorumdError


class Pipeline:
    """Collects operations; execute(), or leaving the `with` block, performs them and fills `results`.

    They are independent: under way together, executed in any order, each exactly once, each with a result or an error
    of its own. For all or nothing, use a transaction.
    """

    def __init__(self, execute: Callable[[Sequence[Op], float | None], list[Result | QuorumdError]]) -> None:
        self._execute = execute
        self._requests: list[Op] = []
        self.results: list[Result | QuorumdError] = []
        """One for each operation, in the order they were added."""

    def __len__(self) -> int:
        return len(self._requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.execute()

    def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> Self:
        """Adds a put; its result is a PutResult."""
        bytes_only(key=key, value=value)
        return self.add(Put(key, value, lease, prev_kv))

    def get(self, key: bytes) -> Self:
        """Adds a read of one key; its result is a RangeResult."""
        bytes_only(key=key)
        return self.add(Range(key))

    def delete(self, key: bytes, end: bytes = b"", *, prev_kv: bool = False) -> Self:
        """Adds a delete; its result is a DeleteResult."""
        bytes_only(key=key, end=end)
        return self.add(DeleteRange(key, end, prev_kv))

    def txn(
        self, compares: Sequence[Compare] = (), then: Sequence[TxnOp] = (), orelse: Sequence[TxnOp] = ()
    ) -> Self:
        """Adds a transaction; its result is a TxnResult."""
        return self.add(Txn(compares, then, orelse))

    def cas(self, key: bytes, expected: bytes | None, value: bytes) -> Self:
        """Adds a compare-and-set; its result is a TxnResult."""
        return self.add(compare_and_set(key, expected, value))

    def add(self, request: Op) -> Self:
        """Adds any operation. A range longer than one reply comes back marked `more`; it is not read on."""
        self._requests.append(request)
        return self

    def execute(self, *, timeout: float | None = None, raise_first: bool = True) -> list[Result | QuorumdError]:
        """Performs what was added and empties the pipeline; the results, also in `results`.

        Raises the first error among them, after all have ended, unless `raise_first` is False. Raises Overloaded, and
        performs nothing, if with these more than 65,536 operations would wait in the client.
        """
        requests, self._requests = self._requests, []
        self.results = self._execute(requests, timeout) if requests else []
        if raise_first:
            for result in self.results:
                if isinstance(result, QuorumdError):
                    raise result
        return self.results

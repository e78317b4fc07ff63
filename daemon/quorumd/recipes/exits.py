"""The way out of a `with`."""

from collections.abc import Iterator
from contextlib import contextmanager

from quorumd.errors import QuorumdError


@contextmanager
def beside(error: BaseException | None) -> Iterator[None]:
    """Giving up what was held may fail. That is raised, unless the body failed before: then it is noted there."""
    try:
        yield
    except QuorumdError as failure:
        if error is None:
            raise
        error.add_note(f"and giving up what was held failed: {type(failure).__name__}: {failure}")

"""The way out: of a `with`, and of what is held."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quorumd.errors import QuorumdError
from quorumd.recipes.errors import NotHeld, SessionLost


@contextmanager
def beside(error: BaseException | None) -> Iterator[None]:
    """Giving up what was held may fail. That is raised, unless the body failed before: then it is noted there."""
    try:
        yield
    except QuorumdError as failure:
        if error is None:
            raise
        error.add_note(f"and giving up what was held failed: {type(failure).__name__}: {failure}")


@contextmanager
def parting(forget: Callable[[], None] = lambda: None) -> Iterator[None]:
    """What was held is given up. If it was lost with its session it is not held: NotHeld, after `forget`."""
    try:
        yield
    except SessionLost as error:
        forget()
        raise NotHeld(f"it is not held: {error}") from error

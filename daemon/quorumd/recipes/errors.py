"""What recipes raise beside the client's errors. A leaf: imports only quorumd.errors."""

from quorumd.errors import Definite, QuorumdError


class NotAcquired(Definite):
    """Not acquired in the time given; nothing is held."""


class NotHeld(Definite):
    """What was to be used or released is not held: never was, no longer is, or was lost."""


class SessionLost(QuorumdError):
    """The session's lease ended, or nobody can say that it has not; what it held is gone, or will be."""

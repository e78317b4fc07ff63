"""What a client tells its user about its connection, in kazoo's words."""

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias


class State(Enum):
    """CONNECTED: a leader answers. SUSPENDED: none does; what the session protects may be lost, or not.
    LOST: there is no session (none yet, or the cluster ended it); locks and leases of the old one are gone."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


StateListener: TypeAlias = Callable[[State], None]
"""Called after each change with the new state: on the IO thread (sync client) or the event loop (asyncio client).
It must not block, and must not wait for an answer of the same client."""

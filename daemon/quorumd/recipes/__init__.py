"""Coordination recipes for the blocking client; `quorumd.recipes.aio` has the same for asyncio. RECIPES.md shows each.

Each recipe's logic is written once, as scripts that yield effects (effects.py) and touch neither clock nor socket:
lease, line, lock, semaphore, election, barrier, counter, queue, party, view. blocking.py and awaiting.py run them.
"""

from quorumd.recipes.errors import NotAcquired, NotHeld, SessionLost
from quorumd.recipes.sync import (
    Barrier,
    Cache,
    Counter,
    DoubleBarrier,
    Election,
    HeldItem,
    Instance,
    Leader,
    Lock,
    Member,
    Membership,
    Observer,
    Party,
    PriorityQueue,
    Queue,
    ReadWriteLock,
    Semaphore,
    ServiceRegistry,
    Session,
    Token,
)

__all__ = [
    "Barrier", "Cache", "Counter", "DoubleBarrier", "Election", "HeldItem", "Instance", "Leader", "Lock", "Member",
    "Membership", "NotAcquired", "NotHeld", "Observer", "Party", "PriorityQueue", "Queue", "ReadWriteLock",
    "Semaphore", "ServiceRegistry", "Session", "SessionLost", "Token",
]

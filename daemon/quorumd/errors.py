"""Errors a user of quorumd meets, in two families that must never be mixed up.

Definite: the operation did not happen and never will. Indefinite: it may have happened, or may yet.
A leaf: imports nothing of ours.
"""

import errno
from typing import Final

SHORTAGES: Final = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Of the kernel's, by errno: they pass, and say nothing of the disk."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, *SHORTAGES)
"""For a file, for now: neither does a full file system say that what is written is lost."""

UNUSABLE_LOG: Final = (
    "leave this node down (the others serve), or put back an exact copy of this very state: an older one has forgotten "
    "votes and acknowledgements"
)
"""The one advice about a voter's log that cannot be used. A backup would help elect a leader that lacks entries."""


class QuorumdError(Exception):
    """Base of everything quorumd raises on purpose."""


class ConfigError(QuorumdError):
    """The config, data directory or command line is unusable; the message names file, line, key and remedy."""


class HistoryError(QuorumdError):
    """A file that is no history of operations; the message names file, line, field and remedy."""


class ProtocolError(QuorumdError):
    """Bytes that are not what they claim to be."""


class Definite(QuorumdError):
    """The operation did not happen."""


class NotLeader(Definite):
    """No node could take the operation: there is no leader, or it moved and the deadline left no time to follow."""


class Rejected(Definite):
    """The operation is malformed or not allowed; trying again will not help."""


class TooLarge(Definite):
    """Key, value or request above the limit named in the message."""


class DiskFull(Definite):
    """A quorum of nodes has no room for new writes; reads and deletes still work."""


class NoSpace(Definite):
    """The store's byte quota is used up, or there are as many leases as allowed; deletes, compaction and revoking
    leases still work."""


class Overloaded(Definite):
    """Refused early because a queue is full, or a lease about to end; try again later."""


class Compacted(Definite):
    """The revision asked for is no longer held, or is compacted already."""

    revision = 0
    """Of a watch that ended so: the first revision that can still be watched."""


class FutureRevision(Definite):
    """The revision asked for does not exist yet."""


class KeyNotFound(Definite):
    """A put was to keep the value or the lease of a key that does not exist."""


class LeaseNotFound(Definite):
    """There is no such lease: it was never granted, or has ended."""


class LeaseExists(Definite):
    """A lease of that id exists."""


class Stopped(Definite):
    """The node, or the whole cluster, refuses to serve; the message says why."""


class Indefinite(QuorumdError):
    """The operation may have happened."""


class Timeout(Indefinite):
    """The deadline passed before an answer came."""


class ConnectionLost(Indefinite):
    """The client was closed, or lost every node, with the operation under way."""


class SessionExpired(Indefinite):
    """The client's session ended on the cluster; what was pending in it may have happened before."""


class ReplyEvicted(Indefinite):
    """The operation was executed once, but its reply is no longer held."""


class Unjudged(QuorumdError):
    """A check could not be carried out, so it says nothing of what it was to judge."""


class DiskError(QuorumdError):
    """A failed write or sync. The node stops: what the page cache holds can no longer be trusted."""


class NoRoom(DiskError):
    """No room for what must be on the disk before the node may go on. It stops, having said nothing that is not on the
    disk, and may be started again: nothing failed that was written."""


class Diverged(QuorumdError):
    """This replica's state differs from the majority's. The node stops."""


class CorruptLog(QuorumdError):
    """Damage below what was known durable: file, offset and index are named; nothing was cut."""

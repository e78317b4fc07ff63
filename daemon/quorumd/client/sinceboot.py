"""The clock of clients and recipes. It is read nowhere below their IO layers: there, time is an argument."""

import time

from quorumd.limits import SECOND, SESSION_GLANCE
from quorumd.types import Nanoseconds


def since_boot() -> Nanoseconds:
    """Nanoseconds since the machine was booted, those in which it was suspended too.

    CLOCK_MONOTONIC stands still then, and the cluster does not: by that clock a session would outlive its lease.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def glance(until: Nanoseconds) -> float:
    """Seconds to sleep before it is to be seen whether `until` has come; 0: it has. No sleep counts a suspend."""
    return max(0, min(until - since_boot(), SESSION_GLANCE)) / SECOND

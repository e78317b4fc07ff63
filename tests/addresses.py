"""Addresses for test clusters: a loopback address of their own, and ports that the kernel picks."""

import itertools
import os

from quorumd.supervisor.sandbox import free_ports

__all__ = ["free_ports", "private_host"]

_HOSTS = itertools.count()


def private_host() -> str:
    """A loopback address that no other process of these tests uses, so that any port of it is free."""
    pid = os.getpid()
    return f"127.{pid >> 14 & 0x7F | 0x80}.{pid >> 7 & 0x7F}.{(pid & 0x7F) + next(_HOSTS) % 100 + 1}"

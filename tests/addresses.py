"""Addresses for test clusters: a loopback address of their own, and ports that the kernel picks."""

import itertools
import os
import socket

_HOSTS = itertools.count()


def private_host() -> str:
    """A loopback address that no other process of these tests uses, so that any port of it is free."""
    pid = os.getpid()
    return f"127.{pid >> 14 & 0x7F | 0x80}.{pid >> 7 & 0x7F}.{(pid & 0x7F) + next(_HOSTS) % 100 + 1}"


def free_ports(host: str, count: int) -> list[int]:
    """UDP ports of `host` that nobody uses."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for taken in sockets:
            taken.bind((host, 0))
        return [taken.getsockname()[1] for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()

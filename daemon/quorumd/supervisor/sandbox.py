"""What clusters share that are made for a while: the settings of a config, at loopback addresses of their own."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from quorumd.config import Config


def private_host() -> str:
    """A loopback address that belongs to this process alone, made from its pid, so that every port is free."""
    pid = os.getpid()
    return f"127.{128 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"


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


def settings_of(config: Config) -> dict[str, Any]:
    """The config as plain data to write to YAML, without what belongs to its place: the file, key_file, data_dir."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    for key in ("source", "key_file", "data_dir"):
        del plain[key]
    return plain


def make_directory(config: Config, purpose: str) -> Path:
    """A new directory beside the config's data.

    Not the system's directory for temporary files: that may be memory, which syncs for free.
    """
    beside = config.data_path
    beside.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{beside.name}-{purpose}-", dir=beside.parent))

"""The preload library of the disk faults: compiled on demand from powerloss.c, and what a process needs to run with it.

Only a run that asks for power loss or a full disk loads it; without it nodes run exactly as installed.
"""

import os
import subprocess
from pathlib import Path
from typing import Final

from quorumd.errors import ConfigError
from quorumd.limits import COMPILE_S

SOURCE: Final = Path(__file__).with_name("powerloss.c")


def compile_library(directory: Path) -> Path:
    """powerloss.c as a shared library in `directory`, made with $CC or cc. Raises ConfigError with what is missing."""
    library = directory / "powerloss.so"
    compiler = os.environ.get("CC", "cc").split()
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(library), str(SOURCE)]
    try:
        done = subprocess.run(
            [*compiler, *options], capture_output=True, text=True, check=False, timeout=COMPILE_S
        )
    except FileNotFoundError:
        raise ConfigError(
            f"power-loss and disk-full need a C compiler and there is no '{compiler[0]}' here; install one "
            "(Debian: apt-get install gcc libc6-dev), name it in $CC, or leave them out of --faults"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{compiler[0]} did not finish within {COMPILE_S:g} s") from None
    if done.returncode:
        raise ConfigError(f"{' '.join(compiler)} cannot compile {SOURCE}: {done.stderr.strip()}")
    return library


def environment(
    library: Path, directory: Path, *, platter: Path | None = None, sync_us: str = "0-0", full: Path | None = None
) -> dict[str, str]:
    """What a process runs with, so that its files below `directory` can fail.

    platter: where what was synced is kept (see platter.py); None: nothing is held back. sync_us: "lowest-highest"
    time that a sync takes. full: while a file of that name exists, no log file may grow (ENOSPC).
    """
    found = {"LD_PRELOAD": str(library), "POWERLOSS_DIR": str(directory)}
    if platter is not None:
        found |= {"POWERLOSS_PLATTER": str(platter), "POWERLOSS_SYNC_US": sync_us}
    if full is not None:
        found["POWERLOSS_FULL"] = str(full)
    return found

"""The simulator, compiled: a copy of this tree whose busiest modules are made C by mypyc, for long campaigns.

    python bench/compiled.py DIR [--check 20]
    PYTHONPATH=DIR/daemon:DIR/fastpath python -m quorumd sim --seeds A..B --jobs 2 --keep-going --json

A seed costs 0.6 of what it costs here, and is the same run: `--check N` runs N seeds with each engine in both trees and
compares all that `--json` says but the time: what was answered, what struck, what was reached, every failure.
The build takes some five minutes and a C compiler. DIR must not exist yet.

What mypyc 2 does not take is changed in the copy (CHANGES), and nothing else. Left to the interpreter are
sim/lease_observer.py (a slice of bytes by a variable fails), modules whose protocols are asked for at run time, and
sim/disk.py, where bytearrays pass for bytes and a mistake would be a silent one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from quorumd.types import ENGINES

ROOT: Final = Path(__file__).resolve().parent.parent
MODULES: Final = """
    admission appending applier clientplane core disk entryruns errors fragments invariants limits log ownentries
    peercodec slotadmission slotlog slotstorage sources storage transport types watchcodec watchplane
    checker/answers checker/history checker/invariants checker/paxos_invariants checker/raft_invariants
    checker/watches client/channel client/ledger client/protocol client/watching
    commands/* consensus/ballotlog consensus/base consensus/handover consensus/messages consensus/progress
    consensus/quorum consensus/termlog consensus/paxos/* consensus/raft/*
    sim/clients sim/cluster sim/holders sim/machine sim/network sim/observer sim/paxos_observer sim/raft_observer
    sim/readers sim/viewers sim/workload sim/world
"""
CHANGES: Final = (
    # A field of a NamedTuple that is an `object` is looked for under that name.
    ("consensus/engine.py", "    source: object\n", "    source: Any\n"),
    ("consensus/messages.py", "    source: object = None\n", "    source: Any = None\n"),
    ("consensus/messages.py", "import Final, NamedTuple\n", "import Any, Final, NamedTuple\n"),
    ("consensus/paxos/messages.py", "    source: object = None\n", "    source: Any = None\n"),
    ("consensus/paxos/messages.py", "    source: object = None\n", "    source: Any = None\n"),
    ("consensus/paxos/messages.py", "import NamedTuple\n", "import Any, NamedTuple\n"),
    ("peercodec.py", "    source: object\n", "    source: Any\n"),
    # `int | bool` is int to it, and True becomes 1.
    ("settings.py", "bootstrap: int | bool", "bootstrap: Any"),
    ("settings.py", "import NamedTuple\n", "import Any, NamedTuple\n"),
    ("sim/cluster.py", "bootstrap: int | bool", "bootstrap: Any"),
    ("sim/machine.py", "Callable[[int | bool]", "Callable[[Any]"),
    ("sim/machine.py", "bootstrap: int | bool", "bootstrap: Any"),
    # A keyword argument with a default before one without.
    ("sim/machine.py", "        rate: float = 1.0,\n", ""),
    ("sim/machine.py", "        turn_ns: tuple[Nanoseconds, Nanoseconds],\n    ) -> None",
     "        turn_ns: tuple[Nanoseconds, Nanoseconds],\n        rate: float = 1.0,\n    ) -> None"),
    # Stars in a tuple that is searched.
    ("storage.py", "error not in (0, *NO_ROOM)", "error and error not in NO_ROOM"),
    # The simulator's observers listen by an instance's own attribute, which only an ordinary class has.
    ("storage.py", "class Storage:", "@mypyc_attr(native_class=False)\nclass Storage:"),
    ("slotstorage.py", "class SlotStorage(", "@mypyc_attr(native_class=False)\nclass SlotStorage("),
    ("transport.py", "class Transport:", "@mypyc_attr(native_class=False)\nclass Transport:"),
    *((name, "from quorumd", "from mypy_extensions import mypyc_attr\nfrom quorumd")
      for name in ("storage.py", "slotstorage.py", "transport.py")),
)  # fmt: skip


def main() -> int:
    """Exit code 1: the copy could not be made, or it runs otherwise than this tree."""
    parser = argparse.ArgumentParser(description="A copy of this tree, compiled by mypyc.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", type=int, default=0, metavar="N", help="compare N seeds with each engine")
    parser.add_argument("--first-seed", type=int, default=1)
    options = parser.parse_args()
    copy(options.directory)
    if not compiled(options.directory):
        return 1
    last = options.first_seed + options.check - 1
    verdicts = [alike(options.directory, engine, options.first_seed, last) for engine in ENGINES]
    return int(not all(verdicts))


def copy(directory: Path) -> None:
    """This tree with CHANGES."""
    for name in ("daemon", "fastpath"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for name, old, new in CHANGES:
        path = directory / "daemon" / "quorumd" / name
        text = path.read_text()
        if old not in text:
            raise SystemExit(f"{name} has no {old!r} any more: see what mypyc says without the change, and drop it")
        path.write_text(text.replace(old, new, 1))


def compiled(directory: Path) -> bool:
    """Whether mypyc could do it; if not, what it said is shown."""
    package = directory / "daemon" / "quorumd"
    paths = [path for name in MODULES.split() for path in sorted(package.glob(f"{name}.py"))]
    names = [str(path.relative_to(directory / "daemon")) for path in paths if path.name != "__init__.py"]
    command = [sys.executable, "-m", "mypyc", "--strict", "--explicit-package-bases", "--namespace-packages", *names]
    mypy = {"MYPYPATH": f"{directory / 'daemon'}:{directory / 'fastpath'}", "MYPYC_DEBUG_LEVEL": "0"}
    done = subprocess.run(
        command, cwd=directory / "daemon", env=os.environ | mypy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    print(f"{len(names)} modules compiled" if done.returncode == 0 else done.stdout)
    return done.returncode == 0


def alike(directory: Path, engine: str, first: int, last: int) -> bool:
    """Whether the seeds are the same runs in both trees."""
    if last < first:
        return True
    here, there = (campaign(tree, engine, first, last) for tree in (ROOT, directory))
    times = {"cpu_s", "elapsed_s"}
    differing = [name for name in here if name not in times and here[name] != there[name]]
    ratio = there["cpu_s"] / here["cpu_s"]
    other = ", ".join(differing) or "nothing"
    print(f"{engine} {first}..{last}: {ratio:.2f} of the CPU time; other than here: {other}")
    return not differing


def campaign(tree: Path, engine: str, first: int, last: int) -> dict[str, Any]:
    """What `quorumd sim --json` says of these seeds in a tree."""
    command = [sys.executable, "-B", "-m", "quorumd", "sim", "--engine", engine, "--seeds", f"{first}..{last}"]
    paths = os.pathsep.join([str(tree / "daemon"), str(tree / "fastpath"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--jobs", "1", "--keep-going", "--json"], env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())

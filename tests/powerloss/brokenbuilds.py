"""Two builds of quorumd that are broken on purpose: the power-loss tests and `quorumd chaos` must see both fail.

Each build is a copy of a source root, changed and put first on PYTHONPATH; the checkout is not touched.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A Ready counts as durable as soon as it was handed to the disk, so that acknowledgements overtake the sync.
EARLY = (
    ("        if not storage.busy:\n            durable = self._last_seq\n", "        durable = self._last_seq\n"),
    (
        "        if not storage.busy and self._last_seq > self._durable_seq:\n",
        "        if self._last_seq > self._durable_seq:\n",
    ),
)


def without_fdatasync(directory: Path) -> Path:
    """A source root whose log writes and never syncs: walfile built with QUORUMD_OMIT_FDATASYNC."""
    fastpath = directory / "fastpath"
    shutil.copytree(ROOT / "fastpath", fastpath, ignore=shutil.ignore_patterns("walfile.*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", directory)
    run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=directory,
        env={**os.environ, "QUORUMD_ONLY": "walfile", "QUORUMD_TEST_DEFINES": "QUORUMD_OMIT_FDATASYNC"},
    )
    if not list(fastpath.glob("quorumd_fastpath/walfile.*.so")):
        raise RuntimeError("setup.py built no walfile")
    return fastpath


def with_early_replies(directory: Path) -> Path:
    """A source root whose core answers before the sync is done."""
    daemon = directory / "daemon"
    shutil.copytree(ROOT / "daemon", daemon, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    core = daemon / "quorumd" / "core.py"
    text = core.read_text()
    for before, after in EARLY:
        if text.count(before) != 1:
            raise RuntimeError(f"core.py has changed, and this test must follow it; it looked for:\n{before}")
        text = text.replace(before, after)
    core.write_text(text)
    return daemon


def run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Raises RuntimeError with what the command said, if it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

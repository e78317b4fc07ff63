"""bench/compiled.py fits the tree: what it changes in its copy is there, and so is what it compiles.

That a compiled run is the same run takes minutes to see: `python bench/compiled.py DIR --check 20`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import compiled  # noqa: E402 - found by the line above


def test_every_change_is_made_in_the_copy_and_nowhere_else(tmp_path):
    compiled.copy(tmp_path)
    changed = {name for name, _, _ in compiled.CHANGES}
    for path in (ROOT / "daemon" / "quorumd").rglob("*.py"):
        name = path.relative_to(ROOT / "daemon" / "quorumd")
        same = path.read_bytes() == (tmp_path / "daemon" / "quorumd" / name).read_bytes()
        assert same is (str(name) not in changed)


def test_the_copy_runs(tmp_path):
    """Interpreted: the changes alone break nothing."""
    compiled.copy(tmp_path)
    assert compiled.alike(tmp_path, "raft", 1, 1)


def test_what_is_compiled_is_there():
    package = ROOT / "daemon" / "quorumd"
    assert all(any(package.glob(f"{name}.py")) for name in compiled.MODULES.split())

"""A mutant: one known bug as a patch of production code, with a header that says what it is and what must catch it.

    # mutant: one sentence
    # reference: where the bug is known from: a section of the thesis, a bug of another implementation
    # check: sim                        or    # check: pytest tests/some/test_file.py::test_name
    # caught-by: two-leaders, ...       the simulator's checks that may be the first to see it (only for sim)
    # sim: --nodes 5 --faults loss,...  aims the seeds (optional, only for sim): it only narrows the campaign
    # engine: paxos                     of the engine that is mutated, and so simulated; Raft's say nothing

The files of Multi-Paxos's mutants are named paxos-*.patch.
Everything happens in copies of the project; the checkout is not touched.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent
NATIVE = Path("fastpath/quorumd_fastpath")
PRODUCTION = ("daemon/quorumd/", "fastpath/quorumd_fastpath/")
PROVERS = ("daemon/quorumd/sim/", "daemon/quorumd/checker/")  # a mutant in what is to catch it would prove nothing
PARTS = ("daemon", "fastpath", "configs", "tests", "setup.py", "pyproject.toml", "README.md")
LEAVE_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", ".hypothesis")
SIM_OPTIONS = {"--nodes", "--faults"}
ENGINES = ("raft", "paxos")


class BadMutant(Exception):
    """A patch that says too little, no longer applies, or does not build."""


@dataclass(frozen=True)
class Mutant:
    """One patch and its header."""

    name: str
    patch: Path
    sentence: str
    reference: str
    tests: tuple[str, ...]  # pytest's names of the tests; empty: the simulator is the check
    caught_by: frozenset[str]
    sim: tuple[str, ...]  # options of `quorumd sim`
    files: tuple[str, ...]  # that the patch changes
    engine: str = "raft"


def load(patch: Path) -> Mutant:
    """Reads the header. Raises BadMutant if anything is missing, unknown or said twice."""
    head, _, diff = patch.read_text().partition("\n--- ")
    said: dict[str, str] = {}
    for line in head.splitlines():
        match = re.fullmatch(r"# ([a-z-]+): (.+)", line)
        if match is None or match[1] in said:
            raise BadMutant(f"{patch.name}: no header line, or a second one of its kind: {line}")
        said[match[1]] = match[2].strip()
    kind, _, tests = said.get("check", "").partition(" ")
    wanted = {"sim": {"mutant", "reference", "check", "caught-by"}, "pytest": {"mutant", "reference", "check"}}
    optional = {"engine", "sim"} if kind == "sim" else {"engine"}
    if kind not in wanted or not wanted[kind] <= set(said) <= wanted[kind] | optional:
        raise BadMutant(f"{patch.name}: the header must be as the first lines of {Path(__file__).name} show")
    options = tuple(shlex.split(said.get("sim", "")))
    if (kind == "pytest") != bool(tests) or not set(options[::2]) <= SIM_OPTIONS:
        raise BadMutant(f"{patch.name}: tests are named for pytest only, sim takes {sorted(SIM_OPTIONS)}")
    engine = said.get("engine", "raft")
    if engine not in ENGINES or (engine == "paxos") != patch.name.startswith("paxos-"):
        raise BadMutant(f"{patch.name}: the files of Multi-Paxos's mutants, and no others, are named paxos-*")
    files = tuple(re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE))
    if not files or not all(name.startswith(PRODUCTION) and not name.startswith(PROVERS) for name in files):
        raise BadMutant(f"{patch.name}: changes {files or 'nothing'}, not production code")
    words = frozenset(word.strip() for word in said.get("caught-by", "").split(",") if word.strip())
    return Mutant(
        patch.stem, patch, said["mutant"], said["reference"], tuple(tests.split()), words, options, files, engine
    )


def catalogue() -> list[Mutant]:
    """Every mutant, by name."""
    return [load(patch) for patch in sorted(PATCHES.glob("*.patch"))]


def copy_project(directory: Path, of: Path = ROOT) -> Path:
    """A copy of the project `of` with its built modules, in `directory`, which must not exist."""
    directory.mkdir()
    for part in PARTS:
        source = of / part
        if source.is_dir():
            shutil.copytree(source, directory / part, ignore=LEAVE_OUT)
        else:
            shutil.copy2(source, directory / part)
    return directory


def environment(copy: Path) -> dict[str, str]:
    """For processes that are to run the code of the copy."""
    path = os.pathsep.join(str(copy / part) for part in ("daemon", "fastpath"))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def apply(mutant: Mutant, copy: Path, *, dry: bool = False) -> None:
    """Applies the patch to the copy, or only finds out whether it would apply. Raises BadMutant if not."""
    command = ["git", "apply", *(["--check"] if dry else []), str(mutant.patch)]
    # Without the ceiling a repository around the copy would make git skip the files silently.
    done = _run(command, copy, {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)})
    if done.returncode:
        raise BadMutant(f"no longer applies: {done.stderr.strip()}")


def touched_modules(copy: Path, files: tuple[str, ...]) -> list[str]:
    """Extension modules that must be built again: those that are made of the files, by whatever way they include."""
    paths = [path for path in (copy / NATIVE).iterdir() if path.suffix in (".pyx", ".pxd", ".h")]
    sources = {path.name: path.read_text() for path in paths}
    touched = {Path(name).name for name in files if Path(name).parent == NATIVE} & set(sources)
    grown = True
    while grown:
        needs = {name for name, text in sources.items() if any(_uses(name, text, other) for other in touched)}
        grown = not needs <= touched
        touched |= needs
    return sorted(Path(name).stem for name in touched if name.endswith(".pyx"))


def _uses(name: str, text: str, other: str) -> bool:
    stem, suffix = os.path.splitext(other)
    if suffix == ".h":
        return f'"{other}"' in text
    return suffix == ".pxd" and (name == f"{stem}.pyx" or f"quorumd_fastpath.{stem} cimport" in text)


def build(mutant: Mutant, copy: Path) -> None:
    """Builds what the patch touched. Raises BadMutant if that fails."""
    modules = touched_modules(copy, mutant.files)
    if not modules:
        return
    for module in modules:
        for library in (copy / NATIVE).glob(f"{module}.*.so"):
            library.unlink()
    done = _run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        copy,
        {**os.environ, "QUORUMD_ONLY": ",".join(modules)},
    )
    built = all(list((copy / NATIVE).glob(f"{module}.*.so")) for module in modules)
    if done.returncode or not built:
        raise BadMutant(f"does not build: {(done.stdout + done.stderr).strip()[-2000:]}")


def _run(command: list[str], directory: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=600)

"""Makes every mutant, lets its check loose on it, and fails if one survives (`make mutants`).

A mutant is caught if the check that its header names is the first to fail: for the simulator one of the words in
caught-by, within --max-seeds seeds; for pytest a failing test. Before that the unmutated copy must pass all of it.
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from mutant import ENGINES, ROOT, BadMutant, Mutant, apply, build, catalogue, copy_project, environment

SOUND_SEEDS = 5
SIM_SECONDS = 7200
TEST_SECONDS = 600
TESTS_FAILED = 1  # pytest's exit code; higher ones mean that no test ran


@dataclass
class Result:
    """What came of one mutant. by: the check that failed; seeds: how many runs it took; detail: what it said."""

    mutant: str
    caught: bool
    by: str
    seeds: int
    seconds: float
    detail: str

    def row(self) -> str:
        """Of the table, in Markdown."""
        verdict = "caught" if self.caught else "**SURVIVED**"
        return f"| {self.mutant} | {verdict} | {self.by or '-'} | {self.seeds or '-'} | {self.seconds:.0f} |"


def simulate(copy: Path, options: Iterable[str], seeds: int, jobs: int, engine: str) -> tuple[str, int, str]:
    """(word of the first check that failed or "", runs, what it said) of a campaign over the seeds 1 to `seeds`."""
    command = [sys.executable, "-m", "quorumd", "sim", "--seeds", f"1..{seeds}", "--jobs", str(jobs), "--json"]
    command += ["--engine", engine, *options]
    done = subprocess.run(
        command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False, timeout=SIM_SECONDS
    )
    if not done.stdout.strip():
        return "died", 0, f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"
    facts = json.loads(done.stdout)
    if not facts["failures"]:
        return "", facts["runs"], ""
    first = facts["failures"][0]
    return first["check"], facts["runs"], f"{first['command']}: {first['detail']}"


def run_tests(copy: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Of the copy, on the code of the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False, timeout=TEST_SECONDS
    )


def judge(mutant: Mutant, directory: Path, max_seeds: int, jobs: int, of: Path = ROOT) -> Result:
    """Makes the mutant in a copy of its own, of the project `of`, and runs its check."""
    began = time.monotonic()
    by, seeds, detail, caught = "", 0, "", False
    try:
        copy = copy_project(directory / mutant.name, of)
        apply(mutant, copy)
        build(mutant, copy)
        if mutant.tests:
            done = run_tests(copy, mutant.tests)
            caught = done.returncode == TESTS_FAILED
            by = " ".join(mutant.tests) if done.returncode else ""
            detail = done.stdout.strip()[-500:]
        else:
            by, seeds, detail = simulate(copy, mutant.sim, max_seeds, jobs, mutant.engine)
            caught = by in mutant.caught_by
    except (BadMutant, subprocess.TimeoutExpired) as error:
        detail = str(error)
    return Result(mutant.name, caught, by, seeds, round(time.monotonic() - began, 1), detail)


def sound(copy: Path, tests: list[str], jobs: int) -> str:
    """Why the unmutated project fails what the mutants must fail; "" if it does not."""
    for engine in ENGINES:
        by, _, detail = simulate(copy, (), SOUND_SEEDS, jobs, engine)
        if by:
            return f"{engine}: {by}: {detail}"
    done = run_tests(copy, tests) if tests else None
    return done.stdout[-2000:] if done is not None and done.returncode else ""


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Only this mutant; may be given several times.")
@click.option("--max-seeds", default=2000, show_default=True, help="Runs until a mutant counts as alive.")
@click.option("--jobs", default=1, show_default=True, help="Worker processes of each campaign.")
@click.option("--json", "to", type=click.Path(dir_okay=False, writable=True), help="Write the results as JSON.")
def main(only: tuple[str, ...], max_seeds: int, jobs: int, to: str | None) -> None:
    """Exit code 1: a mutant survived, no longer applies, does not build, or was caught by a check it does not name."""
    mutants = [mutant for mutant in catalogue() if not only or mutant.name in only]
    missing = set(only) - {mutant.name for mutant in mutants}
    if missing:
        raise click.UsageError(f"no such mutant: {', '.join(sorted(missing))}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        directory = Path(name)
        original = copy_project(directory / "unmutated")  # all are made of it: the tree may be worked on meanwhile
        reason = sound(original, [test for m in mutants for test in m.tests], jobs)
        if reason:
            click.echo(f"the unmutated project fails: {reason}")
            sys.exit(1)
        click.echo("| mutant | verdict | by | seeds | seconds |\n|---|---|---|---|---|")
        for mutant in mutants:
            result = judge(mutant, directory, max_seeds, jobs, original)
            results.append(result)
            click.echo(result.row())
            if not result.caught:
                click.echo(f"    {result.detail}", err=True)
            shutil.rmtree(directory / mutant.name, ignore_errors=True)
    if to:
        machine = {"machine": platform.platform(), "python": platform.python_version(), "max_seeds": max_seeds}
        Path(to).write_text(json.dumps({**machine, "results": [asdict(result) for result in results]}, indent=1))
    alive = [result.mutant for result in results if not result.caught]
    click.echo(f"{len(results) - len(alive)} of {len(results)} mutants caught")
    if alive:
        click.echo(f"not caught: {', '.join(alive)}")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()

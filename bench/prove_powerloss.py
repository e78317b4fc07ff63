"""Power loss on real files, as a proof: rounds of it on a good build, then on two broken ones that must be caught.

    python bench/prove_powerloss.py --rounds 20 --seed 1

Must show 3: the good build keeps every promise, and both broken builds are caught. What a round does and how power is
lost: tests/powerloss/powercluster.py and, in quorumd/chaos, powerloss.c and platter.py.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "powerloss"))

from brokenbuilds import with_early_replies, without_fdatasync  # noqa: E402 - found by the line above
from harness import reported  # noqa: E402
from powercluster import SYNC_US, Trial  # noqa: E402

from quorumd.chaos.preload import compile_library  # noqa: E402
from quorumd.types import ENGINES  # noqa: E402

BROKEN: dict[str, Callable[[Path], Path]] = {
    "without_fdatasync": without_fdatasync,
    "replies_before_sync": with_early_replies,
}


def trial(
    name: str, build: Callable[[Path], Path] | None, rounds: int, seed: int, library: Path, engine: str
) -> dict[str, Any]:
    """At most `rounds` on one build (None: the installed one) in a directory of its own; what came of it."""

    def tell(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="powerloss-") as directory:
        base = Path(directory)
        shadows = [build(base)] if build else []
        outcome = Trial(base, library, seed=seed, shadows=shadows, engine=engine).run(
            rounds, cut_at_founding=build is None, tell=tell
        )
    if outcome.broken:
        tell(outcome.broken)
    return {**vars(outcome), "losses": dict(outcome.losses)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default="raft")
    arguments = parser.parse_args()
    plan = arguments.rounds, arguments.seed
    with reported("prove_powerloss") as report, tempfile.TemporaryDirectory(prefix="powerloss-") as directory:
        library = compile_library(Path(directory))
        good = trial("good build", None, *plan, library, arguments.engine)
        broken = {name: trial(name, build, *plan, library, arguments.engine) for name, build in BROKEN.items()}
        report.judge("good build: rounds of power loss", good["rounds"], least=arguments.rounds)
        report.judge("good build: rounds that broke a promise", int(bool(good["broken"])), most=0)
        for name, outcome in broken.items():
            report.judge(f"build {name}: caught", int(bool(outcome["broken"])), least=1)
    return report.finish({"seed": arguments.seed, "sync_us": SYNC_US, "good": good, "broken_builds": broken})


if __name__ == "__main__":
    sys.exit(main())

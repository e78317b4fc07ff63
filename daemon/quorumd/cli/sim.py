"""`quorumd sim`: the deterministic simulator. One seed, a range of seeds, or fresh ones for some minutes."""

import itertools
import json
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from quorumd.cli.options import Finite, OutputFile, evidence, judging
from quorumd.limits import COMMAND_SECONDS
from quorumd.types import ENGINES

if TYPE_CHECKING:
    from quorumd.sim.campaign import Total
    from quorumd.sim.run import Outcome
    from quorumd.sim.scenario import Scenario

VIOLATION: Final = 1
UNKNOWN_FAULT: Final = "unknown fault {!r}; there are: {}"
SHOW_EVERY_S: Final = 1.0


def seed_range(text: str) -> range:
    """ "A..B" as the seeds A to B, both included."""
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise click.BadParameter(f"{text!r} is not a range such as 1..1000")
    return range(int(first), int(last) + 1)


def fault_list(text: str | None) -> list[str] | None:
    """The faults named, separated by commas."""
    from quorumd.sim.scenario import ALL_FAULTS  # noqa: PLC0415

    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ALL_FAULTS:
            raise click.BadParameter(UNKNOWN_FAULT.format(name, ", ".join(ALL_FAULTS)))
    return names


@click.command()
@click.option("--engine", type=click.Choice(ENGINES), default="raft", show_default=True, help="Consensus engine.")
@click.option("--seed", type=int, help="One run; the default is a fresh one.")
@click.option("--seeds", metavar="A..B", help="Every seed from A to B.")
@click.option("--minutes", type=Finite(0, COMMAND_SECONDS / 60), metavar="M", help="Fresh seeds for so long.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Worker processes.")
@click.option("--nodes", type=click.IntRange(1, 9), help="Nodes, instead of what each seed draws.")
@click.option(
    "--faults", metavar="NAME,...",
    help="Faults that may strike, instead of what each seed draws. Of the path: loss, duplicate, delay, reorder, "
    "stray, net-flip; links: isolate, split, one-way, bridge, flapping, clog; around the leader: quorum-loss, "
    "constrained, chained, deaf-leader; nodes: kill, power-loss, restart, restart-all, pause, transfer; disks: "
    "slow-disk, stalled-disk, disk-full, disk-error; storage: bit-flip, misdirected, wipe; others: client-kill, quota.",
)
@click.option("--skip", metavar="LIST", default="", help="Numbers of faults that do not strike (--shrink names them).")
@click.option(
    "--set", "changes", metavar="NAME=VALUE", multiple=True,
    help="Another value of the scenario, as JSON; may be given several times. --json shows all names and values.",
)
@click.option("--trace", type=OutputFile(), help="Write the timeline of one run.")
@click.option("--history", type=OutputFile(), help="Write the history of one run.")
@click.option("--shrink", is_flag=True, help="Look for a smaller run that fails alike.")
@click.option("--keep-going", is_flag=True, help="Do not stop at the first violation.")
@click.option("--json", "as_json", is_flag=True, help="Print figures as JSON.")
@judging("the simulation")
def sim(
    engine: str,
    seed: int | None,
    seeds: str | None,
    minutes: float | None,
    jobs: int,
    nodes: int | None,
    faults: str | None,
    skip: str,
    changes: tuple[str, ...],
    trace: Path | None,
    history: Path | None,
    shrink: bool,
    keep_going: bool,
    as_json: bool,
) -> int:
    """Run production nodes and clients on a simulated clock, network and disks, and try to break them.

    Everything follows from the seed: a run can be repeated to the byte. Exit code 1: a rule was broken, and the line
    that repeats the run is printed, or a hundred runs never reached what they should; 3: a run could not go on. A
    history that is undecided counts as no failure.
    """
    only = fault_list(faults)
    if seeds is not None or minutes is not None:
        if seed is not None or trace or history or changes or skip:
            raise click.UsageError("--seed, --trace, --history, --set and --skip are for one run")
        if shrink:
            raise click.UsageError("--shrink is for one run: repeat the one that failed with --seed")
        return _campaign(seeds, minutes, jobs, engine, nodes, only, keep_going=keep_going, as_json=as_json)
    if jobs > 1 or keep_going:
        raise click.UsageError("--jobs and --keep-going are for many runs: give --seeds or --minutes")
    return _one_run(
        chosen(secrets.randbits(32) if seed is None else seed, engine, nodes, only, skip, changes),
        trace, history, shrink=shrink, as_json=as_json,
    )


# -- many runs ------------------------------------------------------------------------------------------------------


def _campaign(
    seeds: str | None,
    minutes: float | None,
    jobs: int,
    engine: str,
    nodes: int | None,
    only: list[str] | None,
    *,
    keep_going: bool,
    as_json: bool,
) -> int:
    from quorumd.sim.campaign import Limits, campaign  # noqa: PLC0415

    chosen: Iterable[int] = seed_range(seeds) if seeds is not None else itertools.count(secrets.randbits(31) << 16)
    began = time.monotonic()
    shown = [began]

    def progress(total: "Total") -> None:
        if time.monotonic() - shown[0] >= SHOW_EVERY_S and not as_json:
            shown[0] = time.monotonic()
            click.echo(f"\r{_line(total, shown[0] - began)}", nl=False, err=True)

    total = campaign(
        chosen,
        Limits(engine, nodes, only),
        jobs=jobs,
        deadline=None if minutes is None else began + 60 * minutes,
        progress=progress,
        stop_after=1_000_000 if keep_going else 1,
    )
    elapsed = time.monotonic() - began
    if as_json:
        click.echo(json.dumps({**total.facts(), "elapsed_s": round(elapsed, 1), "jobs": jobs}))
    else:
        _show(total, elapsed)
    return VIOLATION if total.failures or total.unreached or total.idle else 0


def _line(total: "Total", elapsed: float) -> str:
    return (
        f"{total.runs} runs, {total.counting} count, {total.simulated_s / 3600:.1f} simulated hours, "
        f"{total.simulated_s / max(elapsed, 0.001):.0f} simulated s/s, {total.undecided} undecided, "
        f"{len(total.failures)} violations"
    )


def _show(total: "Total", elapsed: float) -> None:
    from quorumd.sim.coverage import words  # noqa: PLC0415

    click.echo(err=True)  # behind the line of progress
    click.echo(_line(total, elapsed))
    click.echo(
        f"{total.committed:,} entries committed, {total.committed / max(elapsed, 0.001):,.0f} a second; "
        f"{total.operations:,} operations answered; {total.simulated_s / max(total.cpu_s, 0.001):.0f} simulated s "
        "a CPU second"
    )
    click.echo("struck:  " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(total.struck.items())))
    click.echo("reached: " + ", ".join(f"{word} {total.reached[word]:,}" for word in words(total.engine)))
    if total.unreached:
        click.echo("NOT REACHED: " + ", ".join(total.unreached))
    if total.idle:
        click.echo("TOO FEW COUNT: fewer than 95 % of the runs did enough to show something")
    for failure in total.failures:
        click.echo(f"VIOLATION {failure.check}: {failure.detail}\n    replay: {failure.command}")


# -- one run --------------------------------------------------------------------------------------------------------


def chosen(
    seed: int, engine: str, nodes: int | None, only: list[str] | None, skip: str, changes: tuple[str, ...]
) -> "Scenario":
    """The scenario that the options of the command ask for. Raises click.BadParameter."""
    from dataclasses import replace  # noqa: PLC0415

    from quorumd.sim.scenario import draw  # noqa: PLC0415

    scenario = draw(seed, engine=engine, nodes=nodes, only=only)
    numbers = [number for number in skip.split(",") if number]
    if not all(number.isdecimal() for number in numbers):
        raise click.BadParameter("--skip takes numbers separated by commas")
    scenario = replace(scenario, skip=tuple(int(number) for number in numbers))
    facts = scenario.facts()
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in facts:
            raise click.BadParameter(f"--set {change}: there are {', '.join(facts)}")
        scenario = replace(scenario, **{name: _value(text, facts[name])})
    return scenario


def _value(text: str, like: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        raise click.BadParameter(f"--set ...={text}: not a JSON value") from None
    if isinstance(like, tuple):
        value = tuple(value) if isinstance(value, list) else None
    if type(value) is not type(like) and not (isinstance(like, float) and isinstance(value, int)):
        raise click.BadParameter(f"--set ...={text}: must be like {json.dumps(like)}")
    return value


def _one_run(scenario: "Scenario", trace: Path | None, history: Path | None, *, shrink: bool, as_json: bool) -> int:
    from quorumd.sim.run import Run  # noqa: PLC0415

    began = time.process_time()
    with open(trace or "/dev/null", "w") as file:
        run = Run(scenario, file if trace else None)
        outcome = run.go()
    elapsed = time.process_time() - began
    if as_json:
        click.echo(json.dumps(_facts(outcome, elapsed)))
    else:
        _tell(outcome, elapsed)
    if history and run.history is not None:
        with evidence(history):
            run.history.dump(history)
    if outcome.violation and shrink:
        from quorumd.sim.shrink import shrink as make_smaller  # noqa: PLC0415

        smallest = make_smaller(outcome, tell=lambda line: click.echo(f"  {line}", err=True))
        click.echo(f"smallest: {replay(smallest.scenario)}")
    return VIOLATION if outcome.violation else 0


def _facts(outcome: "Outcome", elapsed: float) -> dict[str, Any]:
    return {
        "scenario": outcome.scenario.facts(),
        "violation": outcome.violation,
        "detail": outcome.detail,
        "counts": outcome.counts,
        "undecided": outcome.undecided,
        "simulated_s": outcome.simulated_s,
        "cpu_s": round(elapsed, 3),
        "operations": outcome.operations,
        "unknown": outcome.unknown,
        "committed": outcome.committed,
        "events": outcome.events,
        "struck": dict(sorted(outcome.struck.items())),
        "reached": dict(sorted(outcome.reached.items())),
    }


def _tell(outcome: "Outcome", elapsed: float) -> None:
    scenario = outcome.scenario
    click.echo(
        f"seed {scenario.seed}: {scenario.nodes} nodes, {outcome.simulated_s:.1f} simulated s in {elapsed:.2f} s, "
        f"{outcome.operations} operations answered, {outcome.unknown} of unknown outcome, "
        f"{outcome.committed} entries committed, {outcome.events} events"
    )
    click.echo("struck:  " + (", ".join(f"{kind} {n}" for kind, n in sorted(outcome.struck.items())) or "nothing"))
    if outcome.violation:
        click.echo(f"VIOLATION {outcome.violation}: {outcome.detail}\n    replay: {replay(scenario)}")
    elif outcome.undecided:
        click.echo("undecided: too many unknown outcomes to find an order within the limits of the checker")
    elif not outcome.counts:
        click.echo("too quiet to count: fewer than 60 s, 300 operations or two kinds of fault")
    else:
        click.echo("no rule was broken")


def replay(scenario: "Scenario") -> str:
    """The command that repeats a run, whatever was changed of what its seed draws."""
    from quorumd.sim.scenario import draw  # noqa: PLC0415

    words = ["quorumd sim", *(["--engine", scenario.engine] if scenario.engine != "raft" else [])]
    words.append(f"--seed {scenario.seed}")
    drawn, facts, nodes = draw(scenario.seed, engine=scenario.engine), scenario.facts(), None
    if scenario.nodes != drawn.nodes:
        words.append(f"--nodes {scenario.nodes}")
        nodes = scenario.nodes
        drawn = draw(scenario.seed, engine=scenario.engine, nodes=nodes)
    if scenario.faults != drawn.faults:  # what else is drawn depends on them
        words.append(f"--faults {','.join(scenario.faults)}")
        drawn = draw(scenario.seed, engine=scenario.engine, nodes=nodes, only=scenario.faults)
    if scenario.skip:
        words.append(f"--skip {','.join(map(str, scenario.skip))}")
    for name, value in facts.items():
        if name not in ("seed", "engine", "nodes", "faults", "skip") and value != getattr(drawn, name):
            words.append(f"--set '{name}={json.dumps(value)}'")
    return " ".join(words)

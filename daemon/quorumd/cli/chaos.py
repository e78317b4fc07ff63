"""`quorumd chaos`: breaks a cluster like CONFIG's at random, and says whether it kept its promises."""

import asyncio
import json
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quorumd.cli.options import Finite, OutputFile, config_option, judging, load
from quorumd.errors import ConfigError, Rejected
from quorumd.invariants import InvariantBroken
from quorumd.types import ENGINES, PAXOS

if TYPE_CHECKING:
    from quorumd.chaos.run import Options
    from quorumd.chaos.verdict import Report
    from quorumd.config import Config

VIOLATION: Final = 1
UNDECIDED: Final = 3


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option("--seconds", type=Finite(1), default=60.0, show_default=True, help="Of faults, about.")
@click.option(
    "--faults", default="all", show_default=True, metavar="NAME,...",
    help="kill, pause, partition, one-way, loss, duplicate, reorder, delay, disk-full, power-loss, restart-all, "
    "bit-flip; around the leader: chained (three nodes or more), quorum-loss, constrained (four or more).",
)
@click.option("--clients", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option(
    "--rate", type=Finite(1, 100_000), default=400.0, show_default=True,
    help="Operations a second of all clients together.",
)
@click.option("--nodes", type=click.IntRange(1, 9), help="How many; default: as many as CONFIG has.")
@click.option("--engine", type=click.Choice(ENGINES), help="Instead of CONFIG's.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Repeats the faults of an earlier run.")
@click.option("--history", type=OutputFile(), help="Write the history there.")
@click.option("--keep", is_flag=True, help="Keep data, logs and history even if nothing is wrong.")
@click.option("--json", "as_json", is_flag=True, help="The verdict, for programs.")
@config_option
@judging("the run")
def chaos(
    config_path: str | None, *, seconds: float, faults: str, clients: int, rate: float, nodes: int | None,
    engine: str | None, seed: int | None, history: Path | None, keep: bool, as_json: bool,
) -> int:
    """Break a fresh cluster with the settings of CONFIG at random while clients use it, and judge what they saw.

    Nothing that runs is touched: the cluster is made for this, on loopback, and taken down afterwards.

    Exit codes: 0 every promise was kept, 1 one was broken, 2 usage or config, 3 undecided, or the run could not go on.
    """
    from quorumd.chaos.faults import parse  # noqa: PLC0415 - usage errors need none of this
    from quorumd.chaos.run import Options  # noqa: PLC0415
    from quorumd.chaos.verdict import human  # noqa: PLC0415

    config = load(config_path)
    count = nodes or len(config.nodes)
    config = _meant(config, engine or config.engine, count)
    try:
        wanted = parse(faults, count)
    except Rejected as error:
        raise click.BadParameter(str(error), param_hint="--faults") from None
    options = Options(seconds, wanted, clients, rate, secrets.randbits(31) if seed is None else seed, count)
    report = _run(config, options, history, keep=keep, quiet=as_json)
    click.echo(json.dumps(report.as_dict()) if as_json else human(report))
    return {True: 0, False: VIOLATION, None: UNDECIDED}[report.ok]


def _meant(config: "Config", engine: str, nodes: int) -> "Config":
    """Raises ConfigError if the quorums of the config do not fit so many nodes."""
    from msgspec.structs import replace  # noqa: PLC0415 - usage errors need none of this

    from quorumd.config import quorum_complaints  # noqa: PLC0415

    quorums = config.quorums if engine == PAXOS else None
    for key, what, remedy in quorum_complaints(quorums, nodes):
        raise config.source.error(key, what, f"{remedy}, or give another --nodes")
    return replace(config, engine=engine, quorums=quorums)


def _run(config: "Config", options: "Options", history: Path | None, *, keep: bool, quiet: bool) -> "Report":
    """In a directory that is removed unless something is wrong or `keep`."""
    from quorumd.chaos import display as displays  # noqa: PLC0415
    from quorumd.chaos.run import ChaosRun  # noqa: PLC0415
    from quorumd.supervisor.sandbox import make_directory  # noqa: PLC0415

    title = f"quorumd chaos: {options.nodes} nodes, engine {config.engine}, seed {options.seed}"
    screen = displays.Silent() if quiet else displays.for_stream(title, sys.stdout)
    directory = make_directory(config, "chaos")
    needless, run = False, None
    try:
        screen.note(f"{title}; faults: {', '.join(options.faults)}")
        with judging(f"the run, kept in {directory},"):
            run = ChaosRun(config, options, directory, history or directory / "history.jsonl", screen)
            report = asyncio.run(run.run())
        needless = bool(report.ok) and not keep
        report.directory = "" if needless else str(directory)
        return report
    except ConfigError:  # of this machine, or of so short a run: they lack what a fault needs
        needless = True
        raise
    except KeyboardInterrupt:
        found = run.report.violations if run else []
        for violation in found:
            click.echo(f"quorumd: VIOLATION: {violation}; kept in {directory}", err=True)
        needless = not keep and not found
        raise
    except InvariantBroken:
        click.echo(f"quorumd: the run is kept in {directory}", err=True)
        raise
    finally:
        screen.close()
        if needless:
            shutil.rmtree(directory)

"""`quorumd compare`: which engine for this workload, measured on both in turn."""

import json
import shutil
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from quorumd.cli.options import OutputFile, config_option, load
from quorumd.errors import ConfigError

if TYPE_CHECKING:
    from quorumd.compare.workload import Workload
    from quorumd.config import Config

DONE: Final = 0
INCOMPLETE: Final = 3


def _show_workload(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from quorumd.compare.workload import DEFAULT_PATH  # noqa: PLC0415 - usage errors need none of this

        click.echo(DEFAULT_PATH.read_text(), nl=False)
        context.exit()


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option(
    "--workload", "workload_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="What to run (default: a mix of reads, writes and cas over three factors; --show-workload prints it).",
)
@click.option("--full", is_flag=True, help="Every combination of the factors' values, instead of one factor at a time.")
@click.option("--report", "page_path", type=OutputFile(), default="compare.html", show_default=True, help="The page.")
@click.option("--json", "json_path", type=OutputFile(), default="compare.json", show_default=True, help="The figures.")
@click.option(
    "--show-workload", is_flag=True, is_eager=True, expose_value=False, callback=_show_workload,
    help="Print the default workload and stop.",
)
@config_option
def compare(
    config_path: str | None, *, workload_path: Path | None, full: bool, page_path: Path, json_path: Path
) -> int:
    """Run one workload on raft and on paxos in turn, on fresh clusters with the settings of CONFIG, and compare them.

    Nothing that runs is touched. Paxos with flexible quorums is measured too: with CONFIG's, where it has any and there
    are as many nodes as in it; else with five nodes, with {phase1: 4, phase2: 2}.

    Exit codes: 0 done, 2 usage or config, 3 a cluster failed at the base point, and so was not measured to the end.
    """
    if find_spec("jinja2") is None:
        raise ConfigError("the report needs jinja2: in a clone, pip install '.[compare]'")
    from quorumd.compare import workload as workloads  # noqa: PLC0415 - usage errors need none of this

    config = load(config_path)
    document = _measure(config, workloads.load(workload_path), full=full)
    from quorumd.compare.document import complete  # noqa: PLC0415
    from quorumd.compare.page import page  # noqa: PLC0415 - loads jinja2
    from quorumd.compare.summary import summary  # noqa: PLC0415

    json_path.write_text(json.dumps(document, indent=1) + "\n")
    page_path.write_text(page(document))
    click.echo(summary(document))
    click.echo(f"report: {page_path}; figures: {json_path}")
    return DONE if complete(document) else INCOMPLETE


def _measure(config: "Config", workload: "Workload", *, full: bool) -> dict[str, Any]:
    from quorumd.compare.advice import advise  # noqa: PLC0415
    from quorumd.compare.document import document  # noqa: PLC0415
    from quorumd.compare.run import Run  # noqa: PLC0415
    from quorumd.supervisor.sandbox import make_directory  # noqa: PLC0415

    begun, begun_s = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    directory = make_directory(config, "compare")
    try:
        run = Run(config, workload, directory, lambda line: click.echo(line, err=True), full=full)
        results = run.run()
    finally:
        shutil.rmtree(directory)
    found = document(workload, results, full=full, begun=begun, seconds=time.monotonic() - begun_s)
    return {**found, "advice": advise(found)}

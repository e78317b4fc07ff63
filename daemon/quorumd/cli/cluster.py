"""`up`, `down`, `status`, `transfer-leader`: the cluster as a whole."""

import json
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from quorumd.cli.options import Finite, client_options, config_option, connect, load
from quorumd.errors import ConfigError, QuorumdError, Rejected, Timeout

if TYPE_CHECKING:
    from quorumd.client.probe import Status
    from quorumd.config import Config
    from quorumd.supervisor.display import Display
    from quorumd.supervisor.figures import Acceptance, NodeFigures
    from quorumd.supervisor.launch import Reporter
    from quorumd.supervisor.record import SupervisorRecord

_SAMPLE_S = 0.5  # between the two looks that rates and CPU shares need
LESS = 0.9995  # a share that is shown as less than one
_REPLY_S = 0.5  # a node that runs answers in far less


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option("--detach", is_flag=True, help="Return as soon as a leader serves; the cluster runs on.")
@click.option("--fresh", is_flag=True, help="Begin with empty data: remove the nodes' directories first.")
@click.option("--restart-delay-ms", type=click.IntRange(0, 600_000), hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
@config_option
def up(
    config_path: str | None, *, detach: bool, fresh: bool, restart_delay_ms: int | None, ready_fd: int | None,
    lifeline_fd: int | None,
) -> int:
    """Start every node of CONFIG on this machine, watch them, restart what crashes. Ctrl-C stops them in order."""
    from quorumd.supervisor.launch import Reporter  # noqa: PLC0415

    reporter = Reporter(ready_fd)
    try:
        config = load(config_path)
        if restart_delay_ms is not None:
            config = _with_restart_delay(config, restart_delay_ms)
        if detach:
            return _detach(config, fresh, restart_delay_ms)
        return _supervise(config, reporter, fresh=fresh, lifeline=lifeline_fd)
    except (QuorumdError, OSError) as error:
        reporter.failed(2 if isinstance(error, ConfigError) else 1, str(error))
        raise


def _with_restart_delay(config: "Config", delay_ms: int) -> "Config":
    from msgspec.structs import replace  # noqa: PLC0415

    return replace(config, supervisor=replace(config.supervisor, restart_backoff_ms=(delay_ms, delay_ms)))


def _supervise(config: "Config", reporter: "Reporter", *, fresh: bool, lifeline: int | None) -> int:
    from quorumd.client.probe import StatusProbe  # noqa: PLC0415
    from quorumd.config import warnings  # noqa: PLC0415
    from quorumd.environment import check_environment, read_key  # noqa: PLC0415
    from quorumd.supervisor import display as displays  # noqa: PLC0415
    from quorumd.supervisor.loop import Supervisor  # noqa: PLC0415

    check_environment(config)
    probe = StatusProbe(config, read_key(config)).open()
    title = f"quorumd: cluster {config.cluster}, engine {config.engine}, data in {config.data_path}"
    quiet = reporter.fd is not None
    for warning in () if quiet else warnings(config):
        click.echo(f"quorumd: warning: {warning}", err=True)
    screen: Display = displays.Silent() if quiet else displays.for_stream(title, sys.stdout)

    def ready(leader: "NodeFigures") -> None:
        screen.note(f"ready: node {leader['id']} leads in term {leader['term']}; Ctrl-C stops the cluster")
        reporter.ready()

    supervisor = Supervisor(
        config, probe, screen, fresh=fresh, on_ready=ready, lifeline=lifeline, detached=quiet
    )
    try:
        return supervisor.run()
    finally:
        screen.close()
        probe.close()


def _detach(config: "Config", fresh: bool, restart_delay_ms: int | None) -> int:
    from quorumd.supervisor.launch import launch  # noqa: PLC0415

    options = ["--fresh"] if fresh else []
    if restart_delay_ms is not None:
        options += ["--restart-delay-ms", str(restart_delay_ms)]
    child = launch(config.path, options=options, detached=True)
    click.echo(f"cluster {config.cluster} runs (supervisor pid {child.pid}); `quorumd down` stops it")
    child.returncode = 0  # it is meant to outlive us: no ResourceWarning about it
    return 0


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option(
    "--timeout", "timeout_s", type=Finite(0), default=20.0, show_default=True, metavar="SECONDS",
    help="How long to wait for the end.",
)
@config_option
def down(config_path: str | None, timeout_s: float) -> None:
    """Stop the cluster that `up` started, and wait until it is gone; exit code 3 if that takes longer."""
    from quorumd.supervisor import record  # noqa: PLC0415

    config = load(config_path)
    running = record.running(config)
    if running is None:
        raise Rejected(f"no cluster runs on {config.data_path}")
    record.kill(running.supervisor, signal.SIGTERM)
    record.kill(running.supervisor, signal.SIGCONT)
    if not record.await_end(running.supervisor, timeout_s):
        raise Timeout(
            f"the supervisor (pid {running.supervisor.pid}) is still stopping its nodes after {timeout_s:g} s"
        )
    click.echo(f"cluster {config.cluster} stopped")


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@config_option
def status(config_path: str | None, as_json: bool) -> int:
    """Show every node: role, term, progress, resources. Exit code 1 if none is alive."""
    from quorumd.supervisor import display  # noqa: PLC0415

    config = load(config_path)
    rows, notes, ratio = _gather(config)
    if as_json:
        figures = {
            "cluster": config.cluster, "engine": config.engine, "config": config.source.name,
            "data_dir": str(config.data_path), "acceptance": ratio._asdict() if ratio else None, "nodes": rows,
        }
        click.echo(json.dumps(figures))
    else:
        title = f"cluster {config.cluster}, engine {config.engine}, {_shares(ratio)}data in {config.data_path}"
        display.print_once(title, rows, notes, sys.stdout)
    if any(row["alive"] for row in rows):
        return 0
    if not as_json:
        click.echo("quorumd: no node answers; `quorumd up` starts the cluster", err=True)
    return 1


def _shares(ratio: "Acceptance | None") -> str:
    """The acceptance ratio, and the share of each node that did not accept everything."""
    if ratio is None:
        return ""
    less = ", ".join(f"node {node} {share:.3f}" for node, share in ratio.nodes.items() if share < LESS)
    return f"acceptance ratio {ratio.cluster:.3f}, " if not less else f"acceptance ratio {ratio.cluster:.3f} ({less}), "


def _gather(config: "Config") -> "tuple[list[NodeFigures], dict[int, str], Acceptance | None]":
    """Figures and remarks of all nodes, from two looks a moment apart, and what they accepted of the proposals."""
    from quorumd.client import probe  # noqa: PLC0415
    from quorumd.environment import read_key  # noqa: PLC0415
    from quorumd.supervisor import figures, record  # noqa: PLC0415

    known = record.running(config)
    meter, rates = figures.ProcessMeter(), figures.RateMeter()
    asker = probe.StatusProbe(config, read_key(config)).open()
    try:
        first = probe.sample(asker, len(config.nodes), _REPLY_S)
        begun_s = time.monotonic()
        for node_id, reply in first.items():
            rates.note(node_id, reply, begun_s)
        pids = {node_id: _pid(config, node_id, first.get(node_id), known) for node_id in config.members}
        for pid in pids.values():
            meter.measure(pid)
        time.sleep(_SAMPLE_S)
        second = probe.sample(asker, len(first), _REPLY_S) if first else {}
        now_s = time.monotonic()
    finally:
        asker.close()
    rows: list[NodeFigures] = []
    earlier: list[NodeFigures] = []
    notes: dict[int, str] = {}
    for node_id in config.members:
        newest = second.get(node_id, first.get(node_id))
        if node_id in second:
            rates.note(node_id, second[node_id], now_s)
        node_record = known.node(node_id) if known else None
        process = meter.measure(pids[node_id])
        row, before = (
            figures.node_figures(
                config, node_id, status=status, record=node_record, process=process, rate=rates.rate(node_id)
            )
            for status in (newest, first.get(node_id))
        )
        rows.append(row)
        earlier.append(before)
        if remark := (newest or {}).get("reason") or (node_record.reason if node_record and not newest else ""):
            notes[node_id] = str(remark)
        elif node_id in asker.unknown:
            notes[node_id] = "nobody knows the name in its client address"
    ratio = figures.acceptance(rows, earlier)
    if ratio is None and known and not any(row["restarts"] for row in rows):  # nothing new; all count from one moment
        ratio = figures.acceptance(rows)
    return rows, notes, ratio


def _pid(
    config: "Config", node_id: int, reply: "Status | None", known: "SupervisorRecord | None"
) -> int | None:
    """The node's pid on this machine: the supervisor's word, else the node's own if it can only be here."""
    process = known.node(node_id).process if known else None
    if process is not None:
        return process.pid
    own = (reply or {}).get("pid")
    return own if isinstance(own, int) and config.node(node_id).client_endpoint.loopback else None


@click.command("transfer-leader")
@click.argument("to", type=int, default=0, required=False, metavar="[TO]")
@client_options
def transfer_leader(to: int, timeout_s: float) -> None:
    """Hand leadership to node TO, or to the follower that is furthest along."""
    if to:
        load().node(to)
    with connect(timeout_s) as client:
        client.transfer_leader(to)
    click.echo("done")

"""`quorumd node`: one node in this process. Imports only what a node needs."""

import click

from quorumd.cli.options import load


def _cluster_id(context: click.Context, parameter: click.Parameter, value: str | None) -> "int | bool | None":
    if value is None or value == "random":
        return None if value is None else True
    try:
        number = int(value, 16)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 64:
        raise click.BadParameter(f"{value!r} is no cluster id; give 1 to 16 hex digits, not all zero")
    return number


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option("--id", "node_id", type=int, required=True, help="Which node of the config this is.")
@click.option(
    "--bootstrap", is_flag=False, flag_value="random", default=None, metavar="[HEX]", callback=_cluster_id,
    help="Found a new cluster in an empty directory, together with all other nodes started so. Without HEX "
    "they agree on its id as soon as all have met. With it, the same for all, each founds at once and asks nobody: for "
    "the very first start only, as a node that lost its directory would vote and have forgotten its votes.",
)
@click.option("--parent-pid", type=int, help="Stop when this process, which must be the parent, is gone.")
def node(config_path: str | None, node_id: int, bootstrap: int | None, parent_pid: int | None) -> int:
    """Run one node of CONFIG in the foreground.

    Exit codes: 0 stopped cleanly, 2 config or data directory, 4 disk error, 5 no room on the disk for what it must
    write (start it again once there is), 6 a defect, or a state that differs from the
    majority's. A node whose log is damaged runs on outside of the quorum.
    """
    config = load(config_path)
    config.node(node_id)
    from quorumd.node import run_node  # noqa: PLC0415 - not before the config is known to be good

    return run_node(config, node_id, bootstrap, parent_pid)

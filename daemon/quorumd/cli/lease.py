"""`lease grant|revoke|keep-alive|ttl|list`: leases from the shell. Ids are hexadecimal."""

from typing import Any

import click

from quorumd.cli.options import Finite, client_options, connect, write_out
from quorumd.errors import LeaseNotFound
from quorumd.limits import MAX_LEASE_TTL_MS, MILLISECOND


class LeaseId(click.ParamType[int]):
    """A lease's id, as `lease grant` prints it."""

    name = "lease"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = value if isinstance(value, int) else int(value, 16)
        except ValueError:
            self.fail(f"{value!r} is no lease id (hexadecimal digits)", param, ctx)
        if not 0 < number < 1 << 64:
            self.fail(f"{value!r} is out of range", param, ctx)
        return number


LEASE_ID = LeaseId()


def show(lease: int) -> str:
    """A lease's id as the commands take it."""
    return f"{lease:016x}"


@click.group()
def lease() -> None:
    """Leases: keys attached to one are deleted when nobody has kept it alive for its TTL."""


@lease.command()
@click.argument("ttl", type=Finite(0.001, MAX_LEASE_TTL_MS / 1000), metavar="SECONDS")
@client_options
def grant(ttl: float, timeout_s: float) -> None:
    """Make a lease of SECONDS; prints its id and the TTL granted. Attach keys with `quorumd txn`."""
    with connect(timeout_s) as client:
        granted = client.lease_grant(ttl)
    click.echo(f"{show(granted.id)}\t{granted.ttl_ms / 1000:g}")


@lease.command()
@click.argument("lease_id", type=LEASE_ID, metavar="ID")
@client_options
def revoke(lease_id: int, timeout_s: float) -> None:
    """End lease ID; prints how many keys were deleted with it."""
    with connect(timeout_s) as client:
        click.echo(client.lease_revoke(lease_id).deleted)


@lease.command("keep-alive")
@click.argument("lease_id", type=LEASE_ID, metavar="ID")
@click.option("--once", is_flag=True, help="One sign of life, then exit; prints the TTL.")
@client_options
def keep_alive(lease_id: int, *, once: bool, timeout_s: float) -> None:
    """Keep lease ID alive until Ctrl-C. Exit code 1 when the lease is gone."""
    from quorumd.client.sinceboot import since_boot  # noqa: PLC0415
    from quorumd.recipes import lease as leases  # noqa: PLC0415 - usage errors need none of this
    from quorumd.recipes.blocking import Runner  # noqa: PLC0415

    with connect(timeout_s) as client:
        sent = since_boot()
        kept = client.lease_keep_alive(lease_id)
        click.echo(f"{kept.ttl_ms / 1000:g}")
        if once:
            return
        held = leases.Lease(lease_id, kept.ttl_ms * MILLISECOND, sent)
        Runner(client).run(leases.keep(held))
    raise LeaseNotFound(f"lease {show(lease_id)}: {held.lost}")


@lease.command()
@click.argument("lease_id", type=LEASE_ID, metavar="ID")
@click.option("--keys", is_flag=True, help="And the keys attached to it, one a line.")
@client_options
def ttl(lease_id: int, *, keys: bool, timeout_s: float) -> None:
    """Print the seconds that lease ID has left and those it was granted."""
    with connect(timeout_s) as client:
        found = client.lease_time_to_live(lease_id, keys=keys)
    click.echo(f"{found.left_ms / 1000:g}\t{found.ttl_ms / 1000:g}")
    for key in found.keys:
        write_out(key)


@lease.command("list")
@client_options
def list_(timeout_s: float) -> None:
    """Print the ids of all leases, one a line."""
    with connect(timeout_s) as client:
        for each in client.leases():
            click.echo(show(each))

"""`lock`, `elect`: run a command while holding a lock, or while leading."""

import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from quorumd.cli.holding import LOST, Holding, handle, leave_the_line
from quorumd.cli.main import complain
from quorumd.cli.options import Finite, connect, reaching_options, to_bytes
from quorumd.errors import Rejected
from quorumd.limits import SESSION_TTL_S

if TYPE_CHECKING:
    from quorumd.recipes.sync import Owner, Session

_COMMAND = {"ignore_unknown_options": True, "allow_interspersed_args": False}  # its options are its own


def _holding_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND..."),
        click.argument("name"),
        click.option(
            "--ttl", "ttl_s", type=Finite(1.0), default=SESSION_TTL_S, show_default=True,
            metavar="SECONDS", help="After a crash, others wait so long.",
        ),
        click.option(
            "--wait", "wait_s", type=Finite(0.0), metavar="SECONDS",
            help="Give up after this (default: never; 0: unless it is free). Exit code 1 then.",
        ),
        click.option(
            "--grace", "grace_s", type=Finite(0.0), default=5.0, show_default=True, metavar="SECONDS",
            help="From SIGTERM to SIGKILL, when it is lost while COMMAND runs; but never more than a tenth of --ttl "
            "(1 s of the default 10), as others may have it then.",
        ),
    ):
        function = option(function)
    return reaching_options(function)


@click.command(context_settings=_COMMAND)
@_holding_options
def lock(
    name: str, command: tuple[str, ...], *, ttl_s: float, wait_s: float | None, grace_s: float, timeout_s: float
) -> int:
    """Run COMMAND while holding the lock NAME; exits with COMMAND's code.

    COMMAND finds the fencing token in QUORUMD_FENCING_TOKEN. When the lock is lost it gets SIGTERM, then SIGKILL: after
    --grace, but no later than others may hold the lock. The exit code is 4 then; 1 means that it was not acquired.
    """
    from quorumd.recipes.sync import Lock  # noqa: PLC0415 - usage errors need none of this

    def make(session: "Session") -> "Owner":
        return Lock(session, to_bytes(name), value=_whoami())

    return _hold(make, f"lock {name}", command, ttl_s=ttl_s, wait_s=wait_s, grace_s=grace_s, timeout_s=timeout_s)


@click.command(context_settings=_COMMAND)
@click.option("--value", help="What observers see of this leader (default: host:pid).")
@_holding_options
def elect(
    name: str, command: tuple[str, ...], *, value: str | None, ttl_s: float, wait_s: float | None, grace_s: float,
    timeout_s: float,
) -> int:
    """Run COMMAND while leading the election NAME; otherwise as `quorumd lock`."""
    from quorumd.recipes.sync import Election  # noqa: PLC0415

    def make(session: "Session") -> "Owner":
        return Election(session, to_bytes(name), _whoami() if value is None else to_bytes(value))

    return _hold(make, f"election {name}", command, ttl_s=ttl_s, wait_s=wait_s, grace_s=grace_s, timeout_s=timeout_s)


def _hold(
    make: "Callable[[Session], Owner]", what: str, command: tuple[str, ...], *, ttl_s: float, wait_s: float | None,
    grace_s: float, timeout_s: float,
) -> int:
    from quorumd.recipes.errors import NotHeld  # noqa: PLC0415 - usage errors need none of this
    from quorumd.recipes.sync import Session  # noqa: PLC0415

    handle(leave_the_line, signal.SIGTERM, signal.SIGHUP)
    with connect(timeout_s) as client, Session(client, ttl=ttl_s) as session:
        owner = make(session)
        holding = Holding(owner, command[1:] if command[0] == "--" else command, grace_s)
        if wait_s == 0.0:
            if owner.try_acquire(timeout_s) is None:
                raise Rejected(f"{what}: somebody else has it, or waits for it")
        else:
            owner.acquire(wait_s)
        code = holding.run()
        if code == LOST:
            complain(f"{what} was lost: {session.lease.lost}")
            return LOST
        try:
            owner.release()
        except NotHeld:
            complain(f"{what} was lost while the command ran")
            return LOST
        return code


def _whoami() -> bytes:
    return f"{socket.gethostname()}:{os.getpid()}".encode()

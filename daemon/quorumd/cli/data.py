"""`put`, `get`, `range`, `del`, `cas`, `compact`: keys and values from the shell."""

import base64
import json
import sys
from typing import TYPE_CHECKING

import click

from quorumd.cli.options import client_options, connect, to_bytes, write_out
from quorumd.commands import ALL
from quorumd.errors import Rejected

if TYPE_CHECKING:
    from quorumd.commands import KeyValue

FIRST = b"\0"  # the first key there can be


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`: the first key that is above them all."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else ALL


def show(data: bytes) -> str:
    """A key in a message: as text, with escapes for what is none."""
    return repr(data.decode("utf-8", "backslashreplace"))


@click.command()
@click.argument("key")
@click.argument("value")
@client_options
def put(key: str, value: str, timeout_s: float) -> None:
    """Store VALUE under KEY. A VALUE of - is read from stdin, byte for byte."""
    data = sys.stdin.buffer.read() if value == "-" else to_bytes(value)
    with connect(timeout_s) as client:
        client.put(to_bytes(key), data)
    click.echo("OK")


@click.command()
@click.argument("key")
@click.option("--rev", "revision", type=click.IntRange(min=0), default=0, help="As it was at this revision; 0: now.")
@click.option("--stale", is_flag=True, help="Ask any node; it may answer with what was true a moment ago.")
@client_options
def get(key: str, *, revision: int, stale: bool, timeout_s: float) -> None:
    """Print the value of KEY, alone. Exit code 1 if there is no such key."""
    with connect(timeout_s) as client:
        found = client.get(to_bytes(key), revision=revision, stale=stale)
    if found is None:
        raise Rejected(f"no key {show(to_bytes(key))}")
    write_out(found.value)


@click.command("range")
@click.argument("start", required=False)
@click.argument("end", required=False)
@click.option("--prefix", is_flag=True, help="All keys that begin with START.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most this many keys; 0 for all.")
@click.option("--stale", is_flag=True, help="Ask any node; it may answer with what was true a moment ago.")
@click.option("--json", "as_json", is_flag=True, help='One object a line; bytes that are no text as {"base64": ...}.')
@client_options
def range_(
    start: str | None, end: str | None, *, prefix: bool, limit: int, stale: bool, as_json: bool, timeout_s: float
) -> None:
    """Print keys and values from START up to END (exclusive), in order; without END to the last key there is."""
    first, last = _span(start, end, prefix)
    with connect(timeout_s) as client:
        found = client.range(first, last, limit=limit, stale=stale)
    for kv in found.kvs:
        write_out(_as_json(kv) if as_json else kv.key + b"\t" + kv.value)


def _span(start: str | None, end: str | None, prefix: bool) -> tuple[bytes, bytes]:
    if prefix:
        if end is not None or not start:
            raise click.UsageError("--prefix takes START alone", click.get_current_context())
        return to_bytes(start), prefix_end(to_bytes(start))
    return to_bytes(start) if start else FIRST, to_bytes(end) if end else ALL


def fields_of(kv: "KeyValue") -> dict[str, object]:
    """A version of a key, to be shown as JSON."""
    return {
        "key": _text(kv.key), "value": _text(kv.value), "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision, "version": kv.version, "lease": kv.lease,
    }  # fmt: skip


def _as_json(kv: "KeyValue") -> bytes:
    return json.dumps(fields_of(kv), ensure_ascii=False).encode()


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


@click.command("del")
@click.argument("key")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@client_options
def delete(key: str, *, prefix: bool, timeout_s: float) -> None:
    """Delete KEY; prints how many keys were deleted."""
    start = to_bytes(key)
    with connect(timeout_s) as client:
        result = client.delete_range(start, prefix_end(start) if prefix else b"")
    click.echo(result.deleted)


@click.command()
@click.argument("key")
@click.argument("values", nargs=-1, metavar="[EXPECTED] NEW")
@click.option("--absent", is_flag=True, help="Expect that there is no such key: cas KEY NEW --absent.")
@client_options
def cas(key: str, values: tuple[str, ...], *, absent: bool, timeout_s: float) -> None:
    """Set KEY to NEW if its value is EXPECTED. Exit code 1 if it is not; nothing is changed then."""
    if len(values) != (1 if absent else 2):
        wanted = "NEW alone with --absent" if absent else "EXPECTED and NEW"
        raise click.UsageError(f"cas takes KEY, then {wanted}", click.get_current_context())
    expected = None if absent else to_bytes(values[0])
    with connect(timeout_s) as client:
        swapped = client.cas(to_bytes(key), expected, to_bytes(values[-1]))
    if not swapped:
        state = "exists" if absent else "does not hold that value"
        raise Rejected(f"key {show(to_bytes(key))} {state}; nothing was changed")
    click.echo("OK")


@click.command()
@click.argument("revision", type=click.IntRange(min=1))
@client_options
def compact(revision: int, timeout_s: float) -> None:
    """Forget what only reads below REVISION need. Exit code 1 if that is done already, or REVISION is to come."""
    with connect(timeout_s) as client:
        client.compact(revision)
    click.echo("OK")

"""`watch`: what happens to keys, a line for each event, until Ctrl-C."""

import json
from typing import TYPE_CHECKING

import click

from quorumd.cli.data import fields_of, prefix_end
from quorumd.cli.options import connect, reaching_options, to_bytes, write_out

if TYPE_CHECKING:
    from quorumd.client import Event


@click.command()
@click.argument("key")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--rev", "revision", type=click.IntRange(min=0), default=0, help="From this revision on; 0: from now on.")
@click.option("--prev-kv", is_flag=True, help="What was replaced too: as a last column, or as prev_kv with --json.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Stop after this many events; 0: never.")
@click.option("--json", "as_json", is_flag=True, help='One object a line; bytes that are no text as {"base64": ...}.')
@reaching_options
def watch(key: str, *, prefix: bool, revision: int, prev_kv: bool, limit: int, as_json: bool, timeout_s: float) -> None:
    """Print what happens to KEY, a line for each event: revision, put or delete, key, value. Ctrl-C ends it.

    It goes on by itself when nodes fail. Exit code 1 if the revision to begin at, or to go on from, is compacted.
    """
    start = to_bytes(key)
    end = prefix_end(start) if prefix else b""
    show = _as_json if as_json else _as_line
    printed = 0
    with (
        connect(timeout_s) as client,
        client.watch(start, end, start_revision=revision, prev_kv=prev_kv) as watched,
    ):
        for batch in watched:
            for event in batch.events:
                write_out(show(event))
                printed += 1
                if printed == limit:
                    return


def _as_line(event: "Event") -> bytes:
    columns = [b"%d" % event.kv.mod_revision, b"delete" if event.deleted else b"put", event.key]
    if not event.deleted:
        columns.append(event.value)
    if event.prev_kv is not None:
        columns.append(event.prev_kv.value)
    return b"\t".join(columns)


def _as_json(event: "Event") -> bytes:
    fields: dict[str, object] = {"event": "delete" if event.deleted else "put", **fields_of(event.kv)}
    if event.prev_kv is not None:
        fields["prev_kv"] = fields_of(event.prev_kv)
    return json.dumps(fields, ensure_ascii=False).encode()

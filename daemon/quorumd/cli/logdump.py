"""`quorumd logdump`: one segment of a write-ahead log, record by record. Reads only; the node may be running."""

import base64
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import click

from quorumd import commands
from quorumd.commands import Kind
from quorumd.errors import ProtocolError, Rejected
from quorumd_fastpath import walframe

RECORD_NAMES: Final = {
    walframe.HARD_STATE: "hard-state", walframe.APPEND: "append", walframe.TRUNCATE: "truncate",
    walframe.ACCEPT: "accept", walframe.REACCEPT: "re-accept",
}
SHOWN_FIELDS: Final = ("session", "lease", "seq", "generation", "leadership", "revision", "unreadable", "reason")
SHOWN_BYTES: Final = 48  # of a key or value, for people; --json has all

Line = dict[str, Any]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help='One object a line; bytes that are no text as {"base64": ...}.')
def logdump(file: str, as_json: bool) -> None:
    """Print the segment FILE of a write-ahead log (DATA_DIR/node-N/wal-*.seg), record by record."""
    with open(file, "rb") as handle:
        try:
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Rejected(f"{file}: is empty") from None
    with data:
        for line in dump(data, file):
            click.echo(json.dumps(_builtin(line), ensure_ascii=False) if as_json else human(line))


def dump(data: mmap.mmap, name: str) -> Iterator[Line]:
    """The header, every valid record, and how the segment ends, each as a dict. Raises Rejected for anything else."""
    first_block = data[: walframe.SECTOR_BYTES]
    header = walframe.decode_segment_header(first_block)
    if header is None and first_block == bytes(walframe.SECTOR_BYTES):
        yield {"record": "end", "offset": 0, "reason": "unused", "verdict": "good: zero-filled ahead, not begun yet"}
        return
    if header is None:
        version = walframe.segment_version(first_block)
        readable = range(walframe.OLDEST_VERSION, walframe.FORMAT_VERSION + 1)
        if version is not None and version not in readable:
            raise Rejected(f"{name}: has log format {version}, this version reads up to {walframe.FORMAT_VERSION}")
        raise Rejected(f"{name}: is no segment of a write-ahead log, or its first block is damaged")
    yield {
        "record": "segment", "number": header.number, "segment_bytes": header.segment_bytes,
        "cluster": f"{header.cluster:016x}", "node": header.node, "term": header.term, "vote": header.vote,
        "first_index": header.first_index, "commit": header.commit,
    }
    scan = walframe.scan(data, header, walframe.SECTOR_BYTES, header.seed)
    for kind, index, count, term, offset, length, position in scan.records:
        line: Line = {"record": RECORD_NAMES.get(kind, f"unknown-{kind}"), "position": position}
        if kind == walframe.HARD_STATE:
            line |= {"term": term, "vote": index}
        elif kind == walframe.TRUNCATE:
            line |= {"last_kept": index}
        elif kind == walframe.REACCEPT:
            line |= {"term": term, "index": index, "count": count}
        else:
            line |= {"term": term, "index": index, "count": count, "entries": _entries(data, index, offset, length)}
        yield line
    synced_to = max(scan.synced_to, walframe.highest_synced(data, header, scan.stop_offset)[0])
    stopped_at = header.number * header.segment_bytes + scan.stop_offset
    yield {
        "record": "end", "offset": scan.end_offset, "batches": scan.batches, "commit": scan.commit,
        "synced_to": synced_to, "reason": scan.stop or "full",
        "verdict": _verdict(scan.stop, stopped_at, synced_to, scan.stop_index),
    }


def _verdict(stop: str | None, position: int, synced_to: int, index: int) -> str:
    if position < synced_to:
        return f"corrupt from entry {index} on: position {position} is damaged, and all below {synced_to} was durable"
    return "good" if stop in (None, "end") else f"torn at entry {index}: a write that never finished"


def _entries(data: mmap.mmap, index: int, offset: int, length: int) -> list[Line]:
    try:
        records = commands.decode_records(data[offset : offset + length])
    except ProtocolError as error:
        return [{"index": index, "kind": "unreadable", "reason": str(error)}]
    return [_entry(index + i, record) for i, record in enumerate(records)]


def _entry(index: int, record: commands.Record) -> Line:
    line: Line = {"index": index, "kind": record.kind.name.lower()}
    if record.kind is Kind.EXPIRE_LEASE:
        line["lease"] = commands.session_halves(record.session)[1]
    elif record.kind is Kind.RULES:
        line |= {"rules": commands.session_halves(record.session)[1], "quota_bytes": record.seq}
    elif record.kind not in (Kind.NOOP, Kind.COMPACT):
        line["session"] = record.session.hex()
    if record.kind is Kind.COMMAND:
        line |= {"seq": record.seq, "answered_below": record.answered_below}
        try:
            line["command"] = _plain(commands.decode_command(record.command))
        except ProtocolError as error:
            line["unreadable"] = str(error)
    elif record.kind in (Kind.EXPIRE_SESSION, Kind.EXPIRE_LEASE):
        line |= {"generation": record.seq, "leadership": record.answered_below}
    elif record.kind is Kind.COMPACT:
        line["revision"] = record.seq
    return line


def _plain(value: object) -> object:
    """An operation as dicts, lists, bytes and numbers; the class's name as "op", defaults left out."""
    if is_dataclass(value):
        found: Line = {"op": type(value).__name__}
        for field in fields(value):
            content = getattr(value, field.name)
            if content != field.default:
                found[field.name] = _plain(content)
        return found
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _builtin(value: object) -> object:
    """For JSON: bytes as text where they are, else as {"base64": ...}."""
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        case Mapping():
            return {key: _builtin(item) for key, item in value.items()}
        case list():
            return [_builtin(item) for item in value]
    return value


# -- for people -----------------------------------------------------------------------------------------------------


def human(line: Line) -> str:
    """One line, and one more for each entry."""
    shown = {key: value for key, value in line.items() if key not in ("record", "entries")}
    head = " ".join([f"{line['record']:<10}", *(f"{key}={value}" for key, value in shown.items())])
    return "\n".join([head, *(f"  {_human_entry(entry)}" for entry in line.get("entries", []))])


def _human_entry(entry: Line) -> str:
    parts = [f"{entry['index']:>8} {entry['kind']:<14}"]
    parts += [f"{key}={entry[key]}" for key in SHOWN_FIELDS if key in entry]
    if "command" in entry:
        parts.append(_human_op(entry["command"]))
    return " ".join(parts).rstrip()


def _human_op(value: object) -> str:
    match value:
        case {"op": name, **rest}:
            return f"{name}({', '.join(f'{key}={_human_op(item)}' for key, item in rest.items())})"
        case list():
            return f"[{', '.join(map(_human_op, value))}]"
        case bytes():
            text = repr(value[:SHOWN_BYTES].decode("utf-8", "backslashreplace"))
            return text if len(value) <= SHOWN_BYTES else f"{text}... ({len(value)} bytes)"
    return str(value)

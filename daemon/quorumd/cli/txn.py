"""`txn`: a transaction from the shell, in a small language of one line for each compare and operation.

    compare     create|mod|version|lease KEY =|!=|<|> NUMBER      value KEY =|!=|<|> TEXT
                each also with --prefix before KEY: it must hold for all keys that begin with it
                or as etcdctl has it: mod("KEY") > "NUMBER", value("KEY") = "TEXT"
    operation   put [--lease ID] KEY VALUE      get [--prefix] KEY      del [--prefix] KEY

Words are separated as a shell does it: quote what has blanks. A lease's id is hexadecimal, here and in a compare.
"""

import json
import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, Final, cast, get_args

import click

from quorumd.cli.data import fields_of, prefix_end
from quorumd.cli.lease import LEASE_ID
from quorumd.cli.options import client_options, connect, to_bytes, write_out
from quorumd.commands import Compare, DeleteRange, DeleteResult, Put, PutResult, Range, RangeResult, SimpleOp
from quorumd.commands.ops import Relation, Target

if TYPE_CHECKING:
    from quorumd.commands import TxnResult

ETCDCTL: Final = re.compile(r"\s*(\w+)\((.+)\)\s*(=|!=|<|>)\s*(.+)", re.DOTALL)
REFUSED: Final = 1  # exit code: the compares did not hold


@click.command()
@click.option("--if", "compares", multiple=True, metavar="COMPARE", help="Must hold; may be given several times.")
@click.option("--guard", is_flag=True, help="Also: the lock or leadership of $QUORUMD_FENCING_TOKEN is still held.")
@click.option("--then", "then", multiple=True, metavar="OPERATION", help="Done, in order, if all compares hold.")
@click.option("--else", "orelse", multiple=True, metavar="OPERATION", help="Done, in order, otherwise.")
@click.option("--json", "as_object", is_flag=True, help="The result as one JSON object.")
@client_options
def txn(
    compares: tuple[str, ...], *, guard: bool, then: tuple[str, ...], orelse: tuple[str, ...], as_object: bool,
    timeout_s: float,
) -> int:
    """If every COMPARE holds do what --then says, else what --else says, all at one revision.

    \b
    COMPARE    create|mod|version|lease [--prefix] KEY =|!=|<|> NUMBER
               value [--prefix] KEY =|!=|<|> TEXT
    OPERATION  put [--lease ID] KEY VALUE | get [--prefix] KEY | del [--prefix] KEY

    For example: quorumd txn --if 'value a = b' --then 'put a c'

    Without any of them reads three paragraphs from stdin: compares, then, else. Exit code 1 if a compare did not hold.
    """
    if not (compares or guard or then or orelse):
        compares, then, orelse = read_paragraphs(sys.stdin.read())
    conditions = [parse_compare(line) for line in compares]
    if guard:
        conditions.append(guard_of_environment())
    first, second = ([parse_operation(line) for line in lines] for lines in (then, orelse))
    with connect(timeout_s) as client:
        result = client.txn(conditions, first, second)
    show(result, as_object=as_object)
    return 0 if result.succeeded else REFUSED


def read_paragraphs(text: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Compares, then, else: separated by one blank line each; what is missing is empty."""
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    while len(paragraphs) > 3 and not paragraphs[-1]:
        paragraphs.pop()
    if len(paragraphs) > 3:
        raise click.UsageError("a transaction has three paragraphs: compares, then, else")
    first, second, third = (tuple(paragraph) for paragraph in (*paragraphs, [], [])[:3])
    return first, second, third


def guard_of_environment() -> Compare:
    """What `quorumd lock` and `quorumd elect` gave their command."""
    token, key = os.environ.get("QUORUMD_FENCING_TOKEN"), os.environ.get("QUORUMD_FENCING_KEY")
    if not token or not key or not token.isdecimal():
        raise click.UsageError("--guard needs QUORUMD_FENCING_TOKEN and QUORUMD_FENCING_KEY: run under `quorumd lock`")
    return Compare.create_revision(to_bytes(key), "=", int(token))


def parse_compare(line: str) -> Compare:
    """One compare. Raises UsageError naming the line."""
    etcdctl = ETCDCTL.fullmatch(line)
    words = [etcdctl[1], *_words(etcdctl[2]), etcdctl[3], *_words(etcdctl[4])] if etcdctl else _words(line)
    prefix = _flag(words, "--prefix")
    if len(words) != 4 or words[0] not in get_args(Target) or words[2] not in get_args(Relation):
        raise click.UsageError(f"{line!r} is no compare: {'|'.join(get_args(Target))} [--prefix] KEY =|!=|<|> OPERAND")
    target, key = cast(Target, words[0]), to_bytes(words[1])
    operand: int | bytes = to_bytes(words[3])
    if target == "lease":
        operand = 0 if words[3] == "0" else _lease(words[3], line)
    elif target != "value":
        if not words[3].isdecimal():
            raise click.UsageError(f"{line!r}: {target} is compared with a number, not with {words[3]!r}")
        operand = int(words[3])
    return Compare(key, target, cast(Relation, words[2]), operand, prefix_end(key) if prefix else b"")


def parse_operation(line: str) -> SimpleOp:
    """One operation. Raises UsageError naming the line."""
    words = _words(line)
    match words:
        case ["put", "--lease", lease, key, value]:
            return Put(to_bytes(key), to_bytes(value), _lease(lease, line))
        case ["put", key, value]:
            return Put(to_bytes(key), to_bytes(value))
        case ["get" | "del" as verb, *rest]:
            prefix = _flag(rest, "--prefix")
            if len(rest) == 1:
                first = to_bytes(rest[0])
                end = prefix_end(first) if prefix else b""
                return Range(first, end) if verb == "get" else DeleteRange(first, end)
    raise click.UsageError(f"{line!r} is no operation: put [--lease ID] KEY VALUE, get|del [--prefix] KEY")


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise click.UsageError(f"{line!r}: {error}") from error


def _flag(words: list[str], flag: str) -> bool:
    """Whether the flag was there, as the first word behind the verb or as the first of all; it is taken away."""
    for position in (0, 1):
        if len(words) > position and words[position] == flag:
            del words[position]
            return True
    return False


def _lease(text: str, line: str) -> int:
    try:
        return LEASE_ID.convert(text, None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"{line!r}: {error.message}") from error


def show(result: "TxnResult", *, as_object: bool) -> None:
    """The result: one line for each key read, put or number of keys deleted; or all of it as JSON."""
    if as_object:
        responses = [_response(response) for response in result.responses]
        document = {"succeeded": result.succeeded, "revision": result.revision, "responses": responses}
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    click.echo("SUCCESS" if result.succeeded else "FAILURE")
    for response in result.responses:
        match response:
            case PutResult():
                click.echo("OK")
            case DeleteResult(_, deleted):
                click.echo(deleted)
            case RangeResult(_, kvs):
                for kv in kvs:
                    write_out(kv.key + b"\t" + kv.value)


def _response(response: object) -> dict[str, object]:
    match response:
        case DeleteResult(_, deleted):
            return {"deleted": deleted}
        case RangeResult(_, kvs, _, count):
            return {"count": count, "kvs": [fields_of(kv) for kv in kvs]}
    return {}


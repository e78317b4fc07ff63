"""Entry point: finds the command, imports its module, turns errors into one line on stderr and an exit code.

    0 done    1 refused, nothing happened    2 usage or config    3 outcome unknown, it may have happened
    130 Ctrl-C    141 whoever read the output left before its end

A node runs `quorumd node` for months: what this module imports, every node carries.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

import click

import quorumd
from quorumd.cli.options import CONFIG_KEY, sentence
from quorumd.errors import ConfigError, Definite, HistoryError, QuorumdError

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNKNOWN: Final = 3
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it
UNREAD: Final = 141  # 128 + SIGPIPE: neither done, as a check may not have ended, nor refused

# Command -> (module, function). The order is that of `quorumd --help`.
COMMANDS: Final = {
    "up": ("cluster", "up"),
    "down": ("cluster", "down"),
    "status": ("cluster", "status"),
    "put": ("data", "put"),
    "get": ("data", "get"),
    "range": ("data", "range_"),
    "del": ("data", "delete"),
    "cas": ("data", "cas"),
    "watch": ("watch", "watch"),
    "compact": ("data", "compact"),
    "txn": ("txn", "txn"),
    "lease": ("lease", "lease"),
    "lock": ("coordination", "lock"),
    "elect": ("coordination", "elect"),
    "bench": ("bench", "bench"),
    "compare": ("compare", "compare"),
    "sim": ("sim", "sim"),
    "chaos": ("chaos", "chaos"),
    "transfer-leader": ("cluster", "transfer_leader"),
    "check-config": ("check", "check_config"),
    "logdump": ("logdump", "logdump"),
    "check": ("check_history", "check"),
    "node": ("node", "node"),
    "completion": ("check", "completion"),
}


class _ReaderLeft(Exception):
    """Of stdout (| head)."""


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """click ends the process with code 1 on a broken pipe, which would read as a refusal or a broken promise."""
    try:
        yield
    except BrokenPipeError:
        raise _ReaderLeft from None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_may_leave():  # --help and --version print from here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_may_leave():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"quorumd.cli.{module}"), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(quorumd.__version__, prog_name="quorumd")
@click.option("--config", metavar="CONFIG", help="Cluster config (default: $QUORUMD_CONFIG, else the built-in one).")
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """A strongly consistent cluster in one command: replicated, durable, supervised.

    Exit codes: 0 done, 1 refused (nothing happened), 2 usage or config, 3 unknown (it may have happened), 141 whoever
    read the output left.
    """
    context.ensure_object(dict)[CONFIG_KEY] = config


def complain(message: str) -> None:
    """One line on stderr, whatever the message holds, if somebody reads it: the exit code counts in any case."""
    try:
        click.echo(f"quorumd: {' '.join(message.split())}", err=True)
    except BrokenPipeError:
        _forget(sys.stderr)


def _forget(stream: TextIO) -> None:
    """Nobody reads it any more: Python would complain of that when it flushes at exit, and exit with its own code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: this process's) and returns its exit code. Raises nothing of ours."""
    try:
        result = cli.main(args=arguments, prog_name="quorumd", standalone_mode=False)
        with _reader_may_leave():
            sys.stdout.flush()
        return result if isinstance(result, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        return USAGE
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        complain(error.format_message() + (f" (see `{context.command_path} --help`)" if context else ""))
        return USAGE
    except (ConfigError, HistoryError) as error:
        complain(str(error))
        return USAGE
    except Definite as error:
        complain(sentence(error))
        return REFUSED
    except QuorumdError as error:
        complain(sentence(error))
        return UNKNOWN
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except _ReaderLeft:
        _forget(sys.stdout)
        return UNREAD
    except OSError as error:  # of the output, say, after it was done
        complain(str(error))
        return UNKNOWN
    except Exception as error:
        if os.environ.get("QUORUMD_TRACEBACK"):
            raise
        complain(f"internal error: {type(error).__name__}: {error} (QUORUMD_TRACEBACK=1 shows where)")
        return UNKNOWN


def main() -> None:
    """The `quorumd` command."""
    sys.exit(run())

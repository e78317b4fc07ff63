"""What commands share: which config, which client, how long, where to; what keeps a check from its verdict."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from quorumd.errors import Definite, QuorumdError, Unjudged
from quorumd.limits import COMMAND_SECONDS

if TYPE_CHECKING:
    from quorumd.client import Client
    from quorumd.config import Config

CONFIG_KEY: Final = "config"
Function = TypeVar("Function", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """A number from `least` to `most`, which is never nan. Seconds, unless the option says otherwise."""

    def __init__(self, least: float, most: float = COMMAND_SECONDS) -> None:
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # which no comparison finds out of range
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class OutputFile(click.Path):
    """A file to be written, perhaps anew, in a directory that is there: known before the work of a run is done."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{path}: there is no directory {path.parent}; make it, or name another place", param, ctx)
        if not path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
            self.fail(f"{path}: {path.parent} cannot be written; change its owner, or name another place", param, ctx)
        return path


@contextmanager
def judging(what: str) -> Iterator[None]:
    """Around `what`, whose exit code 1 is a verdict: raises Unjudged if the machine or the cluster denies it one.

    Also a decorator, beneath those of click.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output left
    except (OSError, Definite) as error:
        raise Unjudged(f"{what} could not go on, so nothing is judged: {sentence(error)}") from error


@contextmanager
def evidence(what: object) -> Iterator[None]:
    """Around the writing of `what`, beside a verdict: that it failed is told, and changes no verdict."""
    try:
        yield
    except OSError as error:
        click.echo(f"quorumd: {what} was not written: {error}", err=True)


def sentence(error: OSError | QuorumdError) -> str:
    """The message, or the words of the error's class when it has none."""
    return str(error) or (type(error).__doc__ or type(error).__name__).partition(".")[0]


def config_option(function: Function) -> Function:
    """--config on the command itself, so that it may stand after the command's name too."""

    def keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.ensure_object(dict)[CONFIG_KEY] = value

    return click.option(
        "--config", metavar="CONFIG", expose_value=False, callback=keep,
        help="Cluster config (default: $QUORUMD_CONFIG, else the built-in one).",
    )(function)


def client_options(function: Function) -> Function:
    """--config and --timeout, for commands that ask a cluster once."""
    return _options(function, "How long to try.")


def reaching_options(function: Function) -> Function:
    """As `client_options`, for commands that go on for longer once they have found the cluster."""
    return _options(function, "How long to try to reach the cluster.")


def _options(function: Function, timeout_help: str) -> Function:
    timeout = click.option(
        "--timeout", "timeout_s", type=Finite(0.001), default=5.0, show_default=True, metavar="SECONDS",
        help=timeout_help,
    )
    decorated: Function = config_option(timeout(function))
    return decorated


def load(argument: str | None = None) -> "Config":
    """The config meant: the command's argument, --config, $QUORUMD_CONFIG, the built-in one. Raises ConfigError."""
    from quorumd.config import chosen_path, load_config  # noqa: PLC0415 - usage errors need no YAML

    context = click.get_current_context()
    return load_config(chosen_path(argument or context.ensure_object(dict).get(CONFIG_KEY)))


def connect(timeout_s: float) -> "Client":
    """A client of the chosen cluster. Raises ConfigError, and what Client.connect raises."""
    from quorumd.environment import read_key  # noqa: PLC0415 - usage errors need none of this

    config = load()
    key = read_key(config)
    from quorumd.client import Client  # noqa: PLC0415 - `node` must not carry the client

    return Client.connect(config.client_endpoints, key=key, timeout=timeout_s)


def to_bytes(argument: str) -> bytes:
    """The bytes that were typed, also those that are no UTF-8."""
    return os.fsencode(argument)


def write_out(data: bytes) -> None:
    """Bytes and a line break on stdout, untouched."""
    stream = sys.stdout.buffer
    stream.write(data + b"\n")
    stream.flush()

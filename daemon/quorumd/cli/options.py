"""What commands share: which config, which client, how long."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from quorumd.client import Client
    from quorumd.config import Config

CONFIG_KEY: Final = "config"
Function = TypeVar("Function", bound=Callable[..., Any])


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
    """--config and --timeout, for commands that talk to a cluster."""
    timeout = click.option(
        "--timeout", "timeout_s", type=click.FloatRange(min=0.001), default=5.0, show_default=True, metavar="SECONDS",
        help="How long to try.",
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

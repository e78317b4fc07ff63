"""`check-config` and `completion`: commands that start nothing and talk to nobody."""

import click

from quorumd.cli.options import config_option, load


@click.command("check-config")
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a config file, for editors, and stop.")
@config_option
def check_config(config_path: str | None, schema: bool) -> None:
    """Check CONFIG and this machine's directories for it; write nothing."""
    from quorumd import config as configs  # noqa: PLC0415
    from quorumd.environment import check_environment  # noqa: PLC0415

    if schema:
        click.echo(configs.schema())
        return
    config = load(config_path)
    check_environment(config)
    for warning in configs.warnings(config):
        click.echo(f"quorumd: warning: {warning}", err=True)
    count = len(config.nodes)
    plural = "" if count == 1 else "s"
    click.echo(
        f"{config.source.name}: good: cluster {config.cluster}, {count} node{plural}, engine {config.engine}, "
        f"data in {config.data_path}"
    )


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    bash: put `eval "$(quorumd completion bash)"` into ~/.bashrc; zsh the same with zsh into ~/.zshrc;
    fish: quorumd completion fish > ~/.config/fish/completions/quorumd.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    if kind is None:
        raise click.BadParameter(f"{shell} is not supported")
    click.echo(kind(context.find_root().command, {}, "quorumd", "_QUORUMD_COMPLETE").source())

"""`distillkit completion`: makes the shell complete commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: echo 'eval "$(distillkit completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(distillkit completion zsh)"' >> ~/.zshrc
    fish: distillkit completion fish > ~/.config/fish/completions/distillkit.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(ctx.find_root().command, {}, "distillkit", "_DISTILLKIT_COMPLETE").source())

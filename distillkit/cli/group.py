"""The group of commands: each is imported only when it is called, and errors end as one message."""

from __future__ import annotations

import io
import signal
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import click

from distillkit import __version__, distributed
from distillkit.errors import DistillkitError, RunInterrupted
from distillkit.lazy import lazy_imports

COMMANDS = {
    "distill": "Make a pipeline sample in a few steps, without a config.",
    "run": "Distil (or train) a model as a config says.",
    "launch": "Carry out a command in several processes.",
    "check": "Say what is wrong with a config.",
    "plan": "Show a config's stages and what they cost.",
    "plugins": "List the parts that configs and commands can name.",
    "sample": "Draw samples from a pipeline.",
    "evaluate": "Score a pipeline at some numbers of steps.",
    "convert": "Turn an original checkpoint into a diffusers pipeline.",
    "compare": "Compare the scores of several runs.",
    "track": "Send what the tracker could not record of a run.",
    "ui": "Open the MLflow UI on a run's records.",
    "completion": "Print a shell's completion script.",
}
"""Command -> its line in the help: written here, so that `--help` imports no command."""

STOPPED = 128
"""The exit code of a stopped program is this and the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""


class LazyGroup(click.Group):
    """Finds the command `name` as `command` in the module `distillkit.cli.name`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with lazy_imports():
            command = import_module(f"distillkit.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what the user got wrong is a message and exit code 2, our own faults keep their traceback.

        Of several processes one says it: the first, or the one that failed before the others.
        """
        if not distributed.is_main_process():
            ctx.with_resource(redirect_stdout(io.StringIO()))
        try:
            done = super().invoke(ctx)
            distributed.destroy()
            return done
        except (KeyboardInterrupt, RunInterrupted) as stop:
            # A process without more to say may have been ended because another one failed.
            if distributed.is_main_process() and (distributed.world_size() == 1 or str(stop)):
                click.echo(f"stopped: {stop}" if str(stop) else "stopped", err=True)
            distributed.exit_barrier()
            ctx.exit(STOPPED + getattr(stop, "number", signal.SIGINT))
        except DistillkitError as error:
            if distributed.first_to_fail():
                click.echo(str(error), err=True)
            ctx.exit(2)
        except click.ClickException as error:
            if distributed.first_to_fail():
                raise
            ctx.exit(error.exit_code)
        except RuntimeError:  # so does a collective end that another process's failure broke off
            if distributed.first_to_fail():
                raise
            ctx.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
# deepspeed's launcher gives it to whatever it starts; the environment says it as well.
@click.option("--local_rank", type=int, hidden=True, expose_value=False)
def cli() -> None:
    """Make a diffusion model sample in a few steps."""

"""The group of commands: it imports a command when it is called, and prints errors as one message."""

from __future__ import annotations

import io
import signal
from contextlib import redirect_stdout, suppress
from importlib import import_module
from typing import Any

import click

from distillkit import __version__, distributed
from distillkit.errors import DistillkitError, RunInterrupted, printable
from distillkit.lazy import lazy_imports

COMMANDS = {
    "distill": "Make a pipeline sample in a few steps, without a config.",
    "run": "Distil (or train) a model as a config says.",
    "launch": "Run a command in several processes.",
    "check": "Report the mistakes in a config.",
    "plan": "Show a config's stages and what they cost.",
    "plugins": "List the installed components and presets.",
    "sample": "Draw samples from a pipeline.",
    "evaluate": "Score a pipeline at several numbers of steps.",
    "export": "Write a run's pipeline for another number of steps.",
    "convert": "Convert an original checkpoint to a diffusers pipeline.",
    "compare": "Compare the scores of several runs.",
    "track": "Send what a run's tracker has not received.",
    "ui": "Open the tracker's UI.",
    "completion": "Print a shell's completion script.",
}
"""Command -> its line in the help. It is written here so that `--help` imports no command."""

STOPPED = 128
"""The exit code of a stopped command is this plus the signal's number: such as 130 for Ctrl-C."""


class LazyGroup(click.Group):
    """Imports the command `name` from the module `distillkit.cli.name`."""

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
        """Run a command. A user's error becomes a message and exit code 2; other errors keep their traceback.

        Of several processes, only the one that failed first prints the message.
        """
        if not distributed.is_main_process():
            ctx.with_resource(redirect_stdout(io.StringIO()))
        try:
            done = super().invoke(ctx)
            distributed.destroy()
            return done
        except (KeyboardInterrupt, RunInterrupted) as stop:
            # Without a message, the launcher may have stopped this process because another one failed.
            if distributed.is_main_process() and (distributed.world_size() == 1 or str(stop)):
                click.echo(f"stopped: {stop}" if str(stop) else "stopped", err=True)
            with suppress(KeyboardInterrupt):  # another signal: no longer wait for the others
                distributed.exit_barrier()
            ctx.exit(STOPPED + getattr(stop, "number", signal.SIGINT))
        except DistillkitError as error:
            if distributed.first_to_fail():
                click.echo(printable(str(error)), err=True)
            ctx.exit(2)
        except click.ClickException as error:
            if distributed.first_to_fail():
                raise
            ctx.exit(error.exit_code)
        except (Exception, SystemExit) as error:
            from distillkit.registry import raised_by  # only a failure needs it

            if isinstance(error.__context__, BrokenPipeError):  # rich ends the command when nobody reads its output
                raise
            # A collective raises this when another process has failed.
            if isinstance(error, RuntimeError) and not distributed.first_to_fail():
                ctx.exit(1)
            if (heading := raised_by(error)) is not None:
                click.echo(heading, err=True)
            if isinstance(error, SystemExit):  # of a part, which has no business to end the run, and with no word
                raise RuntimeError(f"sys.exit({error.code!r}) was called") from error
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
# deepspeed's launcher passes it to the command. The environment has it as well.
@click.option("--local_rank", type=int, hidden=True, expose_value=False)
def cli() -> None:
    """Make a diffusion model sample in a few steps."""

"""Virtual environments for plugins that are not distillkit's own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Environment:
    """A virtual environment that also sees what this one has, distillkit among it."""

    python: Path
    folder: Path

    def distillkit(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Call `distillkit` in it, in its folder."""
        return call(self.python, "-m", "distillkit", *arguments, folder=self.folder)


def call(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def make_environment(folder: Path, *projects: Path | str, with_distillkit: bool = True) -> Environment:
    """Make an environment in a folder and install projects in it with pip, without a network.

    Args:
        folder: where.
        projects: what pip is to install ("-e" before one makes it editable).
        with_distillkit: whether the environment sees the distillkit that runs the tests, as it sees all else.
    """
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    python = folder / "venv/bin/python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    inner = Path(call(python, "-c", where, folder=folder).stdout.strip())
    outer = sysconfig.get_path("purelib")
    # By way of addsitedir, the .pth file of an editable install is followed.
    line = f"import site; site.addsitedir({outer!r})" if with_distillkit else outer
    (inner / "outer.pth").write_text(f"{line}\n", encoding="utf-8")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    # What is imported compiles itself.
    options += ["--no-compile"]
    done = call(sys.executable, "-m", "pip", "--python", python, "install", *options, *projects, folder=folder)
    assert done.returncode == 0, done.stderr
    return Environment(python, folder)

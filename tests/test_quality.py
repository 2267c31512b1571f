"""Linters, types and import contracts are part of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent


def call(name: str, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a tool that is installed beside this Python."""
    return subprocess.run(
        [str(SCRIPTS / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


# Without its cache, mypy reads all of torch first.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", ["ruff check", "ruff format --check", "python .ci/lint_imports.py --no-logo", "mypy"])
def test_nothing_is_found(words: str) -> None:
    done = call(*words.split())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        (
            "distillkit/noise/path.py",
            "import distillkit.interfaces",
            "Layers: each may import only those below it",
        ),
        ("distillkit/extra.py", "x = 1", "Layers: each may import only those below it"),
        ("distillkit/training/loop.py", "import distillkit_dsd", "The core knows no plugin"),
        (
            "plugins/distillkit_pd/presets.py",
            "import distillkit.config",
            "Plugins import of distillkit only what third parties may",
        ),
        ("plugins/distillkit_pd/presets.py", "import distillkit_dsd", "Plugins do without each other"),
    ],
)
def test_contracts_can_be_broken(tmp_path: Path, file: str, line: str, broken: str) -> None:
    ignored = shutil.ignore_patterns("*.safetensors", "__pycache__", "venv")
    for part in ("distillkit", "plugins", ".ci"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")
    done = call("python", ".ci/lint_imports.py", "--no-logo", "--no-cache", folder=tmp_path)
    assert done.returncode == 1
    assert f"{broken} BROKEN" in done.stdout, done.stdout

"""Which module may import which, and how long a file may be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 270


def lint(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of a copy of the code."""
    command = [sys.executable, ".ci/lint_imports.py", "--no-logo", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_import_contracts_are_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_can_be_read_at_once() -> None:
    """What is longer holds more than one thing."""
    files = [file for top in ("distillkit", "plugins") for file in (ROOT / top).rglob("*.py")]
    assert len(files) > 200
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


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
    done = lint(tmp_path, "--no-cache")
    assert done.returncode == 1
    assert f"{broken} BROKEN" in done.stdout, done.stdout

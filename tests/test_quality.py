"""Linters and types are part of the tests; import contracts are in test_structure.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent


# Without its cache, mypy reads all of torch first.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", ["ruff check", "ruff format --check", "mypy"])
def test_nothing_is_found(words: str) -> None:
    name, *arguments = words.split()
    command = [str(SCRIPTS / name), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

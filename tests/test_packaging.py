"""The distribution as others get it: wheel, source archive and editable install."""

from __future__ import annotations

import json
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers.environments import call, make_environment

from distillkit import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLUGINS = PROJECT["project"]["entry-points"]["distillkit"]
PACKAGES = ["distillkit", *(f"plugins/{name}" for name in PLUGINS)]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    done = call(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def wheel(folder: Path) -> Path:
    """The wheel in a folder."""
    return folder / f"distillkit-{__version__}-py3-none-any.whl"


def archive(folder: Path) -> Path:
    """The source archive in a folder."""
    return folder / f"distillkit-{__version__}.tar.gz"


def test_every_plugin_is_registered() -> None:
    """Wheel, type checks and import contracts follow from the entry points and from the two folders."""
    assert {name: name for name in sorted(path.name for path in (ROOT / "plugins").glob("[!_.]*"))} == PLUGINS


def test_wheel_holds_the_packages_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(wheel(built)) as file:
        names = file.namelist()
    expected = {
        str(path.relative_to((ROOT / package).parent))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {f"{Path(package).name}/py.typed" for package in PACKAGES} <= expected
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "plugins/distillkit_fashion/NOTICE"}
    assert wheel(built).stat().st_size < 6 * MEGABYTE


def test_source_archive_holds_what_development_needs(built: Path) -> None:
    with tarfile.open(archive(built)) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", ".ci/run"}
    wanted |= {".ci/contracts.toml", ".ci/lint_imports.py"}
    wanted |= {str(path.relative_to(ROOT)) for part in ("configs", "docs") for path in (ROOT / part).rglob("*.*")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert {name for name in wanted if "__pycache__" not in name} - names == set()
    assert archive(built).stat().st_size < 12 * MEGABYTE


def listing(folder: Path, *what: Path | str) -> dict[str, Any]:
    """What `distillkit plugins` says after an installation, which must be the one that is used."""
    folder.mkdir()
    environment = make_environment(folder, *what, with_distillkit=False)
    code = f"import {', '.join(Path(package).name for package in PACKAGES)} as last; print(distillkit.__version__)"
    version, place = call(environment.python, "-c", f"{code}; print(last.__file__)", folder=folder).stdout.splitlines()
    assert version == __version__
    assert place.startswith(str(ROOT if "-e" in what else folder)), place
    listed = call(environment.python.with_name("distillkit"), "plugins", "--json", folder=folder).stdout
    found: dict[str, Any] = json.loads(listed)
    return found


def test_every_installation_has_the_same_parts(built: Path, tmp_path: Path) -> None:
    editable = listing(tmp_path / "editable", "-e", ROOT)
    assert editable["broken"] == []
    assert {part["package"] for part in editable["components"]} == {"distillkit"}
    assert listing(tmp_path / "wheel", wheel(built)) == editable
    assert listing(tmp_path / "archive", archive(built)) == editable

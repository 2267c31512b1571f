"""Heavy packages are imported when one of their attributes is first used; another package stands for them here."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillkit import lazy

NAME = "heavy_for_tests"


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / NAME
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("limit = 1\n__version__ = '2.0'\n", encoding="utf-8")
    (package / "inner/__init__.py").write_text("value = 3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lazy, "HEAVY", (NAME,))
    yield
    for module in [module for module in sys.modules if module.startswith(NAME)]:
        del sys.modules[module]


def lazily(name: str = NAME) -> object:
    with lazy.lazy_imports():
        importlib.import_module(name)
        importlib.import_module(name)  # the second import, at which importlib's LazyLoader loads
        return sys.modules[name]


def imported() -> bool:
    return NAME in sys.modules


def test_an_import_imports_nothing_until_an_attribute_is_read() -> None:
    module = lazily()
    assert not imported()
    assert module.limit == 1  # type: ignore[attr-defined]
    assert imported()
    assert module.__version__ == "2.0"  # type: ignore[attr-defined]


def test_a_submodule_is_lazy_too() -> None:
    inner = lazily(f"{NAME}.inner")
    assert not imported()
    assert inner.value == 3  # type: ignore[attr-defined]


def test_an_attribute_that_is_set_is_set_on_the_module() -> None:
    module = lazily()
    module.limit = None  # type: ignore[attr-defined]
    assert importlib.import_module(NAME).limit is None
    assert module.limit is None  # type: ignore[attr-defined]


def test_a_submodule_that_does_not_exist_is_an_import_error() -> None:
    with lazy.lazy_imports(), pytest.raises(ImportError):
        importlib.import_module(f"{NAME}.missing")


def test_a_package_that_is_not_installed_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "HEAVY", ("not_installed_at_all",))
    with lazy.lazy_imports(), pytest.raises(ImportError):
        importlib.import_module("not_installed_at_all")


def test_from_import_reads_at_once() -> None:
    with lazy.lazy_imports():
        exec(f"from {NAME} import limit")
        assert imported()


def test_looking_at_all_modules_imports_nothing() -> None:
    """As `inspect` does for the source of a frame, in the middle of another import."""
    with lazy.lazy_imports():
        importlib.import_module(NAME)
        inspect.getmodule(inspect.currentframe(), "no such file")
        assert "limit" not in vars(sys.modules[NAME])

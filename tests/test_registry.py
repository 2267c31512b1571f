"""What the registry does with plugins that are well, broken or in each other's way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillkit import __version__
from distillkit.registry import BrokenPlugin, UnknownNameError, load_registry

SCHEDULE = """
from distillkit import hookimpl
from distillkit.interfaces import Schedule

class One(Schedule):
    name = "{name}"

    def shares(self):
        return [(2, 1.0)]

@hookimpl
def distillkit_schedules():
    return [One]
"""


class Site:
    """A folder on `sys.path` in which distributions are installed by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, package: str, code: str, module: str = "", version: str = "1.0") -> None:
        """Write a distribution `package` with one module, which it names as its plugin."""
        module = module or package.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        info = self.folder / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[distillkit]\n{module} = {module}\n", encoding="utf-8")
        self.modules.append(module)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder on `sys.path`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Site(tmp_path)
    yield made
    for module in made.modules:
        sys.modules.pop(module, None)


def test_distillkit_s_own_plugins_are_well() -> None:
    registry = load_registry()
    assert registry.broken == []
    assert sorted(registry.components["schedule"]) == ["constant", "convergence", "exponential", "halving", "linear"]
    assert all(registry.components.values())


def test_a_third_party_s_part_is_found_with_its_package(site: Site) -> None:
    site.install("their-steps", SCHEDULE.format(name="theirs"), version="2.1")
    registry = load_registry()
    claim = registry.components["schedule"]["theirs"][0]
    assert (claim.plugin.name, claim.plugin.package, claim.plugin.version) == ("their_steps", "their-steps", "2.1")
    assert registry.find("schedule", "theirs").name == "theirs"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:", "SyntaxError: invalid syntax (their_steps.py, line 1)"),
        ("import sys\nsys.exit('no licence')", "SystemExit: no licence"),
        (SCHEDULE.replace("return [One]", "raise SystemExit"), "distillkit_schedules: SystemExit"),
        (
            SCHEDULE.replace("distillkit_schedules", "distillkit_shedules"),
            "it implements hooks that distillkit does not have: distillkit_shedules",
        ),
        (
            SCHEDULE.replace("return [One]", "return 1 / 0"),
            "distillkit_schedules: ZeroDivisionError: division by zero",
        ),
        (
            SCHEDULE.replace("return [One]", "pass"),
            "distillkit_schedules: TypeError: 'NoneType' object is not iterable",
        ),
        (
            SCHEDULE.replace("One(Schedule)", "One"),
            "distillkit_schedules: One is not a subclass of distillkit.interfaces.Schedule",
        ),
        (
            SCHEDULE.replace("[One]", "['one']"),
            "distillkit_schedules: 'one' is not a subclass of distillkit.interfaces.Schedule",
        ),
        (SCHEDULE.replace("def shares", "def stages"), "distillkit_schedules: One lacks shares"),
        (SCHEDULE.replace('name = "', 'nom = "'), "distillkit_schedules: One has no `name`"),
        (
            SCHEDULE.replace("schedules():\n    return [One]", "presets():\n    return {'p': 3}"),
            "distillkit_presets: 'p' is not a table of tables",
        ),
        (
            SCHEDULE.replace("schedules():\n    return [One]", "presets():\n    return ['p']"),
            "distillkit_presets: AttributeError: 'list' object has no attribute 'items'",
        ),
    ],
)
def test_broken_plugins_are_told_and_break_nothing(site: Site, code: str, reason: str) -> None:
    site.install("their-steps", code)
    site.install("well", SCHEDULE.format(name="well"))
    registry = load_registry()
    assert registry.broken == [BrokenPlugin("their_steps", "their-steps", "1.0", reason)]
    assert registry.find("schedule", "well").name == "well"
    assert registry.find("schedule", "linear").name == "linear"


def test_hook_with_arguments_is_told_and_leaves_nothing_behind(site: Site) -> None:
    site.install("their-steps", SCHEDULE.replace("distillkit_schedules()", "distillkit_schedules(config)"))
    registry = load_registry()
    assert [plugin.package for plugin in registry.broken] == ["their-steps"]
    assert "config" in registry.broken[0].reason
    assert "one" not in registry.components["schedule"]


def test_unknown_name_mentions_plugins_that_do_not_work(site: Site) -> None:
    site.install("their-steps", "import no_such_module")
    with pytest.raises(UnknownNameError) as caught:
        load_registry().find("schedule", "lineal")
    assert str(caught.value) == (
        "no schedule is called 'lineal'; known: constant, convergence, exponential, halving, linear"
        " — did you mean 'linear'?"
        " — it may belong to a plugin that does not work: their_steps (their-steps 1.0: ModuleNotFoundError:"
        " No module named 'no_such_module')"
    )


def test_two_owners_of_a_name_are_both_named(site: Site) -> None:
    site.install("their-steps", SCHEDULE.format(name="linear"))
    registry = load_registry()
    with pytest.raises(UnknownNameError) as caught:
        registry.find("schedule", "linear")
    start = f"'linear' is claimed by distillkit {__version__} (distillkit_schedules) and "
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(" and their-steps 1.0 (their_steps); uninstall one of them")
    # Nobody else is harmed.
    assert registry.find("schedule", "constant").name == "constant"


def test_two_owners_of_a_preset_are_both_named(site: Site) -> None:
    code = SCHEDULE.replace("schedules():\n    return [One]", "presets():\n    return {'pd': {}}")
    site.install("their-presets", code)
    with pytest.raises(UnknownNameError, match=r"^'pd' is claimed by distillkit .* and their-presets 1\.0 "):
        load_registry().preset("pd")


def test_two_distributions_with_one_entry_point_name(site: Site) -> None:
    """pluggy by itself would drop the second in silence."""
    site.install("first", SCHEDULE.format(name="one"), module="their_plugin")
    site.install("second", SCHEDULE.format(name="one"), module="their_plugin")
    registry = load_registry()
    assert [claim.plugin.package for claim in registry.components["schedule"]["one"]] == ["first"]
    assert registry.broken == [
        BrokenPlugin(
            "their_plugin",
            "second",
            "1.0",
            "ImportError: the module their_plugin is already the plugin first:their_plugin",
        )
    ]

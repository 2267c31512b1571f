"""What the registry does with plugins that are well, broken or in each other's way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ConfigFile

from distillkit.cli.group import cli
from distillkit.config import read_config
from distillkit.errors import DistillkitError
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


TEACHER = """
from distillkit import hookimpl
from distillkit.interfaces import Teacher

class One(Teacher):
    name = 'one'
    setup = predict = lambda self, *given: None
    {rest}

@hookimpl
def distillkit_teachers():
    return [One]
"""


def naming(schedule: str) -> str:
    """A config with a schedule."""
    return f'preset = "dsdi"\n[run]\nupdates = 3\n[schedule]\ntype = "{schedule}"\n'


class Site:
    """A folder on `sys.path` in which distributions are installed by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, package: str, code: str, module: str = "", version: str = "1.0") -> None:
        """Write a distribution `package` with one module, which it names as its plugin."""
        module = module or package.replace("-", "_")
        file = self.folder / f"{module.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code, encoding="utf-8")
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


def test_what_commands_set_are_options_that_exist() -> None:
    registry = load_registry()
    for kind in registry.components:
        for component in registry.classes(kind):
            assert {*component.command_options.values()} <= component.Options.model_fields.keys()


def test_tables_that_commands_change() -> None:
    table = load_registry().table
    assert table("tracker") == {"type": "mlflow"}
    assert table("engine", device=None) == {"type": "torch"}
    model = {"type": "diffusers", "path": "p", "prompts": ["a"], "size": 8}
    assert table("model", model, prompts="p.txt", prompt_list=None) == {
        "type": "diffusers",
        "path": "p",
        "prompts_file": "p.txt",
        "size": 8,
    }
    with pytest.raises(DistillkitError, match=r"^the tracker 'none' has no option for the store that is given$"):
        table("tracker", {"type": "none"}, store="sqlite:///x.db")


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
            SCHEDULE.format(name="a:b"),
            "distillkit_schedules: One is called 'a:b', and a name has a letter at least, and no colon",
        ),
        (
            SCHEDULE.replace("[One]", "[One, type('Two', (One,), {})]"),
            "distillkit_schedules: Two has the name of One, '{name}': give it another",
        ),
        (
            SCHEDULE.replace("@hookimpl\n", ""),
            "without @hookimpl, distillkit does not call what it defines: distillkit_schedules",
        ),
        ("x = 1", "it has no function with @hookimpl, so that distillkit uses nothing of it"),
        (
            SCHEDULE.replace(
                "    def shares", "    class Options(Schedule.Options):\n        type: str = ''\n\n    def shares"
            ),
            "distillkit_schedules: One.Options has the option `type`, which names the part in a config: call it "
            "something else",
        ),
        (
            SCHEDULE.replace("    def shares", "    class Options:\n        pass\n\n    def shares"),
            "distillkit_schedules: One.Options is not a subclass of Component.Options",
        ),
        (
            SCHEDULE.replace("shares(self)", "shares(self, updates)"),
            "distillkit_schedules: One.shares takes (self, updates), and gets (self)",
        ),
        (
            TEACHER.replace("{rest}", "reuses_student = True\n    state_dict = lambda self: {{}}"),
            "distillkit_teachers: One has state_dict and no load_state_dict, without which a resumed run would not be "
            "the same run",
        ),
        (
            TEACHER.replace("{rest}", "reuses_student = 'yes'"),
            "distillkit_teachers: One.reuses_student is 'yes', and must be True or False",
        ),
        (
            TEACHER.replace("{rest}", "sequential = lambda self: True; start_stage = draw = setup")
            .replace("Teacher", "Source")
            .replace("teacher", "source"),
            "distillkit_sources: One.sequential needs the decorator @property, as its base class has it",
        ),
        (
            TEACHER.replace("{rest}", "reuses_student = True\n    copies = 1.5"),
            "distillkit_teachers: One.copies is 1.5, and must be a whole number",
        ),
        (
            TEACHER.replace("{rest}", "reuses_student = True\n    gives = 'guidance'"),
            "distillkit_teachers: One.gives is 'guidance', and must be a frozenset of strings",
        ),
        (
            SCHEDULE.replace("    def shares", "    watches = 'steps-4'\n\n    def shares"),
            "distillkit_schedules: One.watches is no method, as it is in its base class",
        ),
        (
            SCHEDULE.replace("    def shares", "    @property\n    def shares"),
            "distillkit_schedules: One.shares is no method, as it is in its base class",
        ),
        (
            "from distillkit import hookimpl\nfrom distillkit.interfaces import Metric\n"
            "class One(Metric):\n    name = 'one'\n    label = compute = lambda self, *given: None\n"
            "@hookimpl\ndef distillkit_metrics():\n    return [One]",
            "distillkit_metrics: One has no `needs_reference`, True or False",
        ),
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
def test_broken_plugins_are_reported_and_break_nothing(site: Site, code: str, reason: str) -> None:
    site.install("their-steps", code)
    site.install("well", SCHEDULE.format(name="well"))
    registry = load_registry()
    assert registry.broken == [BrokenPlugin("their_steps", "their-steps", "1.0", reason)]
    assert registry.find("schedule", "well").name == "well"
    assert registry.find("schedule", "linear").name == "linear"


def test_hook_with_arguments_is_reported_and_leaves_nothing_behind(site: Site) -> None:
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


@pytest.mark.parametrize("kind", ["schedule", "preset"])
def test_two_owners_of_a_name_are_told_apart(site: Site, kind: str) -> None:
    """By `package:name`, also in the config that a run writes."""
    code = SCHEDULE.format(name="one")
    if kind == "preset":
        code = code.replace("schedules():\n    return [One]", "presets():\n    return {'one': {}}")
    site.install("a-steps", code)
    site.install("b-steps", code, version="2.0")
    registry = load_registry()

    def find(name: str) -> str:
        if kind == "preset":
            return registry.preset(name).plugin.package
        component = registry.find("schedule", name)
        assert registry.name_of("schedule", component) == name
        return component.__module__.replace("_", "-")

    assert [find(f"{package}:one") for package in ("a-steps", "b-steps")] == ["a-steps", "b-steps"]
    with pytest.raises(UnknownNameError) as caught:
        find("one")
    assert str(caught.value) == (
        f"'one' is a {kind} of a-steps 1.0 and of b-steps 2.0; write 'a-steps:one' or 'b-steps:one'"
    )
    names = [name for listed, name, _ in registry.listed() if listed == kind]
    assert {"a-steps:one", "b-steps:one"} <= {*names}
    assert "one" not in names


def test_no_clash_takes_a_name_from_distillkit_s_own(site: Site) -> None:
    site.install("their-steps", SCHEDULE.format(name="linear"))
    presets = "presets():\n    return {'pd': {'scale': {'parameters': 1, 'updates': 1}}}"
    site.install("their-presets", SCHEDULE.replace("schedules():\n    return [One]", presets))
    registry = load_registry()
    assert registry.find("schedule", "linear").__module__.startswith("distillkit_schedules")
    assert registry.find("schedule", "distillkit:linear") is registry.find("schedule", "linear")
    assert registry.find("schedule", "their-steps:linear").__module__ == "their_steps"
    assert registry.preset("pd") == load_registry().preset("distillkit:pd")
    assert registry.preset("their-presets:pd").tables == {}


def test_a_part_is_named_as_a_config_may_name_it(site: Site, config: ConfigFile) -> None:
    site.install("their-steps", SCHEDULE.format(name="linear"))
    settings = read_config(config.write(naming("their-steps:linear"))).phases[0]
    assert settings.tables["schedule"] == {"type": "their-steps:linear"}
    assert settings.components().schedule.shares() == [(2, 1.0)]


@pytest.mark.parametrize(
    ("raises", "sentence"),
    [
        ("1 / 0", "their-steps 1.0, schedule 'one': shares() raised ZeroDivisionError"),
        ("[].pop()", "their-steps 1.0, schedule 'one': shares() raised IndexError"),
        # A function of their own, one of the core that gets something else than it takes, and another plugin's.
        ("helper()", "their-steps 1.0, schedule 'one': shares() raised RuntimeError"),
        ("Stage('2', 1).jumps", "their-steps 1.0, schedule 'one': shares() raised TypeError"),
        ("lib_parts.helper()", "their-steps 1.0, schedule 'one': shares() raised RuntimeError"),
        ("self._own()", "their-steps 1.0, schedule 'one': shares() raised ZeroDivisionError"),
        # The schedule does not call it itself.
        ("singledispatch(lib_parts.helper)(2)", "lib-parts 1.0: one of its plugins raised RuntimeError"),
    ],
)
def test_what_a_part_raises_names_it(site: Site, config: ConfigFile, raises: str, sentence: str) -> None:
    code = SCHEDULE.format(name="one").replace("return [(2, 1.0)]", f"return {raises}")
    code = code.replace("    def shares", "    def _own(self):\n        return 1 / 0\n\n    def shares")
    helper = "\ndef helper(number=1):\n    raise RuntimeError\n"
    imports = "from functools import singledispatch\nimport lib_parts\nfrom distillkit.interfaces import Stage\n"
    site.install("lib-parts", SCHEDULE.format(name="lib") + helper)
    site.install("their-steps", imports + code + helper)
    path = config.write(naming("one"))
    result = CliRunner().invoke(cli, ["check", str(path)])
    assert result.exit_code == 1
    # Above the traceback.
    assert result.stderr == f"{sentence}\n"


def test_what_a_user_is_told_has_no_heading(site: Site, config: ConfigFile) -> None:
    raises = "return self.required(None, 'a table')"
    site.install("their-steps", SCHEDULE.format(name="one").replace("return [(2, 1.0)]", raises))
    path = config.write(naming("one"))
    result = CliRunner().invoke(cli, ["check", str(path)])
    assert (result.exit_code, result.stderr) == (2, "'one' needs a table, and was given none\n")


CONVERTER = """
from distillkit import hookimpl
from distillkit.interfaces import Converter

class Theirs(Converter):
    name = "theirs"

    def convert(self, checkpoint, config, ema, folder):
        {body}

@hookimpl
def distillkit_converters():
    return [Theirs]
"""


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return 'nothing'", 2, "gave an empty folder; expected the files of a pipeline in it"),
        ("folder.rmdir()", 2, "gave an empty folder; expected the files of a pipeline in it"),
        ("(folder / 'a').touch()", 2, "gave None; expected a description of the files"),
        ("(folder / 'a').touch(); return [3]", 2, "gave [3]; expected a description of the files"),
        ("(folder / 'a').touch(); return 1 / 0", 1, "raised ZeroDivisionError"),
    ],
)
def test_wrong_converters(site: Site, body: str, code: int, message: str) -> None:
    site.install("their-converter", CONVERTER.format(body=body))
    output = site.folder / "made/out"
    files = [str(site.folder / name) for name in ("model.ckpt", "config.yaml")]
    for file in files:
        Path(file).touch()
    before = sorted(site.folder.iterdir())
    words = ["convert", files[0], "--config", files[1], "--output", str(output), "--format", "theirs"]
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, result.stderr) == (
        code,
        f"their-converter 1.0, converter 'theirs': convert() {message}\n",
    )
    assert [path for path in sorted(site.folder.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize(
    ("send", "code", "message"),
    [("pass", 2, "gave None; expected a line that says what was sent"), ("1 / 0", 1, "raised ZeroDivisionError")],
)
def test_a_tracker_that_does_not_say_what_it_sent(site: Site, send: str, code: int, message: str) -> None:
    text = (
        "from distillkit import hookimpl\nfrom distillkit.interfaces import NoTracker\n"
        f"class One(NoTracker):\n    name = 'one'\n    def send(self, folder):\n        {send}\n"
        "@hookimpl\ndef distillkit_trackers():\n    return [One]\n"
    )
    site.install("their-tracker", text)
    run = site.folder / "run"
    run.mkdir()
    (run / "config.toml").write_text('[tracker]\ntype = "one"\n', encoding="utf-8")
    result = CliRunner().invoke(cli, ["track", str(run)])
    assert (result.exit_code, result.stderr) == (code, f"their-tracker 1.0, tracker 'one': send() {message}\n")


def test_a_wrong_plan_in_check_and_plan(site: Site, config: ConfigFile) -> None:
    code = SCHEDULE.format(name="one") + "\nOne.plan = lambda self, updates, trajectory: [(2, updates)]"
    site.install("their-steps", code)
    path = config.write(naming("one"))
    for command in ("check", "plan"):
        result = CliRunner().invoke(cli, [command, str(path)])
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            f"{path}: 1 error\n  schedule: their-steps 1.0, schedule 'one': plan() gave [(2, 3)]; expected a list of "
            "Stages\n",
        )


def test_of_a_namespace_s_packages_the_right_one_is_named(site: Site, config: ConfigFile) -> None:
    for name in ("a", "b"):
        code = SCHEDULE.format(name=name).replace("return [(2, 1.0)]", "return 1 / 0")
        site.install(f"acme-{name}", code, module=f"acme.{name}")
    for name in ("a", "b"):
        path = config.write(naming(name))
        result = CliRunner().invoke(cli, ["check", str(path)])
        assert result.stderr == f"acme-{name} 1.0, schedule '{name}': shares() raised ZeroDivisionError\n"


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

"""The pages under docs/: current, complete, and true. docs/plugins.md has tests of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import tomli_w
import torch
from click.testing import CliRunner
from helpers.snippets import ROOT, blocks, parse, shell_commands
from helpers.text_pipelines import stable_diffusion
from safetensors.torch import save_file

from distillkit import hookspecs
from distillkit.cli.group import COMMANDS, cli
from distillkit.config import read_config
from distillkit.config.layers import lay_over
from distillkit.config.tables import CORE
from distillkit.registry import KINDS, load_registry

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
REST = {
    "run": {"updates": 8},
    "model": {"type": "fashion"},
    "data": {"type": "digits"},
    "features": {"type": "pixels"},
    "tracker": {"type": "none"},
}
"""Laid below a page's pieces of configs."""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages that docs/generate.py makes."""
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, DOCS / "generate.py", folder], check=True)
    return folder


@pytest.mark.parametrize("name", ["cli.md", "reference.md"])
def test_generated_pages_are_current(generated: Path, name: str) -> None:
    now = (DOCS / name).read_text(encoding="utf-8")
    assert now == (generated / name).read_text(encoding="utf-8"), "write it anew: python docs/generate.py"


def test_reference_names_everything() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(hookspecs) if name.startswith("distillkit_")]
    assert [hook for hook in hooks if f"Hook `{hook}`" not in text] == []
    sections = dict(re.findall(r"^### (.*)\n((?:(?!^#).*\n?)*)", text, re.MULTILINE))
    registry = load_registry()
    tables = {f"`[{name}]`": model for name, model in CORE.items()} | {
        f"{kind} `{claim.name}`": claim.component.Options
        for kind in KINDS
        for claims in registry.components[kind].values()
        for claim in claims
        if claim.plugin.package == "distillkit"
    }
    for title, model in tables.items():
        rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+ \|$", sections[title], re.MULTILINE)
        assert rows == [*model.model_fields], f"{title}: an option is missing, or has no description"
    assert {f"preset `{name}`" for name in registry.presets} <= sections.keys()


def test_command_line_page_names_everything() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        section = text.partition(f"\n## distillkit {name}\n")[2].partition("\n## ")[0]
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
        assert [option for option in options if option not in section] == [], name


def test_architecture_shows_every_folder_and_layer() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    core = [path.name for path in (ROOT / "distillkit").iterdir() if (path / "__init__.py").exists()]
    plugins = [path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()]
    assert [name for name in [*core, *plugins] if f"  {name}/" not in text] == []
    linter = tomllib.loads((ROOT / ".ci/contracts.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [c["layers"] for c in linter["contracts"] if c["type"] == "layers"]
    assert f"\n{' → '.join(layers)}\n" in text


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for words in shell_commands(page):
        if words[0] == "distillkit":
            parse(words)
            if words[1] in ("--help", "--version", "plugins"):
                assert CliRunner().invoke(cli, words[1:]).exit_code == 0
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages' configs name: pipelines as diffusers saves them, my-pictures, and prompts.txt."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "unet/config.json": '{"_class_name": "UNet2DModel"}',
        "scheduler/scheduler_config.json": "{}",
    }.items():
        file = tmp_path / "my-pipeline" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    save_file({"weight": torch.zeros(1)}, tmp_path / "my-pipeline/unet/diffusion_pytorch_model.safetensors")
    stable_diffusion(tmp_path / "my-stable-diffusion")
    (tmp_path / "prompts.txt").write_text("a cat\n", encoding="utf-8")
    (tmp_path / "my-pictures").mkdir()
    # Inception's weights, too, are looked for and not opened.
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "plugins.md"], ids=lambda page: page.name)
def test_configs_are_right(page: Path, folders: Path) -> None:
    """Every TOML block is a config, or a part of one."""
    for block in blocks(page, "toml"):
        tables = tomllib.loads(block)
        if "project" in tables:
            continue
        whole = {"schedule", "source", "loss"} <= tables.keys()
        below = REST if whole or {"preset", "phase"} & tables.keys() else REST | {"preset": "dsdi"}
        config = folders / "page.toml"
        config.write_text(tomli_w.dumps(lay_over(below, tables)), encoding="utf-8")
        read_config(config)


@pytest.mark.parametrize(
    "page",
    # Those are run by tests of their own.
    [page for page in PAGES if page.name not in ("README.md", "plugins.md", "lora.md")],
    ids=lambda page: page.name,
)
def test_code_runs(page: Path, folders: Path) -> None:
    for block in blocks(page, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=folders, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_guarantee_has_its_test() -> None:
    """docs/reliability.md names tests that are there."""
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    guarantees = [
        row for row in re.findall(r"^\| (?!-|guarantee)(.*) \|$", text, re.MULTILINE) if not row.startswith("---")
    ]
    assert len(guarantees) > 20
    assert [row for row in guarantees if "::test_" not in row] == []
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_table_of_memory_is_current() -> None:
    done = subprocess.run([sys.executable, DOCS / "scale.py"], check=True, capture_output=True, text=True)
    assert done.stdout in (DOCS / "scale.md").read_text(encoding="utf-8"), "write it anew: python docs/scale.py"

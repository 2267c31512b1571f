"""What several test files need."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

# Test files run side by side, and share the cores. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell ignores SIGINT for what it runs in the background, and the runs of the tests would too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = """
[model]
type = "diffusers"
network = { sample_size = 8, in_channels = 1, out_channels = 1, block_out_channels = [8, 8], norm_num_groups = 4, \
layers_per_block = 1, down_block_types = ["DownBlock2D", "DownBlock2D"], up_block_types = ["UpBlock2D", "UpBlock2D"], \
num_class_embeds = 11 }
scheduler = { beta_schedule = "scaled_linear", beta_end = 0.0195, prediction_type = "v_prediction" }
null_class = 10

[tracker]
type = "none"
"""
"""Tables for a tiny class-conditional network with random weights, for 8×8 pictures, that records nothing."""


TINY = """
preset = "dsdi"
[run]
name = "tiny"
updates = 2
[schedule]
start = 4
[engine]
device = "cpu"
[evaluation]
teacher = false
steps = [2]
grid = 3
"""
ENDLESS = ("--set", "run.updates=100000", "--set", "run.log_every=1")
"""Options with which a run goes on until a test ends it."""


def write_tiny(folder: Path) -> None:
    """Write tiny.toml: two updates of a tiny network."""
    (folder / "tiny.toml").write_text(TINY + SMALL, encoding="utf-8")


class ConfigFile:
    """Writes one config file, below which `SMALL` stands unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mine.toml"

    def write(self, text: str, below: str = SMALL) -> Path:
        """Write the text, and give the path."""
        self.path.write_text(text + below, encoding="utf-8")
        return self.path


@pytest.fixture
def config(tmp_path: Path) -> ConfigFile:
    """A config file in a folder of the test's own."""
    return ConfigFile(tmp_path)


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store: making its tables takes seconds."""
    from distillkit_mlflow.store import open_store

    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(uri)
    return uri


@pytest.fixture(scope="session")
def latent_diffusion() -> Any:
    """A small latent diffusion without classes, of CompVis' code."""
    from helpers.compvis.configs import config
    from helpers.compvis.model import LatentDiffusion

    return LatentDiffusion(config(classes=False, small=True)["model"]["params"])


@pytest.fixture
def convert_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has the config of `latent_diffusion`, and a checkpoint that is none."""
    import yaml
    from helpers.compvis.configs import config

    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(config(classes=False, small=True)), encoding="utf-8")
    Path("model.ckpt").touch()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that nothing happened to, of those that `faults` makes."""
    from helpers.forked_runs import forked_run

    made = forked_run(tmp_path_factory.mktemp("whole"))
    assert made.go() == 0, made.errors
    return made


LONG = (
    *("scale", "checkpoint", "methods", "kill", "docs_plugins", "packaging", "quality", "export", "text_families"),
    *("cache", "kill_two", "interrupt", "launch", "launch_alone", "images", "streaming", "guided", "dsd_training"),
    *("mlflow", "mlflow_setup", "tracking", "tracking_server", "cli_runs", "readme", "docs", "network", "lora"),
)
"""Test files that take long. They come first, so that no process is left alone with one of them in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, and skip what needs a GPU where there is none."""
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, which keeps its cache in the test's folder and asks no server."""
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets

"""The model "diffusers": a pipeline that diffusers saved, or a new network built from a config."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch

from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.interfaces import Export, GuidanceInput, Inventory, Model, ModelSpec, StudentTable
from distillkit.noise import GUIDANCE, STEP_SIZE, Condition, NoisePath
from distillkit.solver import Scheduler
from distillkit_diffusers import families, folding, hub, libraries, lora, networks, step_input
from distillkit_diffusers.families.family import Family, with_scales
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.options import PROMPT_OPTIONS, DiffusersOptions, FamilyOptions
from distillkit_diffusers.reading import opened


class FamilyModel(Model):
    """A model that a family loads, calls and exports; a subclass finds the family."""

    Options = FamilyOptions

    options: FamilyOptions
    family: Family

    @property
    @abstractmethod
    def label(self) -> str:
        """The model's name in model cards and tables, known before it is loaded."""

    @abstractmethod
    def find_family(self) -> Family:
        """The family, not yet loaded.

        Raises:
            DistillkitError: there is none for the pipeline that the options name.
        """

    @classmethod
    def opened(cls, folder: Path, table: Mapping[str, Any]) -> Mapping[str, Any]:
        """The model "diffusers". The folder of a text-conditional model has no prompts, so the run's are repeated."""
        prompts = {key: value for key, value in table.items() if key in PROMPT_OPTIONS}
        return {"type": DiffusersModel.name, "path": str(folder), **prompts}

    def inventory(self, student: StudentTable | None = None) -> Inventory | None:
        """See the base class."""
        found = self.find_family().inventory(student)
        if found is None or GUIDANCE not in self._restored:
            return found
        return replace(found, guidance_input=True)

    def most_steps(self) -> int | None:
        """See the base class."""
        return self.find_family().most_steps()

    def can_take_guidance_input(self) -> bool | None:
        """See the base class."""
        return "guidance_input" in self.find_family().takes

    def has_grid(self, spacing: str, start: int | str = "auto") -> bool | None:
        """See the base class."""
        return self.find_family().has_grid(spacing, start)

    def can_export(self, spacing: str) -> bool | None:
        """See the base class."""
        return self.find_family().can_export(spacing)

    def load(self) -> None:
        """Load all parts of the pipeline."""
        self.family = self.find_family()
        # Again, as it may have been downloaded since.
        if mistakes := [Mistake(f"model.{mistake.key}", mistake.message) for mistake in self.family.check()]:
            raise ConfigError(mistakes, self.label)
        with libraries.without_bars(not sys.stderr.isatty()):
            self.family.load()
        family = self.family
        self.network = family.network
        taken, scale = family.guidance_input, 1.0 if family.folder is None else family.folder.guidance
        if (written := self._inputs_file) is not None:
            state = safetensors.torch.load_file(written)
            step_input.restore(self.network, state)
            if step_input.SCALES in state:
                low, high, scale = state[step_input.SCALES].tolist()
                taken = GuidanceInput(low, high, new=False)
        if self.step_input and STEP_SIZE not in step_input.added(self.network):
            step_input.add(self.network)
        self.spec = ModelSpec(
            label=self.label,
            path=family.path,
            prediction=family.prediction,
            sample_shape=family.sample_shape,
            classes=family.classes,
            supports_guidance=family.supports_guidance,
            guidance_input=taken,
            guidance=scale,
            sampler=family.sampler,
            samplers=family.samplers,
            solvers=family.solvers,
            untrained=family.folder is None,
        )

    @property
    def step_input(self) -> bool:  # type: ignore[override]
        """Whether the options ask for an input for the step size, or the folder was exported with one."""
        return self.options.step_input or STEP_SIZE in self._restored

    @property
    def _inputs_file(self) -> Path | None:
        """The file of the inputs that the network had when the folder was exported; None if there is none."""
        return None

    @property
    def _restored(self) -> list[str]:
        """The names of those inputs."""
        file = self._inputs_file
        if file is None:
            return []
        with opened(file, "np") as content:
            return step_input.named(content.keys())

    def add_guidance_input(self, low: float, high: float) -> None:
        """See the base class."""
        step_input.add(self.network, GUIDANCE)
        self.spec = replace(self.spec, guidance_input=GuidanceInput(low, high, new=True))

    def adapt(self, student: StudentTable) -> None:
        """Add a LoRA to the network."""
        lora.add(self.network, student)
        step_input.trainable(self.network)

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call a network; see the base class."""
        if not (added := step_input.added(network)):
            return self.family.forward(network, z, t, inputs)
        others = {name: value for name, value in inputs.items() if name not in added}
        with step_input.telling(network, {name: inputs[name] for name in added}):
            return self.family.forward(network, z, t, others)

    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """The condition of labels and scales; see the base class."""
        if self.spec.guidance_input is self.family.guidance_input:
            return self.family.condition(labels, count, guidance)
        return with_scales(self.family.condition(labels, count), self.spec.guidance_input, count, guidance)

    def solver(self, name: str, steps: int, path: NoisePath) -> Scheduler:
        """A scheduler of diffusers'; see the base class."""
        return self.family.solver(name, steps, path)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> samples."""
        return self.family.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Samples -> images."""
        return self.family.decode(samples)

    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write a pipeline folder: the network, the parts that were not trained, the scheduler and a model card."""
        lora.fuse(network)
        if step_input.added(network):
            folding.export(self.family, network, folder, export, self.spec.guidance_input)
        else:
            self.family.export(network, folder, export)

    def read_student(self, folder: Path) -> Mapping[str, torch.Tensor]:
        """Read the network's weights alone, or the LoRA's; see the base class."""
        found, part = PipelineFolder(folder).weights(self.family.distilled), self.family.distilled
        file = folder / step_input.FILE
        inputs = safetensors.torch.load_file(file) if file.is_file() else {}
        if not lora.added(self.network):
            network = networks.load(found, type(self.network))
            if inputs:
                step_input.restore(network, inputs)
            return {name: weight.detach() for name, weight in network.named_parameters()}
        matrices = lora.read(self.network, part, folder.with_name("lora"))
        lora.check_base(self.network, matrices, found, inputs)
        return matrices | {name: value for name, value in inputs.items() if lora.OWN.match(name)}

    def export_adapter(self, network: torch.nn.Module, folder: Path) -> None:
        """Write the LoRA as a file that diffusers' `load_lora_weights` reads."""
        lora.write(network, self.family.distilled, folder)


class DiffusersModel(FamilyModel):
    """A pipeline that diffusers saved, of the family that its own files name, or a new `UNet2DModel`."""

    name = "diffusers"
    default = True
    command_options: ClassVar[Mapping[str, str]] = {"path": "path", "prompts": "prompts_file", "prompt_list": "prompts"}

    Options = DiffusersOptions  # type: ignore[assignment]  # mypy wants nested classes, and takes no alias

    options: DiffusersOptions

    def check(self) -> Iterator[Mistake]:
        """Mistakes in the options and in the folder."""
        options = self.options
        if (options.path is None) == (options.network is None):
            yield Mistake("path", "name either a folder (path) or a new network's arguments (network)")
        elif options.path is None and not options.scheduler:
            yield Mistake("scheduler", "is required for a new network: its noise schedule, as in scheduler_config.json")
        elif not self._is_unknown:
            try:
                yield from self.find_family().check()
            except DistillkitError as error:
                yield Mistake("path", str(error))
        if options.cosine is not None and (betas := [key for key in options.scheduler if "beta" in key]):
            yield Mistake("cosine", f"takes the place of a β schedule: leave out scheduler.{betas[0]}, or this")

    @property
    def _is_unknown(self) -> bool:
        """Whether it may still be downloaded, so that nothing is known of it."""
        path = self.options.path
        return path is not None and hub.is_unknown(path, self.options.variant)

    def can_take_guidance_input(self) -> bool | None:
        """See the base class; None for a repository of the hub that is still to be downloaded."""
        return None if self._is_unknown else super().can_take_guidance_input()

    @property
    def _inputs_file(self) -> Path | None:
        """See the base class."""
        file = None if self.options.path is None else self.options.path / step_input.FILE
        return file if file is not None and file.is_file() else None

    def has_grid(self, spacing: str, start: int | str = "auto") -> bool | None:
        """See the base class; None for a repository of the hub that is still to be downloaded."""
        return None if self._is_unknown else super().has_grid(spacing, start)

    def can_export(self, spacing: str) -> bool | None:
        """See the base class; None for a repository of the hub that is still to be downloaded."""
        return None if self._is_unknown else super().can_export(spacing)

    def most_steps(self) -> int | None:
        """See the base class; None for a repository of the hub that is still to be downloaded."""
        return None if self._is_unknown else super().most_steps()

    def find_family(self) -> Family:
        """The family of the folder, or that of new networks."""
        options = self.options
        folder = None
        if options.path is not None:
            local = hub.local_folder(options.path, options.variant)
            folder = PipelineFolder(local, options.variant, options.subfolder)
        scheduler = (folder.scheduler_config() if folder else {}) | options.scheduler
        return families.family_of(folder, scheduler)(options, folder)

    @property
    def label(self) -> str:
        """The path of the folder."""
        return "a new network" if self.options.path is None else str(self.options.path)

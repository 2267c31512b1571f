"""The engine `deepspeed`: ZeRO shards weights, gradients and optimiser state over the processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import EmaTable, Engine, OptimizerTable, Update
from distillkit.noise import Predictor
from distillkit_engines import deepspeed_json as settings
from distillkit_engines.common import (
    COMMAND_OPTIONS,
    TrainedWeights,
    claim_device,
    enable_gradient_checkpointing,
    has_bf16,
    make_adamw,
    nan_unless_finite,
)
from distillkit_engines.sharding import Replica


class DeepSpeedEngine(Engine):
    """ZeRO stages 0 to 3, with offload of the optimiser; bf16, fp16 or fp32; AdamW and EMA on float32 shards.

    16-bit weights start as the model's, rounded; their float32 master weights are the model's own. Evaluations and
    exports use unsharded float32 weights. Frozen teachers are unsharded in each process, and in 16 bits if the student
    is. Averages that a teacher or a target keeps follow the weights that the student computes with.
    """

    name = "deepspeed"
    command_options: ClassVar[Mapping[str, str]] = COMMAND_OPTIONS

    class Options(Engine.Options):
        """
        Attributes:
            device: "auto" (GPUs if there are any), "cpu" or "cuda". Each process takes the GPU of its local rank.
            zero_stage: what is sharded over the processes: 1: optimiser state and EMA; 2: gradients too; 3: weights
                too; 0: nothing.
            precision: of the student and its gradients: "bf16", "fp16" (with a loss scale) or "fp32"; "auto": bf16 if
                the device supports it, otherwise fp32.
            offload: "optimizer" keeps its state and the EMA in the host's memory, where AdamW then runs; or "none".
            gradient_checkpointing: recompute the student's activations in the backward pass: less memory for one more
                forward pass. For networks that support it, as diffusers' do.
            config: a JSON file of DeepSpeed's own options to add. It must not contradict what distillkit sets.
            timeout_minutes: how long processes wait for each other before they fail.
        """

        device: Literal["auto", "cpu", "cuda"] = "auto"
        zero_stage: Literal[0, 1, 2, 3] = 2
        precision: Literal["bf16", "fp16", "fp32", "auto"] = "auto"
        offload: Literal["none", "optimizer"] = "none"
        gradient_checkpointing: bool = False
        config: Path | None = None
        timeout_minutes: float = Field(30, gt=0)

    options: Options

    @classmethod
    def memory_saving(cls, device_type: str) -> Iterator[dict[str, Any]]:
        """Higher ZeRO stages, then the optimiser offloaded to the host, if DeepSpeed is installed."""
        if find_spec("deepspeed") is None:
            return
        several = (2, 3) if distributed.world_size() > 1 else ()
        yield from ({"precision": "auto", "zero_stage": stage} for stage in several)
        # On a CPU, the host's memory is the device's.
        if device_type != "cpu":
            for stage in several or (2,):
                yield {"precision": "auto", "zero_stage": stage, "offload": "optimizer"}

    def check(self) -> Iterator[Mistake]:
        """DeepSpeed is there, and its JSON does not contradict the options."""
        options = self.options
        if find_spec("deepspeed") is None:
            missing = "'deepspeed' needs DeepSpeed, which is not installed: pip install 'distillkit[deepspeed]'"
            yield Mistake("type", missing)
        if options.offload != "none" and options.zero_stage == 0:
            yield Mistake("offload", "needs a zero_stage of 1 to 3: without ZeRO, nothing is offloaded")
        if options.config is not None:
            try:
                theirs = settings.read(options.config)
            except ValueError as error:
                yield Mistake("config", str(error))
                return
            for sentence in settings.conflicts(theirs, self._own_settings(), options.precision):
                yield Mistake("config", f"{options.config}: {sentence}")

    def _own_settings(self) -> settings.Json:
        options = self.options
        return settings.of_engine(options.zero_stage, options.precision, options.offload == "optimizer")

    @property
    def layout(self) -> str:
        """Stages 1 and 2 shard all weights as one flat tensor, stage 3 shards each weight, stage 0 nothing."""
        if self.options.zero_stage == 0:
            return "replicated"
        return f"{'ZeRO 3' if self.options.zero_stage == 3 else 'ZeRO 1 or 2'} in {distributed.world_size()} processes"

    def state_bytes(self, parameters: int, average: bool) -> int:
        """Weights and gradients in the precision, float32 weights with two moments and the average: a process's part.

        What is offloaded does not count.
        """
        options, k = self.options, distributed.world_size()
        stage, size = options.zero_stage, 4 if options.precision == "fp32" else 2
        weights = size / (k if stage == 3 else 1)
        gradients = size / (k if stage >= 2 else 1)
        # Without ZeRO, float32 weights are stepped themselves; with it, DeepSpeed keeps others.
        masters = 0 if size == 4 and stage == 0 else 4
        steps = (masters + 8 + 4 * average) / (k if stage else 1)
        return round(parameters * (weights + gradients + (0 if options.offload == "optimizer" else steps)))

    def setup(self) -> None:
        """Claim the device."""
        self.device = claim_device(self.options.device, self.options.timeout_minutes)
        if self.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        precision = self.options.precision
        if precision == "fp16" and self.device.type == "cpu":
            raise DistillkitError("engine.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        if precision == "auto":
            precision = "bf16" if has_bf16(self.device) else "fp32"
        self._precision = precision
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]

    def prepare(
        self, module: torch.nn.Module, network: torch.nn.Module, optimizer: OptimizerTable, ema: EmaTable | None
    ) -> None:
        """Hand the module to DeepSpeed."""
        # It imports DeepSpeed, which may not be installed.
        from distillkit_engines.zero import MasterWeights, initialize

        if self.options.gradient_checkpointing:
            enable_gradient_checkpointing(network)
        self._network = network
        self._replica = Replica(module, network)
        # Before they are rounded.
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        precise = {name: weight.detach() for name, weight in trained.items()}
        self._adamw = make_adamw(trained.values(), optimizer)
        theirs = {} if self.options.config is None else settings.read(self.options.config)
        precision = settings.of_engine(0, self._precision, False)
        ours = self._own_settings() | {key: precision[key] for key in ("bf16", "fp16")}
        ours |= settings.of_optimizer(optimizer.accumulate, optimizer.clip)
        try:
            self._engine = initialize(module, self._adamw, settings.merge(theirs, ours), self.device)
        # Of all kinds, if it does not like a key.
        except Exception as error:
            if self.options.config is None:
                raise
            raise DistillkitError(
                f"engine.config: DeepSpeed does not take {self.options.config}: {' '.join(str(error).split())}"
            ) from error
        self._masters = MasterWeights(self._engine, network, self.options.zero_stage)
        if self._precision != "fp32":
            self._masters.fill(precise)
        shards = {str(i): shard for i, shard in enumerate(self._masters.shards)}
        self._trained = TrainedWeights(shards, self._adamw, ema)

    def forward(self, *inputs: Any) -> Any:
        """Call the module."""
        return self._engine(*inputs)

    def place_copy(self, copy: Predictor) -> None:
        """Move it to the device, unsharded, its own weights in the student's precision."""
        copy.to(self.device)
        own = copy.own()
        if self.options.zero_stage == 3 and not own.keys() >= {name for name, _ in copy.network.named_parameters()}:
            raise DistillkitError(
                "engine.zero_stage: 3 would shard the weights that an adapter's student and its teacher share; use 2, "
                "as an adapter's own state is small"
            )
        for value in own.values():
            if value.is_floating_point():
                value.data = value.data.to(self._dtype)

    def update(self, loss: torch.Tensor, learning_rate: float) -> Update | None:
        """Backward, and with the last of the accumulated batches one step of AdamW."""
        engine = self._engine
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        engine.backward(nan_unless_finite(loss))
        last = engine.is_gradient_accumulation_boundary()
        plain = last and self.options.zero_stage == 0 and self._precision == "fp32"
        if plain:
            # DeepSpeed does not check it then. With `found_inf`, AdamW leaves weights and moments as they are.
            norm = torch.nn.utils.get_total_norm(self._gradients())
            self._adamw.found_inf = 1 - norm.isfinite().float()  # type: ignore[attr-defined]
        engine.step()
        if not last:
            return None
        if plain:
            applied = bool(norm.isfinite())
        else:
            applied = engine.was_step_applied()
            # A number, or a tensor; below 0 where it is not finite. In fp16 that is how the loss scale is found.
            norm = torch.as_tensor(engine.get_global_grad_norm(), dtype=torch.float32, device=self.device)
            norm = norm if applied else torch.full_like(norm, 0.0 if self._precision == "fp16" else torch.nan)
        made = torch.full_like(norm, float(applied))
        self._trained.count_update(made)
        return Update(norm, made)

    def _gradients(self) -> list[torch.Tensor]:
        return [weight.grad for weight in self._network.parameters() if weight.grad is not None]

    def start_from(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the float32 weights, and with them the network's and the average."""
        self._masters.fill({name: value.to(self.device) for name, value in weights.items()})
        self._masters.copy_to_network()
        self._trained.restart_average()

    def restart_moments(self) -> None:
        """AdamW's are zero again."""
        self._trained.restart_moments()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, an unsharded float32 network with the EMA weights replaces the trained one."""
        self._trained.swap_average()
        try:
            with self._replica.filled(self._masters.unsharded(), self.device) as replica:
                yield
            self._masters.fill({name: weight.detach() for name, weight in replica.named_parameters()})
        finally:
            self._trained.swap_average()

    def unsharded(self) -> AbstractContextManager[Any]:
        """Inside, ZeRO-3's weights are gathered."""
        return self._masters.gathered()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision, for float32 networks. The student has it in its weights."""
        return torch.autocast(self.device.type, self._dtype, enabled=self._precision != "fp32")

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """This process's float32 weights, their average, AdamW's moments, and the loss scale."""
        return self._trained.state_dict() | self._masters.scaler_state()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._trained.load_state_dict(state)
        self._masters.load_scaler_state(state)
        self._masters.copy_to_network()

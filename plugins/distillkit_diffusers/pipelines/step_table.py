"""What differs between the numbers of steps that one network serves. Needs only torch and diffusers.

An exported pipeline brings this file along, as step_table/step_table.py.
"""

from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class StepTable(ModelMixin, ConfigMixin):
    """For each number of steps the biases of some layers, a scheduler, and the times that it has to be handed.

    Args:
        part: the network's name in the pipeline.
        steps: the numbers of steps.
        layers: names of layers of the network, and the width D of each.
        schedulers: for each number of steps, the config of its scheduler.
        times: for numbers of steps, an argument of the pipeline's call, {"4": {"timesteps": [999, 463, 251, 83]}}.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        part: str,
        steps: list[int],
        layers: dict[str, int],
        schedulers: dict[str, dict[str, Any]],
        times: dict[str, dict[str, list[float]]],
    ) -> None:
        super().__init__()
        # No parameters: accelerate takes those from the device, and nothing calls this module, so that they come back.
        for i, width in enumerate(layers.values()):
            self.register_buffer(f"biases_{i}", torch.zeros(len(steps), width))

    def set_biases(self, network: torch.nn.Module, steps: int) -> None:
        """Give the layers their biases for a number of steps, in place: what torch.compile has made stays valid."""
        # torch.compile wraps a network.
        network = getattr(network, "_orig_mod", network)
        for i, name in enumerate(self.config.layers):
            layer: Any = network.get_submodule(name)
            # peft wraps a layer that has a LoRA.
            layer = getattr(layer, "base_layer", layer)
            # accelerate keeps the weights of a module that is offloaded layer by layer aside.
            bias = layer._hf_hook.weights_map["bias"] if layer.bias.is_meta else layer.bias.data
            bias.copy_(self.get_buffer(f"biases_{i}")[self.config.steps.index(steps)])

    def scheduler(self, steps: int) -> Any:
        """A new scheduler for a number of steps."""
        config = self.config.schedulers[str(steps)]
        return getattr(diffusers, config["_class_name"]).from_config(config)

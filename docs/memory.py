"""What a student, its teacher and a critic take of a card's memory, trained whole and with LoRAs: docs/lora.md's table.

`python docs/memory.py` builds the networks without their weights, on torch's "meta" device, and asks for the estimates
that `distillkit distill` works with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from distillkit_diffusers import lora

from distillkit.config import Components, read_config
from distillkit.config.fit import ROOM, activations, estimate
from distillkit.interfaces import Inventory

GB = 10**9
CARDS = (24 * GB, 80 * GB)
AUTOENCODER = 83_819_683
"""The weights of the autoencoder of both, which stays beside the network."""


def sdxl() -> torch.nn.Module:
    """stabilityai/stable-diffusion-xl-base-1.0's, as its config.json has it."""
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )


def flux() -> torch.nn.Module:
    """black-forest-labs/FLUX.1-dev's, as its config.json has it."""
    return FluxTransformer2DModel(guidance_embeds=True)


NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "SDXL": (sdxl, 128 * 128),
    "Flux": (flux, 128 * 128),
}
"""The networks, and the latents' height times width, of pictures of 1024 pixels."""


def components(*assignments: str) -> Components:
    """The second phase of `distill --sharpen`: the preset `dmd`."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dmd.toml"
        config.write_text('preset = "dmd"\n[model]\ntype = "fashion"\n[tracker]\ntype = "none"\n', encoding="utf-8")
        return read_config(config, ["run.updates=260", *assignments]).phases[0].components()


def sizes(make: Callable[[], torch.nn.Module], size: int, student: Components) -> Inventory:
    """The numbers of weights of a network, and of its adapter if the student is one."""
    with torch.device("meta"):
        network = make()
    parameters = sum(weight.numel() for weight in network.parameters())
    adapter = 0
    if student.adapter is not None:
        network.requires_grad_(False)
        lora.add(network, student.adapter)
        adapter = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    return Inventory("", parameters, AUTOENCODER, size, 1.0, adapter=adapter)


def main() -> None:
    """Print the table."""
    students = {"all weights": components(), "LoRA, rank 16": components("student.adapter=lora")}
    columns = ("network", "student and critic", "trained, each", "networks, optimisers", "activations of a sample")
    print(f"| {' | '.join(columns)} | 24 GB | 80 GB |")
    print("|---|---|---|---|---|---|---|")
    for name, (make, size) in NETWORKS.items():
        for kind, student in students.items():
            found = sizes(make, size, student)
            needs, one = estimate(student, found).total, activations(found, 1.0, recompute=True)
            fits = ["yes" if needs + one <= ROOM * card else "no" for card in CARDS]
            trained = (found.adapter or found.parameters) / 1e9
            print(
                f"| {name}, {found.parameters / 1e9:.2f} G | {kind} | {trained:.3g} G | {needs / GB:.1f} GB | "
                f"{one / GB:.2f} GB | {' | '.join(fits)} |"
            )


if __name__ == "__main__":
    main()

"""Loads torch-fidelity's Inception v3 from a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch_fidelity.feature_extractor_inceptionv3

from distillkit.errors import DistillkitError


def load_inception(path: Path) -> torch.nn.Module:
    """The frozen network: uint8 images [B, 3, H, W] -> (features [B, 2048], logits without their bias [B, 1008]).

    Raises:
        DistillkitError: the file does not hold this network's weights.
    """
    try:
        # torch-fidelity unpickles the file with no restriction; a file that holds more than tensors stops here.
        torch.load(path, map_location="meta", weights_only=True)
        network: torch.nn.Module = torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DistillkitError(f"features.weights: {path} does not hold Inception's weights ({reason})") from error
    return network

"""Makes a run's result the bundled teacher: `python -m distillkit_fashion.pack_teacher RUN --commit HASH`.

Half-precision weights, the noise schedule, the null class, and where they come from (provenance.json: the run's config,
the commit that it was run at, and its scores in the packed precision).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from distillkit_diffusers import networks
from distillkit_diffusers.folder import PipelineFolder

from distillkit_fashion.fashion import FOLDER

STEPS = "2,4,8,16,32,64"
SAMPLES = 500
WEIGHTS = "diffusion_pytorch_model.fp16.safetensors"


def pack(run: Path, commit: str, folder: Path = FOLDER) -> None:
    """Pack a run's pipeline into a folder."""
    pipeline = run / "pipeline"
    shutil.rmtree(folder, ignore_errors=True)
    network = networks.load_unet(PipelineFolder(pipeline).weights("unet")).half()
    network.register_to_config(_name_or_path="")  # type: ignore[operator]
    network.save_pretrained(folder / "unet", variant="fp16")  # type: ignore[operator]
    shutil.copytree(pipeline / "scheduler", folder / "scheduler")
    shutil.copy(pipeline / "model_index.json", folder)
    command = [sys.executable, "-m", "distillkit", "evaluate", str(folder), "--steps", STEPS, "--json"]
    command += ["--samples", str(SAMPLES), "--features", "fashion", "--metric", "fid"]
    scores = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    seconds = json.loads((run / "journal.jsonl").read_text(encoding="utf-8").splitlines()[-1])["seconds"]
    provenance = {
        "made_by": "distillkit run configs/fashion_teacher.toml",
        "commit": commit,
        "seed": config["run"]["seed"],
        "updates": config["run"]["updates"],
        "training_seconds": round(seconds),
        "weights_sha256": hashlib.sha256((folder / "unet" / WEIGHTS).read_bytes()).hexdigest(),
        "scores": [{key: row[key] for key in ("steps", "metric", "value", "samples", "protocol")} for row in scores],
        "config": config,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("--commit", required=True, help="the commit that it was run at")
    arguments = parser.parse_args()
    pack(arguments.run, arguments.commit)


if __name__ == "__main__":
    main()

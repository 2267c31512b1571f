"""The best weights of a run by a score that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

import safetensors.torch
from safetensors import safe_open

from distillkit import distributed
from distillkit.config import find_score, scores_taken
from distillkit.training.assemble import Parts
from distillkit.training.files import partial, replace_file, writing


@dataclass(frozen=True)
class Found:
    """What the best weights are: the update after which they were scored, the score's name, and its value."""

    update: int
    score: str
    value: float


class Best:
    """Keeps weights in best.safetensors: the averaged ones where the run averages.

    Args:
        path: the file; what an earlier part of the run left in it counts.
        parts: prepared; their config names a score.
    """

    def __init__(self, path: Path, parts: Parts) -> None:
        settings = parts.settings
        score = find_score(settings, settings.evaluation.best or "")
        assert score is not None  # the config's checks
        self._path = path
        self._parts = parts
        self._score = score
        self._sign = -1 if scores_taken(settings)[score].higher_is_better else 1

    @property
    def found(self) -> Found | None:
        """The best so far, by the score that the config names."""
        if not self._path.is_file():
            return None
        with safe_open(self._path, "pt") as file:
            said = file.metadata()
        found = Found(int(said["update"]), said["score"], float(said["value"]))
        return found if found.score == self._score else None

    def consider(self, update: int, scores: Mapping[str, float]) -> None:
        """Keep the weights if they have the best score so far; of equals, the first."""
        value = scores[self._score]
        before = self.found
        # Not a number is not better than anything.
        if not distributed.broadcast(self._sign * value < (self._sign * before.value if before else inf)):
            return
        with self._parts.settings.engine.averaged():
            if distributed.is_main_process():
                self._write({"update": str(update), "score": self._score, "value": repr(value)})

    def _write(self, said: dict[str, str]) -> None:
        weights = {key: weight.cpu().contiguous() for key, weight in self._parts.student.state_dict().items()}
        with writing(self._path):
            safetensors.torch.save_file(weights, partial(self._path), metadata=said)
            replace_file(partial(self._path), self._path)

    def forget_after(self, update: int) -> None:
        """Drop the weights if they are of a later update: the run goes on from before it, and will see it again."""
        if distributed.is_main_process() and (found := self.found) is not None and found.update > update:
            self._path.unlink()

    def restore(self) -> Found | None:
        """Give the averaged network the best weights. For the end of a run: nothing can be trained after it."""
        distributed.barrier()
        found = self.found
        if found is not None:
            with self._parts.settings.engine.averaged():
                self._parts.student.load_state_dict(safetensors.torch.load_file(self._path))
        return found

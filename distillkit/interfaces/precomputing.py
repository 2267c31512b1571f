"""Sources that evaluate the undistilled teacher before the first update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from distillkit.interfaces.distillation import Source, Teacher
from distillkit.interfaces.schedule import Stage
from distillkit.noise import Predictor


class PrecomputingSource(Source):
    """A source that evaluates the undistilled teacher before the first update."""

    @abstractmethod
    def evaluations_before(self, stages: Sequence[Stage]) -> int:
        """The teacher's predictions that the work of `prepare` takes, if no run has done any of it before."""

    @abstractmethod
    def prepare(
        self, stages: Sequence[Stage], student: Predictor, teacher: Teacher | None
    ) -> Sequence[Callable[[], None]]:
        """The work that is left to do before the first update, in parts that are done one after the other.

        Called once, after `setup` and before anything of the run is written; like the parts, without gradient and in
        the engine's precision. The networks are as they are when the run begins, also when it is resumed.

        Args:
            stages: the plan's.
            student: the network that is trained, on the engine's device.
            teacher: ready to predict; None in plain training.

        Raises:
            DistillkitError: the work cannot be done.
        """

    @abstractmethod
    def trial(self, folder: Path) -> PrecomputingSource:
        """A source with the same options that precomputes little and writes into `folder`, for `plan --measure`."""

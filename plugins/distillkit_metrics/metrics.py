"""The metrics as components: what they need, what they are called, and their options."""

from __future__ import annotations

from pydantic import Field

from distillkit.errors import DistillkitError
from distillkit.interfaces import Features, FeatureStatistics, Metric
from distillkit_metrics.scores import frechet_distance, inception_score, kernel_distance


class FrechetDistance(Metric):
    """Fréchet distance of the features, each set taken as a Gaussian (Heusel et al. 2017). Lower is better."""

    name = "fid"
    needs_reference = True

    def label(self, features: Features) -> str:
        """FID is what it is called in Inception's features only."""
        return f"fd{features.metric_suffix}" if features.metric_suffix else "fid"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The squared distance, 0 or more."""

        assert reference is not None  # needs_reference: the config's checks see to it
        return frechet_distance(samples.mean, samples.covariance, reference.mean, reference.covariance)


class KernelDistance(Metric):
    """Kernel distance of the features (Bińkowski et al. 2018). Lower is better; unbiased, so it may fall below 0."""

    name = "kid"
    needs_reference = True

    class Options(Metric.Options):
        """
        Attributes:
            subsets: random subsets that the distance is averaged over.
            subset_size: images in each, or all if there are fewer.
        """

        subsets: int = Field(100, ge=1)
        subset_size: int = Field(1000, ge=2)

    options: Options

    def label(self, features: Features) -> str:
        """KID is what it is called in Inception's features only."""
        return f"kd{features.metric_suffix}" if features.metric_suffix else "kid"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The squared distance.

        Raises:
            DistillkitError: the reference keeps no features.
        """

        assert reference is not None  # needs_reference
        assert samples.features is not None  # kept of samples always
        if reference.features is None:
            raise DistillkitError(
                "metric.type: 'kid' compares features one by one, and the reference keeps only their mean and "
                'covariance; set evaluation.reference = "data" and add a [data] table'
            )
        return kernel_distance(samples.features, reference.features, self.options.subsets, self.options.subset_size)


class InceptionScore(Metric):
    """How sure a classifier is of each picture, and how varied the classes are (Salimans et al. 2016)."""

    name = "inception-score"
    needs_reference = False
    needs_logits = True
    higher_is_better = True

    class Options(Metric.Options):
        """
        Attributes:
            splits: parts of the pictures that the score is averaged over.
        """

        splits: int = Field(10, ge=1)

    options: Options

    def label(self, features: Features) -> str:
        """It bears Inception's name in Inception's features only."""
        return f"is{features.metric_suffix}" if features.metric_suffix else "inception-score"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The score, 1 to the number of classes."""

        assert samples.logits is not None  # needs_logits: the config's checks see to it
        return inception_score(samples.logits, self.options.splits)

"""Fashion-MNIST: the features in which its samples are scored."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Features, Model
from distillkit_fashion.features import Fashion
from distillkit_fashion.teacher import FashionTeacher


@hookimpl
def distillkit_features() -> list[type[Features]]:
    return [Fashion]


@hookimpl
def distillkit_models() -> list[type[Model]]:
    return [FashionTeacher]

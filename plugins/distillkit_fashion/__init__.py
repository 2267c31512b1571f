"""A Fashion-MNIST model, and the features in which its samples are scored."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Features, Model
from distillkit_fashion.fashion import Fashion, FashionTeacher


@hookimpl
def distillkit_features() -> list[type[Features]]:
    return [Fashion]


@hookimpl
def distillkit_models() -> list[type[Model]]:
    return [FashionTeacher]

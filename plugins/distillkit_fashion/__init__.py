"""Fashion-MNIST: the features in which its samples are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Features, Model


@hookimpl
def distillkit_features() -> list[type[Features]]:
    from distillkit_fashion.features import Fashion

    return [Fashion]


@hookimpl
def distillkit_models() -> list[type[Model]]:
    from distillkit_fashion.teacher import FashionTeacher

    return [FashionTeacher]

"""The teacher's trajectories, made once and kept on disk (Luhman & Luhman 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Source, Target


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    from distillkit_cache.cached_trajectories import CachedTrajectories

    return [CachedTrajectories]


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    from distillkit_cache.stored_landing import StoredLanding

    return [StoredLanding]

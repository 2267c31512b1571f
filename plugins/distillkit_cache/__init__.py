"""Trajectories of the teacher that are generated once and stored on disk (Luhman & Luhman 2021)."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Source, Target
from distillkit_cache.cached_trajectories import CachedTrajectories
from distillkit_cache.stored_landing import StoredLanding


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    return [CachedTrajectories]


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    return [StoredLanding]

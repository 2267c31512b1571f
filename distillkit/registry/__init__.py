"""Finds plugins, and the components and presets that they contribute."""

from distillkit.registry.blame import check_tensor, heading, note_part, told, wrong
from distillkit.registry.entry_points import BrokenPlugin, Plugin, describe
from distillkit.registry.kinds import KINDS, TABLES, Kind
from distillkit.registry.load import load_registry
from distillkit.registry.lookup import Preset, Registered, Registry, Scale, UnknownNameError

__all__ = [
    "KINDS",
    "TABLES",
    "BrokenPlugin",
    "Kind",
    "Plugin",
    "Preset",
    "Registered",
    "Registry",
    "Scale",
    "UnknownNameError",
    "check_tensor",
    "describe",
    "heading",
    "load_registry",
    "note_part",
    "told",
    "wrong",
]

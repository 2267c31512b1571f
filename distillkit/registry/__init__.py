"""Finds plugins, and the components and presets that they contribute."""

from distillkit.registry.entry_points import BrokenPlugin, Plugin, describe
from distillkit.registry.faults import PartError, check_tensor, checked, described, heading, raised_by, whole, wrong
from distillkit.registry.kinds import KINDS, TABLES, Kind
from distillkit.registry.load import load_registry
from distillkit.registry.lookup import Preset, Registered, Registry, Scale, UnknownNameError

__all__ = [
    "KINDS",
    "TABLES",
    "BrokenPlugin",
    "Kind",
    "PartError",
    "Plugin",
    "Preset",
    "Registered",
    "Registry",
    "Scale",
    "UnknownNameError",
    "check_tensor",
    "checked",
    "describe",
    "described",
    "heading",
    "load_registry",
    "raised_by",
    "whole",
    "wrong",
]

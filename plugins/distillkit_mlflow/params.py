"""A config as MLflow parameters, and the rest of what is known of a run as tags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from distillkit.errors import redact
from distillkit.interfaces import RunInfo

MAX_LENGTH = 6000
"""Characters of a parameter's value that MLflow keeps."""


def flatten(tables: Mapping[str, Any]) -> dict[str, str]:
    """Nested tables as `optimizer.learning_rate`; lists of tables as `loss.0.type`.

    Values are cut at 6000 characters, and credentials in URIs are replaced by `***`.
    """
    return {key: cut(redact(str(value))) for key, value in _leaves("", tables)}


def tags(run: RunInfo) -> dict[str, str]:
    """The method, and the stages as JSON."""
    plan = [{"steps": steps, "updates": updates, "evaluations": count} for steps, updates, count in run.plan]
    method = run.settings.get("run", {}).get("method", "custom")
    return {"method": str(method), "plan": cut(json.dumps(plan))}


def cut(text: str) -> str:
    """A text of at most 6000 characters; one that was cut ends in …"""
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _leaves(f"{prefix}.{key}" if prefix else key, item)

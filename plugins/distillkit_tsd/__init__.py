"""Teacher-student distillation: DSDI with a separate teacher (section 4.1.1)."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit_tsd.presets import PRESETS


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS

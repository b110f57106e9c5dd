"""Runs of a loop without models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loop_fakes

import prefmill as pm


def run(
    folder: Path, name: str = "run", *, loop: dict[str, Any] | None = None, **changes: Any
) -> pm.LoopReport:
    return pm.loop(
        loop_fakes.recipe(folder, **changes),
        folder / name,
        **{**loop_fakes.parts(), **(loop or {})},
    )

"""Prompts that are hot at a few answers: what a cap draws is quick to test so."""

from __future__ import annotations

import pytest

from prefmill.engines import macros
from prefmill.rules import explosion


def at_most(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a prompt hot from so many pairs on, in Polars and in SQL."""
    number = str(explosion.MOST_OF_A_PROMPT)
    texts = {
        name: text.replace(f" AS {number};", f" AS {pairs};")
        for name, text in macros.macro_texts().items()
    }
    monkeypatch.setattr(explosion, "MOST_OF_A_PROMPT", pairs)
    monkeypatch.setattr(macros, "macro_texts", lambda: texts)

"""What the tests of trainers share: tiny models, and the trainer as it is in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def policy_base(home) -> Path:
    return tiny_models.save_causal_model("llama", home / "policy")


@pytest.fixture
def caught(monkeypatch) -> dict[str, Any]:
    """The trainer, as it is when its model is saved."""
    from prefmill.training import kinds, trl

    end: dict[str, Any] = {}
    save = trl.save

    def saved(trainer: Any, tokenizer: Any, folder: Path) -> None:
        end["trainer"], end["tokenizer"] = trainer, tokenizer
        save(trainer, tokenizer, folder)

    monkeypatch.setattr(kinds, "save", saved)
    return end

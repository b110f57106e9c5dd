"""A loop that is done, and tiny models for one that is not."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from loop_runs import run

import prefmill as pm
from prefmill.loops import plot as stage_plot


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pm.LoopReport]:
    """One unbroken loop of two stages."""
    folder = tmp_path_factory.mktemp("loop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_plot, "draw", lambda *_: None)
        patch.setattr(stage_plot, "can_draw", lambda: False)
        return folder, run(folder)


# -- with models, and from the command line


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy, two tiny judges, prompts and a recipe."""
    pytest.importorskip("trl", reason="needs the extra prefmill[train]")
    import tiny_models

    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_causal_model("llama", folder / "policy")
    tiny_models.save_reward_model("llama", folder / "reward")
    tiny_models.save_reward_model("qwen2", folder / "second", seed=1)
    pl.DataFrame({"prompt": [f"What is {i} plus {i}?" for i in range(12)]}).write_parquet(
        folder / "prompts.parquet"
    )
    (folder / "recipe.toml").write_text(
        f"""
        stages = 1
        [policy]
        model = "{folder}/policy"
        [prompts]
        train = "{folder}/prompts.parquet"
        heldout_share = 0.4
        [sample]
        n = 4
        max_new_tokens = 8
        device = "cpu"
        [score]
        model = "{folder}/reward"
        device = "cpu"
        [second]
        model = "{folder}/second"
        device = "cpu"
        [select]
        finished = false
        [train]
        learning_rate = 1e-3
        device = "cpu"
        """
    )
    return folder

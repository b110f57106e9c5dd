"""A loop without models: policies are folders with a number, answers are as long as that number and
the seed say, all in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill.sampling import Answer, Request

PROMPTS = 12


class FakeSampler:
    """Answers of words; a policy of a larger number gives longer ones. Everything follows from the
    request and the policy.
    """

    name = "fake"

    def __init__(self, policy: str) -> None:
        self.strength = strength(policy)
        self.fingerprint = {"sampler": "fake", "strength": str(self.strength)}

    def sample(self, requests: Any) -> list[Answer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        draw = random.Random(f"{request.seed} {request.prompt} {self.strength}")
        words = [
            draw.choice("abcdefgh") for _ in range(draw.randrange(0, 5) + int(2 * self.strength))
        ]
        return Answer(
            " ".join(words),
            "length" if len(words) % 5 == 4 else "stop",
            -1.5 * len(words),
            len(words) + 1,
        )


def strength(policy: str) -> float:
    """The number of a policy; the base has 1."""
    path = Path(policy, "strength.json")
    return float(json.loads(path.read_text())["strength"]) if path.exists() else 1.0


def words_in(batch: pa.RecordBatch) -> list[float]:
    """A judge that likes words, and has a preference among equals that hangs on the text."""
    return [len(text.split()) + len(set(text)) / 100 for text in batch["completion"].to_pylist()]


def dislikes_words(batch: pa.RecordBatch) -> list[float]:
    return [-float(len(text.split())) for text in batch["completion"].to_pylist()]


class FakeRatio:
    """log p(y) - log p_0(y): a tenth a word, times how much stronger the policy is than the
    base.
    """

    def __init__(self, policy: str) -> None:
        self.more = strength(policy) - 1

    def __call__(self, batch: pa.RecordBatch) -> list[float]:
        return [0.1 * len(text.split()) * self.more for text in batch["completion"].to_pylist()]


def train(
    data: Path,
    output: Path,
    *,
    model: str,
    method: str,
    seed: int,
    overwrite: bool,
    progress: Any,
    **options: Any,
) -> dict[str, Any]:
    """A policy that is stronger by the mean score of what it was trained on; its folder says from
    which rows.
    """
    rows = pl.read_parquet(data)
    score = "score" if "score" in rows.columns else "chosen_score"
    content = json.dumps(rows.rows(), default=str)
    hidden = output.with_name(".policy.fake")
    hidden.mkdir(parents=True, exist_ok=True)
    made = {
        "strength": strength(model) + float(options.get("learning_rate", 0.1)) * rows[score].mean(),
        "rows": hashlib.sha256(content.encode()).hexdigest(),
        "seed": seed,
        "method": method,
        "from": strength(model),
    }
    (hidden / "strength.json").write_text(json.dumps(made))
    if output.exists():
        (output / "strength.json").unlink()
        output.rmdir()
    hidden.rename(output)
    return {"rows_used": rows.height, "loss": 1.0}


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe over prompts in `folder`; `section__key=value` changes it, None takes a section
    out.
    """
    source = folder / "prompts.parquet"
    if not source.exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts = [f"What is {i} plus {i}?" for i in range(PROMPTS)]
        pl.DataFrame({"prompt": [*texts, None, texts[3]]}).write_parquet(source)
    made: dict[str, Any] = {
        "stages": 2,
        "policy": {"model": "base"},
        "prompts": {"train": str(source), "heldout_share": 0.4},
        "sample": {"n": 4, "max_new_tokens": 9, "chunk_rows": 8},
        "select": {},
        "train": {"learning_rate": 0.1},
        "evaluate": {"n": 3},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if not key:
            made[section] = value
        else:
            made[section] = {**made.get(section, {}), key: value}
    return {name: value for name, value in made.items() if value is not None}


def parts(**changes: Any) -> dict[str, Any]:
    """The arguments of `pm.loop` that stand for models."""
    own = {
        "sampler": FakeSampler,
        "scorer": words_in,
        "second": dislikes_words,
        "ratio": FakeRatio,
        "trainer": train,
    }
    return {**own, **changes}


def content(folder: Path, stages: int = 2) -> dict[str, Any]:
    """All that a run made, without times and paths."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.parquet")):
        if any(part.startswith((".", "prefmill-")) for part in path.relative_to(folder).parts):
            continue  # a killed writer's half, or its temporary folder
        rows = pl.read_parquet(path)
        found[str(path.relative_to(folder))] = rows.select(
            name for name in rows.columns if not name.startswith("seconds")
        ).rows()
    for path in sorted(folder.rglob("strength.json")):
        found[str(path.relative_to(folder))] = json.loads(path.read_text())
    return found

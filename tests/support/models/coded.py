"""Folders of models that are changed, or hold code of their own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pools
import pytest
import tiny
import tiny_models
import torch

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import Request
from prefmill.scoring import ImplicitReward, LogProb, RewardModel

PAIRS = pl.DataFrame(
    {
        "prompt": list("abcdefgh"),
        "chosen": [f"good {i}" for i in range(8)],
        "rejected": [f"bad {i}" for i in range(8)],
    }
)

WINNERS = pl.DataFrame({"prompt": list("abcd"), "completion": ["one", "two", "three", "four"]})


def changed(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model's folder with another config.json."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return target


def rewards(folder: Path, tmp_path: Path, **more: Any) -> dict[str, Callable[[], Any]]:
    """Every way in which a reward model's folder is used."""
    out = tmp_path / "trained"
    return {
        "score": lambda: RewardModel(model=folder, device="cpu", **more)(pools.batch(pools.POOL)),
        "train": lambda: pm.train_reward(
            PAIRS, out, model=folder, steps=1, holdout=0, device="cpu", **more
        ),
    }


def policies(folder: Path, tmp_path: Path, **more: Any) -> dict[str, Callable[[], Any]]:
    """Every way in which a language model's folder is used."""
    good, out = pools.causal("llama"), tmp_path / "trained"
    return {
        "logprob": lambda: LogProb(model=folder, device="cpu", **more)(pools.batch(pools.POOL)),
        "policy": lambda: ImplicitReward(model=folder, reference=good, device="cpu", **more)(
            pools.batch(pools.POOL)
        ),
        "reference": lambda: ImplicitReward(model=good, reference=folder, device="cpu", **more)(
            pools.batch(pools.POOL)
        ),
        "sample": lambda: LocalSampler(model=folder, device="cpu", max_new_tokens=2, **more).sample(
            [Request("p", 0.0, 0)]
        ),
        "train": lambda: pm.train_policy(WINNERS, out, model=folder, steps=1, device="cpu", **more),
    }


def refused(uses: dict[str, Callable[[], Any]], says: str) -> None:
    for name, use in uses.items():
        with pytest.raises(BadInput) as caught:
            use()
        assert re.search(says, str(caught.value)), f"{name}: {caught.value}"


# -- code of its own

CODE = '''
import torch
from transformers import {base}

class Own({base}):
    """Stock weights, another value."""

    def forward(self, input_ids=None, attention_mask=None, **more):
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        out.logits = {logits}
        return out
'''


def with_code(
    folder: Path,
    target: Path,
    autos: tuple[str, ...],
    logits: str = "3 - out.logits * 2",
    **settings: Any,
) -> Path:
    """A copy of a folder whose config.json names a class of its own under `autos`, with the stock
    model_type.
    """
    base = json.loads((folder / "config.json").read_text())["architectures"][0]
    changed(folder, target, auto_map=dict.fromkeys(autos, "modeling_own.Own"), **settings)
    (target / "modeling_own.py").write_text(CODE.format(base=base, logits=logits))
    return target


# -- weights and their places


def saved(family: str, auto: str, target: Path, **settings: Any) -> Path:
    """A random model of any class of Transformers, with its tokenizer."""
    import transformers

    tok = tiny.tokenizer()
    config = tiny_models.config(family, tok)
    for name, value in {"num_labels": 1, **settings}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    getattr(transformers, auto).from_config(config).eval().save_pretrained(target)
    tok.save_pretrained(target)
    return target

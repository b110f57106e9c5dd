"""Tiny models to train, and pairs to train them on."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import tiny
import tiny_models


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


def reward_base(home: Path, family: str, *, template: bool = True, pad: bool = True) -> Path:
    """A tiny model whose head is thrown away by training; `bert` gets separators as encoders have
    them.
    """
    folder = home / f"{family}-{template}-{pad}"
    if folder.exists():
        return folder
    tok = tiny.tokenizer()
    if not template:
        tok.chat_template = None
    if not pad:
        tok.pad_token = tok.eos_token
    if family == "bert":
        from tokenizers.processors import TemplateProcessing

        tok.cls_token, tok.sep_token = "<bos>", "<eos>"
        tok.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A <eos>",
            pair="<bos> $A <eos> $B <eos>",
            special_tokens=[("<bos>", 1), ("<eos>", 2)],
        )
    tiny_models.save_reward_model(family, folder, tok=tok)
    return folder


def pairs(rows: int = 16) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": [f"What is {i // 2} plus {i}?" for i in range(rows)],
            "chosen": [f" It is {i // 2 + i}{'!' * (i % 4)}" for i in range(rows)],
            "rejected": [f" No idea{'.' * (i % 3)}" for i in range(rows)],
            "chosen_score": [5.0] * rows,
            "rejected_score": [1.0 + i % 3 for i in range(rows)],
        }
    )


def laid_out(frame: pl.DataFrame, layout: str) -> pl.DataFrame:
    from prefmill.writers.layouts import convert

    return convert(
        frame, format="trl-implicit" if "implicit" in layout else "trl", chat="chat" in layout
    )

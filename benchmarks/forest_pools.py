"""Pools of `bench_forest.py`: what their rows begin with alike is of several depths.

Rows of real sets are read from the folder that `PREFMILL_REALDATA` names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pools

from prefmill.models.tokens import TokenRows

RUBRIC_WORDS = 84  # of the task, next to 600 words of examples
SHORT = 600  # characters


@dataclass
class Pool:
    """Token rows of one kind."""

    name: str
    title: str
    rows: TokenRows


def trees(tokenizer: Any, scale: float) -> Pool:
    """Every assistant turn of conversation trees, each a row with all turns before it."""
    file = _folder() / "oasst" / "en_100_tree.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()[: max(1, round(7 * scale))]
    chats: list[list[dict[str, str]]] = []
    groups: list[int] = []

    def walk(turn: dict[str, Any], before: list[dict[str, str]], parent: int) -> None:
        role = "user" if turn["role"] == "prompter" else "assistant"
        here = [*before, {"role": role, "content": turn["text"]}]
        if role == "assistant":
            chats.append(here)
            groups.append(parent)
        number = len(numbers)
        numbers.append(number)
        for reply in turn.get("replies") or []:
            walk(reply, here, number)

    numbers: list[int] = []
    for line in lines:
        tree = json.loads(line)
        walk(tree.get("prompt", tree), [], -1)
    return _pool("trees", "conversation trees (OASST)", tokenizer, chats, groups)


def judge(tokenizer: Any, scale: float) -> Pool:
    """A rubric with 600 words of examples before every prompt and short answer, K = 5."""
    return _judged("judge", tokenizer, scale, SHORT)


def judge_whole(tokenizer: Any, scale: float) -> Pool:
    """As `judge`, with answers as long as they are."""
    return _judged("judge-whole", tokenizer, scale, None)


def _judged(name: str, tokenizer: Any, scale: float, longest: int | None) -> Pool:
    rng = np.random.default_rng(0)
    words, weights = pools._vocabulary(tokenizer)
    rubric = " ".join(rng.choice(words, size=RUBRIC_WORDS + 600, p=weights))
    chats, groups = [], []
    judged = _alpaca(max(2, round(12 * scale)), 5, longest)
    for number, (prompt, answers) in enumerate(judged):
        for answer in answers:
            text = f"Question:\n{prompt}\n\nAnswer:\n{answer}"
            chats.append([{"role": "system", "content": rubric}, {"role": "user", "content": text}])
            groups.append(number)
    return _pool(name, "judge's rubric, AlpacaEval, K = 5", tokenizer, chats, groups)


def long_prompts(tokenizer: Any, scale: float) -> Pool:
    """K = 16 behind prompts of about 512 tokens."""
    shape = pools.Shape("long", "", groups=2, k=16, prompt=512, completion=48, longest=128)
    made = pools.decoder_pool(shape, tokenizer, scale, 0)
    rows = TokenRows.of([ids.astype(np.int32) for ids in made.ids], made.groups.tolist())
    return Pool("long", "prompt 512, answers 48, K = 16", rows)


def strangers(tokenizer: Any, scale: float) -> Pool:
    """K = 4, and no two rows begin with the same token."""
    words, _ = pools._vocabulary(tokenizer)
    texts = [
        f"{prompt} {answer}"
        for prompt, answers in _alpaca(max(4, round(12 * scale)), 4)
        for answer in answers
    ]
    texts = [f"{word} {text}" for word, text in zip(words, texts, strict=False)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = TokenRows.of([row[:600] for row in ids], np.repeat(range(len(texts) // 4), 4).tolist())
    return Pool("nothing", "nothing shared, K = 4", rows)


def singles(tokenizer: Any, scale: float) -> Pool:
    """K = 1: one answer of each prompt, through the chat template."""
    chats = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answers[0]}]
        for prompt, answers in _alpaca(max(8, round(40 * scale)), 1)
    ]
    return _pool("k1", "AlpacaEval, K = 1", tokenizer, chats, range(len(chats)))


MAKERS: dict[str, Callable[[Any, float], Pool]] = {
    "trees": trees,
    "judge": judge,
    "judge-whole": judge_whole,
    "long": long_prompts,
    "nothing": strangers,
    "k1": singles,
}


def _folder() -> Path:
    folder = os.environ.get("PREFMILL_REALDATA")
    if not folder:
        raise SystemExit("needs real data: PREFMILL_REALDATA=FOLDER")
    return Path(folder)


def _alpaca(prompts: int, k: int, longest: int | None = SHORT) -> list[tuple[str, list[str]]]:
    """The first `k` answers of at most `longest` characters to some prompts of AlpacaEval."""
    import pyarrow.parquet as pq

    file = _folder() / "alpaca_eval" / "weighted_part1.parquet"
    table = pq.read_table(file, columns=["prompt", "completion"])
    found: dict[str, list[str]] = {}
    for row in table.to_pylist():
        answers = found.setdefault(row["prompt"], [])
        length = len(row["completion"])
        if 0 < length <= (longest or length) and row["completion"] not in answers:
            answers.append(row["completion"])
    full = [(prompt, answers[:k]) for prompt, answers in found.items() if len(answers) >= k]
    return full[:prompts]


def _pool(
    name: str, title: str, tokenizer: Any, chats: Sequence[Any], groups: Sequence[int]
) -> Pool:
    texts = tokenizer.apply_chat_template(list(chats), tokenize=False)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return Pool(name, title, TokenRows.of([row[:1800] for row in ids], list(groups)))

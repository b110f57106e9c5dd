"""Texts, ids and scores of rows, as plain code has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pools
import tiny
import torch

#: prints whatever a message holds, so that a field that is not the row's own shows
TOOLS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['tool_calls'] is defined "
    "%}{{ m['tool_calls'] | tojson }}"
    "{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def with_template(folder: Path, target: Path, template: str) -> Path:
    shutil.copytree(folder, target)
    tok = tiny.tokenizer()
    tok.chat_template = template
    tok.save_pretrained(target)
    return target


def plain_ids(folder: Path, messages: list[dict[str, Any]], **how: Any) -> list[int]:
    """The ids of a conversation by the tokenizer's own template."""
    _, tok = pools.plain(folder)
    return tok(tok.apply_chat_template(messages, tokenize=False, **how), add_special_tokens=False)[
        "input_ids"
    ]


def plain_scores(folder: Path, talks: list[list[dict[str, Any]]]) -> np.ndarray:
    model, _ = pools.plain(folder)
    with torch.inference_mode():
        return np.array(
            [
                model(input_ids=torch.tensor([plain_ids(folder, talk)])).logits[0, 0].item()
                for talk in talks
            ]
        )

"""Tiny models in folders, for servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`causal` and `reward`, whose tokenizer adds a BOS token to plain text and to chats."""
    import tiny
    import tiny_models
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("models")
    tok = tiny.tokenizer()
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <eos> $B", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tok.chat_template = "{{ bos_token }}" + tiny.CHAT_TEMPLATE
    tiny_models.save_causal_model("llama", folder / "causal", tok=tok)
    tiny_models.save_reward_model("llama", folder / "reward", tok=tok, seed=3)
    # `transformers serve` draws only where this says so.
    config = folder / "causal" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "do_sample": True}))
    return folder

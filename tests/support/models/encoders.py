"""A tokenizer of pairs of texts, as encoders have it."""

from __future__ import annotations

from typing import Any

import tiny


def pair_tokenizer() -> Any:
    """The tiny tokenizer as a cross-encoder has it: no chat template, separators, and a type for
    each of two texts.
    """
    from tokenizers.processors import TemplateProcessing

    tok = tiny.tokenizer()
    tok.chat_template = None
    special = [("<bos>", tok.bos_token_id), ("<eos>", tok.eos_token_id)]
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=special
    )
    return tok

"""Process reward models as their owners save and call them: tiny, one row at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pools
import tiny
import tiny_models

#: what the tokenizer learns its merges from: full stops merge with the lines after them
TEXTS = [
    "First, add two and two.\n\nThat makes four.\n\nSo the answer is 4.\n\n",
    "Step 1: halve it. ки\nStep 2: double it. ки\nThe answer is: 12 ки",
    "yes no good bad + - 1 2 3 4 5 A B safe unsafe assistant user system think",
] * 4

#: words as Qwen2's tokenizer has them: a full stop goes with the lines after it
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def bpe(*, chat: bool = True) -> Any:
    """A byte-level tokenizer with merges, as Qwen's; `<extra_0>` is one token of it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
        chat_template=CHAT if chat else None,
    )


@functools.cache
def unigram() -> Any:
    """A tokenizer that marks words with what stands before them, as Llama's: `▁ки`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Split("\n", "isolated")]
    )
    made.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@functools.cache
def token_classifier(family: str, labels: int = 2, *, chat: bool = True, **more: Any) -> Path:
    """The folder of a tiny model with outputs for every token."""
    import torch
    from transformers import AutoModelForTokenClassification

    tok = bpe(chat=chat) if family != "bert" else tiny.tokenizer()
    settings = tiny_models.config(family, tok)
    settings.num_labels = labels
    for name, value in more.items():
        setattr(settings, name, value)
    torch.manual_seed(3)
    model = AutoModelForTokenClassification.from_config(settings).eval()
    folder = pools.new_folder(f"tokens-{family}")
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@functools.cache
def plain(folder: Path, auto: str = "AutoModelForTokenClassification", **more: Any) -> Any:
    """The model in `folder` as any user of Transformers loads it, in float32."""
    import torch
    import transformers

    kind = getattr(transformers, auto)
    return kind.from_pretrained(folder, dtype=torch.float32, **more).eval()


def outputs(model: Any, ids: Sequence[int]) -> Any:
    """The logits of one row, alone."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)])).logits[0].double()


def qwen(model: Any, tok: Any, prompt: str, steps: Sequence[str]) -> list[float]:
    """Qwen2.5-Math-PRM: a token after each step, and there the probability of the second class."""
    answer = "<extra_0>".join(steps) + "<extra_0>"
    talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    ids = tok.encode(tok.apply_chat_template(talk, tokenize=False), add_special_tokens=False)
    at = [i for i, token in enumerate(ids) if token == tok.convert_tokens_to_ids("<extra_0>")]
    return outputs(model, ids)[at].softmax(dim=1)[:, 1].tolist()


def trl(model: Any, tok: Any, prompt: str, steps: Sequence[str], separator: str) -> list[float]:
    """TRL's PRMTrainer: every text by itself, the label at the last token of the separator."""
    ids = tok(prompt, add_special_tokens=False)["input_ids"]
    if tok.bos_token_id is not None:
        ids = [tok.bos_token_id, *ids]
    at = []
    for step in steps:
        ids = [*ids, *tok(step, add_special_tokens=False)["input_ids"]]
        ids += tok.encode(separator, add_special_tokens=False)
        at.append(len(ids) - 1)
    return outputs(model, ids)[at].softmax(dim=1)[:, 1].tolist()

"""An encoder of a few words, small enough for a test: each word has a random vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def word_encoder(folder: Path, words: Sequence[str], *, width: int = 64, seed: int = 0) -> Path:
    """Write the encoder and its tokenizer to `folder`; what is no word of `words` is `[UNK]`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    split = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=split, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=0,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    model = BertModel(config)
    # Where a word stands does not count.
    model.embeddings.position_embeddings.weight.data.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Tiny random models of every family that scoring has to get right, saved as users would save
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny


def decoder(tok: Any, name: str, **more: Any) -> Any:
    from transformers import AutoConfig

    base: dict[str, Any] = {
        "vocab_size": len(tok),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "initializer_range": 0.2,
    }
    return AutoConfig.for_model(name, **{**base, **more})


def encoder(tok: Any, name: str, **more: Any) -> Any:
    from transformers import AutoConfig

    base: dict[str, Any] = {
        "vocab_size": len(tok),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "cls_token_id": tok.bos_token_id,
        "sep_token_id": tok.eos_token_id,
        "initializer_range": 0.2,
    }
    return AutoConfig.for_model(name, **{**base, **more})


def config(family: str, tok: Any) -> Any:
    """The configuration of a tiny model of `family`."""
    if family == "llama":
        return decoder(tok, "llama")
    if family == "qwen2":
        return decoder(tok, "qwen2")
    if family == "qwen3":
        return decoder(tok, "qwen3", head_dim=8)
    if family == "mistral":
        return decoder(tok, "mistral", sliding_window=16, head_dim=8)
    if family == "gemma2":
        return decoder(
            tok,
            "gemma2",
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=16,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        )
    if family == "gpt2":
        from transformers import GPT2Config

        return GPT2Config(
            vocab_size=len(tok),
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            pad_token_id=tok.pad_token_id,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            initializer_range=0.2,
        )
    if family == "dynamic-rope":
        return decoder(
            tok,
            "llama",
            max_position_embeddings=48,
            rope_parameters={"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0},
        )
    if family == "longrope":
        rope = {
            "rope_type": "longrope",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 48,
            "short_factor": [1.0, 1.1],
            "long_factor": [2.0, 3.0],
        }
        return decoder(tok, "llama", max_position_embeddings=1024, rope_parameters=rope, head_dim=4)
    if family == "gpt-oss":  # attention sinks
        return decoder(
            tok,
            "gpt_oss",
            head_dim=4,
            sliding_window=16,
            num_local_experts=2,
            num_experts_per_tok=1,
        )
    if family == "qwen3-next":  # linear attention in every other layer
        return decoder(
            tok,
            "qwen3_next",
            head_dim=8,
            layer_types=["linear_attention", "full_attention"],
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
    if family == "bert":
        return encoder(tok, "bert")
    if family == "deberta-v2":
        return encoder(
            tok,
            "deberta-v2",
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            max_relative_positions=-1,
            type_vocab_size=0,
            pooler_hidden_size=32,
        )
    if family == "modernbert":
        return encoder(tok, "modernbert", local_attention=16, global_attn_every_n_layers=2)
    raise KeyError(family)


SHARING = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2")
BATCHED = ("dynamic-rope", "longrope", "gpt-oss", "qwen3-next", "bert", "deberta-v2", "modernbert")


def save_reward_model(
    family: str, folder: Path, *, tok: Any | None = None, seed: int = 0, **more: Any
) -> Path:
    """A random reward model of `family` with its tokenizer in `folder`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    tok = tok or tiny.tokenizer()
    settings = config(family, tok)
    settings.num_labels = 1
    for name, value in more.items():
        setattr(settings, name, value)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(settings)
    model.eval().save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def save_causal_model(family: str, folder: Path, *, tok: Any | None = None, seed: int = 0) -> Path:
    """A random causal language model of `family` with its tokenizer in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM

    tok = tok or tiny.tokenizer()
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config(family, tok)).eval().save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder

"""Reward models as other libraries save them, and their owners' way of calling them: plain
Transformers and PEFT, one row at a time.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pools
import tiny
import torch
from safetensors.torch import load_file, save_file

Row = tuple[str, str]


def layer(seed: int = 1, bias: bool = True) -> tuple[Any, Any]:
    """The weight of a head on 32 states, and its bias or None."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 32, generator=generator)
    return weight, torch.randn(1, generator=generator) if bias else None


def value_head(
    target: Path,
    name: str,
    *,
    family: str = "llama",
    bias: bool = True,
    body: str = "causal",
    wrapper: str = "",
    apart: bool = False,
    buffers: dict[str, float] | None = None,
    **settings: Any,
) -> Path:
    """A folder with the head `name` over the body of a tiny model.

    body     causal: with a language-model head, as TRL saves it; bare: without one
    wrapper  what stands before the names of the body's weights
    apart    the head is in value_head.safetensors, as LLaMA-Factory saves it
    """
    base = pools.causal(family)
    shutil.copytree(base, target)
    weights = load_file(base / "model.safetensors")
    if body == "bare":
        weights = {key: value for key, value in weights.items() if not key.startswith("lm_head")}
    weights = {wrapper + key: value for key, value in weights.items()}
    weight, offset = layer(bias=bias)
    head = {f"{name}.weight": weight}
    if offset is not None:
        head[f"{name}.bias"] = offset
    for key, value in (buffers or {}).items():
        weights[key] = torch.tensor([value])
    if apart:
        save_file(head, target / "value_head.safetensors", {"format": "pt"})
    else:
        weights |= head
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    configure(target, **settings)
    return target


def configure(folder: Path, **settings: Any) -> Path:
    """Change what config.json says; None takes a key away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def states(rows: Iterable[Row], family: str = "llama", model: Any = None) -> list[Any]:
    """The last hidden state of each row's last token, alone."""
    plain, tok = pools.plain(pools.causal(family), "causal")
    model = model or plain
    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([pools.ids_of(tok, *row)])
            found.append(model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1])
    return found


def valued(rows: Iterable[Row], family: str = "llama", *, bias: bool = True) -> np.ndarray:
    """What the owner of a value head makes of the rows."""
    weight, offset = layer(bias=bias)
    add = 0.0 if offset is None else offset.item()
    return np.array([(state @ weight[0]).item() + add for state in states(rows, family)])


def adapter(
    target: Path,
    base: Path,
    task: str | None = "SEQ_CLS",
    *,
    config: Callable[..., Any] | None = None,
    auto: str = "AutoModelForSequenceClassification",
    resize: int = 0,
    tokenizer: bool = False,
    **settings: Any,
) -> Any:
    """An adapter in `target` as PEFT saves it, which moves scores; the wrapped model is returned.

    resize: so many tokens are added to the embedding, which the adapter then brings.
    """
    import peft
    import transformers

    more = {"num_labels": 1, "ignore_mismatched_sizes": True}
    more = more if "Classification" in auto else {}
    from prefmill.models.wanted import quiet

    with quiet():
        model = getattr(transformers, auto).from_pretrained(base, **more)
    torch.manual_seed(3)
    if resize:
        model.resize_token_embeddings(len(tiny.tokenizer()) + resize, mean_resizing=False)
    if config is None:
        config = peft.LoraConfig
        settings = {
            "r": 2,
            "target_modules": ["q_proj", "v_proj"],
            "init_lora_weights": False,
            **settings,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, config(task_type=task, **settings)).eval()
    with torch.no_grad():  # kinds that begin as the identity shall not stay it
        for name, value in wrapped.named_parameters():
            if value.requires_grad and "lora_" not in name and "modules_to_save" not in name:
                value.add_(torch.randn_like(value) * 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that embeddings are saved
        wrapped.save_pretrained(target)
    if tokenizer:
        tiny.tokenizer().save_pretrained(target)
    return wrapped


def logits(model: Any, rows: Iterable[Row]) -> np.ndarray:
    """The one logit of each row, alone."""
    tok = tiny.tokenizer()
    with torch.inference_mode():
        scores = [
            model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, 0].item()
            for row in rows
        ]
    return np.array(scores)

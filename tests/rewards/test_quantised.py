"""Quantised folders that Transformers reads on a CPU: its own numbers, one row at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import owners
import pools
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from prefmill.models.wanted import quiet
from prefmill.scoring import RewardModel

pytestmark = [
    pytest.mark.score,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
pools.one_thread()

ROWS = [row for row in pools.POOL if all(row)]
BLOCK = 128  # as FP8 checkpoints are scaled; smaller layers than a block have one scale


def base() -> Path:
    """A model whose layers are as wide as the kernels want."""
    return pools.reward("llama", hidden_size=BLOCK, intermediate_size=2 * BLOCK, head_dim=16)


def plain(folder: Path, **options: Any) -> Any:
    """The model as any user of Transformers loads it."""
    from transformers import AutoModelForSequenceClassification

    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, **options
        ).eval()


def scored(folder: Path) -> tuple[np.ndarray, str]:
    scorer = RewardModel(model=folder, device="cpu")
    return scorer(pools.batch(ROWS)), scorer.load()


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_bitsandbytes(kind: str, tmp_path: Path) -> None:
    """Kernels on a CPU differ with the number of tokens: every row runs alone, and so does an
    adapter, which is applied and not merged.
    """
    pytest.importorskip("bitsandbytes", reason="there is no bitsandbytes for this machine")
    import peft
    from transformers import BitsAndBytesConfig

    how: dict[str, Any] = {"load_in_8bit": True}
    if kind == "nf4":
        how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        how["bnb_4bit_compute_dtype"] = torch.float32
    folder = tmp_path / "model"
    plain(base(), quantization_config=BitsAndBytesConfig(**how)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    model = plain(folder)
    wanted = owners.logits(model, ROWS)
    got, way = scored(folder)
    pools.assert_close(got, wanted)
    assert way.startswith("batches: kernels for quantised weights on a CPU")
    assert np.abs(got - pools.oracle(base(), ROWS)).max() > 1e-3
    torch.manual_seed(0)
    layers = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    config = peft.LoraConfig(r=2, task_type="SEQ_CLS", **layers)
    # A model that has run has its weights in another order, which PEFT does not expect.
    wrapped = peft.get_peft_model(plain(folder), config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    moved, _ = scored(tmp_path / "adapter")
    pools.assert_close(moved, owners.logits(wrapped, ROWS))
    assert np.abs(moved - got).max() > 1e-3


def test_fp8_is_taken_back_to_full_precision(tmp_path: Path) -> None:
    """On a CPU Transformers multiplies every block by its scale; so does the oracle, by itself."""
    folder, full = tmp_path / "fp8", tmp_path / "full"
    shutil.copytree(base(), folder)
    shutil.copytree(base(), full)
    stored: dict[str, Any] = {}
    meant: dict[str, Any] = {}
    for name, value in load_file(base() / "model.safetensors").items():
        stored[name] = meant[name] = value
        if "proj" not in name:
            continue
        rows, columns = (-(-size // BLOCK) for size in value.shape)
        scales = torch.zeros(rows, columns)
        small = torch.zeros_like(value, dtype=torch.float8_e4m3fn)
        back = torch.zeros_like(value)
        for i in range(rows):
            for j in range(columns):
                place = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
                scales[i, j] = value[place].abs().max() / 448
                small[place] = (value[place] / scales[i, j]).to(torch.float8_e4m3fn)
                back[place] = small[place].float() * scales[i, j]
        stored |= {name: small, name.replace("weight", "weight_scale_inv"): scales}
        meant[name] = back
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    save_file(meant, full / "model.safetensors", {"format": "pt"})
    told = json.loads((folder / "config.json").read_text())
    told["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": ["score"],
    }
    (folder / "config.json").write_text(json.dumps(told))
    got, way = scored(folder)
    assert way == "streams"
    pools.assert_close(got, owners.logits(plain(folder), ROWS))
    pools.assert_close(got, pools.oracle(full, ROWS))

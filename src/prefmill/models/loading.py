"""Loading a Transformers model and its tokenizer: what the folder says, or an error.

There is one way for scoring, log-probabilities, sampling and training: `weights`. It refuses code
that nobody trusts, weights that are missing, weights for which the model has no place, and a folder
of another kind of model (`wanted.py`). An adapter is put into its base (`adapters.py`), a value
head under `score` (`value_heads.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from prefmill.errors import BadArgument, BadInput, OutOfDeviceMemory
from prefmill.models import value_heads
from prefmill.models.adapters import Adapter, tokenizer_folder
from prefmill.models.described import described
from prefmill.models.folders import (
    TRUST,
    check_folder,
    code_hint,
    gguf_of,
    own_code,
    place_of,
    refuse_pickled,
    stored_dtype,
)
from prefmill.models.wanted import Kind, Wanted

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer, and what it is called."""

    model: Any
    tokenizer: Any
    device: Any


def pick_device(device: str) -> Any:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    import torch

    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise BadArgument(
            f"score: no device {device!r}; expected auto, cpu, cuda or cuda:N."
        ) from None
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if place.type == "cuda" and (place.index or 0) >= there:
        raise BadArgument(
            f"score: no CUDA device {device!r} here; got {torch.cuda.device_count()} of them.",
            hint="--device cpu",
        )
    if device == "cuda":
        return torch.device("cuda:0")
    return place


def dtype_of(folder: Path, dtype: str, place: Any) -> str:
    """The dtype in which the model in `folder` runs on the device `place`.

    `auto` is float32 on a CPU, where half precision is several times slower. On a GPU it is the
    checkpoint's own, and bfloat16 for a float32 checkpoint where the GPU has it: float32 misses
    the matrix units and the flash kernel, and takes 12 to 14 times as long (arithmetic).
    """
    import torch

    allowed = get_args(Dtype)
    if dtype not in allowed:
        raise BadArgument(f"score: dtype is not one of {allowed}; got {dtype!r}.")
    if dtype != "auto":
        return dtype
    if place.type == "cpu":
        return "float32"
    stored = stored_dtype(folder)
    fast = place.type == "cuda" and torch.cuda.get_device_capability(place) >= (8, 0)
    if stored == "float32" and fast:
        return "bfloat16"
    return stored


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False, where: str = "score") -> Any:
    """The tokenizer in the model's folder."""
    from transformers import AutoTokenizer

    if not trust_remote_code and "AutoTokenizer" in own_code(folder):
        raise BadInput(
            f"{where}: {str(folder)!r} names custom code for its tokenizer;"
            " without it other ids would be made.",
            hint=TRUST,
        )
    try:
        return AutoTokenizer.from_pretrained(
            place_of(folder), trust_remote_code=trust_remote_code, **gguf_of(folder, where)
        )
    except Exception as error:
        raise BadInput(
            f"{where}: no usable tokenizer in {str(folder)!r}; {described(error)}",
            hint=code_hint(error),
        ) from error


def config_of(folder: Path, *, trust_remote_code: bool = False, where: str = "score") -> Any:
    """The model's configuration as Transformers reads it. Raises `BadInput`."""
    from transformers import AutoConfig

    check_folder(folder, trust_remote_code=trust_remote_code, where=where)
    try:
        return AutoConfig.from_pretrained(
            place_of(folder), trust_remote_code=trust_remote_code, **gguf_of(folder, where)
        )
    except Exception as error:  # a configuration is checked by many, in many words
        raise BadInput(
            f"{where}: no usable config.json in {str(folder)!r}; {described(error)}",
            hint=code_hint(error),
        ) from error


def load(
    folder: Path,
    kind: Kind,
    *,
    base: Path | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: bool = False,
    where: str = "score",
) -> Loaded:
    """The model in `folder`, ready to run; `dtype` is as in `dtype_of`.

    base: the folder of the model that the adapter in `folder` changes (`adapters.base_of`).

    Raises `BadInput` as `weights` does, and `OutOfDeviceMemory`.
    """
    import torch

    place = pick_device(device)
    wanted = getattr(torch, dtype_of(base or folder, dtype, place))
    try:
        model = weights(
            folder,
            kind,
            base=base,
            dtype=wanted,
            trust_remote_code=trust_remote_code,
            where=where,
            place=place,
        )
        model = model.eval().requires_grad_(False).to(place)
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemory(
            f"{where}: the model in {str(folder)!r} does not fit into the memory of {place}.",
            hint="one model runs on one device here (no tensor parallelism):"
            " serve it over several GPUs, and --scorer endpoint --url http://HOST:PORT.",
        ) from error
    tokenizer = load_tokenizer(
        tokenizer_folder(folder, base), trust_remote_code=trust_remote_code, where=where
    )
    return Loaded(model, tokenizer, place)


def weights(
    folder: Path,
    kind: Kind,
    *,
    dtype: Any,
    base: Path | None = None,
    trust_remote_code: bool = False,
    where: str = "score",
    new_head: bool = False,
    place: Any = None,
) -> Any:
    """The model in `folder` with all of its weights, and nothing but them.

    base: the folder of the model that the adapter in `folder` changes; it is merged into it, or
    stays applied where the base is quantised.
    place: the device onto which the weights are read; None: they stay on the CPU.
    new_head: a reward model to train: a folder without a head that gives one score gets a new one,
    and loses the head that it has.

    Raises `BadInput` for a folder without safetensors, that lacks weights (they would be random),
    that has weights for which the model has no place (they would be dropped), whose weights are of
    another kind of model, or whose own code is not run.
    """
    full = base or folder
    config = config_of(full, trust_remote_code=trust_remote_code, where=where)
    if kind != "causal" and gguf_of(full, where):
        raise BadInput(
            f"{where}: {str(full)!r} is a GGUF file, from which Transformers reads no head that"
            " scores; expected safetensors.",
            hint="name the folder that the file was made of.",
        )
    refuse_pickled(full, where)
    head = value_heads.find(folder, base, where) if kind == "reward" else None
    if new_head and head is not None and head.bias is not None:
        raise BadInput(
            f"{where}: the head {head.name!r} of {str(folder)!r} has a bias, for which the trained"
            " model would have no place; expected a head without one.",
            hint="train from the model that this one was made of.",
        )
    adapter = Adapter.read(folder, kind, where) if base is not None else None
    wanted = Wanted(full, kind, where, new_head, head, adapter)
    model, info = wanted.read(wanted.options(dtype, place, trust_remote_code))
    # In this order: a folder of another kind of model lacks a head, which says more.
    wanted.refuse_missing(model, info)
    wanted.refuse_others(model, config)
    wanted.refuse_unexpected(model, info)
    if head is not None:
        head.install(model, where)
    if adapter is not None:
        quantised = getattr(model, "hf_quantizer", None) is not None
        own = head.keys if head is not None else set()
        model = adapter.apply(model, without=own, merge=not quantised, where=where)
    return model

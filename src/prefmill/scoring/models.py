"""Loading a Transformers model and its tokenizer so that nothing is guessed: pinned, safetensors, no code of strangers, no missing
weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import BadArgument, BadInput, MissingPackage

Kind = Literal["reward", "causal"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_HEADS = ("score", "classifier", "v_head", "value_head", "lm_head")
# What changes numbers or ids; a README or an optimizer state beside the weights does not.
_COUNTED = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py")
_UNCOUNTED = (
    "README", "prefmill.json", "trainer_state", "training_args", "generation_config", "all_results", "train_results", "eval_results",
)  # fmt: skip


# Encoders that number positions from pad_token_id + 1, so that as many fewer are left for tokens.
_BEHIND_PAD = frozenset({
    "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "mpnet", "longformer", "ibert",
    "xmod",
})  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer, and what it is called."""

    model: Any
    tokenizer: Any
    device: Any


def folder_of(model: str, revision: str | None, *, where: str = "score") -> Path:
    """The folder with the files of `model`: itself, or where the hub's cache keeps that revision (fetched if need be)."""
    if Path(model).is_dir():
        if revision is not None:
            raise BadArgument(f"{where}: a revision is of a hub id; got revision {revision!r} and the directory {model!r}.")
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise BadInput(
            f"{where}: no directory {model!r}.", hint="name a directory that holds config.json and model.safetensors, or a hub id."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingPackage.for_extra(where, "huggingface_hub", "score") from None
    try:
        patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's errors are many and change
        raise BadInput(
            f"{where}: cannot get {model!r} from the hub; {type(error).__name__}: {str(error).splitlines()[0]}",
            hint="is it a directory? Then name one that exists.",
        ) from error


def content_hash(folder: Path) -> str:
    """A hash of every file in `folder` that decides scores: weights, configuration, tokenizer. Cost: one read, about 1 GB/s a core."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _COUNTED and not p.name.startswith(_UNCOUNTED))

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(digest, files))
    return hashlib.sha256(json.dumps([[p.name, d] for p, d in zip(files, digests, strict=True)]).encode()).hexdigest()[:32]


def pick_device(device: str) -> Any:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    import torch

    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise BadArgument(f"score: no device {device!r}; expected auto, cpu, cuda or cuda:N.") from None
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise BadArgument(f"score: no CUDA device {device!r} here; got {torch.cuda.device_count()} of them.", hint="--device cpu")
    return torch.device("cuda:0") if device == "cuda" else found


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False, where: str = "score") -> Any:
    """The tokenizer that lies beside the model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise BadInput(
            f"{where}: no usable tokenizer in {str(folder)!r}; {type(error).__name__}: {first_line(error)}", hint=code_hint(error)
        ) from error


def first_line(error: BaseException) -> str:
    """What an error of others says, in one line."""
    return next(iter(str(error).splitlines()), "")


def code_hint(error: BaseException) -> str | None:
    """What to do about an error of Transformers that wants to run the folder's own code."""
    return "--trust-remote-code runs the code in that folder: read it first." if "trust_remote_code" in str(error) else None


def load(folder: Path, kind: Kind, *, device: str = "auto", dtype: Dtype = "auto", trust_remote_code: bool = False) -> Loaded:
    """The model in `folder`, ready to run.

    dtype: `auto` is float32 on a CPU, where half precision is several times slower, and the checkpoint's own on CUDA.
    Raises `BadInput` for a folder without safetensors, without some of the weights (a missing head would be random), or of another kind.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if not (folder / "config.json").is_file():
        raise BadInput(f"score: no model in {str(folder)!r}: no config.json.", hint="name the directory that save_pretrained wrote.")
    where = pick_device(device)
    numbers = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype != "auto" and dtype not in numbers:
        raise BadArgument(f"score: dtype is not one of {('auto', *numbers)}; got {dtype!r}.")
    wanted = numbers[dtype] if dtype != "auto" else torch.float32 if where.type == "cpu" else "auto"
    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    try:
        with quiet():
            model, info = auto.from_pretrained(  # type: ignore[misc]
                folder, dtype=wanted, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
            )
    except OSError as error:
        raise BadInput(
            f"score: no safetensors weights in {str(folder)!r}; {str(error).splitlines()[0]}",
            hint="convert them once: model.save_pretrained(folder) writes safetensors.",
        ) from error
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"score: cannot load {str(folder)!r}; {first_line(error)}", hint=code_hint(error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        head = any(key.split(".")[0] in _HEADS for key in missing)
        raise BadInput(
            f"score: the weights of {str(folder)!r} lack {missing[:3]}{' and more' if len(missing) > 3 else ''}:"
            f" {'the head' if head else 'a part'} would be random; expected all weights.",
            hint="this is not a reward model (yet): train its head, or name another." if kind == "reward" and head else None,
        )
    return Loaded(model.eval().requires_grad_(False).to(where), load_tokenizer(folder, trust_remote_code=trust_remote_code), where)


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers' loading report and bars say in many lines what we say in one error."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    bars = theirs.is_progress_bar_enabled() if hasattr(theirs, "is_progress_bar_enabled") else True
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]


def longest(config: Any, tokenizer: Any) -> int | None:
    """The most tokens that the model takes: of its positions and its tokenizer's own limit, the smaller; None: no limit is known."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if positions and text.model_type in _BEHIND_PAD:
        positions -= (text.pad_token_id or 0) + 1
    if positions and rope.get("rope_type") == "dynamic":  # there it is the length from which frequencies are stretched
        positions = int(positions * rope.get("factor", 1))
    limits = [positions, tokenizer.model_max_length]
    known = [int(n) for n in limits if n and n < 10**7]
    return min(known) if known else None


def label_index(config: Any, label: str | int | None) -> int:
    """Which of the model's labels is the score: the only one, or the one named (by name or number)."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    if label is None:
        if config.num_labels == 1:
            return 0
        raise BadArgument(
            f"score: the model has {config.num_labels} labels; got no label, expected one of {list(names.values())}.",
            hint=f"--label {names[0]} (or its number).",
        )
    for number, name in names.items():
        if label in (name, number, str(number)):
            return number
    raise BadArgument(f"score: the model has no label {label!r}; got {list(names.values())}.")

"""Loading a Transformers model and its tokenizer: what is loaded is what the folder says, or an
error says where it is not.

One way for scoring, log-probabilities, sampling and training: `weights`. It refuses code that
nobody trusts, weights that are missing, weights for which the model has no place, adapters, and a
folder of another kind of model.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from prefmill.errors import BadArgument, BadInput, MissingPackage, OutOfDeviceMemory

Kind = Literal["reward", "causal"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = get_args(Dtype)

_HEADS = ("score", "classifier", "v_head", "value_head", "lm_head")
_AUTO = {"reward": "AutoModelForSequenceClassification", "causal": "AutoModelForCausalLM"}
# How the names of Transformers' own classes end, by what their weights are for.
_ENDINGS = {
    "reward": ("ForSequenceClassification",),
    "causal": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
}
_LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
)
# What changes numbers or ids; a README or an optimizer state beside the weights does not.
_COUNTED = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py")
_UNCOUNTED = (
    "README",
    "prefmill.json",
    "trainer_state",
    "training_args",
    "generation_config",
    "all_results",
    "train_results",
    "eval_results",
)


# Encoders that number positions from pad_token_id + 1, so that as many fewer are left for tokens.
_BEHIND_PAD = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "roberta-prelayernorm",
        "camembert",
        "data2vec-text",
        "mpnet",
        "longformer",
        "ibert",
        "xmod",
    }
)


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer, and what it is called."""

    model: Any
    tokenizer: Any
    device: Any


def folder_of(model: str, revision: str | None, *, where: str = "score") -> Path:
    """The folder with the files of `model`: itself, or where the hub's cache keeps that revision
    (fetched if need be).
    """
    if Path(model).is_dir():
        if revision is not None:
            raise BadArgument(
                f"{where}: a revision is of a hub id; got revision {revision!r} and the directory {model!r}."
            )
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise BadInput(
            f"{where}: no directory {model!r}.",
            hint="name a directory that holds config.json and model.safetensors, or a hub id.",
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
    """A hash of every file in `folder` that decides scores: weights, configuration, tokenizer,
    templates, code.

    Code of another repository that the folder names counts too. Cost: one read, about 1 GB/s a
    core.
    """
    top = (
        p for p in folder.iterdir() if p.suffix in _COUNTED and not p.name.startswith(_UNCOUNTED)
    )
    nested = (p for suffix in (".py", ".jinja") for p in folder.glob(f"*/**/*{suffix}"))
    shards = (folder / name for name in _shards(folder))
    files = sorted({p for p in (*top, *nested, *shards) if p.is_file()})
    named = [(str(p.relative_to(folder)), p) for p in files]
    for repository in _repositories(folder):
        there = folder_of(repository, None)
        named += [(f"{repository}--{p.relative_to(there)}", p) for p in sorted(there.rglob("*.py"))]

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(digest, [path for _, path in named]))
    content = [[name, d] for (name, _), d in zip(named, digests, strict=True)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no such file, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _shards(folder: Path) -> set[str]:
    """The files that the index of the weights names."""
    named = _json(folder / "model.safetensors.index.json").get("weight_map")
    return {str(name) for name in named.values()} if isinstance(named, dict) else set()


def _code(folder: Path) -> dict[str, str]:
    """The classes of its own that a folder names: Transformers' name to `module.Class`, maybe
    `repository--module.Class`.
    """
    found: dict[str, str] = {}
    for name in ("config.json", "tokenizer_config.json"):
        named = _json(folder / name).get("auto_map")
        if isinstance(named, list | tuple):  # an old form: the two tokenizers
            named = {"AutoTokenizer": named}
        for auto, classes in (named if isinstance(named, dict) else {}).items():
            each = classes if isinstance(classes, list | tuple) else [classes]
            found[str(auto)] = next((str(one) for one in reversed(each) if one), "")
    return found


def _repositories(folder: Path) -> list[str]:
    """Other repositories whose code a folder names."""
    return sorted({named.partition("--")[0] for named in _code(folder).values() if "--" in named})


def check_folder(
    folder: Path, *, trust_remote_code: bool = False, where: str = "score"
) -> dict[str, Any]:
    """What `config.json` in `folder` says. Raises `BadInput` for a folder from which something else
    than that would be loaded.
    """
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    weights = [p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_")]
    if adapter.is_file():
        base = _json(adapter).get("base_model_name_or_path")
        what = "full weights and an adapter" if weights else "an adapter alone"
        away = (
            " Or move adapter_config.json away: then the full weights count as they are."
            if weights
            else ""
        )
        raise BadInput(
            f"{where}: the model in {str(folder)!r} cannot be told; got {what} (PEFT, of {base!r}), expected full weights.",
            hint=f"merge the adapter into its base first:{_merge_line(folder)}{away}",
        )
    if not config.is_file():
        raise BadInput(
            f"{where}: no model in {str(folder)!r}: no config.json.",
            hint="name the directory that save_pretrained wrote.",
        )
    told = _json(config)
    code = _code(folder)
    if code and not trust_remote_code:
        raise BadInput(
            f"{where}: {str(folder)!r} names custom code for {', '.join(sorted(code))}; without it another model would be loaded.",
            hint=_TRUST,
        )
    outside = sorted(name for name in _shards(folder) if not _is_inside(folder, name))
    if outside:
        raise BadInput(
            f"{where}: the index of the weights in {str(folder)!r} names {outside[:3]}; expected files of the folder."
        )
    _check_layers(folder, told, where)
    return told


def _merge_line(folder: Path) -> str:
    """The command that merges an adapter, for one that brings all that is needed."""
    task = _json(folder / "adapter_config.json").get("task_type")
    named = {
        "SEQ_CLS": ("SequenceClassification", ", num_labels=1"),
        "CAUSAL_LM": ("CausalLM", ""),
    }.get(str(task))
    if named is None:
        return " PEFT's merge_and_unload and save_pretrained."
    return (
        f' python -c "from peft import AutoPeftModelFor{named[0]} as M;'
        f" M.from_pretrained({str(folder)!r}{named[1]}).merge_and_unload().save_pretrained('merged')\","
        " then copy the tokenizer's files to merged."
    )


def _is_inside(folder: Path, name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _check_layers(folder: Path, told: Mapping[str, Any], where: str) -> None:
    """Refuse a number of layers that no weights can have: a negative one, and one that would be
    built for hours.
    """
    named = {name: told[name] for name in _LAYERS if isinstance(told.get(name), int | float)}
    if not named:
        return
    most = _tensors(folder)
    for name, value in named.items():
        if value < 0 or value != int(value) or (most is not None and value > most):
            limit = "" if most is None else f" up to the {most:,} of the weights' tensors"
            raise BadInput(
                f"{where}: {name} in {str(folder / 'config.json')!r} is no number of layers; got {value}, expected one{limit}."
            )


def _tensors(folder: Path) -> int | None:
    """How many tensors the weights have; None where that cannot be read."""
    from safetensors import SafetensorError, safe_open

    index = _json(folder / "model.safetensors.index.json").get("weight_map")
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            return len(file.keys())
    except (OSError, SafetensorError):
        return len(index) if isinstance(index, dict) else None


def pick_device(device: str) -> Any:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    import torch

    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise BadArgument(
            f"score: no device {device!r}; expected auto, cpu, cuda or cuda:N."
        ) from None
    if found.type == "cuda" and (
        not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()
    ):
        raise BadArgument(
            f"score: no CUDA device {device!r} here; got {torch.cuda.device_count()} of them.",
            hint="--device cpu",
        )
    return torch.device("cuda:0") if device == "cuda" else found


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False, where: str = "score") -> Any:
    """The tokenizer that lies beside the model."""
    from transformers import AutoTokenizer

    if not trust_remote_code and "AutoTokenizer" in _code(folder):
        raise BadInput(
            f"{where}: {str(folder)!r} names custom code for its tokenizer; without it other ids would be made.",
            hint=_TRUST,
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise BadInput(
            f"{where}: no usable tokenizer in {str(folder)!r}; {type(error).__name__}: {first_line(error)}",
            hint=code_hint(error),
        ) from error


def first_line(error: BaseException) -> str:
    """What an error of others says, in one line."""
    return " ".join(str(error).split())[:300]


_TRUST = "--trust-remote-code runs the code in that folder: read it first."


def code_hint(error: BaseException) -> str | None:
    """What to do about an error of Transformers that wants to run the folder's own code."""
    return _TRUST if "trust_remote_code" in str(error) else None


def config_of(folder: Path, *, trust_remote_code: bool = False, where: str = "score") -> Any:
    """The model's configuration as Transformers reads it. Raises `BadInput`."""
    from transformers import AutoConfig

    check_folder(folder, trust_remote_code=trust_remote_code, where=where)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # a configuration is checked by many, in many words
        raise BadInput(
            f"{where}: no usable config.json in {str(folder)!r}; {type(error).__name__}: {first_line(error)}",
            hint=code_hint(error),
        ) from error


def load(
    folder: Path,
    kind: Kind,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: bool = False,
    where: str = "score",
) -> Loaded:
    """The model in `folder`, ready to run.

    dtype: `auto` is what `dtype_of` says.
    Raises `BadInput` as `weights` does, and `OutOfDeviceMemory`.
    """
    import torch

    place = pick_device(device)
    wanted = getattr(torch, dtype_of(folder, dtype, place))
    try:
        model = weights(
            folder,
            kind,
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
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code, where=where)
    return Loaded(model, tokenizer, place)


def dtype_of(folder: Path, dtype: str, place: Any) -> str:
    """The dtype in which the model in `folder` runs on the device `place`, where `dtype` is asked
    for.

    `auto` is float32 on a CPU, where half precision is several times slower. On a GPU it is the
    checkpoint's own, and bfloat16 for a float32 checkpoint where the GPU has it: float32 misses
    the matrix units and the flash kernel, and takes 12 to 14 times as long (arithmetic).
    """
    import torch

    if dtype not in _DTYPES:
        raise BadArgument(f"score: dtype is not one of {_DTYPES}; got {dtype!r}.")
    if dtype != "auto":
        return dtype
    if place.type == "cpu":
        return "float32"
    stored = _stored_dtype(folder)
    fast = place.type == "cuda" and torch.cuda.get_device_capability(place) >= (8, 0)
    return "bfloat16" if stored == "float32" and fast else stored


def _stored_dtype(folder: Path) -> str:
    """The dtype of a checkpoint, as Transformers tells it: by its configuration, else by its first
    weights.
    """
    from safetensors import SafetensorError, safe_open

    told = _json(folder / "config.json")
    named = told.get("dtype") or told.get("torch_dtype")
    if named in _DTYPES[1:]:
        return str(named)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            continue
        for name, kind in (("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")):
            if kind in kinds:
                return name
    return "float32"


def weights(
    folder: Path,
    kind: Kind,
    *,
    dtype: Any,
    trust_remote_code: bool = False,
    where: str = "score",
    new_head: bool = False,
    place: Any = None,
) -> Any:
    """The model in `folder` with all of its weights, and nothing but them.

    place: the device onto which the weights are read; None: they stay on the CPU.
    new_head: a reward model to train: a folder without a head that gives one score gets a new one,
    and loses the head that it has. Raises `BadInput` for a folder without safetensors, that lacks
    weights (they would be random), that has weights for which the model has no place (they would be
    dropped), whose weights are of another kind of model, or whose own code is not run.
    """
    import torch

    config = config_of(folder, trust_remote_code=trust_remote_code, where=where)
    auto = _class_of(folder, kind, where=where, new_head=new_head)
    more: dict[str, Any] = {"num_labels": 1, "ignore_mismatched_sizes": True} if new_head else {}
    if place is not None and place.type != "cpu" and find_spec("accelerate"):
        more["device_map"] = {
            "": place
        }  # straight to the device: several workers would fill the host's memory
    try:
        with quiet():
            model, info = auto.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **more,
            )
    except torch.OutOfMemoryError:
        raise
    except OSError as error:
        raise BadInput(
            f"{where}: no safetensors weights in {str(folder)!r}; {first_line(error)}",
            hint="convert them once: model.save_pretrained(folder) writes safetensors.",
        ) from error
    except Exception as error:  # what a broken configuration breaks is anybody's guess
        quantised = _json(folder / "config.json").get("quantization_config")
        package = (
            "the package that the message names reads such weights."
            if quantised and isinstance(error, ImportError)
            else None
        )
        raise BadInput(
            f"{where}: cannot load {str(folder)!r}; {type(error).__name__}: {first_line(error)}",
            hint=code_hint(error) or package,
        ) from error
    _check_missing(folder, kind, model, info, where=where, new_head=new_head)
    _check_loaded(folder, kind, model, config, where=where, new_head=new_head)
    _check_unexpected(folder, model, info, where=where, new_head=new_head)
    return model


def _class_of(folder: Path, kind: Kind, *, where: str, new_head: bool) -> Any:
    """The class of Transformers through which the folder is loaded: with code of its own, the one
    under which that stands.
    """
    import transformers

    code = {name: ref for name, ref in _code(folder).items() if name.startswith("AutoModel")}
    wanted = _AUTO[kind]
    if not code or wanted in code:
        return getattr(transformers, wanted)
    if (
        "AutoModel" in code and not new_head
    ):  # some reward models stand there; what has no scores does not run, and is refused
        return transformers.AutoModel
    what = "a reward model" if kind == "reward" else "a language model"
    raise BadInput(
        f"{where}: the code in {str(folder)!r} has no class for {what}; got {', '.join(sorted(code))}, expected {wanted}.",
        hint=f'name the class in auto_map of config.json: "{wanted}": "MODULE.CLASS".',
    )


def _check_loaded(
    folder: Path, kind: Kind, model: Any, config: Any, *, where: str, new_head: bool
) -> None:
    """Refuse a class or a form that is not the one that config.json names."""
    import transformers

    loaded = type(model)
    named = getattr(config, "architectures", None) or []
    named = [named] if isinstance(named, str) else named
    of_others = [
        name
        for name in named
        if name != loaded.__name__
        and hasattr(transformers, name)
        and "For" in name
        and not name.endswith(_ENDINGS[kind])
    ]
    if of_others and not new_head:
        raise BadInput(
            f"{where}: the weights of {str(folder)!r} are of another kind of model; got {of_others[0]}, expected {loaded.__name__}.",
            hint="a model that gives one score for a row is needed."
            if kind == "reward"
            else "a causal language model is needed.",
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and getattr(model, "hf_quantizer", None) is None:
        method = (
            quantised.get("quant_method")
            if isinstance(quantised, dict)
            else getattr(quantised, "quant_method", None)
        )
        raise BadInput(
            f"{where}: the weights of {str(folder)!r} are quantised by {method!r}, which Transformers cannot read."
        )


def _missing(info: Any) -> list[str]:
    """Weights that were made up: those that are not in the files, and those that are of another
    shape there.
    """
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def _check_missing(
    folder: Path, kind: Kind, model: Any, info: Any, *, where: str, new_head: bool
) -> None:
    """Refuse a model some of whose weights would be random."""
    missing = _missing(info)
    if new_head:
        missing = [key for key in missing if _in_body(model, key) and ".pooler." not in key]
    if not missing:
        return
    head = any(key.split(".")[0] in _HEADS for key in missing)
    untrained = head and kind == "reward"
    raise BadInput(
        f"{where}: the weights of {str(folder)!r} lack {_some(missing)}: {'the head' if head else 'a part'} would be random;"
        f" expected all {'but a head' if new_head else 'weights'}.",
        hint="this is not a reward model (yet): train its head, or name another."
        if untrained
        else None,
    )


def _check_unexpected(folder: Path, model: Any, info: Any, *, where: str, new_head: bool) -> None:
    """Refuse weights for which the model has no place: Transformers drops them."""
    unexpected = sorted(info["unexpected_keys"])
    if new_head and _missing(info):  # the old head goes: what is not of the body was its
        unexpected = [key for key in unexpected if _in_body(model, key)]
    if unexpected:
        raise BadInput(
            f"{where}: {type(model).__name__} has no place for weights of {str(folder)!r}; got {_some(unexpected)},"
            " which would be dropped.",
            hint="config.json does not describe these weights: correct it, or name a folder whose model it is.",
        )


def _in_body(model: Any, key: str) -> bool:
    """Whether a weight is of the base model, under the name that it has in the whole model or in
    the base alone.
    """
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, None) if prefix else None
    if base is None:
        return key.split(".")[0] not in _HEADS
    return key.split(".")[0] in {prefix, *(name for name, _ in base.named_children())}


def _some(keys: list[str]) -> str:
    return f"{keys[:3]}{' and more' if len(keys) > 3 else ''}"


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
    """The most tokens that the model takes: of its positions and its tokenizer's own limit, the
    smaller; None: no limit is known.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if positions and text.model_type in _BEHIND_PAD:
        positions -= (text.pad_token_id or 0) + 1
    if (
        positions and rope.get("rope_type") == "dynamic"
    ):  # there it is the length from which frequencies are stretched
        positions = int(positions * rope.get("factor", 1))
    limits = [positions, tokenizer.model_max_length]
    known = [int(n) for n in limits if n and n < 10**7]
    return min(known) if known else None

"""The folder of a model: where it is, what is in it by content, and what is refused unread."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prefmill.errors import BadArgument, BadInput, MissingPackage

_LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
)
# What changes numbers or ids; a README or an optimizer state next to the weights does not.
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
#: weights as pickles; and what a trainer leaves, which nobody reads
_PICKLED, _NO_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt"), ("training_args.bin",)
#: names of dtypes, and what safetensors calls them
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
GGUF = ".gguf"
TRUST = "--trust-remote-code runs the code in that folder: read it first."


def folder_of(model: str, revision: str | None, *, where: str = "score") -> Path:
    """The folder with the files of `model`: itself, or that revision in the hub's cache.

    What is not in the cache yet is fetched. A file of the kind GGUF is a model by itself.
    """
    if Path(model).suffix == GGUF and Path(model).is_file() and revision is None:
        return Path(model)
    if Path(model).is_dir():
        if revision is not None:
            raise BadArgument(
                f"{where}: a revision is of a hub id; got revision {revision!r} and the directory"
                f" {model!r}."
            )
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise BadInput(
            f"{where}: no directory {model!r}.",
            hint="name a directory that holds config.json and model.safetensors, a .gguf file, or a"
            " hub id.",
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingPackage.for_extra(where, "huggingface_hub", "score") from None
    patterns = [f"*{suffix}" for suffix in _COUNTED]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's errors are many and change
        raise BadInput(
            f"{where}: cannot get {model!r} from the hub;"
            f" {type(error).__name__}: {str(error).splitlines()[0]}",
            hint="is it a directory? Then name one that exists.",
        ) from error


def gguf_of(folder: Path, where: str = "score") -> dict[str, str]:
    """What Transformers is to be told besides the folder, for a GGUF file: its name there.

    It is empty for a model of any other kind. Raises `BadInput` for a folder that holds several.
    """
    if folder.suffix == GGUF and folder.is_file():
        return {"gguf_file": folder.name}
    if not folder.is_dir() or (folder / "config.json").is_file():
        return {}
    names = sorted(path.name for path in folder.glob(f"*{GGUF}"))
    if len(names) > 1:
        raise BadInput(
            f"{where}: the model in {str(folder)!r} cannot be told; got {names[:5]}, expected one"
            " GGUF file.",
            hint=f"name the file: {folder / names[0]}",
        )
    return {"gguf_file": names[0]} if names else {}


def place_of(folder: Path) -> Path:
    """The directory that Transformers reads: of a GGUF file the one that it is in."""
    return folder.parent if folder.is_file() else folder


def content_hash(folder: Path) -> str:
    """A hash of every file in `folder` that decides scores.

    Those are weights, configuration, tokenizer, templates, code, and the code of other repositories
    that the folder names. Cost: one read, about 1 GB/s a core.
    """
    file = gguf_of(folder).get("gguf_file")
    if file is not None:
        with (place_of(folder) / file).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:32]
    files = {
        path
        for path in folder.iterdir()
        if path.suffix in _COUNTED and not path.name.startswith(_UNCOUNTED)
    }
    for suffix in (".py", ".jinja"):
        files.update(folder.glob(f"*/**/*{suffix}"))
    files.update(folder / name for name in _shards(folder))
    named = [(str(p.relative_to(folder)), p) for p in sorted(files) if p.is_file()]
    for repository in _repositories(folder):
        there = folder_of(repository, None)
        named += [(f"{repository}--{p.relative_to(there)}", p) for p in sorted(there.rglob("*.py"))]

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # Hashing lets go of Python's lock: shards are read side by side.
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(digest, [path for _, path in named]))
    content = [[name, digest] for (name, _), digest in zip(named, digests, strict=True)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no such file, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if isinstance(content, dict):
        return content
    return {}


def _shards(folder: Path) -> set[str]:
    """The files that the index of the weights names."""
    named = read_json(folder / "model.safetensors.index.json").get("weight_map")
    if isinstance(named, dict):
        return {str(name) for name in named.values()}
    return set()


def stored(folder: Path) -> dict[str, Path]:
    """The names of the tensors in a folder's safetensors, each with its file.

    Where an index names the files, it is of these; a value head's own file and an adapter's count
    as well. A file that cannot be read has none: loading says why.
    """
    from safetensors import SafetensorError, safe_open

    listed = read_json(folder / "model.safetensors.index.json").get("weight_map")
    places: dict[str, Path] = {}
    if isinstance(listed, dict):
        places = {str(name): folder / str(file) for name, file in listed.items()}
    names = ["value_head.safetensors", "adapter_model.safetensors"]
    for name in names if places else ["model.safetensors", *names]:
        path = folder / name
        try:
            with safe_open(path, "pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError):
            continue
    return places


def own_code(folder: Path) -> dict[str, str]:
    """The classes of its own that a folder names, by Transformers' name for them.

    They are `module.Class`, or `repository--module.Class`.
    """
    code: dict[str, str] = {}
    for name in ("config.json", "tokenizer_config.json"):
        named = read_json(folder / name).get("auto_map")
        if isinstance(named, list | tuple):  # an old form: the two tokenizers
            named = {"AutoTokenizer": named}
        for auto, classes in (named if isinstance(named, dict) else {}).items():
            each = classes if isinstance(classes, list | tuple) else [classes]
            code[str(auto)] = next((str(one) for one in reversed(each) if one), "")
    return code


def _repositories(folder: Path) -> list[str]:
    """Other repositories whose code a folder names."""
    places = own_code(folder).values()
    return sorted({place.partition("--")[0] for place in places if "--" in place})


def code_hint(error: BaseException) -> str | None:
    """What to do about an error of Transformers that wants to run the folder's own code."""
    if "trust_remote_code" in str(error):
        return TRUST
    return None


def check_folder(folder: Path, *, trust_remote_code: bool = False, where: str = "score") -> None:
    """Raise `BadInput` for a folder from which something else would be loaded than it says."""
    config = folder / "config.json"
    _refuse_adapter(folder, where)
    if gguf_of(folder, where):
        if find_spec("gguf") is None:
            raise MissingPackage.for_extra(where, "gguf", "gguf")
        return
    if not config.is_file():
        raise BadInput(
            f"{where}: no model in {str(folder)!r}: no config.json.",
            hint="name the directory that save_pretrained wrote.",
        )
    code = own_code(folder)
    if code and not trust_remote_code:
        raise BadInput(
            f"{where}: {str(folder)!r} names custom code for {', '.join(sorted(code))};"
            " without it another model would be loaded.",
            hint=TRUST,
        )
    # A folder that comes from elsewhere must not make us read files next to it.
    outside = sorted(name for name in _shards(folder) if not _is_inside(name))
    if outside:
        raise BadInput(
            f"{where}: the index of the weights in {str(folder)!r} names {outside[:3]};"
            " expected files of the folder."
        )
    _check_layers(folder, read_json(config), where)


def _refuse_adapter(folder: Path, where: str) -> None:
    """Refuse an adapter where a whole model is wanted: next to one it is not clear which counts."""
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return
    base = read_json(adapter).get("base_model_name_or_path")
    own = ("adapter_", "value_head")
    if any(not path.name.startswith(own) for path in folder.glob("*.safetensors")):
        raise BadInput(
            f"{where}: the model in {str(folder)!r} cannot be told; got full weights and an adapter"
            f" (PEFT, of {base!r}), expected one of them.",
            hint="move adapter_config.json away: then the full weights count as they are;"
            " or name a folder that holds the adapter alone.",
        )
    raise BadInput(
        f"{where}: the model in {str(folder)!r} is an adapter (PEFT, of {base!r}); expected full"
        " weights.",
        hint=f"merge the adapter into its base first:{_merge_line(folder)}",
    )


def _merge_line(folder: Path) -> str:
    """The command that merges an adapter, for one that brings all that is needed."""
    task = str(read_json(folder / "adapter_config.json").get("task_type"))
    tasks = {
        "SEQ_CLS": ("SequenceClassification", ", num_labels=1"),
        "CAUSAL_LM": ("CausalLM", ""),
    }
    if task not in tasks:
        return " PEFT's merge_and_unload and save_pretrained."
    name, more = tasks[task]
    return (
        f' python -c "from peft import AutoPeftModelFor{name} as M;'
        f" M.from_pretrained({str(folder)!r}{more}).merge_and_unload().save_pretrained('merged')\","
        " then copy the tokenizer's files to merged."
    )


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _check_layers(folder: Path, config: Mapping[str, Any], where: str) -> None:
    """Refuse a number of layers that no weights can have.

    That is a negative one, and one that would be built for hours.
    """
    named = {name: config[name] for name in _LAYERS if isinstance(config.get(name), int | float)}
    if not named:
        return
    most = _tensors(folder)
    for name, value in named.items():
        if value < 0 or value != int(value) or (most is not None and value > most):
            limit = "" if most is None else f" up to the {most:,} of the weights' tensors"
            raise BadInput(
                f"{where}: {name} in {str(folder / 'config.json')!r} is no number of layers;"
                f" got {value}, expected one{limit}."
            )


def _tensors(folder: Path) -> int | None:
    """How many tensors the weights have; None where that cannot be read."""
    from safetensors import SafetensorError, safe_open

    index = read_json(folder / "model.safetensors.index.json").get("weight_map")
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            return len(file.keys())
    except (OSError, SafetensorError):
        if isinstance(index, dict):
            return len(index)
        return None


def stored_dtype(folder: Path) -> str:
    """The dtype of a checkpoint as Transformers tells it: its configuration's, or its weights'."""
    from safetensors import SafetensorError, safe_open

    config = read_json(folder / "config.json")
    # Transformers 4 wrote the second name.
    named = config.get("dtype") or config.get("torch_dtype")
    if named in _DTYPES:
        return str(named)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            continue
        for name, kind in _DTYPES.items():
            if kind in kinds:
                return name
    return "float32"


def refuse_pickled(folder: Path, where: str) -> None:
    """Raise `BadInput` for a folder whose weights are pickles alone: to read one is to run it."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    pickled = [name for name in pickled if name not in _NO_WEIGHTS]
    if pickled and not any(folder.glob("*.gguf")):
        raise BadInput(
            f"{where}: no safetensors weights in {str(folder)!r}; got {', '.join(pickled[:3])}, and"
            " a pickle runs code as it is read.",
            hint="convert them once where you trust them: model.save_pretrained(folder) writes"
            " safetensors.",
        )

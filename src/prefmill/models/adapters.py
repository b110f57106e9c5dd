"""PEFT adapters: a folder that holds a change, and the folder of the model that it changes.

The base is the one that the adapter names, or the one that is named in its place. Every weight of
the adapter must find its place and every place its weight; then it is merged, which gives the
scores of the adapter applied. Where merging is not possible it stays applied.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.errors import BadArgument, BadInput, MissingPackage
from prefmill.models.described import described
from prefmill.models.folders import folder_of, read_json, stored

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TASKS = {"reward": ("SEQ_CLS",), "causal": ("CAUSAL_LM",), "token": ("TOKEN_CLS",)}
_KINDS = {"reward": "a reward model", "causal": "a language model", "token": "a token classifier"}
#: what an adapter of another task is for
_OTHER = {
    ("reward", "CAUSAL_LM"): "it is of a language model: --scorer logprob or implicit.",
    ("causal", "SEQ_CLS"): "it is of a reward model: --scorer reward.",
}
#: heads that an adapter for classification brings along, as PEFT names them
_HEADS = ("score", "classifier")
#: kinds of adapter that put tokens before the row, which no merged weight does
_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CARTRIDGE")
#: in names of weights that change a layer, and are not the layer
_TUNERS = ("lora_", "hada_", "lokr_", "oft_", "vera_", "randlora_")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone."""
    return (folder / CONFIG).is_file() and not full_weights(folder)


def full_weights(folder: Path) -> list[str]:
    """The files with a whole model's weights in a folder."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    return [name for name in names if not name.startswith(("adapter_", "value_head"))]


def base_of(folder: Path, named: str | None, where: str = "score") -> Path | None:
    """The folder of the model that the adapter in `folder` changes; None: it is no adapter.

    named: a directory or hub id that counts in place of the one that the adapter names.

    Raises `BadArgument` for a base of a folder that is no adapter, and `BadInput` for a base that
    is not there or is an adapter itself.
    """
    if not is_adapter(folder):
        if named is not None and not (folder / CONFIG).is_file():
            raise BadArgument(
                f"{where}: a base is of an adapter; got the base {named!r}, and no {CONFIG} in"
                f" {str(folder)!r}.",
                hint="leave --base out.",
            )
        return None
    _refuse_kind(folder, where)
    config = read_json(folder / CONFIG)
    base = named or config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise BadInput(
            f"{where}: the adapter in {str(folder)!r} names no base.", hint="--base DIR|HUB_ID."
        )
    revision = None if named or Path(base).is_dir() else config.get("revision")
    try:
        found = folder_of(base, revision, where=where)
    except (BadInput, BadArgument) as error:
        raise BadInput(
            f"{where}: the base of the adapter in {str(folder)!r} is not here; got {base!r}"
            f" ({error.message}).",
            hint="--base DIR|HUB_ID names the model that the adapter was trained on.",
        ) from error
    if (found / CONFIG).is_file():
        raise BadInput(
            f"{where}: the base of the adapter in {str(folder)!r} is an adapter itself;"
            f" got {str(found)!r}, expected full weights.",
            hint="merge the base first: PEFT's merge_and_unload and save_pretrained.",
        )
    return found


def _refuse_kind(folder: Path, where: str) -> None:
    config = read_json(folder / CONFIG)
    kind = str(config.get("peft_type"))
    if kind in _PROMPTS:
        raise BadInput(
            f"{where}: the adapter in {str(folder)!r} is of the kind {kind}, which puts tokens of"
            " its own before every row; expected one that changes weights (LoRA, IA3, ...)."
        )
    if (folder / WEIGHTS).is_file():
        return
    others = sorted(path.name for path in folder.glob("adapter_model*"))
    raise BadInput(
        f"{where}: no {WEIGHTS} in {str(folder)!r}; got {others or 'no weights of an adapter'}.",
        hint="load and save it once where you trust it: PEFT's save_pretrained writes safetensors.",
    )


def tokenizer_folder(folder: Path, base: Path | None) -> Path:
    """Where the tokenizer is: with an adapter that brings one, else with its base."""
    if base is None or any((folder / name).is_file() for name in _TOKENIZERS):
        return folder
    return base


@dataclass(frozen=True)
class Adapter:
    """An adapter's configuration and the names of its weights, as read from a folder."""

    folder: Path
    kind: str
    keys: frozenset[str]

    @classmethod
    def read(cls, folder: Path, kind: str, where: str = "score") -> Adapter:
        """What stands in `folder`, for a model of that `kind` (`loading.Kind`).

        Raises `BadInput` for an adapter of another kind of model.
        """
        task = read_json(folder / CONFIG).get("task_type")
        fits = [*_TASKS[kind], "FEATURE_EXTRACTION", None]
        # A reward model's adapter with a value head is one of a causal model.
        if kind == "reward" and (folder / "value_head.safetensors").is_file():
            fits.append("CAUSAL_LM")
        if task not in fits:
            raise BadInput(
                f"{where}: the adapter in {str(folder)!r} is of another kind of model; got the"
                f" task {task}, expected {_TASKS[kind][0]} for {_KINDS[kind]}.",
                hint=_OTHER.get((kind, str(task))),
            )
        keys = [key for key, file in stored(folder).items() if file.name == WEIGHTS]
        return cls(folder, kind, frozenset(keys))

    def head(self) -> dict[str, tuple[int, ...]]:
        """The weights of a whole head that the adapter brings, by their names, with shapes."""
        from prefmill.models.value_heads import shape_of

        file = self.folder / WEIGHTS
        names = {key: key.removeprefix(_PREFIX) for key in self.keys}
        return {
            name: shape_of(file, key)
            for key, name in names.items()
            if name.split(".")[0] in _HEADS
            and name.endswith((".weight", ".bias"))
            and not any(mark in name for mark in _TUNERS)
        }

    def embeddings(self) -> int | None:
        """The number of tokens in an embedding that the adapter brings; None: it brings none."""
        from prefmill.models.value_heads import shape_of

        for key in sorted(self.keys):
            if key.endswith((".embed_tokens.weight", ".wte.weight", ".word_embeddings.weight")):
                return shape_of(self.folder / WEIGHTS, key)[0]
        return None

    def apply(
        self, model: Any, *, without: set[str], merge: bool = True, where: str = "score"
    ) -> Any:
        """`model` with the adapter: merged where `merge`, else with its layers in place.

        without: names of weights in the file that are used elsewhere (a value head's).

        Raises `BadInput` where a weight has no place, a place no weight, or a shape does not fit.
        """
        peft = _peft(where)
        from safetensors.torch import load_file

        state = load_file(self.folder / WEIGHTS, device=str(next(model.parameters()).device))
        state = {key: value for key, value in state.items() if key not in without}
        rows = self.embeddings()
        if rows is not None and rows != model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(rows, mean_resizing=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of is looked at below
                wrapped = peft.PeftModel(model, self._config(peft, state))
                result = peft.set_peft_model_state_dict(wrapped, state)
        except Exception as error:  # what does not fit is said in many ways
            raise BadInput(
                f"{where}: the adapter in {str(self.folder)!r} does not fit its base;"
                f" {described(error)}",
                hint="--base DIR|HUB_ID names the model that it was trained on.",
            ) from error
        # PEFT calls the adapter that it loads "default".
        missing = sorted(key for key in result.missing_keys if ".default" in key)
        self._refuse(sorted(result.unexpected_keys), "has weights without a place", where)
        self._refuse(missing, "lacks weights", where)
        wrapped.eval()
        if not merge:
            return _unwrapped(wrapped.get_base_model())
        return wrapped.merge_and_unload(safe_merge=True)

    def _config(self, peft: Any, state: dict[str, Any]) -> Any:
        config = peft.PeftConfig.from_pretrained(str(self.folder))
        config.inference_mode = True
        # The class of PEFT for a task adds heads that the file may not have.
        config.task_type = None
        there = {key.removeprefix(_PREFIX).split(".")[0] for key in state}
        saved = getattr(config, "modules_to_save", None) or []
        heads = [name for name in _HEADS if self._is_whole(name)]
        kept = [name for name in saved if name not in _HEADS or name in heads]
        kept = [name for name in kept if name in there or any(f".{name}." in key for key in state)]
        if hasattr(config, "modules_to_save"):
            config.modules_to_save = sorted({*kept, *heads}) or None
        return config

    def _is_whole(self, head: str) -> bool:
        return any(name.split(".")[0] == head for name in self.head())

    def _refuse(self, keys: list[str], what: str, where: str) -> None:
        if keys:
            some = f"{keys[:3]}{' and more' if len(keys) > 3 else ''}"
            raise BadInput(
                f"{where}: the adapter in {str(self.folder)!r} does not fit its base: it {what};"
                f" got {some}.",
                hint="--base DIR|HUB_ID names the model that it was trained on.",
            )


def _unwrapped(model: Any) -> Any:
    """The model with heads that the adapter brought in place of PEFT's wrappers around them."""
    for name in _HEADS:
        inner = getattr(getattr(model, name, None), "modules_to_save", None)
        if inner is not None:
            setattr(model, name, inner["default"])
    return model


def _peft(where: str) -> Any:
    # PEFT imports bitsandbytes where it is, which says on a CPU what it would rather have.
    theirs = logging.getLogger("bitsandbytes")
    before = theirs.level
    theirs.setLevel(logging.CRITICAL)
    try:
        import peft
    except ImportError:
        raise MissingPackage.for_extra(where, "peft", "lora") from None
    finally:
        theirs.setLevel(before)
    return peft

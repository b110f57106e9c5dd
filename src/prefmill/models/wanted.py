"""A model folder as Transformers loads it, and what of it is refused.

Refused are weights that are missing, weights for which the model has no place, a folder of another
kind of model, and code that has no class for that kind. `loading.weights` asks in the right order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import BadInput
from prefmill.models import value_heads
from prefmill.models.adapters import Adapter
from prefmill.models.described import described, first_line
from prefmill.models.folders import code_hint, gguf_of, own_code, place_of, read_json

Kind = Literal["reward", "token", "causal"]

_HEADS = ("score", "classifier", "v_head", "value_head", "lm_head")
_AUTO = {
    "reward": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "causal": "AutoModelForCausalLM",
}
_NOUNS = {"reward": "a reward model", "token": "a token classifier", "causal": "a language model"}
# How the names of Transformers' own classes end, by what their weights are for.
_ENDINGS = {
    "reward": ("ForSequenceClassification",),
    "token": ("ForTokenClassification",),
    "causal": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
}


@dataclass(frozen=True)
class Wanted:
    """What is to be loaded, and for whom."""

    folder: Path
    kind: Kind
    where: str
    new_head: bool
    head: value_heads.ValueHead | None = None
    adapter: Adapter | None = None

    def options(self, dtype: Any, place: Any, trust_remote_code: bool) -> dict[str, Any]:
        """What Transformers is told, beside the folder."""
        options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        if self.head is not None:
            options["key_mapping"] = value_heads.key_mapping(self.folder)
        if self.new_head:
            options |= {"num_labels": 1, "ignore_mismatched_sizes": True}
        elif self.kind != "causal":
            outputs = self._outputs()
            if outputs is not None:
                options["num_labels"] = outputs
            # The base's own head gives way to the adapter's.
            if self.adapter is not None and self.adapter.head():
                options["ignore_mismatched_sizes"] = True
        # Straight to the device: several workers would fill the host's memory.
        if place is not None and place.type != "cpu" and find_spec("accelerate"):
            options["device_map"] = {"": place}
        return options

    def _outputs(self) -> int | None:
        """How many outputs the head has by its weights; None: as the configuration says."""
        if self.head is not None:
            return 1
        for shape in (self.adapter.head() if self.adapter is not None else {}).values():
            return shape[0]
        if own_code(self.folder):
            return None
        return value_heads.labels_of(self.folder)

    def read(self, options: dict[str, Any]) -> tuple[Any, Any]:
        """The model as Transformers loads it, and what it says of the weights."""
        import torch

        folder, where = self.folder, self.where
        try:
            with quiet():
                return self.auto_class().from_pretrained(  # type: ignore[no-any-return]
                    place_of(folder),
                    use_safetensors=True,
                    output_loading_info=True,
                    **options,
                    **gguf_of(folder, where),
                )
        except (torch.OutOfMemoryError, BadInput):
            raise
        except OSError as error:
            raise BadInput(
                f"{where}: no safetensors weights in {str(folder)!r}; {first_line(error)}",
                hint="convert them once: model.save_pretrained(folder) writes safetensors.",
            ) from error
        except Exception as error:  # what a broken configuration breaks is anybody's guess
            hint = code_hint(error)
            is_quantised = read_json(folder / "config.json").get("quantization_config")
            if hint is None and is_quantised and isinstance(error, ImportError):
                hint = "the package that the message names reads such weights."
            raise BadInput(
                f"{where}: cannot load {str(folder)!r}; {described(error)}", hint=hint
            ) from error

    def auto_class(self) -> Any:
        """The class of Transformers through which the folder is loaded.

        With code of its own it is the one under which that stands.
        """
        import transformers

        code = [name for name in own_code(self.folder) if name.startswith("AutoModel")]
        wanted = _AUTO[self.kind]
        if not code or wanted in code:
            return getattr(transformers, wanted)
        # Some reward models stand there; what has no scores does not run, and is refused.
        if "AutoModel" in code and not self.new_head:
            return transformers.AutoModel
        raise BadInput(
            f"{self.where}: the code in {str(self.folder)!r} has no class for"
            f" {_NOUNS[self.kind]}; got {', '.join(sorted(code))}, expected {wanted}.",
            hint=f'name the class in auto_map of config.json: "{wanted}": "MODULE.CLASS".',
        )

    def refuse_others(self, model: Any, config: Any) -> None:
        """Refuse a class or a form that is not the one that config.json names."""
        import transformers
        from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

        own = type(model).__name__
        named = getattr(config, "architectures", None) or []
        named = [named] if isinstance(named, str) else named
        if self.kind == "reward" and "CriticModel" in named:
            raise BadInput(
                f"{self.where}: the model in {str(self.folder)!r} is a critic, which values states"
                " of a policy; expected a reward model."
            )
        others = [name for name in named if name != own and hasattr(transformers, name)]
        others = [name for name in others if "For" in name]
        others = [name for name in others if not name.endswith(_ENDINGS[self.kind])]
        # A value head, and an adapter's, stand on the body of a language model.
        brought = self.head is not None or (self.adapter is not None and self.adapter.head())
        if others and not self.new_head and not brought:
            one = "a model that gives one score for a row is needed."
            raise BadInput(
                f"{self.where}: the weights of {str(self.folder)!r} are of another kind of model;"
                f" got {others[0]}, expected {own}.",
                hint="a causal language model is needed." if self.kind == "causal" else one,
            )
        quantised = getattr(config, "quantization_config", None)
        if quantised is None or getattr(model, "hf_quantizer", None) is not None:
            return
        if isinstance(quantised, dict):
            method = quantised.get("quant_method")
        else:
            method = getattr(quantised, "quant_method", None)
        # Some are taken back to full precision where their kernels do not run (FP8 on a CPU).
        if method in AUTO_QUANTIZER_MAPPING:
            return
        raise BadInput(
            f"{self.where}: the weights of {str(self.folder)!r} are quantised by {method!r},"
            " which Transformers cannot read."
        )

    def refuse_missing(self, model: Any, info: Any) -> None:
        """Refuse a model some of whose weights would be random."""
        missing = _missing(info)
        if self.new_head:
            missing = [key for key in missing if _in_body(model, key) and ".pooler." not in key]
        if self.head is not None:
            missing = [key for key in missing if not key.startswith("score.")]
        if self.adapter is not None:
            missing = [key for key in missing if key not in self.adapter.head()]
        if not missing:
            return
        head = any(key.split(".")[0] in _HEADS for key in missing)
        hint = None
        if head and self.kind != "causal":
            hint = "this is not a reward model (yet): train its head, or name another."
        raise BadInput(
            f"{self.where}: the weights of {str(self.folder)!r} lack {_some(missing)}:"
            f" {'the head' if head else 'a part'} would be random;"
            f" expected all {'but a head' if self.new_head else 'weights'}.",
            hint=hint,
        )

    def refuse_unexpected(self, model: Any, info: Any) -> None:
        """Refuse weights for which the model has no place: Transformers drops them."""
        unexpected = sorted(info["unexpected_keys"])
        # The body is that of a language model, whose own head comes along.
        if self.head is not None or (self.adapter is not None and self.adapter.head()):
            own = self.head.keys if self.head is not None else set()
            unexpected = [k for k in unexpected if k not in own and not value_heads.is_expected(k)]
        # The old head goes: what is not of the body was its.
        if self.new_head and _missing(info):
            unexpected = [key for key in unexpected if _in_body(model, key)]
        if unexpected:
            raise BadInput(
                f"{self.where}: {type(model).__name__} has no place for weights of"
                f" {str(self.folder)!r}; got {_some(unexpected)}, which would be dropped.",
                hint="config.json does not describe these weights: correct it, or name a folder"
                " whose model it is.",
            )


def _missing(info: Any) -> list[str]:
    """Weights that were made up: not in the files, or of another shape there."""
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def _in_body(model: Any, key: str) -> bool:
    """Whether a weight is of the base model, by its name in the whole model or the base alone."""
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

    # Their settings are of the process: they are put back as they were.
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

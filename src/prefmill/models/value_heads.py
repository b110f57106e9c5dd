"""Reward models whose score comes from a value head: found in the weights, put under `score`.

TRL, LLaMA-Factory, OpenRLHF and others save a body (often with its language-model head) and one
linear layer of their own. Transformers has no place for that layer. Here it becomes the `score` of
the body's `…ForSequenceClassification`, so that everything that runs such models runs these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.errors import BadInput
from prefmill.models.folders import own_code, read_json, stored

#: where LLaMA-Factory keeps the head, next to full weights or to an adapter
SEPARATE = "value_head.safetensors"
#: names of heads and who writes them; `score` and `classifier` are Transformers' own
HEADS = {
    "v_head.summary": "TRL, LLaMA-Factory",
    "v_head": "InternLM2, Athene",
    "value_head": "OpenRLHF",
    "regression_head": "UltraRM, Eurus",
    "reward_head": "others",
    "score_head": "safe-rlhf",
}
#: DeepSpeed's third stage saves the wrapper's name too; an adapter's weights have PEFT's
_WRAPPERS = ("pretrained_model.", "base_model.model.")
_PART = re.compile(r"(weight|bias)")
#: language-model heads, which a reward model has no use for
_OUTPUTS = ("lm_head.", "embed_out.")
#: older OpenRLHF saves what it normalises with as buffers
_NORMAL = ("mean", "std")


@dataclass(frozen=True)
class ValueHead:
    """A linear layer that was found: where its tensors are.

    weight, bias  the file and the name in it; no bias: None
    normal        the same for the mean and the deviation, where they are saved as buffers
    """

    name: str
    weight: tuple[Path, str]
    bias: tuple[Path, str] | None
    normal: Mapping[str, tuple[Path, str]]

    @property
    def keys(self) -> set[str]:
        """The names of all that is read here, as the files have them."""
        places = [self.weight, self.bias, *self.normal.values()]
        return {place[1] for place in places if place is not None}

    def install(self, model: Any, where: str = "score") -> None:
        """Put the layer under `score`, computed in float32 as its owners do.

        Raises `BadInput` where the model has no such layer, or the shapes do not fit.
        """
        import torch
        from torch import nn

        before = getattr(model, "score", None)
        if not isinstance(before, nn.Linear):
            raise BadInput(
                f"{where}: {type(model).__name__} has no linear layer 'score' into which the head"
                f" {self.name!r} could go."
            )
        weight, bias = _tensor(self.weight), self.bias and _tensor(self.bias)
        if tuple(weight.shape) != (1, before.in_features):
            raise BadInput(
                f"{where}: the head {self.name!r} does not fit; got the shape"
                f" {tuple(weight.shape)}, expected {(1, before.in_features)}."
            )
        device = next(model.parameters()).device
        layer = nn.Linear(before.in_features, 1, bias=bias is not None)
        with torch.no_grad():
            layer.weight.copy_(weight.float())
            if bias is not None:
                layer.bias.copy_(bias.float().reshape(1))
        layer.to(device)
        if model.dtype != torch.float32:
            layer.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))
        model.score = layer
        model.config.num_labels = 1
        for name, place in self.normal.items():
            setattr(model.config, name, float(_tensor(place).float().reshape(-1)[0]))


def find(folder: Path, base: Path | None = None, where: str = "score") -> ValueHead | None:
    """The value head of a reward model in `folder`, an adapter's own or else its base's.

    None: the model has none, and its head is Transformers' own. Raises `BadInput` for more than one
    head, and for one of several layers.
    """
    for place in (folder, base):
        if place is not None and not _is_coded(place):
            head = _find(place, where)
            if head is not None:
                return head
    return None


def _is_coded(folder: Path) -> bool:
    """Whether a folder brings code for its model: that knows its own head."""
    return any(name.startswith("AutoModel") for name in own_code(folder))


def _find(folder: Path, where: str) -> ValueHead | None:
    places = stored(folder)
    found = _heads(places, [*HEADS, *_prefix(folder)], folder, where)
    if not found:
        _refuse_pickled(folder, where)
        return None
    others = {_bare(key).split(".")[0] for key in places} & {"score", "classifier"}
    names = sorted({*found, *(others - set(found))})
    if len(names) > 1:
        raise BadInput(
            f"{where}: the head of {str(folder)!r} cannot be told; got {names}, expected one."
        )
    [(name, parts)] = found.items()
    if "weight" not in parts:
        raise BadInput(f"{where}: the head {name!r} of {str(folder)!r} has a bias alone.")
    normal = {key: (places[key], key) for key in _NORMAL if key in places}
    return ValueHead(name, parts["weight"], parts.get("bias"), normal)


def _refuse_pickled(folder: Path, where: str) -> None:
    """Refuse a head in a file that could run code; without it the folder is a language model's."""
    path = folder / "value_head.bin"
    if path.is_file():
        raise BadInput(
            f"{where}: the value head {str(path)!r} is pickled; expected {SEPARATE}.",
            hint='convert it where you trust it: python -c "import torch, safetensors.torch as s;'
            f" s.save_file(torch.load('value_head.bin', weights_only=True), '{SEPARATE}')\".",
        )


def _heads(
    places: Mapping[str, Path], names: Iterable[str], folder: Path, where: str
) -> dict[str, dict[str, tuple[Path, str]]]:
    """The parts of every head that stands among the tensors, by its name."""
    found: dict[str, dict[str, tuple[Path, str]]] = {}
    known = sorted(names, key=len, reverse=True)
    for key, file in places.items():
        bare = _bare(key)
        name = next((name for name in known if bare.startswith(f"{name}.")), None)
        if name is None:
            continue
        part = bare.removeprefix(f"{name}.")
        if not _PART.fullmatch(part):
            raise BadInput(
                f"{where}: the head {name!r} of {str(folder)!r} is not one linear layer;"
                f" got the weights {key!r}.",
                hint="a folder with code of its own (auto_map) runs with --trust-remote-code.",
            )
        found.setdefault(name, {})[part] = (file, key)
    return found


def _bare(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    return key


def _prefix(folder: Path) -> list[str]:
    """The name of the head that OpenRLHF keeps in the configuration; `score` is Transformers'."""
    named = read_json(folder / "config.json").get("value_head_prefix")
    if isinstance(named, str) and named and named != "score":
        return [named]
    return []


def key_mapping(folder: Path) -> dict[str, str] | None:
    """How Transformers is to read names with a wrapper's before them; None: as they are."""
    if any(key.startswith(_WRAPPERS[0]) for key in stored(folder)):
        return {rf"^{re.escape(_WRAPPERS[0])}": ""}
    return None


def is_expected(key: str) -> bool:
    """Whether a weight is a language-model head's, which comes along with a value head."""
    return key.startswith(_OUTPUTS)


def pooling_of(folder: Path, base: Path | None = None) -> str:
    """The token whose state the owner of a reward model scores: `hf` or `last`.

    Value heads read the last token that is attended to. Transformers' heads read the last one that
    is not the pad token.
    """
    if find(folder, base) is not None or is_openrlhf(base or folder):
        return "last"
    return "hf"


def is_openrlhf(folder: Path) -> bool:
    """Whether OpenRLHF wrote the folder, as its configuration shows."""
    config = read_json(folder / "config.json")
    named = config.get("architectures")
    return named == ["RewardModel"] or "value_head_prefix" in config or "normalize_reward" in config


def labels_of(folder: Path) -> int | None:
    """The number of outputs by the weights of `score`, where config.json does not say it.

    None: it says it, or there is no such head. Transformers would then take 2.
    """
    config = read_json(folder / "config.json")
    if "num_labels" in config or "id2label" in config:
        return None
    file = stored(folder).get("score.weight")
    if file is None:
        return None
    return shape_of(file, "score.weight")[0]


def shape_of(file: Path, key: str) -> tuple[int, ...]:
    """The shape of a tensor in a file."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return tuple(opened.get_slice(key).get_shape())


def _tensor(place: tuple[Path, str]) -> Any:
    from safetensors import safe_open

    with safe_open(place[0], "pt") as file:
        return file.get_tensor(place[1])

"""Which of a model's outputs is the score, and what the outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefmill.errors import BadArgument


def label_names(config: Any, outputs: int | None = None) -> dict[int, str]:
    """The names of a model's labels by number: those of its configuration.

    They are the numbers where that names another number of them than the model has `outputs`.
    """
    named = config.id2label or {}
    if outputs is not None and len(named) != outputs:
        return {number: str(number) for number in range(outputs)}
    return {int(number): str(name) for number, name in named.items()}


def label_indices(config: Any, labels: Sequence[str | int], outputs: int) -> list[int]:
    """Which of a model's `outputs` the labels are; with none named the only one."""
    if not labels:
        return [label_index(config, None, outputs)]
    indices = [label_index(config, label, outputs) for label in labels]
    if len(set(indices)) < len(indices):
        raise BadArgument(f"score: one label is named twice; got {list(labels)}.")
    return indices


def label_index(config: Any, label: str | int | None, outputs: int) -> int:
    """Which of a model's `outputs` is the score: the only one, or the one named, or numbered."""
    names = label_names(config, outputs)
    if label is None:
        if outputs == 1:
            return 0
        raise BadArgument(
            f"score: the model has {outputs} labels;"
            f" got no label, expected one of {list(names.values())}.",
            hint="--label with the name or the number of the one that means good.",
        )
    # A name may look like another label's number: names go first.
    for number, name in names.items():
        if label == name:
            return number
    for number in names:
        if label in (number, str(number)):
            return number
    raise BadArgument(f"score: the model has no label {label!r}; got {list(names.values())}.")


def is_token_classifier(config: Any) -> bool:
    """Whether a folder's own class gives outputs for every token, as its configuration names it."""
    named = getattr(config, "architectures", None) or []
    named = [named] if isinstance(named, str) else named
    return any(str(name).endswith("ForTokenClassification") for name in named)


def is_stock(model: Any) -> bool:
    """Whether a model's class is Transformers' own."""
    return type(model).__module__.startswith("transformers.")


def is_softmax(config: Any, outputs: int, *, is_stock: bool) -> bool:
    """Whether a model's outputs are classes of which one holds.

    Transformers' own rule: several are, unless `problem_type` says otherwise. Several outputs of
    code that is not Transformers' (`is_stock`) are mostly attributes, and so only softmax where it
    is said. So do pipelines, CrossEncoder and servers rank: by the probability of the label, not by
    its output alone.
    """
    kind = getattr(config, "problem_type", None)
    return outputs > 1 and (kind == "single_label_classification" or (kind is None and is_stock))

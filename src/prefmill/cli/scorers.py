"""What the options of `prefmill score` describe: the scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from prefmill.cli.texts import given_for, number_in
from prefmill.errors import BadArgument
from prefmill.scoring.kinds import SCORERS, scorer_class


def scorer_of(options: Mapping[str, Any]) -> Any:
    """The scorer that the options describe; several --model are an ensemble."""
    kind = options["scorer"]
    if kind not in SCORERS:
        raise BadArgument(f"--scorer: got {kind!r}, expected one of {list(SCORERS)}.")
    scorer = scorer_class(kind)
    parts = [scorer_class(each) for each in SCORERS]
    given = given_for(scorer, parts, options, f"for --scorer {kind}")
    models = options["model"] or _unnamed(scorer)
    if not models:
        raise BadArgument(
            "score: no model named.",
            hint="--model DIR, a folder that save_pretrained wrote, or a hub id;"
            " with --url its name there.",
        )
    if "scale" in given:
        low, _, high = str(given["scale"]).partition("-")
        given["scale"] = (number_in("scale", low), number_in("scale", high))
    scorers = [scorer.from_options(model, given) for model in models]
    if len(scorers) == 1:
        return scorers[0]
    from prefmill.scoring import Ensemble

    names = [Path(name).name for name in models]
    if len(set(names)) < len(names):
        names = [f"model{i + 1}" for i in range(len(names))]
    return Ensemble(scorers=dict(zip(names, scorers, strict=True)), combine=options["combine"])


def _unnamed(scorer: Any) -> list[str]:
    """The model of a scorer that needs none to be named."""
    defaults = {field.name: field.default for field in fields(scorer)}
    model = defaults.get("model", MISSING)
    return [] if model is MISSING else [model]

"""Several scorers of one `prefmill score`: as options, or as a table in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from prefmill.cli.app import Options
from prefmill.cli.options import option
from prefmill.cli.texts import numbers_in, was_given
from prefmill.errors import BadArgument, near_file

_WORDS = ("combine", "over", "scales", "calibration")


class Together(Options):
    """How the scores of several models become one."""

    combine: Annotated[
        str | None,
        option(
            help="An ensemble's score: mean, min, worst (min, each by its --scales), zscore, rank, "
            "or calibrated (the chance to win).  [default: mean]",
        ),
    ] = None
    over: Annotated[
        str | None,
        option(help="zscore and rank are taken in the prompt, or the pool.  [default: prompt]"),
    ] = None
    scales: Annotated[
        str | None, option(metavar="NAME=NUMBER,...", help="Of worst: what scores are divided by.")
    ] = None
    calibration: Annotated[
        list[str] | None,
        option(
            metavar="[NAME=]FILE",
            help="A file of prefmill calibrate: scores are chances to win; one for each --model.",
        ),
    ] = None


def ensemble_of(models: Sequence[str], scorers: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """The scorer of one --model, or the ensemble of several."""
    given = {word: options[word] for word in _WORDS if was_given(options.get(word))}
    if len(scorers) == 1 and "calibration" not in given:
        for word in given:
            raise BadArgument(
                f"score: --{word} has no meaning with one model.",
                hint="--model again is an ensemble.",
            )
        return scorers[0]
    from prefmill.scoring import Ensemble

    names = names_of(models)
    settings: dict[str, Any] = {"combine": given.get("combine", "mean")}
    if "over" in given:
        settings["over"] = given["over"]
    if "scales" in given:
        settings["scales"] = numbers_in("--scales", given["scales"])
    if "calibration" in given:
        settings["combine"] = given.get("combine", "calibrated")
        settings["calibrations"] = _calibrations(given["calibration"], names)
    return Ensemble(scorers=dict(zip(names, scorers, strict=True)), **settings)


def names_of(models: Sequence[str]) -> list[str]:
    """What the columns of an ensemble's models are called: the last part of each name.

    >>> names_of(["org/rm-v2", "rm/"]), names_of(["a/rm", "b/rm"])
    (['rm-v2', 'rm'], ['model1', 'model2'])
    """
    # A scorer without a model has no name, and "." has that of its folder.
    names = [Path(model).name or (model and Path(model).resolve().name) for model in models]
    taken = {name.casefold() for name in [*names, "score", "disagreement"]}
    # Two folders may have one name, and some names are taken.
    if len(taken) < len(names) + 2 or not all(names):
        return [f"model{place}" for place in range(1, len(names) + 1)]
    return names


def _calibrations(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The file of each name: `NAME=FILE`, or files in the order of the models."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and name in names:
            found[name] = file
    if not found and len(texts) == len(names):
        return dict(zip(names, texts, strict=True))
    if len(found) < len(texts):
        raise BadArgument(
            f"--calibration: got {list(texts)}, expected NAME=FILE for each of {list(names)},"
            " or a file for each --model in its order."
        )
    return found


def scorer_in_file(path: str, options: Mapping[str, Any], taken: frozenset[str]) -> Any:
    """The scorer that a TOML file describes, itself or in a table [score], as in a recipe.

    Options of `taken` describe a scorer too, and are refused next to it.
    """
    for name in sorted({*taken, *_WORDS, "model", "url"} & options.keys()):
        if was_given(options[name]):
            flag = f"--{name.replace('_', '-')}"
            raise BadArgument(
                f"score: {flag} has no meaning with --scorer {path}.",
                hint="write it into the file.",
            )
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise BadArgument(
            f"--scorer: cannot read {path!r}; {error.strerror}.", hint=near_file(str(path))
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadArgument(f"--scorer: {path!r} is not TOML; {error}.") from None
    from prefmill.scoring.kinds import scorer_in

    table = content.get("score", content)
    if not isinstance(table, Mapping):
        raise BadArgument(f"--scorer: [score] of {path!r} is no table; got {table!r}.")
    return scorer_in(_without(table, "on_bad_row"), path)


def _without(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A recipe's section without a key that the command has as an option."""
    return {name: value for name, value in table.items() if name != key}

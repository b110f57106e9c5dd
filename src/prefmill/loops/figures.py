"""What a policy is worth on held-out prompts: a row of figures for each stage.

They are computed from the files that a loop leaves. Rows of `answers` are n answers to each
held-out prompt: prompt, completion, score, and where they are there second, log_ratio, n_tokens,
finish_reason. All intervals are 95 % and over prompts: answers to one prompt are not independent.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from prefmill.rules.intervals import Floats, bootstrap, wilson

_WORD = re.compile(r"\w+")


def measure(answers: pl.DataFrame, base: pl.DataFrame | None) -> dict[str, Any]:
    """The figures of one policy; `base` are the answers of stage 0, None for stage 0 itself.

    prompts, answers, unscored   counts; rows without a score are in no figure of reward
    reward_mean, _median, _best  mean over prompts of the mean, median, largest score of a prompt's
                                 answers, each with `_low` and `_high`
    second_mean                  the same of the second judge
    win, second_win              share of comparisons with stage 0 that are won, a tie half: every
                                 answer of a prompt with every one of stage 0 to that prompt, then
                                 the mean over prompts; Wilson interval, a trial for each prompt
    gain, second_gain            mean over prompts of the difference to stage 0
    kl, kl_per_token             see `kl_of`
    tokens, chars, cut_off       mean length, and the share that reached the limit of tokens
    distinct_1, distinct_2       see `distinct`
    """
    row: dict[str, Any] = {"prompts": answers["prompt"].n_unique(), "answers": answers.height}
    # A prompt without room has no answer, a row that is too long no score.
    row["unscored"] = answers["score"].null_count()
    row |= _reward(answers, base, "score", "reward", "", ("mean", "median", "best"))
    if "second" in answers.columns:
        row |= _reward(answers, base, "second", "second", "second_", ("mean",))
    if "log_ratio" in answers.columns:
        row |= kl_of(answers)
    row |= _texts(answers)
    return {name: value if _is_known(value) else None for name, value in row.items()}


def _is_known(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _reward(
    answers: pl.DataFrame,
    base: pl.DataFrame | None,
    column: str,
    name: str,
    prefix: str,
    kinds: Iterable[str],
) -> dict[str, float]:
    """The figures of one judge, whose scores are in `column`."""
    row: dict[str, float] = {}
    by_prompt = per_prompt(answers, column)
    for kind in kinds:
        row |= _with_interval(f"{name}_{kind}", by_prompt[kind].to_numpy())
    if base is None or column not in base.columns:
        return row
    shares, gains = against(answers, base, column)
    win = _mean(shares)
    low, high = wilson(win, len(shares)) if len(shares) else (math.nan, math.nan)
    row |= {f"{prefix}win": win, f"{prefix}win_low": low, f"{prefix}win_high": high}
    return row | _with_interval(f"{prefix}gain", gains)


def _texts(answers: pl.DataFrame) -> dict[str, Any]:
    """Length and diversity of the answers."""
    row: dict[str, Any] = {}
    texts = answers["completion"]
    if texts.dtype != pl.String:
        contents = pl.col("completion").list.eval(pl.element().struct.field("content"))
        texts = answers.select(contents.list.join("\n"))["completion"]
    known = set(answers.columns)
    row["tokens"] = answers["n_tokens"].mean() if "n_tokens" in known else None
    row["chars"] = texts.str.len_chars().mean()
    row["cut_off"] = None
    if "finish_reason" in known:
        row["cut_off"] = (answers["finish_reason"] == "length").mean()
    for n in (1, 2):
        row[f"distinct_{n}"] = distinct(texts.drop_nulls().to_list(), n)
    return row


def per_prompt(answers: pl.DataFrame, column: str) -> pl.DataFrame:
    """Mean, median and largest value of `column` for every prompt, in the order of prompts.

    Rows without a value are left out.
    """
    scored = answers.drop_nulls(column).group_by("prompt", maintain_order=True)
    value = pl.col(column)
    return scored.agg(mean=value.mean(), median=value.median(), best=value.max())


def against(answers: pl.DataFrame, base: pl.DataFrame, column: str) -> tuple[Floats, Floats]:
    """For every prompt that both have: the share of comparisons won, the difference of the means.

    A tie is half a win. Shapes (prompts,).

    >>> new = pl.DataFrame({"prompt": ["p", "p"], "score": [1.0, 3.0]})
    >>> old = pl.DataFrame({"prompt": ["p", "p"], "score": [1.0, 2.0]})
    >>> [each.tolist() for each in against(new, old, "score")]
    [[0.625], [0.5]]
    """
    mine, theirs = (
        frame.drop_nulls(column).group_by("prompt", maintain_order=True).agg(pl.col(column))
        for frame in (answers, base)
    )
    both = mine.join(theirs, on="prompt", suffix="_base", maintain_order="left")
    shares, gains = [], []
    for one, other in both.select(column, f"{column}_base").iter_rows():
        difference = np.subtract.outer(np.asarray(one, np.float64), np.asarray(other, np.float64))
        shares.append(float((difference > 0).mean() + (difference == 0).mean() / 2))
        gains.append(float(difference.mean()))
    return np.array(shares), np.array(gains)


def kl_of(answers: pl.DataFrame) -> dict[str, float]:
    """A Monte-Carlo estimate of KL(policy || policy of stage 0) over held-out prompts, in nats.

    kl            mean over prompts, and their answers, of log p(y) - log p_0(y), both by the same
                  scorer on the same tokens: per answer
    kl_per_token  the sum of these differences over the sum of tokens

    It is unbiased where answers are drawn from the policy itself: temperature 1, top_p 1. Single
    estimates may be below 0, KL is not. An answer that was cut off counts with the end of turn
    that the scorer puts after it. Rows that have no ratio are left out.
    """
    rows = answers.drop_nulls("log_ratio")
    estimate = _with_interval("kl", per_prompt(rows, "log_ratio")["mean"].to_numpy())
    tokens = float(rows["n_tokens"].sum()) if "n_tokens" in rows.columns else 0.0
    total = float(rows["log_ratio"].sum())
    return {**estimate, "kl_per_token": total / tokens if tokens else math.nan}


def distinct(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams over all n-grams: low where a policy says the same again and again.

    Words are runs of letters and digits, in lower case. It falls as texts grow longer or more, so
    compare it at one number of answers.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
    Models".

    >>> distinct(["a b a b", "a c"], 1), distinct(["a b a b", "a c"], 2)
    (0.5, 0.75)
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = _WORD.findall(text.lower())
        counts.update(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return len(counts) / total if total else math.nan


def pool_figures(scored: pl.DataFrame) -> dict[str, float]:
    """Of a stage's own samples: mean, median and best score, and the share that was cut off.

    The scores are means over prompts.
    """
    by_prompt = per_prompt(scored, "score")
    kinds = ("mean", "median", "best")
    figures = {f"pool_{kind}": _mean(by_prompt[kind].to_numpy()) for kind in kinds}
    cut_off = int((scored["finish_reason"] == "length").sum())
    return {**figures, "pool_cut_off": cut_off / max(1, scored.height)}


def draws_itself(temperature: float, sampler: Mapping[str, Any]) -> bool:
    """Whether answers are drawn from the policy itself, not from one that is sharper."""
    return temperature == 1 and sampler.get("top_p", 1) == 1 and not sampler.get("top_k")


class Run(Protocol):
    """The folder of a loop, and its steps that are done."""

    @property
    def folder(self) -> Path: ...

    @property
    def steps(self) -> Mapping[str, Any]: ...


def rows_of(run: Run, stages: Iterable[int], *, measures_kl: bool) -> list[dict[str, Any]]:
    """The figures of the first of `stages` that are evaluated, from the run's files."""
    rows: list[dict[str, Any]] = []
    base: pl.DataFrame | None = None
    for stage in stages:
        at = f"stage-{stage}"
        # Each of these files has the columns of the ones after it.
        names = ("kl", "second", "score")
        measured = [name for name in names if f"{at}/heldout/{name}" in run.steps]
        if not measured:
            break
        answers = pl.read_parquet(run.folder / at / "heldout" / f"{measured[0]}.parquet")
        row = {"stage": stage, **measure(answers, base)}
        if stage == 0 and measures_kl:
            row |= {"kl": 0.0, "kl_per_token": 0.0}  # by definition
        base = answers if base is None else base
        rows.append(row | _trained_on(run, at))
    return rows


def _trained_on(run: Run, at: str) -> dict[str, Any]:
    """What a stage sampled and selected, and the seconds of its steps."""
    row: dict[str, Any] = {}
    if f"{at}/score" in run.steps:
        columns = ["prompt", "score", "finish_reason"]
        row |= pool_figures(pl.read_parquet(run.folder / at / "scored.parquet", columns=columns))
    select = run.steps.get(f"{at}/select", {}).get("figures", {})
    names = ("selected_rows", "selected_mean", "selected_from")
    row |= {name: select[name] for name in names if name in select}
    row["seconds"] = {
        name.removeprefix(f"{at}/"): step["seconds"]
        for name, step in run.steps.items()
        if name.startswith(f"{at}/")
    }
    return row


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of all figures, in their order."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _with_interval(name: str, values: Floats) -> dict[str, float]:
    low, high = bootstrap(values)
    return {name: _mean(values), f"{name}_low": low, f"{name}_high": high}

"""What a policy is worth on held-out prompts: one row of figures for each stage, from the files
that a loop leaves.

Rows of `answers` are n answers to each held-out prompt: prompt, completion, score, and where they
are there second, log_ratio, n_tokens, finish_reason. All intervals are 95 % and over prompts:
answers to one prompt are not independent.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_WORD = re.compile(r"\w+")


def measure(answers: pl.DataFrame, base: pl.DataFrame | None) -> dict[str, Any]:
    """The figures of one policy; `base` are the answers of stage 0, None for stage 0 itself.

    prompts, answers, unscored   counts; rows without a score are in no figure of reward
    reward_mean, _median, _best  mean over prompts of the mean, median, largest score of a prompt's
    answers; `_low`, `_high` behind each second_mean                  the same of the second judge
    win, second_win              share of comparisons with stage 0 that are won, a tie half: every
    answer of a prompt with every one of
                                 stage 0 to that prompt, then the mean over prompts; Wilson interval
                                 for as many trials as prompts
    gain, second_gain            mean over prompts of the difference to stage 0
    kl, kl_per_token             see `kl_of`
    tokens, chars, cut_off       mean length of an answer, and the share that reached the limit of
    tokens distinct_1, distinct_2       see `distinct`
    """
    row: dict[str, Any] = {"prompts": answers["prompt"].n_unique(), "answers": answers.height}
    row["unscored"] = answers[
        "score"
    ].null_count()  # a prompt without room has no answer, a row that is too long no score
    for column, name in (("score", "reward"), ("second", "second")):
        if column not in answers.columns:
            continue
        by_prompt = per_prompt(answers, column)
        kinds = ("mean", "median", "best") if name == "reward" else ("mean",)
        for kind in kinds:
            row |= _with_interval(f"{name}_{kind}", by_prompt[kind].to_numpy())
        if base is not None and column in base.columns:
            prefix = "" if name == "reward" else "second_"
            shares, gains = against(answers, base, column)
            low, high = (
                wilson(float(shares.mean()), len(shares)) if len(shares) else (math.nan, math.nan)
            )
            row |= {
                f"{prefix}win": _mean(shares),
                f"{prefix}win_low": low,
                f"{prefix}win_high": high,
            }
            row |= _with_interval(f"{prefix}gain", gains)
    if "log_ratio" in answers.columns:
        row |= kl_of(answers)
    texts = answers["completion"] if answers.schema["completion"] == pl.String else None
    if texts is None:
        texts = answers.select(
            pl.col("completion").list.eval(pl.element().struct.field("content")).list.join("\n")
        )["completion"]
    row["tokens"] = answers["n_tokens"].mean() if "n_tokens" in answers.columns else None
    row["chars"] = texts.str.len_chars().mean()
    row["cut_off"] = (
        (answers["finish_reason"] == "length").mean()
        if "finish_reason" in answers.columns
        else None
    )
    for n in (1, 2):
        row[f"distinct_{n}"] = distinct(texts.drop_nulls().to_list(), n)
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def per_prompt(answers: pl.DataFrame, column: str) -> pl.DataFrame:
    """Mean, median and largest value of `column` for every prompt, in the order of prompts; rows
    without one are left out.
    """
    scored = answers.drop_nulls(column).group_by("prompt", maintain_order=True)
    return scored.agg(
        mean=pl.col(column).mean(), median=pl.col(column).median(), best=pl.col(column).max()
    )


def against(answers: pl.DataFrame, base: pl.DataFrame, column: str) -> tuple[Floats, Floats]:
    """For every prompt that both have: the share of comparisons won (a tie half), and the
    difference of the means. Shapes (prompts,).

    >>> new = pl.DataFrame({"prompt": ["p", "p"], "score": [1.0, 3.0]})
    >>> old = pl.DataFrame({"prompt": ["p", "p"], "score": [1.0, 2.0]})
    >>> [each.tolist() for each in against(new, old, "score")]
    [[0.625], [0.5]]
    """
    sides = [
        frame.drop_nulls(column).group_by("prompt", maintain_order=True).agg(pl.col(column))
        for frame in (answers, base)
    ]
    both = sides[0].join(sides[1], on="prompt", suffix="_base", maintain_order="left")
    shares, gains = [], []
    for mine, theirs in zip(both[column].to_list(), both[f"{column}_base"].to_list(), strict=True):
        difference = np.subtract.outer(np.asarray(mine, np.float64), np.asarray(theirs, np.float64))
        shares.append(float((difference > 0).mean() + (difference == 0).mean() / 2))
        gains.append(float(difference.mean()))
    return np.array(shares), np.array(gains)


def kl_of(answers: pl.DataFrame) -> dict[str, float]:
    """A Monte-Carlo estimate of KL(policy || policy of stage 0) over held-out prompts, in nats.

    kl            mean over prompts, and their answers, of log p(y) - log p_0(y), both by the same
    scorer on the same tokens: per answer kl_per_token  the sum of these differences over the sum of
    tokens Unbiased where answers are drawn from the policy itself: temperature 1, top_p 1. Single
    estimates may be below 0, KL is not. An answer that was cut off counts with the end of turn that
    the scorer puts behind it. Rows that have no ratio are left out.
    """
    there = answers.drop_nulls("log_ratio")
    found = _with_interval("kl", per_prompt(there, "log_ratio")["mean"].to_numpy())
    tokens = float(there["n_tokens"].sum()) if "n_tokens" in there.columns else 0.0
    found["kl_per_token"] = float(there["log_ratio"].sum()) / tokens if tokens else math.nan
    return found


def distinct(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams over all n-grams of the texts: low where a policy says the same again and
    again. Words are runs of letters and digits, in lower case. It falls as texts grow longer or
    more, so compare it at one number of answers.
    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
    Models".

    >>> distinct(["a b a b", "a c"], 1), distinct(["a b a b", "a c"], 2)
    (0.5, 0.75)
    """
    found: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = _WORD.findall(text.lower())
        found.update(zip(*(words[i:] for i in range(n)), strict=False))
    total = found.total()
    return len(found) / total if total else math.nan


def wilson(share: float, trials: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share.

    >>> [round(x, 3) for x in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    middle, half = (
        share + _Z**2 / (2 * trials),
        _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2)),
    )
    return (middle - half) / (1 + _Z**2 / trials), (middle + half) / (1 + _Z**2 / trials)


def bootstrap(values: Floats, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, over resamples of the values; seeded, so that a
    report is the same each time.
    """
    if len(values) < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(0)
    means = np.concatenate(
        [
            values[draws.integers(0, len(values), (part, len(values)))].mean(axis=1)
            for part in [100] * (resamples // 100)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pool_figures(scored: pl.DataFrame) -> dict[str, float]:
    """Of a stage's own samples: mean over prompts of the mean, median and best score; the share
    that was cut off.
    """
    by_prompt = per_prompt(scored, "score")
    found = {
        f"pool_{kind}": _mean(by_prompt[kind].to_numpy()) for kind in ("mean", "median", "best")
    }
    cut_off = int((scored["finish_reason"] == "length").sum())
    return {**found, "pool_cut_off": cut_off / max(1, scored.height)}


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of all figures, in their order."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _with_interval(name: str, values: Floats) -> dict[str, float]:
    low, high = bootstrap(values)
    return {name: _mean(values), f"{name}_low": low, f"{name}_high": high}

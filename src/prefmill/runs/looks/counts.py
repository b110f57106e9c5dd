"""What is counted over ranked feedback, on one machine or in the buckets of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import polars as pl

from prefmill.runs.job.job import Job

if TYPE_CHECKING:
    from prefmill.runs.cluster.driver import Spread

#: Smallest, middle and largest value.
Spans = tuple[float, float, float]

_UNUSABLE = "SELECT _reason, count(*) AS n FROM counted WHERE _reason IS NOT NULL GROUP BY _reason"
_REPEATS = """
    SELECT coalesce(sum(n - 1), 0)::BIGINT AS repeated,
           coalesce(sum(n) FILTER (scores > 1), 0)::BIGINT AS conflicting
    FROM (SELECT count(*) AS n, count(DISTINCT _value) AS scores
          FROM counted JOIN numbered USING (_pos)
          WHERE _reason IS NULL GROUP BY _grp, _completion HAVING count(*) > 1)
"""
_FLAT = """
    SELECT count(*) FILTER (
             _n < 2 OR pref_key_score(_ranks[1]) = pref_key_score(_ranks[-1])) AS flat,
           count(*) AS prompts
    FROM groups
"""
#: A list of answers has each rank once. A rank that a group has twice is of two lists, or a tie.
_MET = """
    SELECT count(*) AS prompts FROM (
        SELECT _grp FROM candidates WHERE _reason IS NULL
        GROUP BY _grp HAVING count(*) > count(DISTINCT _score))
"""
_SIZES = "SELECT _n::DOUBLE AS v, count(*) AS n FROM groups GROUP BY v"
_SCORES = "SELECT _score AS v, count(*) AS n FROM candidates WHERE _reason IS NULL GROUP BY v"
#: Of each record that is a group: the best answer against the worst one, and how often.
_PAIRS_OF_RECORDS = """
    WITH pairs AS (
      SELECT any_value(_prompt) AS prompt, arg_max(_completion, _value) AS better,
             arg_min(_completion, _value) AS worse
      FROM counted JOIN numbered USING (_pos)
      WHERE _reason IS NULL GROUP BY _grp HAVING max(_value) > min(_value)),
    told AS (SELECT prompt, better, worse, count(*) AS n FROM pairs
             WHERE better IS DISTINCT FROM worse GROUP BY ALL)
    SELECT coalesce(sum(n - 1), 0)::BIGINT, coalesce(sum(n) FILTER (EXISTS (
      SELECT 1 FROM told AS other WHERE other.prompt = told.prompt
      AND other.better = told.worse AND other.worse = told.better)), 0)::BIGINT
    FROM told
"""


class Asks(Protocol):
    """Who answers a query over the relations of ranked feedback, a part of the prompts a row."""

    def ask(self, query: str) -> pl.DataFrame:
        """The rows that the query gives over each part of the prompts."""
        ...


class OfJob:
    """One machine: all prompts are one part."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def ask(self, query: str) -> pl.DataFrame:
        """The rows of the query."""
        return pl.DataFrame(self._job.con.sql(query).to_arrow_table())


class OfSpread:
    """A cluster: a part is a bucket."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread

    def ask(self, query: str) -> pl.DataFrame:
        """The rows of the query over each bucket."""
        return self._spread.ask(query, until="groups").drop("_bucket", strict=False)


def unusable(asks: Asks) -> Mapping[str, int]:
    """Rows that do not count, by reason: the most first."""
    sums = asks.ask(_UNUSABLE).group_by("_reason").agg(pl.col("n").sum())
    ordered = sums.sort(-pl.col("n"), "_reason")
    return {str(reason): int(rows) for reason, rows in ordered.iter_rows()}


def repeats(asks: Asks) -> tuple[int, int]:
    """Rows that repeat an answer of their prompt, and those of answers with several scores."""
    repeated, conflicting = asks.ask(_REPEATS).sum().row(0)
    return int(repeated or 0), int(conflicting or 0)


def flat(asks: Asks) -> tuple[int, int]:
    """Prompts without contrast, and all prompts."""
    without, prompts = asks.ask(_FLAT).sum().row(0)
    return int(without or 0), int(prompts or 0)


def sizes(asks: Asks) -> Spans | None:
    """How many answers prompts have."""
    return _spans(asks.ask(_SIZES))


def scores(asks: Asks) -> tuple[Spans | None, int]:
    """The scores, and how many are different."""
    counts = asks.ask(_SCORES)
    return _spans(counts), counts["v"].n_unique()


def values(asks: Asks, number: str) -> dict[float, int]:
    """The different values of an expression over the rows read, ascending, and the rows of each."""
    query = f"SELECT {number} AS v, count(*) AS n FROM numbered WHERE isfinite({number}) GROUP BY v"
    counts = asks.ask(query).group_by("v").agg(pl.col("n").sum()).sort("v")
    return {float(value): int(rows) for value, rows in counts.iter_rows()}


def meeting(asks: Asks) -> int:
    """Prompts that have one score several times."""
    return int(asks.ask(_MET)["prompts"].sum())


def pairs_of_records(job: Job) -> tuple[int, int]:
    """Pairs of records that are there already, and those that contradict another one."""
    (row,) = job.con.execute(_PAIRS_OF_RECORDS).fetchall()
    return int(row[0]), int(row[1])


def _spans(counts: pl.DataFrame) -> Spans | None:
    """Smallest, middle and largest of values `v`, each `n` times; of an even number the mean of
    the middle two.

    >>> _spans(pl.DataFrame({"v": [1.0, 5.0, 2.0], "n": [2, 1, 1]}))
    (1.0, 1.5, 5.0)
    """
    if not counts.height:
        return None
    values = counts.group_by("v").agg(pl.col("n").sum()).sort("v")
    reached, total = values["n"].cum_sum(), int(values["n"].sum())
    low, high = (
        values["v"][int((reached <= place).sum())] for place in ((total - 1) // 2, total // 2)
    )
    return float(values["v"][0]), (low + high) / 2, float(values["v"][-1])

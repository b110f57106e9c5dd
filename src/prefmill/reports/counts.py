"""What is counted of the tables of a report, by SQL: no row leaves the engine but those shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb

from prefmill.engines.macros import install_used
from prefmill.reports.found import Excerpt, Histogram, Overlap, Part, Point, Repeats, Shown
from prefmill.reports.parts import short
from prefmill.reports.tables import text_sql
from prefmill.rules.curves import MOST
from prefmill.rules.tails import student_point
from prefmill.runs.job.job import Job

_BINS = 20
PARTS = 12  # sources, annotators
_EXAMPLES = 3
#: Characters of a text that are shown, and of an example in a line.
_LONG, _SHORT = 1200, 120
_USED = "facts WHERE reason IS NULL"


def _one(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    (row,) = con.execute(query).fetchall()
    return tuple(row)


def histogram(con: duckdb.DuckDBPyConnection, value: str, rows: str) -> Histogram | None:
    """How a number is distributed: a bin for each value where they are few, else equal bins."""
    few = con.execute(f"SELECT DISTINCT {value} AS v FROM {rows} LIMIT {_BINS + 1}").fetchall()
    known = sorted(v for (v,) in few if v is not None)
    if not known:
        return None
    if len(few) <= _BINS:
        query = f"SELECT {value} AS v, count(*) FROM {rows} GROUP BY v ORDER BY v"
        counts = {v: n for v, n in con.execute(query).fetchall() if v is not None}
        return Histogram(known, known, [counts[v] for v in known])
    low, high = _one(con, f"SELECT min({value}), max({value}) FROM {rows}")
    if isinstance(low, int):
        return _of_whole_numbers(con, value, rows, low, high)
    low, high = float(low), float(high)
    query = f"SELECT {_bin(value, low, high)} AS b, count(*) FROM {rows} GROUP BY b"
    at = dict(con.execute(query).fetchall())
    step = (high / 2 - low / 2) / _BINS * 2
    ends = [low + step * place for place in range(_BINS)] + [high]
    return Histogram(ends[:-1], ends[1:], [at.get(place, 0) for place in range(_BINS)])


def _of_whole_numbers(
    con: duckdb.DuckDBPyConnection, value: str, rows: str, low: int, high: int
) -> Histogram:
    """Bins that each hold as many whole numbers, named by their first and last one."""
    width = (high - low) // _BINS + 1
    query = f"SELECT ({value} - {low}) // {width} AS b, count(*) FROM {rows} GROUP BY b"
    at = dict(con.execute(query).fetchall())
    starts = list(range(low, high + 1, width))
    ends = [min(high, start + width - 1) for start in starts]
    return Histogram(starts, ends, [at.get(place, 0) for place in range(len(starts))])


def _bin(value: str, low: float, high: float) -> str:
    """The number of the bin of a value, of equal ones."""
    # In halves, for the whole width of large numbers may be none.
    share = f"({value}::DOUBLE / 2 - {low / 2!r}) / {high / 2 - low / 2!r} * {_BINS}"
    return f"least({_BINS - 1}, greatest(0, floor({share})))::INTEGER"


def scores(con: duckdb.DuckDBPyConnection) -> Histogram | None:
    """The scores of rows that can be used."""
    return histogram(con, "value", _USED)


def parts(con: duckdb.DuckDBPyConnection, by: str, whole: Histogram | None) -> list[Part]:
    """The scores of each source or annotator, those with most rows first, in the bins of all."""
    if whole is None:
        return []
    query = (
        f"SELECT {by}, count(*) AS n, favg(value) FROM {_USED} AND {by} IS NOT NULL"
        f" GROUP BY {by} ORDER BY n DESC, {by} LIMIT {PARTS}"
    )
    found = con.execute(query).fetchall()
    counts: dict[str, list[int]] = {name: [0] * len(whole.counts) for name, *_ in found}
    if whole.low == whole.high:
        place = f"list_position({list(whole.low)!r}::DOUBLE[], value) - 1"
    else:
        place = _bin("value", whole.low[0], whole.high[-1])
    query = f"SELECT {by}, {place} AS b, count(*) FROM {_USED} GROUP BY ALL"
    for name, bin_, rows in con.execute(query).fetchall():
        if name in counts:
            counts[name][bin_] += rows
    return [Part(name, rows, float(mean), counts[name]) for name, rows, mean in found]


def agreeing(con: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> list[Part]:
    """`parts`, annotators, each with how far others agree about the same answers."""
    told = {name: (met, r) for name, met, r in con.execute(_AGREEING).fetchall()}
    made = []
    for part in parts:
        met, r = told.get(part.name, (0, None))
        known = r is not None and math.isfinite(r) and met > _FEWEST
        made.append(
            replace(part, met=met, agrees=r, p=_below(r, met)) if known else replace(part, met=met)
        )
    return made


#: With fewer answers a correlation says nothing (Fisher's z needs four).
_FEWEST = 9
_AGREEING = """
    WITH said AS (SELECT prompt, answer, annotator, value FROM facts
                  WHERE reason IS NULL AND annotator IS NOT NULL),
    met AS (SELECT prompt, answer, sum(value) AS total, count(*) AS n FROM said
            GROUP BY prompt, answer HAVING count(DISTINCT annotator) > 1)
    SELECT annotator, count(*), corr(value, (total - value) / (n - 1))
    FROM said JOIN met USING (prompt, answer) GROUP BY annotator
"""


def _below(r: float, n: int) -> float:
    """The chance of a correlation of `r` or less in `n` pairs of numbers that have none.

    Source: Fisher 1921, Metron 1:3.
    """
    if r <= -1:
        return 0.0
    return math.erfc(-math.atanh(min(r, 1 - 1e-12)) * math.sqrt(n - 3) / math.sqrt(2)) / 2


def answers_per_prompt(con: duckdb.DuckDBPyConnection) -> Histogram | None:
    """How many different answers prompts have."""
    sizes = "(SELECT count(*) AS n FROM answers GROUP BY prompt)"
    return histogram(con, "n", sizes)


def prompts_and_answers(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Different prompts, and different answers of them."""
    prompts, answers = _one(con, "SELECT count(DISTINCT prompt), count(*) FROM answers")
    return int(prompts), int(answers)


def ties(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Of two answers in one group: how many have equal scores, of how many."""
    query = """
        WITH sums AS (
          SELECT len(scores)::HUGEINT AS n, list_sum(list_transform(
            map_values(list_histogram(scores)), lambda k: k::HUGEINT * (k - 1))) AS tied FROM pools)
        SELECT coalesce(sum(tied), 0) // 2, coalesce(sum(n * (n - 1)), 0) // 2 FROM sums
    """
    tied, pairs = _one(con, query)
    return int(tied), int(pairs)


def best_of(con: duckdb.DuckDBPyConnection) -> list[Point]:
    """What the best of 1, 2, 4 ... answers scores on average, over the prompts that have so many.

    The estimate is that of `prefmill curve`; the interval is Student's, over prompts.
    """
    query = _BEST_OF.format(most=MOST)
    install_used(con, [query])
    found = con.execute(query).fetchall()
    points = []
    for n, prompts, best, spread, mean in found:
        half = None
        if prompts > 1:
            half = student_point(0.95, prompts - 1) * spread / math.sqrt(prompts)
        low, high = (None, None) if half is None else (best - half, best + half)
        points.append(Point(n, prompts, best, low, high, mean))
    return points if len(points) > 1 else []


#: Weights of order statistics, as in `pref_curves`, of few n: a prompt is as many numbers as those.
_BEST_OF = """
    WITH sizes AS (SELECT DISTINCT len(scores) AS m FROM pools),
    most AS (SELECT least(max(m), {most}) AS k FROM sizes),
    wanted AS (SELECT DISTINCT unnest([1, 2, 4, 8, 16, 32, 64, k]) AS n FROM most),
    drawn AS (
      SELECT m, n, list_transform(range(1, m + 1), lambda i: pref_order_weight(m, n, n, i)) AS w
      FROM sizes JOIN wanted ON n <= m AND n <= (SELECT k FROM most)),
    weights AS (
      SELECT m, n, list_transform(w, lambda each: each / list_sum(w)) AS w FROM drawn),
    valued AS (
      SELECT n, list_dot_product(scores, w) AS best, list_avg(scores) AS mean
      FROM pools JOIN weights ON m = len(scores))
    SELECT n, count(*), favg(best), stddev_samp(best), favg(mean) FROM valued
    GROUP BY n ORDER BY n
"""


def repeats(con: duckdb.DuckDBPyConnection, *, records: bool) -> Repeats:
    """Exact repeats. `records` says whether a record is a pair of its own."""
    rows, conflicting = _one(
        con,
        "SELECT coalesce(sum(n - 1), 0)::BIGINT, coalesce(sum(n) FILTER (several), 0)::BIGINT"
        " FROM answers WHERE n > 1",
    )
    shared, shared_rows = _one(
        con,
        "SELECT count(*), coalesce(sum(n), 0)::BIGINT FROM ("
        "SELECT sum(n) AS n FROM answers GROUP BY answer HAVING count(*) > 1)",
    )
    if not records:
        return Repeats(rows, conflicting, shared, shared_rows)
    again, against = _one(con, _PAIRS)
    # An answer is chosen in one pair and rejected in another one where its prompt has many.
    return Repeats(rows, 0, shared, shared_rows, again, against)


_PAIRS = """
    WITH told AS (SELECT prompt, c_answer AS c, r_answer AS r, count(*) AS n FROM sides
                  WHERE NOT same GROUP BY ALL)
    SELECT coalesce(sum(n - 1), 0)::BIGINT, coalesce(sum(n) FILTER (EXISTS (
      SELECT 1 FROM told o WHERE o.prompt = told.prompt AND o.c = told.r AND o.r = told.c
    )), 0)::BIGINT FROM told
"""


def splits(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The splits, and the different prompts of each."""
    query = "SELECT split, count(DISTINCT prompt) FROM facts WHERE split IS NOT NULL GROUP BY 1"
    return dict(sorted(con.execute(query).fetchall()))


def overlaps(job: Job) -> list[Overlap]:
    """Of every two splits the prompts that both have."""
    con = job.con
    con.execute(
        "CREATE TEMP TABLE placed AS SELECT prompt, split, min(pos) AS pos FROM facts"
        " WHERE split IS NOT NULL AND prompt IS NOT NULL GROUP BY prompt, split"
    )
    both = "placed a JOIN placed b ON a.prompt = b.prompt AND a.split < b.split"
    found = con.execute(
        f"SELECT a.split, b.split, count(*), list_sort(list(a.pos))[:{_EXAMPLES}] FROM {both}"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    text = text_sql(job, "_prompt")
    overlaps = []
    for one, other, prompts, positions in found:
        query = f"SELECT ({text})[:{_SHORT + 1}] FROM texts WHERE _pos IN ({_listed(positions)})"
        examples = [
            short(each, _SHORT) for (each,) in con.execute(f"{query} ORDER BY _pos").fetchall()
        ]
        overlaps.append(Overlap(one, other, prompts, examples))
    return overlaps


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def shown(job: Job, most: int) -> list[Shown]:
    """The first pairs, cut to what a page holds."""
    con = job.con
    slots = con.execute(
        "SELECT _chosen, _rejected, _chosen_score, _rejected_score FROM slots"
        f" WHERE slot < {most} ORDER BY slot"
    ).fetchall()
    if not slots:
        return []
    texts = [text_sql(job, name) for name in ("_prompt", "_completion")]
    cut = ", ".join(f"({text})[:{_LONG}], length({text})" for text in texts)
    wanted = _listed([position for slot in slots for position in slot[:2]])
    query = f"SELECT _pos, {cut} FROM texts WHERE _pos IN ({wanted})"
    at = {
        pos: (_excerpt(prompt, whole), _excerpt(answer, length))
        for pos, prompt, whole, answer, length in con.execute(query).fetchall()
    }
    return [Shown(at[c][0], at[c][1], at[r][1], cs, rs) for c, r, cs, rs in slots]


def _excerpt(text: str | None, length: int | None) -> Excerpt:
    if text is None:
        return Excerpt("")
    return Excerpt(text, max(0, (length or 0) - len(text)))

"""The pairs that a proxy is fitted to: drawn, read, and named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from prefmill.engines.macros import install_used
from prefmill.errors import ThresholdsUnfit
from prefmill.plans import Pairs
from prefmill.reports.tables import kept, make_facts, make_sides, text_sql
from prefmill.runs.incremental.output import ID
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import opened
from prefmill.table.roles import Inputs, RoleNames

_ALL: Any = {"chosen_min": None, "rejected_below": None}
#: Characters of a text that are embedded, at most.
_MOST = 8_000


@contextmanager
def opened_pairs(
    plan: Pairs, inputs: Inputs, roles: RoleNames | None, **asked: Any
) -> Iterator[Job]:
    """A job with the tables `facts` and `sides` of its pairs.

    Thresholds of `plan` that do not fit the scores are left out.
    """
    with ExitStack() as stack:

        def ranked(plan: Pairs) -> Job:
            job = stack.enter_context(
                opened(plan, inputs, roles=roles, engine="duckdb", whole_rows=True, **asked)
            )
            job.rank()
            return job

        try:
            job = ranked(plan)
        except ThresholdsUnfit:
            stack.close()
            job = ranked(replace(plan, **_ALL))
        make_facts(job)
        make_sides(job)
        yield job


def count(job: Job) -> tuple[int, int]:
    """The pairs of different texts, and their prompts."""
    query = "SELECT count(*), count(DISTINCT prompt) FROM sides WHERE NOT same"
    ((pairs, prompts),) = job.con.execute(query).fetchall()
    return int(pairs), int(prompts)


def drawn(job: Job, most: int, seed: int) -> pl.DataFrame:
    """The first `most` pairs of a draw by their texts, whatever their order or their labels.

    Columns: slot, group (the prompt), annotator; of both sides (`c_`, `r_`) pos, source, chars and
    lists.
    """
    texts = "greatest(s.c_answer, s.r_answer), least(s.c_answer, s.r_answer)"
    query = (
        'SELECT s.slot, s.c_pos, s.r_pos, s.prompt::VARCHAR AS "group", s.c_source, s.r_source,'
        " c_chars, r_chars, c_lists, r_lists, f.annotator FROM sides s"
        " JOIN facts f ON f.pos = s.c_pos WHERE NOT s.same"
        f" ORDER BY md5(concat_ws(':', {int(seed)}, s.prompt, {texts})), s.slot LIMIT {int(most)}"
    )
    return pl.DataFrame(job.con.sql(query).to_arrow_table())


def texts_of(job: Job, positions: pl.Series, *, most: int = _MOST) -> pl.DataFrame:
    """`pos`, `prompt` and `answer` of rows, as texts of at most so many characters."""
    prompt, answer = (f"({text_sql(job, name)})[:{most}]" for name in ("_prompt", "_completion"))
    wanted = pl.DataFrame({"pos": positions.unique()})
    job.con.register("_wanted", wanted.to_arrow())
    query = (
        f"SELECT _pos AS pos, coalesce({prompt}, '') AS prompt, coalesce({answer}, '') AS answer"
        " FROM texts SEMI JOIN _wanted ON _wanted.pos = texts._pos"
    )
    found = pl.DataFrame(job.con.sql(query).to_arrow_table())
    job.con.unregister("_wanted")
    return found


def ids_of(job: Job, pairs: pl.DataFrame) -> pl.DataFrame:
    """What names each pair (c_pos, r_pos) for `--exclude`: `text_id`, the id of its texts, and
    `pair_id` where the file has that column.
    """
    call = "pair_id(c._prompt, c._completion, r._completion)"
    install_used(job.con, [call])
    own = kept(job, ID)
    named = f", c.{own}::VARCHAR AS {ID}" if own else ""
    job.con.register("_named", pairs.select("c_pos", "r_pos").with_row_index("_at").to_arrow())
    query = (
        f"SELECT _at, {call} AS text_id{named} FROM _named"
        " JOIN texts c ON c._pos = c_pos JOIN texts r ON r._pos = r_pos"
    )
    found = pl.DataFrame(job.con.sql(query).to_arrow_table())
    job.con.unregister("_named")
    return found.sort("_at").drop("_at").cast(pl.String)

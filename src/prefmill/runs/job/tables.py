"""The relations of a plan in DuckDB: views and tables of a connection, up to the slots.

numbered ──▶ judged ──▶ candidates ──steps of the plan──▶ slots, in output order
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import duckdb

from prefmill.connection import release
from prefmill.engines import sql
from prefmill.engines.macros import install_used
from prefmill.engines.steps import Step
from prefmill.plans.feedback import FeedbackPlan
from prefmill.rules.rows import UNUSABLE
from prefmill.runs.job.assembly import Assembly
from prefmill.runs.job.bound import BoundPlan
from prefmill.runs.job.order import order_columns
from prefmill.runs.job.refusals import refuse_explosion, unusable, word_told
from prefmill.table.report import PairReport
from prefmill.table.thresholds import QUANTILES, Scale, Scores


class Tables:
    """The relations of `bound` on the connection `con`.

    `ordered`: slots have the numbers that order them, `_o0` ...
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        bound: BoundPlan,
        assembly: Assembly,
        *,
        ordered: bool = False,
    ) -> None:
        self.con, self.bound, self.assembly = con, bound, assembly
        self._ordered = ordered
        output = bound.output
        more = [step for step in (output.report, output.scale, output.proposals) if step]
        queries = [query for _, _, query in sql.relations(bound.program)]
        install_used(con, [*queries, *map(sql.call, more)])
        relation, position = bound.source.relation, bound.source.position
        rows = sql.numbered(bound.program.read, relation, position, bound.scalars)
        self.make("numbered", rows, table=False)
        if bound.rowed.checked:
            relation = f"({bound.rowed.checked})"
        self.make("texts", assembly.texts(relation, position), table=False)

    def make(self, name: str, query: str, *, table: bool) -> None:
        """Make a relation, as a table or as a view."""
        kind = "TABLE" if table else "VIEW"
        self.con.execute(f"CREATE {kind} {name} AS {query}")

    # Rank

    def narrow(self, *, tables: bool) -> list[str]:
        """Make the relations up to `candidates`; their names.

        `tables`: those that are read more than once are tables.
        """
        bound = self.bound
        assert not bound.source.stays, "the rows of a sample are not those of the input"
        done = []
        for step, name, query in sql.relations(bound.program, bound.never_null):
            self.make(name, query, table=tables and step is not None and step.table)
            # Before a table is made, whose macro would raise without a hint.
            if name == "judged" and bound.plan.on_invalid == "raise":
                self._refuse_unusable()
            done.append(name)
            if name == "candidates":
                break
        return done

    def rank(self, done: list[str]) -> None:
        """Make the rest of the relations, after those of `done`, and the slots."""
        bound = self.bound
        self._settle(done)
        while steps := [step for step in bound.program.steps if step.name not in done]:
            self._make_step(steps[0])
            done.append(steps[0].name)
            self._settle(done)
        if step := bound.output.proposals:
            ((proposals, largest),) = self.con.execute(sql.call(step)).fetchall()
            refuse_explosion(step, proposals, largest)
        rows = bound.output.step
        if bound.output.present:
            rows = f"{rows} WHERE {bound.output.present} IS NOT NULL"
        columns = self.assembly.slot_columns()
        if self._ordered:
            columns += order_columns(bound.output.order)
        self._make_slots(", ".join(columns), rows)
        for step in bound.program.steps:
            for column in step.spare:
                self.con.execute(f"ALTER TABLE {step.name} DROP COLUMN {column}")
            if step.spare:
                release(self.con)

    def _make_step(self, step: Step) -> None:
        query = sql.call(step)
        if step.spare and not step.drawn and not self.assembly.key_is_prompt:
            nothing = ", ".join(f"NULL AS {column}" for column in step.spare)
            query = f"SELECT * REPLACE ({nothing}) FROM ({query})"
        self.make(step.name, query, table=step.table)
        if step.release:
            release(self.con)

    def _make_slots(self, columns: str, rows: str) -> None:
        """Slots in output order; the table keeps it, so that no part has to be sorted again."""
        order = (f"{n[1:]} DESC" if n[0] == "-" else n for n in self.bound.output.order)
        ordered = f"SELECT {columns} FROM {rows} ORDER BY {', '.join(order)}"
        with in_order(self.con):
            slots = f"SELECT row_number() OVER () - 1 AS slot, * FROM ({ordered})"
            self.make("slots", slots, table=True)

    def _settle(self, done: Sequence[str]) -> None:
        """Put numbers for thresholds that wait for the scores, as soon as these are there."""
        bound, scale = self.bound, self.bound.output.scale
        if not bound.plan.waits or scale is None or scale.over[0] not in done:
            return
        bound.scale = Scale(*self.con.execute(sql.call(scale)).fetchall()[0])
        bound.settle(bound.plan.settled(self.scores(bound.plan)))

    def _refuse_unusable(self) -> None:
        ((reason, position),) = self.con.execute(
            "SELECT arg_min(_reason, _pos), min(_pos)"
            f" FROM pref_rows('judged') WHERE _reason IN {UNUSABLE}"
        ).fetchall()
        if reason:
            words = self.bad_scores() if reason == "bad_score" else ()
            raise unusable(position, reason, words)

    # What is asked of what was ranked

    def bad_scores(self) -> tuple[str, ...]:
        """The first three different texts that are no score, as Python writes them, cut to size."""
        columns = [f"_score{place}" for place in range(len(self.bound.program.read.scores))]
        texts = " UNION ALL ".join(
            f"SELECT {name}::VARCHAR AS word, _pos FROM numbered"
            f" WHERE {name} IS NOT NULL AND pref_number({name}) IS NULL"
            for name in columns
        )
        query = f"SELECT word FROM ({texts}) GROUP BY word ORDER BY min(_pos) LIMIT 3"
        words = [word for (word,) in self.con.execute(query).fetchall()]
        return tuple(map(word_told, words))

    def scale(self) -> Scale:
        """Smallest and largest score of a candidate."""
        query = "SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL"
        return Scale(*self.con.execute(query).fetchall()[0])

    def scores(self, plan: FeedbackPlan) -> Scores:
        """What the thresholds of `plan` ask of the scores of all candidates."""
        at: dict[float, float] = {}
        if step := plan.output(self.bound.roles).quantiles:
            query = sql.call(step)
            install_used(self.con, [query])
            (found,) = self.con.execute(query).fetchall()
            shares = plan.quantiles
            pairs = zip(QUANTILES, found, strict=True)
            at = {shares[name]: score for name, score in pairs if name in shares}
        scale = self.bound.scale
        if scale.low is None:  # nothing waited for it so far
            scale = self.scale()
        return Scores(scale, self._only, lambda quantile: at[quantile.share])

    def _only(self, some: Sequence[float]) -> bool:
        """Whether every score of a candidate is one of these."""
        listed = ", ".join(f"{score!r}::DOUBLE" for score in some)
        query = f"SELECT bool_and(_score IN ({listed})) FROM candidates WHERE _reason IS NULL"
        return bool(self.con.execute(query).fetchall()[0][0])

    def count(self, step: Step) -> int:
        """How many rows `step` gives, over what was ranked."""
        return int(self.con.sql(sql.call(step)).count("*").fetchall()[0][0])

    def contrast(self) -> int:
        """How many groups have answers with different scores."""
        query = (
            "SELECT count(*) FROM groups"
            " WHERE pref_key_score(_ranks[1]) <> pref_key_score(_ranks[-1])"
        )
        return int(self.con.execute(query).fetchall()[0][0])

    def account(self, views: Mapping[str, str]) -> PairReport:
        """The account of every row; `views` stand for relations that it reads."""
        output = self.bound.output
        (row,) = self.con.execute(sql.call(output.report, views)).fetchall()
        account = PairReport.of_row(row)
        if not output.length:
            return account
        return replace(account, length=sql.length_fit(self.con, self.bound.program))

    def groups(self) -> str:
        """The relation of groups, with the columns `_first` and `_votes`."""
        return "groups"


@contextmanager
def in_order(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Statements here keep the order of rows, which `connect` turned off for speed."""
    con.execute("SET preserve_insertion_order = true")
    yield
    con.execute("SET preserve_insertion_order = false")

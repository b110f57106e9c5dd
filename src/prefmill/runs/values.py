"""Values of states and actions: in memory, and from files to a file, out of core.

files ──▶ a view of the roles' columns ──the macro──▶ rows in order ──▶ the target, whole
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import duckdb
import polars as pl
import pyarrow as pa

from prefmill.arguments import closed
from prefmill.connection import connect, quote, share_of
from prefmill.engines.macros import install_used
from prefmill.errors import BadInput
from prefmill.plans.expect import Counted
from prefmill.plans.values import Values
from prefmill.pools.frames import frame_of
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.readers import Source
from prefmill.rules.values import refuse_nested, refuse_unlike, state_values, tree_values
from prefmill.runs.account.expecting import done_before, held, in_key, sources_asked, sources_in
from prefmill.runs.job.bound import scalar
from prefmill.runs.job.opening import Reading, opened_source
from prefmill.runs.records.commands import recorded
from prefmill.table.messages import is_json_text
from prefmill.table.report import PairReport
from prefmill.table.roles import Inputs, ValueNames
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

_FRAME_ROWS = 50_000
_OURS = "prefmill: "
#: Columns that are compared: what leads on, and where it leads.
_COMPARED = (("next_state", "state"), ("parent_id", "id"))
_NUMBERS = ("reward", "policy", "q", "v", "advantage")


@dataclass(frozen=True)
class ValuesReport(Showing):
    """What a run of `Values` did.

    `rows_rejected` are malformed rows that never became rows. `rows_out` are actions, or with
    `tree` the nodes of a tree; `states` are those that have actions, or all nodes. `columns` is
    the column of each role, `notes` are sentences for people. `expected` is what came of what
    the plan expects (`prefmill.Expect`), `sources` the rows of each source then. `seconds` of wall
    time, `peak_rss_mb` the largest resident size of this process so far, in MiB.
    """

    rows_in: int
    rows_rejected: int
    rows_out: int
    states: int
    tree: bool
    seconds: float
    peak_rss_mb: float
    output: str | None
    plan_hash: str
    columns: Mapping[str, str]
    notes: Sequence[str] = ()
    expected: Sequence[Mapping[str, Any]] = ()
    sources: Mapping[str, int] | None = None

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with: every row that was read is used."""
        account = PairReport(self.rows_in, self.rows_in, 0, pairs_out=self.rows_out)
        return Counted(account, self.rows_rejected, self.sources)

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return asdict(self)


@closed("values")
def values(data: Inputs, plan: Values | None = None, **columns: Unpack[ValueNames]) -> pl.DataFrame:
    """Values of `data` (whatever `prefmill.run` takes), in memory: transitions, or a tree.

    It is a tree if there is a `parent_id` (named, or a column of that name without a column
    `state`). `prefmill.run` writes the same rows to a file, out of core.

    Transitions are rows of state, action, next_state (null, or a state without rows: the end, worth
    0), probability (default 1; those of an action sum to 1), reward (default 0; null is 0); policy
    `given` reads policy_probability, `softmax` score. Columns out: state, action, reward
    (expected), policy (null for `optimal`), q, v (of the state), advantage (q - v), by state and
    action.

    A tree is rows of id, parent_id (null: a root), reward, and what the policy reads; the children
    of a message are its actions. Columns out: id, parent_id, reward, policy, q, v (of what follows
    it; 0 for a leaf), advantage (q - v of the parent; null for a root), by id.

    Values are rounded to 9 decimals and do not depend on row order. Cost: one pass for every level;
    on cycles one for every sweep. Raises `BadInput` for probabilities, ids and parents that cannot
    be, and for gamma 1 on cycles that never end; `ColumnMissing`.

    >>> tree = pl.DataFrame({"id": [1, 2, 3], "parent_id": [None, 1, 1], "reward": [0, 1, 3]})
    >>> values(tree).select("id", "q", "v", "advantage").rows()
    [(1, 2.0, 2.0, None), (2, 1.0, 0.0, -1.0), (3, 3.0, 0.0, 1.0)]
    """
    plan = plan or Values()
    frame = frame_of(data, "values").lazy().collect()
    named = plan.columns(columns, frame.columns)
    rule: Any = tree_values if "parent_id" in named else state_values
    result: pl.DataFrame = rule(frame, **named, **plan.arguments(named))
    return result


@watched("values")
def run(
    plan: Values,
    inputs: Inputs,
    output: str | Path | None,
    *,
    roles: ValueNames | None = None,
    overwrite: bool = False,
    allow_empty: bool = False,
    spreadsheet_safe: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> ValuesReport:
    """Write the rows that `values` gives, in its order; arguments are those of `prefmill.run`.

    Cost: DuckDB sorts and joins states by number, and spills what memory does not hold.

    >>> import tempfile
    >>> tree = pl.DataFrame({"id": [1, 2, 3], "parent_id": [None, 1, 1], "reward": [0, 1, 3]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = run(Values(), tree, f"{folder}/values.parquet")
    ...     pl.read_parquet(f"{folder}/values.parquet")["q"].to_list(), report.rows_out
    ([2.0, 1.0, 3.0], 3)
    """
    started = time.perf_counter()
    recording = recorded(
        plan.kind,
        inputs,
        output,
        reading,
        overwrite=overwrite,
        spreadsheet_safe=spreadsheet_safe,
        plan=plan.content(),
        roles=dict(roles or {}),
        carried=in_key(plan.expect),
    )
    with recording as record:
        if record.done:
            return done_before(plan, record.restored(ValuesReport))
        record.facts["plan"] = {plan.kind: plan.content()}
        with opened_source("values", inputs, progress=progress, **reading) as (source, home):
            columns = plan.columns(roles or {}, source.columns.names)
            sources_asked(plan.expect, source.columns.names, where=plan.where)
            memory_bytes = reading.get("memory_bytes")
            con = connect(
                temp_dir=home,
                reads=source.reads,
                memory_bytes=share_of(memory_bytes) if memory_bytes else None,
                threads=reading.get("threads"),
                remote=source.remote,
            )
            rows = _Rows(con, plan, source, columns, progress or silent)

            def report(written: writers.Written | None) -> ValuesReport:
                made = ValuesReport(
                    rows_in=source.rows,
                    rows_rejected=source.rejected,
                    rows_out=rows.count,
                    states=rows.states,
                    tree=rows.is_tree,
                    seconds=round(time.perf_counter() - started, 3),
                    peak_rss_mb=peak_rss_mb(),
                    output=written.paths.get("") if written else None,
                    plan_hash=plan.hash(),
                    columns=columns,
                    notes=[*source.notes, *(written.notes if written else ())],
                    sources=sources_in(con, source.relation, plan.expect),
                )
                publishes = output is not None
                return held(made, plan.expect, where=plan.where, publishes=publishes)

            if output is None:
                for _ in rows.frames():
                    pass
                return report(None)
            record.read(source.inputs)
            writers.write(
                rows.frames(),
                rows.schema,
                output,
                format="pool",
                overwrite=record.overwrites,
                publish_empty=allow_empty,
                memory_bytes=reading.get("memory_bytes"),
                spreadsheet_safe=spreadsheet_safe,
                publish=record.publisher(report),
            )
            return record.made or report(None)


class _Rows:
    """The rows of output, and how many came."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        plan: Values,
        source: Source,
        columns: Mapping[str, str],
        tell: Progress,
    ) -> None:
        self.con, self.tell = con, tell
        self.is_tree = "parent_id" in columns
        self.count = self.states = 0
        # Arrow imports pandas, where it is installed, for `empty_table()`.
        dtypes = pl.DataFrame(pa.Table.from_batches([], schema=source.columns)).schema
        kinds = {role: dtypes[name] for role, name in columns.items()}
        cells = [f"{_cell(role, name, dtypes[name])} AS {role}" for role, name in columns.items()]
        con.execute(f"CREATE VIEW rows AS SELECT {', '.join(cells)} FROM {source.relation}")
        self._check_types(kinds, dtypes)
        keys = ("id", "parent_id") if self.is_tree else ("state", "action")
        self.schema = pl.Schema({key: kinds[key] for key in keys})
        self.schema.update(dict.fromkeys(_NUMBERS, pl.Float64()))
        if self.is_tree:
            self.schema["parent_id"] = kinds["id"]
        names: Any = {role: role for role in columns}
        self._query = plan.sql("rows", **names)
        if not self.is_tree:  # a tree comes by id
            self._query += " ORDER BY state, action"
        install_used(con, [self._query])

    def _check_types(self, kinds: Mapping[str, pl.DataType], dtypes: pl.Schema) -> None:
        where = "tree_values" if self.is_tree else "state_values"
        for column, other in _COMPARED:
            if column not in kinds:
                continue
            query = f"SELECT count({column}), count(*) FROM rows"
            ((there, rows),) = self.con.execute(query).fetchall()
            # A column of nulls only is text, whatever it could hold.
            if there:
                refuse_unlike(where, **{column: kinds[column], other: kinds[other]})
            elif rows and self.is_tree:
                refuse_nested(dtypes, where)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows in order, as frames of `schema`."""
        self.tell("working out values", None)
        last = None
        try:
            for batch in self.con.sql(self._query).to_arrow_reader(_FRAME_ROWS):
                rows = pl.DataFrame(pa.Table.from_batches([batch]))
                frame = rows.cast(dict(self.schema))  # type: ignore[arg-type]
                if not frame.height:
                    continue
                self.count += frame.height
                states = frame.to_series(0)
                # Rows of one state may lie on both sides of a cut.
                again = self.states > 0 and states[0] == last
                self.states += states.n_unique() - again
                last = states[-1]
                yield frame
        except duckdb.Error as error:
            raise _as_ours(error) from None


def _cell(role: str, name: str, dtype: pl.DataType) -> str:
    """The column of a role in SQL; JSON scalars as the numbers that they spell."""
    is_key = role in ("state", "action", "next_state", "id", "parent_id")
    return scalar(name) if is_json_text(dtype) and not is_key else quote(name)


def _as_ours(error: duckdb.Error) -> Exception:
    """What a macro refuses is told by a query's error, after our name."""
    _, ours, message = str(error).partition(_OURS)
    return BadInput(message.strip()) if ours else error

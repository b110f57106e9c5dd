"""The engines that every case and every property runs on."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import oracle
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.errors import BadScore
from prefmill.plans import Plan
from prefmill.table.roles import Roles

COUNTS = (
    "rows_in",
    "rows_used",
    "rows_not_selected",
    "dropped",
    "groups_in",
    "groups_used",
    "pairs_out",
    "length",
    "labels",
)
COLUMNS = {
    "pairs": ("prompt", "chosen", "rejected", "chosen_score", "rejected_score"),
    "unpaired": ("prompt", "completion", "label", "score"),
    "best_of": ("prompt", "completion", "score", "rank"),
    "advantages": ("prompt", "completion", "score", "advantage"),
}
Answer = tuple[list[tuple], dict]


def on_oracle(table: pa.Table, plan: Plan, roles: dict) -> Answer:
    columns = plan.weights if plan.weights and "aspect" not in roles else ()
    found = Roles.resolve(table.column_names, roles, score_columns=columns)
    result = getattr(oracle, plan.kind)(table.to_pylist(), plan, found)
    return result.pairs, result.report


def on_polars(engine: str, table: pa.Table, plan: Plan, roles: dict) -> Answer:
    import polars as pl

    import prefmill.polars

    frame = pl.from_arrow(table)
    rows = plan.lazy(frame.lazy(), **roles).collect(engine=engine)
    return rows_of(rows.to_arrow(), plan), prefmill.polars.report(plan, frame, **roles)


@functools.cache
def connection():
    import duckdb

    import prefmill.duckdb

    con = duckdb.connect(config={"threads": 2})
    prefmill.duckdb.install(con)
    return con


@contextmanager
def known_to_duckdb(kind: str, table: pa.Table) -> Iterator[tuple]:
    """A connection with the macros, and the name under which it knows the rows: a Polars frame, a
    table, a Parquet file.
    """
    import polars as pl

    con = connection()
    if kind == "parquet":
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(table, f"{folder}/rows.parquet")
            yield con, f"{folder}/rows.parquet"
        return
    con.register("feedback", pl.from_arrow(table))
    try:
        if kind == "table":
            con.execute("CREATE OR REPLACE TABLE feedback_table AS FROM feedback")
        yield con, "feedback_table" if kind == "table" else "feedback"
    finally:
        con.unregister("feedback")


@contextmanager
def our_errors() -> Iterator[None]:
    """A query can raise only DuckDB's own errors; ours begin with our name."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if "prefmill: " in str(error):
            raise BadScore(str(error)) from None
        raise


def on_duckdb(kind: str, table: pa.Table, plan: Plan, roles: dict) -> Answer:
    """Rows from every kind of relation; the report, which takes as long again, in SQL from one
    (`test_public_macro` has it from all).
    """
    import polars as pl

    import prefmill.duckdb
    import prefmill.polars

    with known_to_duckdb(kind, table) as (con, name), our_errors():
        rows = con.sql(plan.sql(name, **roles)).to_arrow_table()
        if kind == "frame":
            return rows_of(rows, plan), prefmill.duckdb.report(plan, con, name, **roles)
        return rows_of(rows, plan), prefmill.polars.report(plan, pl.from_arrow(table), **roles)


def on_datasets(kind: str, table: pa.Table, plan: Plan, roles: dict) -> Answer:
    """A `Dataset` whose rows come through an indices mapping, or an `IterableDataset` whose shards
    cut the prompts.

    The report of a stream is that of a run over a file, which `run-duckdb` shows: here it is that
    of the `Dataset`.
    """
    import datasets

    import prefmill.datasets

    backwards = range(table.num_rows - 1, -1, -1)
    rows = datasets.Dataset(table.take(pa.array(backwards, pa.int64())))
    whole = rows.select(backwards)
    rows = whole
    if kind == "streaming":
        none = functools.partial(
            datasets.IterableDataset.from_generator, lambda: iter(()), features=rows.features
        )
        rows = rows.to_iterable_dataset(num_shards=min(3, len(rows))) if len(rows) else none()
    made = prefmill.datasets.apply(plan, rows, **roles)
    if kind == "streaming":
        tables = [
            pa.Table.from_batches([], schema=made.features.arrow_schema),
            *made.with_format("arrow").iter(batch_size=1000),
        ]
        out = pa.concat_tables(tables)
    else:
        out = made.data.table
    assert out.schema.remove_metadata() == made.features.arrow_schema.remove_metadata()
    return rows_of(out, plan), prefmill.datasets.report(plan, whole, **roles)


def on_run(engine: str, table: pa.Table, plan: Plan, roles: dict) -> Answer:
    import prefmill

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        pq.write_table(table, source)
        report = prefmill.run(plan, source, target, engine=engine, roles=roles, allow_empty=True)
        if plan.kind in ("best_of", "advantages"):
            rows = whole_rows_of(source, target, engine, plan, roles)
        else:
            rows = rows_of(pq.read_table(target), plan)
        return rows, {name: getattr(report, name) for name in COUNTS}


def on_buckets(table: pa.Table, plan: Plan, roles: dict) -> Answer:
    """A run in buckets, cut as small as it goes; or its refusal of what needs all prompts."""
    from prefmill.runs.cluster import spread
    from prefmill.runs.cluster.driver import Cut
    from prefmill.runs.cluster.executor import Inline

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        pq.write_table(table, source)
        cut = Cut(split_rows=2, buckets=3, part_bytes=64, row_bytes=16)
        report = spread.run(
            plan, source, target, roles=roles, allow_empty=True, executor=Inline(), cut=cut
        )
        if plan.kind in ("best_of", "advantages"):
            rows = whole_rows_of(source, target, "duckdb", plan, roles)
        else:
            rows = rows_of(pq.read_table(target), plan)
        return rows, {name: getattr(report, name) for name in COUNTS}


def needs_all_prompts(plan: Plan) -> bool:
    """Whether a row of the plan depends on rows of other prompts, but by few numbers of all."""
    return (
        plan.normalize != "none"
        or getattr(plan, "scope", "") == "pool"
        or getattr(plan, "length_control", False)
        or (plan.rows is not None and plan.rows.repeats == "drop")
    )


def on_cli(table: pa.Table, plan: Plan, roles: dict) -> Answer:
    """The command, in this process: every field of the plan as an option."""
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    command = {
        "pairs": "pairs",
        "unpaired": "unpair",
        "best_of": "best",
        "advantages": "advantages",
    }[plan.kind]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        pq.write_table(table, source)
        spelled = {"method": "kind"} if plan.kind == "advantages" else {}
        options = [
            f"--{spelled.get(name, name).replace('_', '-')}={value}"
            for name, value in said(plan).items()
        ]
        options = [option.removesuffix("=True") for option in options]  # a flag
        columns = [
            f"--{role}={name}"
            for role, names in roles.items()
            for name in ([names] if isinstance(names, str) else names)
        ]
        done = CliRunner().invoke(
            app,
            [
                command,
                str(source),
                "-o",
                str(target),
                "--json",
                "--quiet",
                "--allow-empty",
                *options,
                *columns,
            ],
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert report["plan_hash"] == plan.hash()
        if plan.kind in ("best_of", "advantages"):
            return whole_rows_of(source, target, "duckdb", plan, roles), report
        return rows_of(pq.read_table(target), plan), report


def said(plan: Plan) -> dict[str, str]:
    """The fields of `plan` that are not the default, as the command line has them."""
    values = {
        f.name: getattr(plan, f.name)
        for f in dataclasses.fields(plan)
        if getattr(plan, f.name) != f.default
    }
    if "weights" in values:
        values["weights"] = ",".join(
            f"{name}={weight}" for name, weight in values["weights"].items()
        )
    return {name: "none" if value is None else str(value) for name, value in values.items()}


def whole_rows_of(source: Path, target: Path, engine: str, plan: Plan, roles: dict) -> list[tuple]:
    """What `run` picked. Its file holds whole rows of the input: their prompts, completions and
    ranks have to be those of the picks.
    """
    added = COLUMNS[plan.kind][-1]
    import polars as pl

    from prefmill.runs.job.opening import opened

    with opened(plan, source, roles=roles, engine=engine) as job:
        picks = pl.concat([pl.DataFrame(schema=job.assembly.schema()), *job.frames()]).rename(
            lambda name: name.removeprefix("_")
        )
        names = job.roles
    whole, columns = pq.read_table(target), pq.read_schema(source).names
    adjusted = [*added_by(plan)]
    assert whole.column_names == [
        *columns,
        added,
        *adjusted,
        *(["aggregated_score"] if plan.aggregate != "none" else []),
    ]
    wanted = {
        names.prompt: "prompt",
        names.completion: "completion",
        **{name: name for name in (added, *adjusted)},
    }
    wanted |= {"aggregated_score": "score"} if plan.aggregate != "none" else {}
    for column, name in wanted.items():
        assert whole[column].to_pylist() == picks[name].to_list(), f"{column} of the file"
    return rows_of(picks.to_arrow(), plan)


ENGINES: dict[str, Callable[[pa.Table, Plan, dict], Answer]] = {
    "oracle": on_oracle,
    "polars": functools.partial(on_polars, "in-memory"),
    "polars-streaming": functools.partial(on_polars, "streaming"),
    "duckdb": functools.partial(on_duckdb, "frame"),
    "duckdb-table": functools.partial(on_duckdb, "table"),
    "duckdb-parquet": functools.partial(on_duckdb, "parquet"),
    "datasets": functools.partial(on_datasets, "whole"),
    "datasets-streaming": functools.partial(on_datasets, "streaming"),
    "run-polars": functools.partial(on_run, "polars"),
    "run-duckdb": functools.partial(on_run, "duckdb"),
    "run-buckets": on_buckets,
    "cli": on_cli,
}
ALL_PROMPTS = "needs the rows of all prompts together"
# Properties take many examples: they run on one form of each engine, and the cases on all.
DISTINCT = ("oracle", "polars", "duckdb", "run-polars", "run-duckdb", "run-buckets")


def rows_of(table: pa.Table, plan: Plan) -> list[tuple]:
    if (
        plan.kind == "best_of" and table.column_names[-1] == "stage"
    ):  # comes along where the role is mapped
        table = table.drop_columns("stage")
    expected = COLUMNS[plan.kind] + added_by(plan)
    assert tuple(table.column_names) == expected, (
        f"columns {table.column_names}, expected {expected}"
    )
    return [tuple(row.values()) for row in table.to_pylist()]


def added_by(plan: Plan) -> tuple[str, ...]:
    """The columns that a setting adds."""
    if plan.kind != "best_of":
        return ()
    adjusted = ("adjusted_score",) if plan.length_control else ()
    return (*adjusted, *(("agreeing",) if plan.pick == "majority" else ()))


def assert_same(where: str, engine: str, got: Answer, wanted: Answer) -> None:
    """Rows in order and the report are exactly equal, or the failure names the first row that
    differs.
    """
    (rows, report), (wanted_rows, wanted_report) = got, wanted
    for i, (row, expected) in enumerate(zip(rows, wanted_rows, strict=False)):
        differs = (
            f"{where} on {engine}: row {i} of {len(rows)} ({len(wanted_rows)} expected)\n   "
            f"  got {row}\nexpected {expected}"
        )
        assert row == expected, differs
        assert list(map(type, row)) == list(map(type, expected)), f"types: {differs}"
    extra = (
        f"missing {wanted_rows[len(rows) :][:1]}"
        if len(rows) < len(wanted_rows)
        else f"surplus {rows[len(wanted_rows) :][:1]}"
    )
    assert len(rows) == len(wanted_rows), (
        f"{where} on {engine}: {len(rows)} rows, expected {len(wanted_rows)}; {extra}"
    )
    counts = {name: report.get(name, "absent") for name in COUNTS}
    counts |= {
        "dropped": dict(counts["dropped"]),
        "length": report.get("length"),
        "labels": report.get("labels"),
    }
    wanted_report = {"length": None, "labels": None} | wanted_report
    assert counts == wanted_report, (
        f"{where} on {engine}: report\n     got {counts}\nexpected {wanted_report}"
    )

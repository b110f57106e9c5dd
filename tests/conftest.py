"""The engines that every case and every property runs on; `--engine NAME` (repeatable) narrows them."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefmill.errors import BadScore
from prefmill.plans import Plan
from prefmill.schema import Roles

# Read by OpenMP when torch is imported: threads that wait must not spin, or tests take minutes on a machine that does other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

COUNTS = ("rows_in", "rows_used", "rows_not_selected", "dropped", "groups_in", "groups_used", "pairs_out")
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


def on_polars(table: pa.Table, plan: Plan, roles: dict) -> Answer:
    import polars as pl

    import prefmill.polars

    frame = pl.from_arrow(table)
    rows = plan.lazy(frame.lazy(), **roles).collect()
    return rows_of(rows.to_arrow(), plan), prefmill.polars.report(plan, frame, **roles)


@functools.cache
def connection():
    import duckdb

    import prefmill.duckdb

    con = duckdb.connect(config={"threads": 2})
    prefmill.duckdb.install(con)
    return con


def on_duckdb(table: pa.Table, plan: Plan, roles: dict) -> Answer:
    import duckdb

    import prefmill.duckdb

    con = connection()
    con.register("feedback", table)
    try:
        rows = con.sql(plan.sql("feedback", **roles)).to_arrow_table()
        return rows_of(rows, plan), prefmill.duckdb.report(plan, con, "feedback", **roles)
    except duckdb.Error as error:  # a query can raise only DuckDB's own errors; ours begin with our name
        if "prefmill: " in str(error):
            raise BadScore(str(error)) from None
        raise
    finally:
        con.unregister("feedback")


def on_run(engine: str, table: pa.Table, plan: Plan, roles: dict) -> Answer:
    import prefmill

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        pq.write_table(table, source)
        report = prefmill.run(plan, source, target, engine=engine, roles=roles)
        if plan.kind in ("best_of", "advantages"):
            rows = whole_rows_of(source, target, engine, plan, roles)
        else:
            rows = [(row[0], *map(unwrapped, row[1:])) for row in rows_of(pq.read_table(target), plan)]
        return rows, {name: getattr(report, name) for name in COUNTS}


def whole_rows_of(source: Path, target: Path, engine: str, plan: Plan, roles: dict) -> list[tuple]:
    """What `run` picked. Its file holds whole rows of the input: their prompts, completions and ranks have to be those of the picks."""
    added = COLUMNS[plan.kind][-1]
    import polars as pl

    from prefmill.job import opened

    with opened(plan, source, roles=roles, engine=engine) as job:
        picks = pl.concat([pl.DataFrame(schema=job.schema()), *job.frames()]).rename({"_score": "score", f"_{added}": added})
        names = job.roles
    whole, columns = pq.read_table(target), pq.read_schema(source).names
    assert whole.column_names == [*columns, added, *(["aggregated_score"] if plan.aggregate != "none" else [])]
    wanted = {names.prompt: "prompt", names.completion: "completion", added: added}
    wanted |= {"aggregated_score": "score"} if plan.aggregate != "none" else {}
    for column, name in wanted.items():
        assert whole[column].to_pylist() == picks[name].to_list(), f"{column} of the file"
    return rows_of(picks.to_arrow(), plan)


ENGINES: dict[str, Callable[[pa.Table, Plan, dict], Answer]] = {
    "oracle": on_oracle,
    "polars": on_polars,
    "duckdb": on_duckdb,
    "run-polars": functools.partial(on_run, "polars"),
    "run-duckdb": functools.partial(on_run, "duckdb"),
}


def unwrapped(value: object) -> object:
    """The text of a completion: beside a message-list prompt, files hold it as one message of the assistant."""
    if isinstance(value, list):
        assert [message["role"] for message in value] == ["assistant"], value
        return value[0]["content"]
    return value


def rows_of(table: pa.Table, plan: Plan) -> list[tuple]:
    if plan.kind == "best_of" and table.column_names[-1] == "stage":  # comes along where the role is mapped
        table = table.drop_columns("stage")
    assert tuple(table.column_names) == COLUMNS[plan.kind], f"columns {table.column_names}, expected {COLUMNS[plan.kind]}"
    return [tuple(row.values()) for row in table.to_pylist()]


def assert_same(where: str, engine: str, got: Answer, wanted: Answer) -> None:
    """Rows in order and the report are exactly equal, or the failure names the first row that differs."""
    (rows, report), (wanted_rows, wanted_report) = got, wanted
    for i, (row, expected) in enumerate(zip(rows, wanted_rows, strict=False)):
        differs = f"{where} on {engine}: row {i} of {len(rows)} ({len(wanted_rows)} expected)\n     got {row}\nexpected {expected}"
        assert row == expected, differs
        assert list(map(type, row)) == list(map(type, expected)), f"types: {differs}"
    extra = f"missing {wanted_rows[len(rows) :][:1]}" if len(rows) < len(wanted_rows) else f"surplus {rows[len(wanted_rows) :][:1]}"
    assert len(rows) == len(wanted_rows), f"{where} on {engine}: {len(rows)} rows, expected {len(wanted_rows)}; {extra}"
    counts = {name: report.get(name, "absent") for name in COUNTS}
    counts["dropped"] = dict(counts["dropped"])
    assert counts == wanted_report, f"{where} on {engine}: report\n     got {counts}\nexpected {wanted_report}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", action="append", choices=list(ENGINES), help="run only on this engine (repeatable)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`engine`: every engine; `rival`: all but the oracle, to be held against it; `lawful`: the oracle and one engine, for laws."""
    names = metafunc.config.getoption("--engine") or list(ENGINES)
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", names)
    if "rival" in metafunc.fixturenames:
        metafunc.parametrize("rival", [name for name in names if name != "oracle"])
    if "lawful" in metafunc.fixturenames:
        metafunc.parametrize("lawful", [name for name in names if name in ("oracle", "polars")])

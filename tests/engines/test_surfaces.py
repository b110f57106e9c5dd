"""The same awkward tables through every surface: values, order, types and report are the oracle's.

What the tables are is in `awkward.py`, and there is also where a host has to differ.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward
import duckdb
import oracle
import oracle_rows
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from awkward import CASES, Case
from duckdb_shell import ask, shell

import prefmill as pm
import prefmill.duckdb
import prefmill.polars
from prefmill.engines.sql import value as sql_value
from prefmill.table.report import PairReport
from prefmill.table.roles import Roles

COUNTS = (
    "rows_in",
    "rows_used",
    "rows_not_selected",
    "dropped",
    "groups_in",
    "groups_used",
    "pairs_out",
)

COLUMNS = {
    "pairs": ("prompt", "chosen", "rejected", "chosen_score", "rejected_score"),
    "unpaired": ("prompt", "completion", "label", "score"),
    "best_of": ("prompt", "completion", "score", "rank"),
}


@dataclass
class Answer:
    """What a host made: a table, and the account of the rows (None: this host gives none)."""

    table: pa.Table
    report: dict[str, Any] | None


def counts(report: PairReport | pm.RunReport | dict[str, Any]) -> dict[str, Any]:
    held = report if isinstance(report, dict) else {name: getattr(report, name) for name in COUNTS}
    return {name: held[name] for name in COUNTS} | {"dropped": dict(held["dropped"])}


# The oracle: what every host has to say


def expected(case: Case) -> Answer:
    weights = case.plan.weights if case.plan.weights and "aspect" not in case.roles else ()
    needed = ("id",) if case.plan.tie_break == "id" else ("annotator",)
    needed = needed if case.plan.tie_break == "id" or case.plan.normalize != "none" else ()
    names = case.table.column_names
    roles = Roles.resolve(names, dict(case.roles), score_columns=weights, needed=needed)
    rows = plain_rows(case.table)
    made = getattr(oracle, case.plan.kind)(rows, case.plan, roles)
    kinds = expected_types(case, roles)
    columns = zip(*made.pairs, strict=True) if made.pairs else [[] for _ in kinds]
    arrays = [pa.array(list(c), t) for c, t in zip(columns, kinds.values(), strict=True)]
    return Answer(pa.Table.from_arrays(arrays, names=list(kinds)), counts(made.report))


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


def expected_types(case: Case, roles: Roles) -> dict[str, pa.DataType]:
    held = {name: plain(case.table.schema.field(name).type) for name in case.table.column_names}
    prompt, completion = held[roles.prompt], held[roles.completion]
    if case.plan.kind == "best_of":
        return {
            "prompt": prompt,
            "completion": completion,
            "score": pa.float64(),
            "rank": pa.int64(),
        }
    if pa.types.is_list(prompt) or pa.types.is_list(completion):
        prompt, completion = as_messages(prompt), as_messages(completion)
    if case.plan.kind == "unpaired":
        return {
            "prompt": prompt,
            "completion": completion,
            "label": pa.bool_(),
            "score": pa.float64(),
        }
    return {
        "prompt": prompt,
        "chosen": completion,
        "rejected": completion,
        "chosen_score": pa.float64(),
        "rejected_score": pa.float64(),
    }


def as_messages(kind: pa.DataType) -> pa.DataType:
    if not pa.types.is_list(kind):
        return awkward.CHAT
    inner = {field.name: field.type for field in kind.value_type}
    content = inner.get("content", inner.get("value"))
    others = {n: t for n, t in inner.items() if n not in ("role", "content", "from", "value")}
    return pa.list_(pa.struct({"role": pa.string(), "content": content} | others))


def plain(kind: pa.DataType) -> pa.DataType:
    """What a column holds, not how: without dictionaries, views and 64-bit offsets."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct({field.name: plain(field.type) for field in kind})
    return kind


def same_order(kind: pa.DataType) -> pa.DataType:
    """`kind` with the fields of structs by name: SQL keeps the order that the input had."""
    if pa.types.is_list(kind):
        return pa.list_(same_order(kind.value_type))
    if pa.types.is_struct(kind):
        fields = sorted((field.name, same_order(field.type)) for field in kind)
        return pa.struct(dict(fields))
    return kind


# The hosts


def files_of(case: Case, folder: Path) -> list[Path]:
    """The tables of a case as Parquet files; with `hive` a column is in the folders' names."""
    paths = []
    for i, table in enumerate(case.tables):
        home = folder
        if case.hive:
            home = folder / f"{case.hive}={table[case.hive][0].as_py()}"
            table = table.drop_columns(case.hive)
        home.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, home / f"{i}.parquet")
        paths.append(home / f"{i}.parquet")
    return paths


def by_run(engine: str):
    def run(case: Case, folder: Path) -> Answer:
        files_of(case, folder / "in")
        out = folder / "out.parquet"
        roles = dict(case.roles)
        report = pm.run(case.plan, folder / "in", out, roles=roles, engine=engine)
        return Answer(in_order(case, out, folder), counts(report))

    return run


def by_command(case: Case, folder: Path) -> Answer:
    from engines import said
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    files_of(case, folder / "in")
    out = folder / "out.parquet"
    command = {"pairs": "pairs", "unpaired": "unpair", "best_of": "best"}[case.plan.kind]
    fields = [f"--{name.replace('_', '-')}={value}" for name, value in said(case.plan).items()]
    columns = [
        f"--{role}={name}"
        for role, names in case.roles.items()
        for name in ([names] if isinstance(names, str) else names)
    ]
    arguments = [
        command,
        str(folder / "in"),
        "-o",
        str(out),
        "--json",
        "--quiet",
        *fields,
        *columns,
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    report = json.loads(done.stdout)
    return Answer(in_order(case, out, folder), counts(report))


def in_order(case: Case, out: Path, folder: Path) -> pa.Table:
    """The file that was written; of whole rows the columns that the other hosts have."""
    if not out.exists():  # nothing came out, so nothing was published
        names = COLUMNS[case.plan.kind]
        return pa.table({name: pa.nulls(0) for name in names})
    table = pq.ParquetFile(out).read()
    if case.plan.kind == "best_of":
        number = pl.Series(case_numbers(table["score"]), dtype=pl.Float64).to_arrow()
        table = table.select(["prompt", "completion", "rank"]).add_column(2, "score", number)
    return table


def case_numbers(scores: pa.ChunkedArray) -> list[float]:
    return [oracle_rows.number(value) for value in scores.to_pylist()]


def lazily(engine: str):
    def run(case: Case, folder: Path) -> Answer:
        frames = [pl.DataFrame(pl.from_arrow(table)).lazy() for table in case.tables]
        frame = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
        made = case.plan.lazy(frame, **case.roles).collect(engine=engine)
        report = prefmill.polars.report(case.plan, frame, **case.roles)
        return Answer(made.to_arrow(), counts(report))

    return run


def relation_of(case: Case, folder: Path) -> str:
    """What a user writes: a path, or where files differ a view that unites them by name."""
    hive = "true, hive_types_autocast = false" if case.hive else "false"
    return (
        f"read_parquet('{folder}/**/*.parquet', union_by_name = true, hive_partitioning = {hive})"
    )


def in_sql(case: Case, folder: Path) -> Answer:
    files_of(case, folder / "in")
    with duckdb.connect(config={"threads": 2}) as con:
        prefmill.duckdb.install(con)
        con.execute(f"CREATE VIEW feedback AS FROM {relation_of(case, folder / 'in')}")
        made = con.sql(case.plan.sql("feedback", **named(case))).to_arrow_table()
        report = prefmill.duckdb.report(case.plan, con, "feedback", **named(case))
    return Answer(made, counts(report))


def in_sql_over_arrow(case: Case, folder: Path) -> Answer:
    """Arrow in this process: dictionaries are ENUMs then."""
    with duckdb.connect(config={"threads": 2}) as con:
        prefmill.duckdb.install(con)
        con.register("feedback", case.table)
        made = con.sql(query_of(case, "feedback")).to_arrow_table()
        report = prefmill.duckdb.report(case.plan, con, "feedback", **named(case))
    return Answer(made, counts(report))


def query_of(case: Case, table: str) -> str:
    """The public macro where it can say the plan, else what `plan.sql` writes."""
    macro = {"pairs": "preference_pairs", "unpaired": "unpaired", "best_of": "best_of"}[
        case.plan.kind
    ]
    fields = (
        "strategy",
        "chosen_min",
        "rejected_below",
        "max_pairs_per_prompt",
        "top_k",
        "seed",
        "k",
    )
    changed = {
        f.name: getattr(case.plan, f.name)
        for f in dataclasses.fields(case.plan)
        if getattr(case.plan, f.name) != f.default
    }
    if case.roles or not set(changed) <= set(fields):
        return case.plan.sql(table, **named(case))
    arguments = "".join(f", {name} := {sql_value(value)}" for name, value in changed.items())
    return f"FROM {macro}('{table}'{arguments})"


def named(case: Case) -> dict[str, Any]:
    """The roles by name: a query does not see the columns, so nothing is found by an alias."""
    return dict(case.roles)


def as_dataset(streaming: bool):
    def run(case: Case, folder: Path) -> Answer:
        import datasets

        import prefmill.datasets as pmd

        rows = datasets.Dataset(case.table)
        if streaming and len(rows):
            rows = rows.to_iterable_dataset(num_shards=min(3, len(rows)))
        elif streaming:
            none = datasets.IterableDataset.from_generator
            rows = none(lambda: iter(()), features=rows.features)
        made = pmd.apply(case.plan, rows, **case.roles)
        if streaming:
            empty = pa.Table.from_batches([], schema=made.features.arrow_schema)
            table = pa.concat_tables([empty, *made.with_format("arrow").iter(batch_size=1000)])
        else:
            table = made.data.table
        assert table.schema.remove_metadata() == made.features.arrow_schema.remove_metadata()
        return Answer(table, counts(pmd.report(case.plan, rows, **case.roles)))

    return run


def statements(case: Case, number: int, home: Path) -> list[str]:
    from prefmill.duckdb import report_query

    name, roles = f"feedback{number}", named(case)
    return [
        f"CREATE VIEW {name} AS FROM {relation_of(case, home / 'in')};",
        f"COPY ({query_of(case, name)}) TO '{home}/rows.parquet' (FORMAT parquet);",
        f"COPY ({report_query(case.plan, name, **roles)}) TO '{home}/report.parquet' (FORMAT "
        f"parquet);",
    ]


@pytest.fixture(scope="module")
def answers_of_the_shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case run in one shell; where a file is missing the case is asked alone for its
    error.
    """
    script = [".read sql/prefmill.sql"]
    homes = {}
    for number, case in enumerate(CASES):
        home = homes[case.name] = tmp_path_factory.mktemp(f"shell{number}")
        files_of(case, home / "in")
        script += statements(case, number, home)
    ask(script)
    return homes


def in_the_shell(case: Case, home: Path) -> Answer:
    rows, report = home / "rows.parquet", home / "report.parquet"
    if not all(file.exists() and file.stat().st_size for file in (rows, report)):
        raise duckdb.Error(ask([".read sql/prefmill.sql", *statements(case, 0, home)]))
    (row,) = duckdb.read_parquet(str(report)).fetchall()
    return Answer(pq.ParquetFile(rows).read(), counts(PairReport.of_row(row)))


HOSTS = {
    "command": by_command,
    "run duckdb": by_run("duckdb"),
    "run polars": by_run("polars"),
    "lazy": lazily("in-memory"),
    "lazy streaming": lazily("streaming"),
    "sql": in_sql,
    "sql over arrow": in_sql_over_arrow,
    "datasets": as_dataset(False),
    "datasets streaming": as_dataset(True),
}


def compare(case: Case, host: str, got: Answer) -> None:
    wanted = expected(case)
    if host in case.differs:
        got = Answer(without_sharegpt(got.table, wanted.table.schema), got.report)
    assert got.table.column_names == wanted.table.column_names
    told = [tuple(row.values()) for row in got.table.to_pylist()]
    assert told == [tuple(row.values()) for row in wanted.table.to_pylist()]
    if got.table.num_rows:
        arrange = same_order if "sql" in host or host == "shell" else lambda kind: kind
        kinds = [arrange(plain(field.type)) for field in got.table.schema]
        assert kinds == [arrange(field.type) for field in wanted.table.schema]
    assert got.report == wanted.report


def without_sharegpt(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` without the fields `from` and `value` of its prompts, which have to be there."""
    prompts = table["prompt"].to_pylist()
    for message in (message for prompt in prompts for message in prompt):
        assert (message.pop("from"), message.pop("value")) == ("human", message["content"])
    return table.set_column(0, "prompt", pa.array(prompts, schema.field("prompt").type))


def daily(number: int, place: int) -> bool:
    """Both engines take every table, and a host where it differs; the others take a third each."""
    case, host = CASES[number], list(HOSTS)[place]
    special = host in ("run duckdb", "lazy") or host in case.cannot or host in case.differs
    return special or (number + place) % 3 == 0


def ids(case: Case) -> str:
    return case.name.replace(" ", "_")


@pytest.mark.parametrize(
    ("case", "host"),
    [
        pytest.param(
            case,
            host,
            id=f"{ids(case)}-{host}",
            marks=() if daily(number, place) else pytest.mark.torture,
        )
        for number, case in enumerate(CASES)
        for place, host in enumerate(HOSTS)
    ],
)
def test_surface(case: Case, host: str, tmp_path: Path) -> None:
    if words := case.refused or case.cannot.get(host):
        with pytest.raises((pm.PrefmillError, duckdb.Error), match=words):
            HOSTS[host](case, tmp_path)
        return
    compare(case, host, HOSTS[host](case, tmp_path))


@pytest.mark.skipif(shell() is None, reason="no duckdb shell: pip install duckdb-cli")
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_the_shell(case: Case, answers_of_the_shell: dict[str, Path]) -> None:
    if words := case.refused or case.cannot.get("shell"):
        with pytest.raises(duckdb.Error, match=words):
            in_the_shell(case, answers_of_the_shell[case.name])
        return
    compare(case, "shell", in_the_shell(case, answers_of_the_shell[case.name]))


def test_there_are_forty_tables_of_pairs() -> None:
    assert sum(case.plan.kind == "pairs" for case in CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)

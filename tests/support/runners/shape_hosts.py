"""Entries of the corpus of shapes on every host, and what the oracles say of them."""

from __future__ import annotations

import functools
import json
import shlex
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import shapes
from engines import COLUMNS, connection, said
from entry import Entry
from shape_files import write

import prefmill as pm
from prefmill.plans import BestOf, Pairs, Plan, Unpaired
from prefmill.table.roles import Roles

KINDS: dict[str, type[Plan]] = {"pairs": Pairs, "unpair": Unpaired, "best": BestOf}
Rows = list[tuple]


def reading(entry: Entry) -> shapes.Reading:
    """The rows of an entry by the oracle."""
    return shapes.long_rows(
        entry.records, entry.words, files=entry.places or None, joined=entry.files
    )


def plan_of(entry: Entry) -> Plan:
    return KINDS[entry.command](**entry.plan)


def wanted(entry: Entry) -> tuple[Rows, dict]:
    """The rows of an entry's plan, and its report, by the two oracles one after the other."""
    found, plan = reading(entry), plan_of(entry)
    rows = [{**row, "_asked": row["prompt"]} for row in found.rows]
    named = dict(found.roles)
    if entry.words.get("system"):
        named.setdefault("group", ["_asked"])
        rows = [{**row, "prompt": with_system(row)} for row in rows]
    if named.get("group") == ["_record"] and isinstance(plan, Pairs):
        automatic = [name for name in ("chosen_min", "rejected_below") if name not in entry.plan]
        plan = replace(plan, **dict.fromkeys(automatic))
    group = tuple(named.pop("group", ()))
    roles = Roles(prompt="prompt", completion="completion", score="score", group=group, **named)
    result = getattr(oracle, plan.kind)(rows, plan, roles)
    return [tuple(map(plain, row)) for row in result.pairs], result.report


def with_system(row: dict) -> Any:
    """A prompt as messages, the system prompt before it."""
    prompt, system = row["prompt"], row["system"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt is None or system is None or prompt[0].get("role") == "system":
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def plain(value: Any) -> Any:
    """Messages without the keys that they lack."""
    if not isinstance(value, list):
        return value
    turns = shapes.conversation(value) or []
    return [{key: said for key, said in turn.items() if said is not None} for turn in turns]


def invoke(*args: object) -> Any:
    """A command, in this process."""
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def typed(entry: Entry, names: list[str], target: str, command: str = "") -> list[str]:
    """The words of the line that people type, in the folder of the files."""
    command = command or entry.command
    options = [] if command == "rows" else options_of(entry)
    return [command, *names, *shlex.split(entry.line), *options, "-o", target]


def options_of(entry: Entry) -> list[str]:
    """The options of an entry's plan."""
    if entry.command not in KINDS:
        return [f"--{name.replace('_', '-')}={value}" for name, value in entry.plan.items()]
    values = said(plan_of(entry))
    unbounded = [values.pop(name, None) for name in ("chosen_min", "rejected_below")]
    options = [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
    if unbounded == ["none", "none"]:
        options.append("--no-thresholds")
    return shlex.split(" ".join(options))


def on_cli(entry: Entry, folder: Path) -> tuple[Rows, dict]:
    names = [path.name for path in write(entry, folder)]
    done = invoke(*typed(entry, names, "out.parquet"), "--json", "--quiet")
    assert done.exit_code == 0, done.output
    return rows_in(pq.read_table(folder / "out.parquet"), entry), json.loads(done.stdout)


def table_of(entry: Entry, folder: Path) -> pa.Table:
    """The records as a table in memory; joined files are written."""
    write(entry, folder)
    return pa.Table.from_pylist(entry.records)


def on_polars(entry: Entry, folder: Path) -> tuple[Rows, dict]:
    import polars as pl

    import prefmill.polars

    frame, plan = pl.from_arrow(table_of(entry, folder)), plan_of(entry)
    out = plan.lazy(frame.lazy(), **entry.words).collect().to_arrow()
    report = prefmill.polars.report(plan, frame, **entry.words)
    return rows_in(out, entry), report.as_json() if hasattr(report, "as_json") else vars(report)


def on_rows_of(entry: Entry, folder: Path) -> tuple[Rows, dict]:
    """Words as a whole: `pm.Rows`."""
    import polars as pl

    frame, plan = pl.from_arrow(table_of(entry, folder)), plan_of(entry)
    whole = replace(plan, rows=pm.Rows(**entry.words))
    return rows_in(whole.lazy(frame.lazy()).collect(engine="streaming").to_arrow(), entry), {}


def on_sql(entry: Entry, folder: Path) -> tuple[Rows, dict]:
    table, con = table_of(entry, folder), connection()
    con.register("shapes_of_records", table)
    try:
        query = plan_of(entry).sql("shapes_of_records", schema=table.schema, **entry.words)
        return rows_in(con.sql(query).to_arrow_table(), entry), {}
    finally:
        con.unregister("shapes_of_records")


def on_datasets(streaming: bool, entry: Entry, folder: Path) -> tuple[Rows, dict]:
    import datasets

    import prefmill.datasets

    whole = datasets.Dataset(table_of(entry, folder))
    given = whole.to_iterable_dataset(num_shards=2) if streaming else whole
    with warnings.catch_warnings():
        # What became of the records is said as a warning, since a data set carries no report.
        warnings.filterwarnings("ignore", r"datasets: \d+ records -> \d+ rows", UserWarning)
        made = prefmill.datasets.apply(plan_of(entry), given, **entry.words)
        if not streaming:
            return rows_in(made.data.table, entry), {}
        batches = list(made.with_format("arrow").iter(batch_size=1000))
    return rows_in(pa.concat_tables(batches), entry), {}


def rows_in(table: pa.Table, entry: Entry) -> Rows:
    """The columns that every host gives."""
    names = COLUMNS[KINDS[entry.command].kind]
    assert set(names) <= set(table.column_names), table.column_names
    return [tuple(plain(row[name]) for name in names) for row in table.to_pylist()]


HOSTS: dict[str, Callable[[Entry, Path], tuple[Rows, dict]]] = {
    "cli": on_cli,
    "polars": on_polars,
    "rows": on_rows_of,
    "sql": on_sql,
    "datasets": functools.partial(on_datasets, False),
    "streaming": functools.partial(on_datasets, True),
}

"""The cases of `cases/values.toml` and `cases/curves.toml` on every engine that has values and
curves; as in `test_cases.py`.
"""

from __future__ import annotations

import json
import math
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from case_tables import FOLDER, plain, table_of
from engines import known_to_duckdb, our_errors

import prefmill as pm
from prefmill.errors import PrefmillError
from prefmill.table.roles import Roles

Answer = tuple[list[tuple], dict]
KEYS = {"name", "plan", "curve", "columns", "roles", "header", "rows", "expect", "report", "error"}


def cases(file: str) -> list:
    read = tomllib.loads((FOLDER / f"{file}.toml").read_text("utf-8"))["case"]
    assert len(read) == len({case["name"] for case in read})
    assert all(set(case) <= KEYS for case in read)
    return [pytest.param(case, id=case["name"].replace(" ", "_")) for case in read]


def on_cli(command: str, table: pa.Table, options: dict) -> tuple[pl.DataFrame, str]:
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    told = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        pq.write_table(table, source)
        done = CliRunner().invoke(
            app, [command, str(source), "-o", str(target), "--quiet", *told], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return pl.read_parquet(target), done.stdout


def from_duckdb(kind: str, table: pa.Table, query: Callable[[str], str]) -> pl.DataFrame:
    with known_to_duckdb(kind, table) as (con, name), our_errors():
        return con.sql(query(name)).pl()


# Values


def values_of(host: str, table: pa.Table, plan: dict, columns: dict) -> pl.DataFrame:
    if host == "polars":
        return pm.values(pl.from_arrow(table), pm.Values(**plan), **columns)
    if host == "run":
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "out.parquet")
            pm.run(pm.Values(**plan), table, target, roles=columns)
            return pl.read_parquet(target)
    if host == "cli":
        return on_cli("values", table, plan | columns)[0]
    roles = (
        "state",
        "action",
        "next_state",
        "probability",
        "reward",
        "policy_probability",
        "score",
        "id",
        "parent_id",
    )
    names = {
        role: columns.get(role, role)
        for role in roles
        if columns.get(role, role) in table.column_names
    }
    macro = "tree_values" if "parent_id" in names else "state_values"
    said = [f'{role} := "{name}"' for role, name in names.items()]
    said += [
        f"{name} := '{value}'" if isinstance(value, str) else f"{name} := {value}"
        for name, value in plan.items()
    ]
    order = "id" if macro == "tree_values" else "state, action"
    return from_duckdb(
        host, table, lambda name: f"FROM {macro}('{name}', {', '.join(said)}) ORDER BY {order}"
    )


@pytest.mark.parametrize("host", ["polars", "frame", "table", "parquet", "run", "cli"])
@pytest.mark.parametrize("case", cases("values"))
def test_values(case: dict, host: str) -> None:
    header = case.get("header", ["state", "action", "next_state", "probability", "reward"])
    names = case.get("columns", {})
    table = table_of({"name": case["name"], "header": header, "rows": case["rows"]})
    if "error" in case:
        with pytest.raises(PrefmillError, match=case["error"]):
            values_of(host, table, case.get("plan", {}), names)
        return
    found = values_of(host, table, case.get("plan", {}), names)
    keys = (
        ["id", "parent_id"]
        if {"parent_id", names.get("parent_id")} & set(header)
        else ["state", "action"]
    )
    assert found.columns == [*keys, "reward", "policy", "q", "v", "advantage"]
    assert found.dtypes[2:] == [pl.Float64] * 5
    assert found.rows() == [tuple(plain(row)) for row in case["expect"]]


# Curves


def curve_of(host: str, table: pa.Table, how: dict, roles: dict) -> Answer:
    how = {"resamples": 0} | how
    if host == "polars":
        found = pm.curve(pl.from_arrow(table), roles=roles, **how)
        return found.points.rows(), found.as_json()
    if host == "cli":
        points, told = on_cli("curve", table, how | roles | {"json": True})
        return points.rows(), json.loads(told) if told else {}
    resolved = Roles.resolve(table.column_names, roles)
    score = f'-pref_number("{resolved.score}")' if resolved.negate else f'"{resolved.score}"'
    said = [
        f'prompt := "{resolved.prompt}"',
        f'completion := "{resolved.completion}"',
        f"score := {score}",
    ]
    said += [f"{name} := {value}" for name, value in how.items()]
    rows = from_duckdb(
        host, table, lambda name: f"FROM best_of_curve('{name}', {', '.join(said)})"
    ).rows()
    return [row if "by" in how else row[1:] for row in rows], {}


@pytest.mark.parametrize("host", ["polars", "frame", "table", "parquet", "cli"])
@pytest.mark.parametrize("case", cases("curves"))
def test_curves(case: dict, host: str) -> None:
    table, how, roles = table_of(case), case.get("curve", {}), case.get("roles", {})
    if "error" in case:
        with pytest.raises(PrefmillError, match=case["error"]):
            curve_of(host, table, how, roles)
        return
    rows, report = curve_of(host, table, how, roles)
    assert rows == [tuple(plain(row)) for row in case["expect"]]
    counts = {"rows_in": len(case["rows"]), "dropped": {}} | case["report"]
    assert {name: report[name] for name in counts if report} == (counts if report else {})
    at = 1 if "by" in how else 0
    assert all(row[-1] == round(math.log(row[at]) - (row[at] - 1) / row[at], 9) for row in rows)

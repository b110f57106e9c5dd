"""The tables of `tests/cases`, read: rows, plans, and what has to come out."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pyarrow as pa
import pytest

SPECIAL = {"<null>": None, "<nan>": math.nan, "<inf>": math.inf, "<-inf>": -math.inf}

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))

DTYPES = {
    "str": pa.string(),
    "i64": pa.int64(),
    "f64": pa.float64(),
    "bool": pa.bool_(),
    "messages": MESSAGES,
}

SCORES = {"pairs": (3, 4), "unpaired": (3,), "best_of": (2, 4), "advantages": (2, 3)}

FOLDER = Path(__file__).parents[2] / "cases"

#: Cases that are no selection of rows have engines of their own: `test_case_values.py`.
OTHERS = ("values", "curves")

KEYS = {
    "name",
    "kind",
    "plan",
    "roles",
    "columns",
    "header",
    "rows",
    "expect",
    "report",
    "error",
    "gaps",
}

CASES = [
    pytest.param(case, id=f"{path.stem}-{case['name']}".replace(" ", "_"))
    for path in sorted(FOLDER.glob("*.toml"))
    if path.stem not in OTHERS
    for case in tomllib.loads(path.read_text("utf-8"))["case"]
]


def plain(value: object) -> object:
    """`value` with the special strings replaced, inside messages too."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return SPECIAL.get(value, value) if isinstance(value, str) else value


def dtype(values: list) -> pa.DataType:
    for python, arrow in (
        (str, "str"),
        (list, "messages"),
        (float, "f64"),
        (bool, "bool"),
        (int, "i64"),
    ):
        if any(type(value) is python for value in values):
            return DTYPES[arrow]
    return DTYPES["str"]


def table_of(case: dict) -> pa.Table:
    header = case.get("header", ["prompt", "completion", "score"])
    rows = [plain(row) for row in case["rows"]]
    assert all(len(row) == len(header) for row in rows), (
        f"{case['name']}: rows of {len(header)} values"
    )
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    types = {
        name: DTYPES[case["columns"][name]] if name in case.get("columns", {}) else dtype(values)
        for name, values in columns.items()
    }
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def expected(case: dict, kind: str) -> tuple[list[tuple], dict]:
    scores = SCORES[kind][:1] if case.get("plan", {}).get("pick") == "majority" else SCORES[kind]
    rows = [
        tuple(float(v) if i in scores else v for i, v in enumerate(plain(row)))
        for row in case["expect"]
    ]
    report = {
        "rows_in": len(case["rows"]),
        "rows_not_selected": 0,
        "dropped": {},
        "pairs_out": len(rows),
    } | plain(case["report"])
    if kind == "unpaired":
        labels = [row[2] for row in rows]
        report |= {"labels": {"true": labels.count(True), "false": labels.count(False)}}
    return rows, report

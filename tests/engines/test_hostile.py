"""Names and values that want to be code: every answer is the right one or a plain error, and no
file is touched that was not named.

The canary lies in the working folder; hostile names try to overwrite it. After each test the folder
holds what the test made and no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import duckdb
import oracle
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import KEYS, NAMES, SAYS, VALUES

import prefmill
import prefmill.duckdb
import prefmill.polars
from prefmill import Pairs, PrefmillError, Roles, Unpaired
from prefmill.plans import Plan

TEXTS = list(NAMES.values())


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch) -> Iterator[Path]:
    """The working folder; what a test makes goes below `made`, so that anything else is a
    stranger.
    """
    (tmp_path / "CANARY").write_text(SAYS)
    (tmp_path / "made").mkdir()
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert (tmp_path / "CANARY").read_text() == SAYS, "the canary is dead"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CANARY", "made", "temp"], (
        "a file that nobody named"
    )
    assert list((tmp_path / "temp").iterdir()) == [], "a temporary file is left"


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2}) as connection:
        prefmill.duckdb.install(connection)
        yield connection


def only(*names: str) -> None:
    """The folder `made` holds exactly these, and the record of a run that wrote."""
    record = [".out.parquet.prefmill"] if "out.parquet" in names else []
    assert sorted(p.name for p in Path("made").iterdir()) == sorted([*names, *record])


def expected(table: pa.Table, plan: Plan, names: dict) -> tuple[list[tuple], dict]:
    roles = Roles.resolve(
        table.column_names,
        names,
        score_columns=plan.weights if plan.weights and "aspect" not in names else (),
    )
    found = (oracle.pairs if isinstance(plan, Pairs) else oracle.unpaired)(
        table.to_pylist(), plan, roles
    )
    return found.pairs, found.report


def answer(
    surface: str,
    table: pa.Table,
    plan: Plan,
    names: dict,
    con: duckdb.DuckDBPyConnection,
    keep: tuple[str, ...] = (),
) -> tuple:
    """(rows, report, columns kept) of one surface."""
    if surface == "lazy":
        frame = pl.DataFrame(table)
        return (
            plan.lazy(frame, **names).collect().rows(),
            prefmill.polars.report(plan, frame, **names),
            None,
        )
    if surface == "sql":
        con.register("hostile", table)
        try:
            return (
                con.sql(plan.sql("hostile", **names)).fetchall(),
                prefmill.duckdb.report(plan, con, "hostile", **names),
                None,
            )
        finally:
            con.unregister("hostile")
    pq.write_table(table, "made/in.parquet")
    report = prefmill.run(
        plan,
        "made/in.parquet",
        "made/out.parquet",
        roles=names,
        engine=surface,
        keep=keep,
        temp_dir="temp",
        allow_empty=True,
    )
    only("in.parquet", "out.parquet")
    out = pq.read_table("made/out.parquet")
    fixed = 5 if isinstance(plan, Pairs) else 4
    return (
        [tuple(row.values())[:fixed] for row in out.to_pylist()],
        report,
        out.drop_columns(out.column_names[:fixed]).to_pydict(),
    )


def assert_right(got: tuple, wanted: tuple[list[tuple], dict]) -> None:
    rows, report, _ = got
    assert [tuple(row) for row in rows] == wanted[0]
    assert oracle.counts(report) == wanted[1]


SURFACES = ("duckdb", "polars", "sql", "lazy")

# Columns: each name takes each role once, as the roles go round the list of names


def turned(at: int, step: int, size: int) -> list[str]:
    """`size` names from place `at` on, `step` apart."""
    names = [TEXTS[(at + i * step) % len(TEXTS)] for i in range(size)]
    return [
        *names[:-2],
        *("kept score" if name == "score" else name for name in names[-2:]),
    ]  # has a test of its own, below


@pytest.mark.parametrize("key", KEYS)
def test_columns(key, con):
    """Prompt, completion, two weighted scores, id, annotator, two groups, two kept columns: all
    hostile. The surfaces go round too.
    """
    surface = SURFACES[KEYS.index(key) % 4]
    prompt, completion, first, second, id_, annotator, group, other, kept, also = names = turned(
        KEYS.index(key), 7, 10
    )
    table = pa.table(
        {
            prompt: ["p", "p", "p", "q", "q", None, "r", "r"],
            completion: ["a", "b", "c", "d", "e", "f", "g", None],
            first: [5.0, 1.0, 3.0, 2.0, 4.0, 1.0, None, 1.0],
            second: [1, 2, 3, 4, 5, 6, 7, 8],
            id_: [f"id {i}" for i in range(8, 0, -1)],
            annotator: ["x", "y", "x", "y", "x", "y", "x", "y"],
            group: ["g", "g", "g", "h", "h", "h", "h", "h"],
            other: [0, 0, 0, 1, 1, 1, 1, 1],
            kept: [f"kept {i}" for i in range(8)],
            also: list(range(8)),
        }
    )
    assert table.column_names == names
    plan = Pairs(
        strategy="all",
        chosen_min=None,
        rejected_below=None,
        weights={first: 1.0, second: 0.5},
        normalize="rank",
        tie_break="id",
        seed=3,
    )
    roles = {
        "prompt": prompt,
        "completion": completion,
        "id": id_,
        "annotator": annotator,
        "group": [group, other],
    }
    wanted = expected(table, plan, roles)
    got = answer(surface, table, plan, roles, con, keep=(kept, also))
    assert_right(got, wanted)
    if got[2] is not None:
        by_completion = {row[completion]: row for row in table.to_pylist()}
        assert got[2] == {
            f"{side}_{name}": [by_completion[row[i]][name] for row in wanted[0]]
            for name in (kept, also)
            for i, side in ((1, "chosen"), (2, "rejected"))
        }


ROLES = ["prompt", "completion", "score", "id", "annotator", "group", "aspect", "weight"]

#: Names that `pl.col` reads as all columns, or as those that match (here: `other`).
PATTERNS = {"star": "*", "regex": "^ot.*$"}


@pytest.mark.parametrize(
    ("role", "surface"),
    [
        *itertools.product(ROLES, ["polars", "lazy"]),
        *itertools.product(["prompt", "score", "weight"], ["duckdb", "sql"]),
        ("keep", "duckdb"),
        ("keep", "polars"),
    ],
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_columns_that_look_like_patterns(pattern, role, surface, con):
    """`*` and `^...$` are names like all others."""
    name = PATTERNS[pattern]
    columns = {
        "prompt": ["p"] * 4,
        "completion": ["a", "b", "a", "b"],
        "score": [1, 5, 2, 4],
        "id": ["1", "2", "3", "4"],
        "annotator": ["x", "y", "x", "y"],
        "group": [1, 1, 1, 1],
        "aspect": ["u", "u", "v", "v"],
        "weight": [3, 1, 0, 1],
        "keep": ["k", "l", "m", "n"],
        "other": [9, 8, 7, 6],
    }
    columns[name] = columns[role]
    table = pa.table(columns)
    plan: Plan = Pairs(chosen_min=None, rejected_below=None, strategy="all")
    roles = {role: name}
    if role == "aspect":
        plan = Pairs(
            chosen_min=None, rejected_below=None, weights={"u": 1, "v": 2}, aggregate="mean"
        )
    elif role == "annotator":
        plan = Pairs(chosen_min=None, rejected_below=None, normalize="rank")
    elif role == "id":
        plan = Pairs(chosen_min=None, rejected_below=None, tie_break="id")
    elif role == "weight":
        plan, roles = (
            Pairs(chosen_min=None, rejected_below=None, weights={"score": 1.0, name: 2.0}),
            {},
        )
    elif role == "keep":
        roles = {}
    got = answer(surface, table, plan, roles, con, keep=(name,) if role == "keep" else ())
    assert_right(got, expected(table, plan, roles))
    if role == "keep":
        assert list(got[2]) == [f"chosen_{name}", f"rejected_{name}"]


@pytest.mark.parametrize("key", KEYS)
def test_the_score_column(key, con):
    """A hostile name as the one score, lower is better; a name that begins with a minus is found as
    it is written.
    """
    name, surface = NAMES[key], ("lazy", "sql")[KEYS.index(key) % 2]
    prompt, completion = (
        ("x", "y") if name in ("prompt", "completion") else ("prompt", "completion")
    )
    table = pa.table(
        {prompt: ["p", "p", "p"], completion: ["a", "b", "c"], name: ["1", "2", "three"]}
    )
    plan = Pairs(chosen_min=None, rejected_below=None)
    roles = {"prompt": prompt, "completion": completion, "score": f"-{name}"}
    assert_right(answer(surface, table, plan, roles, con), expected(table, plan, roles))
    assert expected(table, plan, roles)[0] == [("p", "a", "b", -1.0, -2.0)]


@pytest.mark.parametrize(
    "name", ["score", "prompt", "completion", "label", "chosen", "chosen_score"]
)
@pytest.mark.parametrize("plan", [Pairs(), Unpaired()], ids=["pairs", "labels"])
def test_kept_columns_that_are_named_like_our_own(plan, name):
    """Each column of output once, or a plain refusal; `--keep score` is what people try."""
    frame = {"question": ["p", "p"], "answer": ["a", "b"], "rating": [5, 1]}
    pq.write_table(pa.table(frame | {name: [7, 8]}), "made/in.parquet")
    roles = {"prompt": "question", "completion": "answer", "score": "rating"}
    try:
        prefmill.run(
            plan, "made/in.parquet", "made/out.parquet", roles=roles, keep=[name], temp_dir="temp"
        )
    except PrefmillError:
        only("in.parquet")
    else:
        out = pq.read_table("made/out.parquet").to_pydict()
        assert len(out) == (7 if isinstance(plan, Pairs) else 5)
        assert sorted(v for values in out.values() for v in values if v in (7, 8)) == [7, 8]


@pytest.mark.parametrize("surface", ["duckdb", "polars"])
@pytest.mark.parametrize(
    "name",
    ["__prefmill_position", "file_row_number", "file_index", "FILE_INDEX", "__Prefmill_Position"],
)
def test_columns_that_the_engines_need_for_themselves_are_refused(name, surface):
    pq.write_table(
        pa.table({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1], name: [1, 2]}),
        "made/in.parquet",
    )
    with pytest.raises(PrefmillError, match=name):
        prefmill.run(
            Pairs(), "made/in.parquet", "made/out.parquet", engine=surface, temp_dir="temp"
        )
    only("in.parquet")


@pytest.mark.parametrize("surface", SURFACES)
def test_a_nul_in_a_column_name_is_refused(surface, con):
    table = pa.table({"a\0b": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    if surface == "sql":
        with pytest.raises(ValueError, match="NUL"):
            Pairs().sql("hostile", prompt="a\0b")
        return
    try:
        got = answer(surface, table, Pairs(), {"prompt": "a\0b"}, con)
    except PrefmillError:
        only("in.parquet")
    else:
        assert_right(got, expected(table, Pairs(), {"prompt": "a\0b"}))


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    "role", ["prompt", "completion", "score", "id", "annotator", "group", "keep"]
)
def test_names_that_are_no_columns_are_refused(role, surface, con):
    table = pa.table({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    evil = "score\" FROM hostile; COPY (SELECT 1) TO 'CANARY'; --"
    if role == "keep":
        if surface in ("duckdb", "polars"):
            with pytest.raises(PrefmillError, match="CANARY"):
                answer(surface, table, Pairs(), {}, con, keep=(evil,))
            only("in.parquet")
    elif surface == "sql":  # the text is written before the table is known; the query is what fails
        with pytest.raises(duckdb.BinderException, match="CANARY"):
            answer(surface, table, Pairs(), {role: evil}, con)
    else:
        with pytest.raises(PrefmillError, match="CANARY"):
            answer(surface, table, Pairs(), {role: evil}, con)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("strategy", ["best_worst", "best_random", "all"])
def test_texts(strategy, surface, con):
    """Every hostile text as a prompt, as the completions beside it, and as an id."""
    n = len(VALUES)
    table = pa.table(
        {
            "prompt": [v for v in VALUES for _ in range(3)],
            "completion": [VALUES[(i + k) % n] for i in range(n) for k in range(3)],
            "score": [float((i * 7 + k * 5) % 11) for i in range(n) for k in range(3)],
            "id": [VALUES[(i + k * 3) % n] for i in range(n) for k in range(3)],
        }
    )
    plan = Pairs(
        strategy=strategy,
        chosen_min=None,
        rejected_below=None,
        tie_break="id",
        aggregate="mean",
        seed=5,
    )
    assert_right(
        answer(surface, table, plan, {"id": "id"}, con), expected(table, plan, {"id": "id"})
    )


@pytest.mark.parametrize("surface", SURFACES)
def test_annotators_and_group_values(surface, con):
    n = len(VALUES)
    table = pa.table(
        {
            "prompt": ["p"] * (2 * n),
            "completion": [f"{i}" for i in range(2 * n)],
            "score": [float(i % 5) for i in range(2 * n)],
            "annotator": [VALUES[i // 2] for i in range(2 * n)],
            "one": [VALUES[i % n] for i in range(2 * n)],
            "two": [VALUES[(i * 2) % n] for i in range(2 * n)],
        }
    )
    plan = Pairs(
        strategy="best_random", chosen_min=None, rejected_below=None, normalize="zscore", seed=1
    )
    roles = {"annotator": "annotator", "group": ["one", "two"]}
    assert_right(answer(surface, table, plan, roles, con), expected(table, plan, roles))


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("at", range(0, len(TEXTS), 6))
def test_aspects(at, surface, con):
    """Hostile aspects are keys of weights and values of a column at once; the column has a hostile
    name too.
    """
    aspects = TEXTS[at : at + 6]
    column = TEXTS[(at + 9) % len(TEXTS)]
    column = f"{column} of" if column in ("prompt", "completion", "score") else column
    table = pa.table(
        {
            "prompt": ["p"] * (2 * len(aspects)),
            "completion": ["a", "b"] * len(aspects),
            "score": [float(i * i % 7) for i in range(2 * len(aspects))],
            column: [name for name in aspects for _ in range(2)],
        }
    )
    plan = Unpaired(
        chosen_min=3,
        rejected_below=3,
        weights={name: 0.25 * i + 0.5 for i, name in enumerate(aspects)},
        aggregate="mean",
    )
    assert_right(
        answer(surface, table, plan, {"aspect": column}, con),
        expected(table, plan, {"aspect": column}),
    )

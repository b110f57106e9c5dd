"""What DuckDB does with a macro over Parquet: texts are read in a scan and go through no group-by,
window or sort.

The plans are kept in `plans/`, without estimates; PREFMILL_SNAPSHOTS=write renews them (look at
what changed).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from sql_pool import CALLS, POOL, call

from prefmill.duckdb import install

PLANS = Path(__file__).parent / "plans"
BLOCKING = ("HASH_GROUP_BY", "PERFECT_HASH_GROUP_BY", "WINDOW", "ORDER_BY", "TOP_N")
TEXTS = {
    "_prompt",
    "_completion",
    "_unit",
    "prompt",
    "completion",
    "_grp",
    "_chosen_text",
    "_rejected_text",
}
TEXTS |= {"_s", "_a", "_next", "state", "action", "next_state", "_id", "_parent", "id", "parent_id"}
#: Texts that a group-by may hold: its own key. agreement's unit is a (prompt, completion).
KEYS = {macro: {"_grp"} for macro in CALLS} | {
    "best_of_curve": {"_grp", "_prompt"},  # one and the same
    "agreement": {"_grp", "_unit", "_a"},  # _a is a rater
    "state_values": {"_s", "_a"},
    "tree_values": {"_id", "_s", "_a"},
    "step_values": {"_id", "_parent"},
}
#: Macros whose rows are made one by one.
ROW_BY_ROW = {
    "pair_id",
    "split_of",
    "step_label_report",
    "step_labels",
    "step_paths",
    "text_steps",
}
#: Macros that order the rows of their answer, behind everything else: they pick few rows, or their
#: rows hold ids or raters only.
ORDERED = {"agreement", "best_of", "preference_pairs", "unpaired", "tree_values", "step_values"}


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    pq.write_table(POOL, folder / "pool.parquet")
    with duckdb.connect(config={"threads": 2, "memory_limit": "1GB"}) as connection:
        install(connection)
        connection.execute(f"SET file_search_path = '{folder}'")
        connection.register("arrow", POOL)
        connection.execute("CREATE TABLE pool AS FROM arrow")
        yield connection


def plan_of(con, macro: str, table: str) -> dict:
    ((_, text),) = con.execute(
        f"EXPLAIN (FORMAT json) {call(macro, table, ordered=False)}"
    ).fetchall()
    (root,) = json.loads(text)
    kept = pruned(root)
    assert kept
    return kept


def pruned(node: dict) -> dict | None:
    """Without branches that are known to be empty, and without the look at the first 100 rows
    (`pref_roles_refusal`).
    """
    if node["name"] == "EMPTY_RESULT" or "any_value(#0)" in node["extra_info"].get(
        "Aggregates", ""
    ):
        return None
    children = [kept for child in node["children"] if (kept := pruned(child))]
    if node["children"] and not children:
        return None
    return {**node, "children": children}


def nodes(node: dict) -> Iterator[dict]:
    yield node
    for child in node["children"]:
        yield from nodes(child)


def parts(root: dict) -> dict[str, dict]:
    """What stands behind the number in a CTE_SCAN; of a recursive one its first rows."""
    return {
        n["extra_info"]["Table Index"]: n["children"][0]
        for n in nodes(root)
        if n["name"] in ("CTE", "REC_CTE")
    }


def columns(node: dict, shared: dict[str, dict]) -> set[str]:
    """The columns that a node hands up: those of the nearest projection or scan; where a projection
    says `#1`, all that are below it.
    """
    found = node["extra_info"].get("Projections")
    mine = {found} if isinstance(found, str) else set(found or [])
    if is_scan(node) or (node["name"] == "PROJECTION" and not any("#" in name for name in mine)):
        return mine
    return mine.union(*(columns(child, shared) for child in below(node, shared)))


def below(node: dict, shared: dict[str, dict]) -> list[dict]:
    """The nodes whose rows a node gets."""
    if node["name"].endswith("CTE_SCAN"):
        return [shared[node["extra_info"]["CTE Index"]]]
    return node["children"][1:] if node["name"] == "CTE" else node["children"]


def drawn(node: dict, depth: int = 0) -> str:
    info = {
        key: value
        for key, value in node["extra_info"].items()
        if key not in ("Estimated Cardinality", "Function", "Table", "Type", "Filename(s)")
    }
    said = "; ".join(
        f"{key}: {', '.join(value) if isinstance(value, list) else value}"
        for key, value in info.items()
    )
    said = said if len(said) < 300 else f"{said[:300]} ..."
    return (
        f"{'  ' * depth}{node['name']}  {said}".rstrip()
        + "\n"
        + "".join(drawn(child, depth + 1) for child in node["children"])
    )


def is_scan(node: dict) -> bool:
    return node["name"] in ("SEQ_SCAN", "PARQUET_SCAN", "READ_PARQUET")


def has_scan(node: dict, shared: dict[str, dict]) -> bool:
    return is_scan(node) or any(has_scan(child, shared) for child in below(node, shared))


@pytest.mark.parametrize("table", ["'pool.parquet'", "pool"], ids=["parquet", "table"])
@pytest.mark.parametrize("macro", CALLS)
def test_no_text_goes_through_a_group_by(macro, table, con):
    plan = plan_of(con, macro, table)
    shared = parts(plan)
    blocking = [n for n in nodes(plan) if n["name"] in BLOCKING and has_scan(n, shared)]
    assert any(n["name"].endswith("GROUP_BY") for n in blocking) == (macro not in ROW_BY_ROW)
    for node in blocking:
        texts = columns(node, shared) & TEXTS
        if node["name"].endswith("GROUP_BY"):
            assert texts <= KEYS[macro], drawn(node)
        elif node["name"] == "WINDOW":
            assert not texts, drawn(node)
        elif texts:
            assert macro in ORDERED, drawn(node)


@pytest.mark.newest  # DuckDB 1.5 reads a column more than it needs
@pytest.mark.parametrize("macro", CALLS)
def test_scans_read_the_columns_of_roles_only(macro, con):
    plan = plan_of(con, macro, "'pool.parquet'")
    read = set().union(*(columns(n, {}) for n in nodes(plan) if is_scan(n))) - {
        ""
    }  # a scan that only counts rows reads none
    # which scores there are does not hang on a completion that, as the file's statistics say, is
    # never null
    assert set(CALLS[macro][0]) - {"completion"} <= read <= set(CALLS[macro][0]), read


@pytest.mark.newest
@pytest.mark.parametrize("macro", CALLS)
def test_the_plan_is_the_one_we_looked_at(macro, con):
    got = drawn(plan_of(con, macro, "'pool.parquet'"))
    kept = PLANS / f"{macro}.txt"
    if os.environ.get("PREFMILL_SNAPSHOTS") == "write":
        PLANS.mkdir(exist_ok=True)
        kept.write_text(got)
    if duckdb.__version__ != "2.0.0":
        pytest.skip(f"plans are kept of DuckDB 2.0.0; this is {duckdb.__version__}")
    assert got == kept.read_text(), "renew with PREFMILL_SNAPSHOTS=write, and look at what changed"

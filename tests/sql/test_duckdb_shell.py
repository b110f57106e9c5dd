"""Every public macro over 60,000 rows in the shell of DuckDB 1.5: right counts, and work that grows
with the rows.
"""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pytest
from duckdb_shell import shell

import prefmill as pm
from prefmill.engines.macros import macro_texts

ROOT = Path(__file__).parents[2]
GROUPS, EACH = 15_000, 4
ROWS = GROUPS * EACH
#: A query of 60,000 rows takes 0.1 to 0.4 s; a nested loop over pairs of them takes 40 s or more.
CPU_LIMIT_S = 10


pytestmark = pytest.mark.skipif(shell() is None, reason="no duckdb shell: pip install duckdb-cli")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """15,000 prompts of 4 answers with the scores 1 to 4; the same rows are a chain of states, and
    a tree of two levels.
    """
    path = tmp_path_factory.mktemp("shell") / "rows.parquet"
    duckdb.sql(f"""COPY (
        SELECT 'prompt ' || i // {EACH} AS prompt, 'answer ' || i AS completion,
               1.0 + i % {EACH} AS score, 'model ' || i % 3 AS source,
               'rater ' || i % 2 AS annotator, 'one answer' AS same,
               's' || i // {EACH} AS state, 'a' || i % {EACH} AS action,
               NULL::VARCHAR AS next_state, 1.0 AS probability, (i % {EACH})::DOUBLE AS reward,
               i AS id, CASE WHEN i % {EACH} > 0 THEN i - i % {EACH} END AS parent_id,
               i % {EACH} = 1 AS success
        FROM range({ROWS}) AS r(i)) TO '{path}' (FORMAT parquet)""")
    return str(path)


def run_in_shell(query: str) -> list[dict[str, Any]]:
    """The rows of `query`, from a shell that is killed if it needs more than `CPU_LIMIT_S` seconds
    of CPU time.
    """
    done = subprocess.run(
        [shell(), "-bail", "-batch", "-json"],
        input=f".read sql/prefmill.sql\n{query};",
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S)),
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{query}: {done.returncode} {done.stderr}"
    return json.loads(done.stdout)


# call, an aggregate over its rows, and what that is: sums touch every column that has to be joined
CALLS = {
    "preference_pairs": (
        "preference_pairs({t}, strategy := 'all', chosen_min := NULL, rejected_below := NULL)",
        "count(*) AS rows, sum(chosen_score - rejected_score) AS gaps,"
        " count(DISTINCT chosen) AS chosen, count(DISTINCT rejected) AS rejected",
        {"rows": 6 * GROUPS, "gaps": 10 * GROUPS, "chosen": 3 * GROUPS, "rejected": 3 * GROUPS},
    ),
    "pair_report": (
        "pair_report({t}, strategy := 'all', chosen_min := 3, rejected_below := 3)",
        "sum(rows_in) AS rows_in, sum(rows_used) AS used, sum(groups_used) AS groups, "
        "sum(pairs_out) AS pairs",
        {"rows_in": ROWS, "used": ROWS, "groups": GROUPS, "pairs": 4 * GROUPS},
    ),
    "unpaired": (
        "unpaired({t}, chosen_min := 3, rejected_below := 2)",
        "count(*) AS rows, sum(label::INT) AS good, count(DISTINCT completion) AS texts",
        {"rows": 3 * GROUPS, "good": 2 * GROUPS, "texts": 3 * GROUPS},
    ),
    "best_of": (
        "best_of({t}, k := 2)",
        "count(*) AS rows, sum(score) AS scores, count(DISTINCT completion) AS texts",
        {"rows": 2 * GROUPS, "scores": 7 * GROUPS, "texts": 2 * GROUPS},
    ),
    "best_of_curve": (
        "best_of_curve({t}, resamples := 50)",
        "count(*) AS points, max(best) AS best, min(prompts) AS prompts",
        {"points": EACH, "best": 4.0, "prompts": GROUPS},
    ),
    "rank_candidates": (
        "rank_candidates({t})",
        "count(*) AS rows, sum(rank) AS ranks, sum(gap) AS gaps, count(DISTINCT completion) AS "
        "texts",
        {"rows": ROWS, "ranks": 10 * GROUPS, "gaps": 6 * GROUPS, "texts": ROWS},
    ),
    "advantages": (
        "advantages({t}, weight := reward)",
        "count(*) AS rows, count(DISTINCT completion) AS texts, round(sum(advantage * (score - 1)),"
        " 3) AS weighted",
        {"rows": ROWS, "texts": ROWS, "weighted": 0.0},
    ),
    "pool_stats": (
        "pool_stats({t})",
        "count(*) AS prompts, sum(n) AS rows, sum(best) AS best, sum(median) AS median",
        {"prompts": GROUPS, "rows": ROWS, "best": 4 * GROUPS, "median": 2.5 * GROUPS},
    ),
    # of four answers the fourth is of the model of the first: 5 of 6 pairs are of two models
    "win_rates": (
        "win_rates({t})",
        "count(*) AS sources, sum(wins) AS wins, sum(losses) AS losses",
        {"sources": 3, "wins": 5 * GROUPS, "losses": 5 * GROUPS},
    ),
    # all answers of a prompt taken for one: two raters, who judge every one of them
    "agreement": (
        "agreement({t}, prompt := prompt, completion := same, score := score, annotator := "
        "annotator)",
        "count(*) AS rows, max(units) AS units",
        {"rows": 2, "units": GROUPS},
    ),
    "state_values": (
        "state_values({t}, gamma := 0.5)",
        "count(*) AS rows, sum(v) AS values, round(sum(advantage), 6) AS advantage",
        {"rows": ROWS, "values": 1.5 * ROWS, "advantage": 0.0},
    ),
    "tree_values": (
        "tree_values({t}, id := id, parent_id := parent_id, reward := reward)",
        "count(*) AS rows, count(policy) AS actions, sum(v) AS values",
        {"rows": ROWS, "actions": 3 * GROUPS, "values": 2 * GROUPS},
    ),
    "step_values": (
        "step_values({t}, id := id, parent_id := parent_id, success := success)",
        "count(*) AS rows, sum(rollouts)::BIGINT AS rollouts, sum(successes)::BIGINT AS successes",
        {"rows": ROWS, "rollouts": 6 * GROUPS, "successes": 2 * GROUPS},
    ),
    "step_labels": (
        "step_labels({t}, prompt, [completion], rating := [score], threshold := 3)",
        "count(*) AS rows, count(DISTINCT completions) AS steps, sum(labels[1]::INT) AS good",
        {"rows": ROWS, "steps": ROWS, "good": 2 * GROUPS},
    ),
    "step_label_report": (
        "step_label_report({t}, prompt, [completion], rating := [score], threshold := 3)",
        "sum(paths)::BIGINT AS paths, sum(rows_out)::BIGINT AS rows",
        {"paths": ROWS, "rows": ROWS},
    ),
    "step_paths": (
        "step_paths({t}, prompt, [[completion, same]], [[score, 0]], [0])",
        "count(*) AS rows, count(DISTINCT steps) AS steps, sum(rating[1]) AS ratings",
        {"rows": 2 * ROWS, "steps": ROWS + 1, "ratings": 10 * GROUPS},
    ),
    "text_steps": (
        "(SELECT text_steps(completion, ' ') AS steps FROM query_table({t}))",
        "count(*) AS rows, sum(len(steps))::BIGINT AS steps, count(DISTINCT steps) AS texts",
        {"rows": ROWS, "steps": 2 * ROWS, "texts": ROWS},
    ),
    "pair_id": (
        "(SELECT pair_id(prompt, completion) AS id FROM query_table({t}))",
        "count(*) AS rows, count(DISTINCT id) AS ids",
        {"rows": ROWS, "ids": ROWS},
    ),
    "split_of": (
        "(SELECT split_of(prompt, 'a=0.5,b=0.5') AS split, prompt FROM query_table({t}))",
        "count(*) AS rows, count(DISTINCT prompt) AS prompts, count(DISTINCT (split, prompt)) AS "
        "places",
        {"rows": ROWS, "prompts": GROUPS, "places": GROUPS},
    ),
}


@pytest.mark.parametrize("macro", CALLS)
def test_macro_is_linear_in_the_shell(macro, table):
    call, aggregate, expected = CALLS[macro]
    (sums,) = run_in_shell(f"SELECT {aggregate} FROM {call.format(t=repr(table))}")
    # the shell writes sums of integers as text: their type is wider than JSON's numbers
    assert {name: float(value) for name, value in sums.items()} == expected


def test_every_public_macro_is_tried():
    assert {name for name in macro_texts() if not name.startswith("pref_")} == set(CALLS)


@pytest.mark.parametrize(
    "strategy", ["best_worst", "best_random", "best_rest", "adjacent", "threshold"]
)
def test_every_strategy_is_linear_in_the_shell(strategy, table):
    call = (
        f"preference_pairs('{table}', strategy := '{strategy}', chosen_min := 4, "
        f"rejected_below := 4)"
    )
    pairs = {"best_worst": 1, "best_random": 1, "best_rest": 3, "adjacent": 1, "threshold": 3}[
        strategy
    ] * GROUPS
    assert run_in_shell(
        f"SELECT count(*) AS rows, count(DISTINCT chosen) AS chosen FROM {call}"
    ) == [{"rows": pairs, "chosen": GROUPS}]


@pytest.mark.parametrize(
    ("plan", "rows"),
    [
        (pm.Pairs(), GROUPS),
        (
            pm.Pairs(
                strategy="all",
                chosen_min=None,
                rejected_below=None,
                aggregate="mean",
                tie_break="id",
            ),
            6 * GROUPS,
        ),
        (
            pm.Pairs(strategy="all", chosen_min=None, rejected_below=None, normalize="zscore"),
            4 * GROUPS,
        ),
        (pm.Unpaired(chosen_min=3, rejected_below=3), ROWS),
        (pm.BestOf(k=2, length_control=True), 2 * GROUPS),
        (pm.Advantage(aggregate="max"), ROWS),
    ],
    ids=["pairs", "aggregated", "normalized", "labels", "length control", "advantages"],
)
def test_the_query_of_a_plan_is_linear_in_the_shell(plan, rows, table):
    query = plan.sql(table)
    assert run_in_shell(
        f"SELECT count(*) AS rows, count(hash(told)) AS hashes FROM ({query}) AS told"
    ) == [{"rows": rows, "hashes": rows}]


def test_pairs_of_equal_texts_are_left_out_in_the_shell(tmp_path):
    """The comparison that became the loop still compares: message lists and texts, empty ones
    too.
    """
    path = tmp_path / "same.parquet"
    duckdb.sql(f"""COPY (FROM (VALUES ('p', 'a', 5), ('p', 'a', 1), ('q', '', 5), ('q', 'b', 1),
                                      ('r', '', 5), ('r', '', 1))
                         AS t(prompt, completion, score)) TO '{path}' (FORMAT parquet)""")
    assert run_in_shell(f"FROM preference_pairs('{path}') SELECT prompt, chosen, rejected") == [
        {"prompt": "q", "chosen": "", "rejected": "b"}
    ]
    (report,) = run_in_shell(
        f"FROM pair_report('{path}') SELECT pairs_out, dropped['identical_text'] AS same"
    )
    assert report == {"pairs_out": 1, "same": 4}

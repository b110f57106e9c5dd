"""One small pool with every role, and a call of every macro on it."""

from __future__ import annotations

import pyarrow as pa

# What is judged, and the same rows read as a process (a cycle of s1 and s2) and as a tree (t1 and
# t7 are roots).
ROWS = [
    # prompt, completion, score, source, annotator | state, action, next_state, probability, reward
    # | id, parent_id, success
    ("p", "a", 5.0, "m1", "x", "s1", "go", "s2", 1.0, 1.0, "t1", None, None),
    ("p", "a", 4.0, "m1", "y", "s1", "stay", "s1", 0.5, 0.0, "t2", "t1", None),
    ("p", "bb", 1.0, "m2", "x", "s1", "stay", None, 0.5, 2.0, "t3", "t1", False),
    ("p", "bb", 1.0, "m2", "y", "s2", "back", "s1", 1.0, -1.0, "t4", "t2", True),
    ("q", "ccc", 2.0, "m1", "x", "s2", "end", None, 1.0, 4.0, "t5", "t2", False),
    ("q", "ccc", 2.0, "m1", "z", "s3", "go", "s2", 0.25, 0.0, "t6", "t2", None),
    ("q", "d", 4.5, "m2", "x", "s3", "go", "s9", 0.75, None, "t7", None, None),
    ("q", "d", 3.0, "m2", "y", "s4", "go", "s3", 1.0, 1.0, "t8", "t7", None),
    ("r", "e", None, "m1", "x", "s4", "end", None, 1.0, 0.0, "t9", "t8", True),
    ("r", "f", 3.0, "m3", None, "s5", "end", None, 1.0, 0.5, "ta", "t8", True),
    (None, "g", 3.0, "m3", "z", "s6", "go", "s4", 1.0, 3.0, "tb", "t8", False),
]
NAMES = (
    "prompt",
    "completion",
    "score",
    "source",
    "annotator",
    "state",
    "action",
    "next_state",
    "probability",
    "reward",
    "id",
    "parent_id",
    "success",
)
POOL = pa.table(
    {name: pa.array(column) for name, column in zip(NAMES, zip(*ROWS, strict=True), strict=True)}
)
#: The same under names that are no roles.
RENAMED = POOL.rename_columns(
    [
        "question",
        "answer",
        "reward",
        "model",
        "rater",
        "here",
        "act",
        "there",
        "chance",
        "gain",
        "node",
        "up",
        "won",
    ]
)

CORE = ("prompt", "completion", "score")
#: A completion as the one step of a record, and its score as the rating of that.
STEPS = ("prompt", "score", "completion")
#: Macros of one value, where the others are of a table.
SCALARS = {"split_of": "prompt", "text_steps": "completion", "pair_id": "prompt"}
#: macro: its roles, further arguments, and the columns that order its rows (none: they come in an
#: order)
CALLS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "preference_pairs": (CORE, "strategy := 'all', chosen_min := NULL, rejected_below := NULL", ""),
    "pair_report": (CORE, "chosen_min := 3", ""),
    "unpaired": (CORE, "chosen_min := 3, rejected_below := 3", ""),
    "best_of": (CORE, "k := 2", ""),
    "best_of_curve": (CORE, "resamples := 20", ""),
    "rank_candidates": (CORE, "", "ORDER BY prompt, rank"),
    "advantages": (CORE, "kind := 'grpo'", ""),
    "pool_stats": (CORE, "", "ORDER BY prompt"),
    "win_rates": ((*CORE, "source"), "baseline := 'm1'", ""),
    "agreement": ((*CORE, "annotator"), "level := 'nominal'", ""),
    "state_values": (
        ("state", "action", "next_state", "probability", "reward"),
        "gamma := 0.5",
        "ORDER BY state, action",
    ),
    "tree_values": (("id", "parent_id", "reward"), "gamma := 0.5", ""),
    "step_values": (("id", "parent_id", "success"), "", ""),
    "step_labels": (STEPS, "threshold := 3", ""),
    "step_label_report": (STEPS, "threshold := 3", ""),
    "step_paths": (STEPS, "chosen := [0]", ""),
    "text_steps": (("completion",), "'b'", "ORDER BY ALL"),
    "split_of": (("prompt",), "'a=0.5,b=0.5', seed := 7", "ORDER BY ALL"),
    "pair_id": (("prompt",), "'yes', 'no'", "ORDER BY ALL"),
}
#: Macros over scored completions.
SCORED = [macro for macro, (roles, _, _) in CALLS.items() if roles[: len(CORE)] == CORE]
#: Macros that look for no columns by themselves.
ALWAYS_NAMED = {"tree_values", "step_values"}
COLUMN_OF = dict(zip(NAMES, RENAMED.column_names, strict=True))


def call(macro: str, table: str, *, by_name: bool = False, ordered: bool = True) -> str:
    """A query of `macro` over `table`; `by_name`: of `RENAMED`, its columns given for the roles."""
    roles, arguments, order = CALLS[macro]
    column = COLUMN_OF if by_name else dict(zip(NAMES, NAMES, strict=True))
    order = order if ordered else ""
    if macro in SCALARS:
        value = column[SCALARS[macro]]
        return (
            f"SELECT {macro}({value}, {arguments}) AS split, {value} AS p FROM "
            f"query_table({table}) WHERE p IS NOT NULL {order}"
        ).strip()
    if roles == STEPS:
        step, rating = f"[{column['completion']}]", f"[{column['score']}]"
        if macro == "step_paths":
            step, rating = f"[{step}]", f"[{rating}]"
        return f"FROM {macro}({table}, {column['prompt']}, {step}, rating := {rating}, {arguments})"
    given = (
        [f"{role} := {column[role]}" for role in roles] if by_name or macro in ALWAYS_NAMED else []
    )
    return (
        f"FROM {macro}({', '.join([table, *given, *([arguments] if arguments else [])])}) {order}"
    ).strip()

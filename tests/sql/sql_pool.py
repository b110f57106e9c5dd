"""One small pool with every role, and a call of every macro on it."""

from __future__ import annotations

import pyarrow as pa

ROWS = [
    # prompt, completion, score, source, annotator
    ("p", "a", 5.0, "m1", "x"),
    ("p", "a", 4.0, "m1", "y"),
    ("p", "bb", 1.0, "m2", "x"),
    ("p", "bb", 1.0, "m2", "y"),
    ("q", "ccc", 2.0, "m1", "x"),
    ("q", "ccc", 2.0, "m1", "z"),
    ("q", "d", 4.5, "m2", "x"),
    ("q", "d", 3.0, "m2", "y"),
    ("r", "e", None, "m1", "x"),
    ("r", "f", 3.0, "m3", None),
    (None, "g", 3.0, "m3", "z"),
]
NAMES = ("prompt", "completion", "score", "source", "annotator")
POOL = pa.table({name: pa.array(column) for name, column in zip(NAMES, zip(*ROWS, strict=True), strict=True)})
#: The same under names that are no roles, the score turned round.
RENAMED = POOL.rename_columns(["question", "answer", "reward", "model", "rater"])

CORE = ("prompt", "completion", "score")
#: macro: its roles, further arguments, and the columns that order its rows (none: they come in an order)
CALLS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "preference_pairs": (CORE, "strategy := 'all', chosen_min := NULL, rejected_below := NULL", ""),
    "pair_report": (CORE, "chosen_min := 3", ""),
    "unpaired": (CORE, "chosen_min := 3, rejected_below := 3", ""),
    "best_of": (CORE, "k := 2", ""),
    "rank_candidates": (CORE, "", "ORDER BY prompt, rank"),
    "pool_stats": (CORE, "", "ORDER BY prompt"),
    "win_rates": ((*CORE, "source"), "baseline := 'm1'", ""),
    "agreement": ((*CORE, "annotator"), "level := 'nominal'", ""),
}
COLUMN_OF = dict(zip(NAMES, RENAMED.column_names, strict=True))


def call(macro: str, table: str, *, by_name: bool = False, ordered: bool = True) -> str:
    """A query of `macro` over `table`; `by_name`: roles given as expressions."""
    roles, arguments, order = CALLS[macro]
    given = [f"{role} := {COLUMN_OF[role]}" for role in roles] if by_name else []
    return f"FROM {macro}({', '.join([table, *given, *([arguments] if arguments else [])])}) {order if ordered else ''}".strip()

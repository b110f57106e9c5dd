"""What people use instead of prefmill to make the same pairs, one function each:
`python baselines.py NAME INPUT OUTPUT`.

All but the copy write one row a prompt: the best completion against the worst, if the best scored
at least 4 and the worst below 4. Among equal best scores the last row of the file is chosen, among
equal worst ones the first row is rejected; each way says in its own means how it keeps that rule,
and the one that leaves ties to the library is in TIES_OPEN. Input and output are zstd Parquet,
except that `datasets` writes snappy whatever it is asked (5.2), which costs less: the two ways that
end in its `to_parquet` gain by it.

Each runs in a process of its own, timed from outside by `bench_pairs.py`; so every function imports
what it needs itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

CHOSEN_MIN = 4
REJECTED_BELOW = 4
TIES_OPEN = frozenset({"duckdb-ties-open"})  # as many pairs, but other texts where scores tie


def copy(source: str, target: str) -> None:
    """No work at all: every column read, decoded, encoded and written. The floor of any program
    that writes all it reads.
    """
    import polars as pl

    pl.scan_parquet(source).sink_parquet(target)


def pandas(source: str, target: str) -> None:
    """The usual script: a list of answers for each prompt, sorted in a loop. Python's sort is
    stable, and that is the rule for ties.
    """
    import pandas as pd
    from datasets import Dataset

    frame = pd.read_parquet(source)
    frame["answer"] = list(zip(frame["score"], frame["completion"], strict=True))
    pairs = []
    for prompt, answers in frame.groupby("prompt")["answer"].apply(list).items():
        ranked = sorted(answers, key=lambda answer: answer[0])
        (rejected_score, rejected), (chosen_score, chosen) = ranked[0], ranked[-1]
        if (
            chosen_score >= CHOSEN_MIN
            and rejected_score < REJECTED_BELOW
            and chosen_score > rejected_score
        ):
            pairs.append(
                {
                    "prompt": prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                    "chosen_score": chosen_score,
                    "rejected_score": rejected_score,
                }
            )
    Dataset.from_list(pairs).to_parquet(target)


def polars(source: str, target: str) -> None:
    """One lazy group_by that carries the texts. A group keeps the order of its rows, and a stable
    sort keeps it among ties.
    """
    import polars as pl

    ranked = pl.col("completion").sort_by("score", maintain_order=True)
    pairs = (
        pl.scan_parquet(source)
        .group_by("prompt")
        .agg(
            chosen=ranked.last(),
            rejected=ranked.first(),
            chosen_score=pl.col("score").max(),
            rejected_score=pl.col("score").min(),
        )
        .filter(
            pl.col("chosen_score") >= CHOSEN_MIN,
            pl.col("rejected_score") < REJECTED_BELOW,
            pl.col("chosen_score") > pl.col("rejected_score"),
        )
    )
    pairs.sink_parquet(target)


def duckdb(source: str, target: str) -> None:
    """One GROUP BY with arg_max over the texts; ties by the row's number in the file, which makes
    the key a struct.
    """
    _duckdb(source, target, key="{'score': score, 'row': file_row_number}")


def duckdb_ties_open(source: str, target: str) -> None:
    """The same with arg_max by score alone, as it is mostly written: among equal scores any row may
    win.
    """
    _duckdb(source, target, key="score")


def _duckdb(source: str, target: str, *, key: str) -> None:
    import duckdb

    source, target = (path.replace("'", "''") for path in (source, target))
    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false")
    con.execute(f"""
        COPY (
          SELECT prompt, arg_max(completion, {key}) AS chosen,
               arg_min(completion, {key}) AS rejected,
                 max(score) AS chosen_score, min(score) AS rejected_score
          FROM read_parquet('{source}', file_row_number = true)
          GROUP BY prompt
          HAVING chosen_score >= {CHOSEN_MIN} AND rejected_score < {REJECTED_BELOW}
          AND chosen_score > rejected_score
        ) TO '{target}' (FORMAT parquet, COMPRESSION zstd)""")


def datasets(source: str, target: str) -> None:
    """Sorted by prompt, batched by prompt, mapped: the three calls of `datasets` made for this. Its
    sort and Python's are stable.
    """
    import datasets as hf

    hf.disable_progress_bars()
    rows = hf.load_dataset("parquet", data_files=source, split="train")
    groups = rows.sort("prompt").batch(by_column="prompt")
    groups.map(_pairs_of_groups, batched=True, remove_columns=groups.column_names).to_parquet(
        target
    )


def _pairs_of_groups(groups: dict[str, list[list]]) -> dict[str, list]:
    pairs: dict[str, list] = {
        "prompt": [],
        "chosen": [],
        "rejected": [],
        "chosen_score": [],
        "rejected_score": [],
    }
    for prompts, completions, scores in zip(
        groups["prompt"], groups["completion"], groups["score"], strict=True
    ):
        order = sorted(range(len(scores)), key=scores.__getitem__)
        worst, best = order[0], order[-1]
        if (
            scores[best] >= CHOSEN_MIN
            and scores[worst] < REJECTED_BELOW
            and scores[best] > scores[worst]
        ):
            row = (prompts[0], completions[best], completions[worst], scores[best], scores[worst])
            for column, value in zip(pairs.values(), row, strict=True):
                column.append(value)
    return pairs


BASELINES: dict[str, Callable[[str, str], None]] = {
    "copy": copy,
    "pandas": pandas,
    "polars": polars,
    "duckdb": duckdb,
    "duckdb-ties-open": duckdb_ties_open,
    "datasets": datasets,
}


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in BASELINES:
        sys.exit(f"usage: baselines.py {{{','.join(BASELINES)}}} INPUT OUTPUT")
    BASELINES[sys.argv[1]](sys.argv[2], sys.argv[3])

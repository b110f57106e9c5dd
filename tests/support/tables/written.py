"""Frames of pairs and labels, and what was written of them, read back."""

from __future__ import annotations

from pathlib import Path

import polars as pl

SCORES = {"chosen_score": [5.0, 4.5, 4.0], "rejected_score": [1.0, 2.5, 3.0]}

TEXTS = {
    "prompt": ["p0", "p1", "p2"],
    "chosen": ["c0", "", "c2"],
    "rejected": ["r0", 'r"1\n', "r2 \u2028 é 🙂"],
}

FILES = [
    "parquet",
    "jsonl",
    "jsonl.gz",
    "jsonl.zst",
    "ndjson",
    "csv",
    "csv.gz",
    "tsv",
    "arrow",
    "ipc",
    "feather",
]


def said(role: str, *contents: str) -> list[dict]:
    return [{"role": role, "content": content} for content in contents]


def pairs(prompts: str = "text", completions: str = "text") -> pl.DataFrame:
    """Three pairs; each side `text`, `messages`, or `sharegpt`."""
    columns: dict = {}
    for name, texts in TEXTS.items():
        role, kind = ("user", prompts) if name == "prompt" else ("assistant", completions)
        if kind == "text":
            columns[name] = texts
        elif kind == "messages":
            columns[name] = [said(role, text) for text in texts]
        else:
            columns[name] = [
                [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text}]
                for text in texts
            ]
    return pl.DataFrame(columns | SCORES | {"chosen_id": [1, 2, 3], "rejected_id": [4, 5, 6]})


def labels(rows: int = 4) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": [f"p{i // 2}" for i in range(rows)],
            "completion": [f"c{i}" for i in range(rows)],
            "label": [i % 2 == 0 for i in range(rows)],
            "score": [float(i) for i in range(rows)],
            "id": [f"i{i}" for i in range(rows)],
        }
    )


def read(path: str | Path) -> pl.DataFrame:
    name = str(path)
    if ".parquet" in name:
        return pl.read_parquet(path)
    if ".jsonl" in name or ".ndjson" in name:
        return pl.read_ndjson(path)
    if ".csv" in name or ".tsv" in name:
        return pl.read_csv(
            path, separator="\t" if ".tsv" in name else ",", empty_string_is_null=False
        )
    if Path(path).is_dir():
        import datasets

        return pl.DataFrame(datasets.load_from_disk(name).with_format("arrow")[:])
    return pl.read_ipc(path)


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))

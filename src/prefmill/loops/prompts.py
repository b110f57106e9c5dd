"""The prompts of a loop: read, made distinct, and divided.

Some are trained on, the others are held out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from prefmill.disk.hidden import temporary
from prefmill.errors import BadInput
from prefmill.loops.recipe import PromptsSection
from prefmill.pools.prompts import open_prompts
from prefmill.table.chance import prompt_hash
from prefmill.table.messages import held_as_messages, messages


@dataclass(frozen=True)
class DividedPrompts:
    """Distinct prompts in two frames: `prompt`, text or messages, and the columns that are kept.

    counts   rows in, and what became of them: null, repeated, too_long, in_heldout (also held out,
             so not trained on), over_limit
    content  a hash of both
    """

    train: pl.DataFrame
    heldout: pl.DataFrame
    counts: dict[str, int]
    content: str


def load_prompts(section: PromptsSection) -> DividedPrompts:
    """The prompts that a recipe names.

    `limit` and `heldout_limit` take the prompts whose hash is smallest, in the order of the file,
    so that they do not depend on the order of rows. A share is drawn by the hash of the prompt.
    Both hashes depend on the section's own `seed`, so that runs of several seeds ask the same
    prompts. A prompt that is held out is never trained on.
    """
    names = ("rows", "null", "repeated", "too_long", "in_heldout", "over_limit")
    counts = Counter(dict.fromkeys(names, 0))
    train = _distinct(section.train, section, counts)
    if section.heldout is None:
        train, heldout = _held_out(train, section)
    else:
        heldout = _distinct(section.heldout, section, counts)
        for name, kind in train.schema.items():
            if heldout.schema[name] != kind:
                raise BadInput(
                    f"loop: {'prompts' if name == 'prompt' else repr(name)} of two kinds; got"
                    f" {heldout.schema[name]} held out, expected {kind} as in train."
                )
        rows = train.height
        train = train.join(heldout, on="prompt", how="anti", maintain_order="left")
        counts["in_heldout"] = rows - train.height
    train = _limited(train, section.limit, section.seed, counts)
    heldout = _limited(heldout, section.heldout_limit, section.seed, counts)
    digest = hashlib.sha256()
    for name, frame in (("train", train), ("heldout", heldout)):
        if not frame.height:
            raise BadInput(
                f"loop: no prompts for {name}; got {dict(counts)}.",
                hint="name other files, or another heldout_share.",
            )
        digest.update(prompt_hash(frame["prompt"], b"loop:").to_numpy().tobytes() + b"|")
        for column in section.keep:
            digest.update(f"{column}: {frame[column].to_list()!r}|".encode())
    return DividedPrompts(train, heldout, dict(counts), digest.hexdigest()[:20])


def _held_out(prompts: pl.DataFrame, section: PromptsSection) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The prompts that are trained on, and the share that is held out."""
    share = float(section.heldout_share or 0.0)
    if share >= 1:
        raise BadInput(f"loop: heldout_share {share:g} leaves no prompts to train on.")
    # Not the hash of `--split`: prompts that are one split of a file would fall on one side.
    hashes = prompt_hash(prompts["prompt"], f"heldout:{section.seed}:".encode())
    held = hashes.cast(pl.Float64) / 2.0**64 < share
    return prompts.filter(~held), prompts.filter(held)


def _distinct(
    files: str | Sequence[str], section: PromptsSection, counts: Counter[str]
) -> pl.DataFrame:
    """The distinct prompts of `files`, in the order of their first row."""
    paths = [files] if isinstance(files, str) else list(files)
    with temporary() as home:
        source = open_prompts(paths, section.column, home, keep=section.keep, where="loop: prompts")
        places = {f"keep{i}": name for i, name in enumerate(section.keep)}
        distinct = pl.read_parquet(source.path, columns=["prompt", *places])
    distinct = distinct.rename(places)
    if held_as_messages(distinct.schema, ("prompt",)):
        # One spelling of roles: chat templates know user and assistant only.
        distinct = distinct.with_columns(prompt=messages(distinct.schema, "prompt"))
        distinct = distinct.unique("prompt", keep="first", maintain_order=True)
    fitting = distinct
    if section.max_chars is not None:
        chars = _chars_of("prompt", distinct.schema["prompt"])
        fitting = distinct.filter(chars <= section.max_chars)
    counts["rows"] += source.rows
    counts["null"] += source.nulls
    counts["repeated"] += source.rows - source.nulls - distinct.height
    counts["too_long"] += distinct.height - fitting.height
    return fitting


def _chars_of(name: str, kind: Any) -> pl.Expr:
    """Characters of a text, or of all messages of a conversation."""
    if kind == pl.String:
        return pl.col(name).str.len_chars()
    chars = pl.element().struct.field("content").str.len_chars()
    return pl.col(name).list.eval(chars).list.sum()


def _limited(
    prompts: pl.DataFrame, limit: int | None, seed: int, counts: Counter[str]
) -> pl.DataFrame:
    if limit is None or prompts.height <= limit:
        return prompts
    counts["over_limit"] += prompts.height - limit
    hashes = prompt_hash(prompts["prompt"], f"limit:{seed}:".encode())
    drawn = prompts.with_row_index("_row").with_columns(_hash=hashes)
    return drawn.sort("_hash", "_row").head(limit).sort("_row").select(prompts.columns)

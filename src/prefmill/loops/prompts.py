"""The prompts of a loop: read, made distinct, and divided into those that are trained on and those
that are held out.
"""

from __future__ import annotations

import hashlib
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
class Prompts:
    """Distinct prompts in two frames with the one column `prompt`, text or messages.

    counts   rows in, and what became of them: null, repeated, too_long, in_heldout (also held out,
    so not trained on), over_limit content  a hash of both
    """

    train: pl.DataFrame
    heldout: pl.DataFrame
    counts: dict[str, int]
    content: str


def load_prompts(section: PromptsSection) -> Prompts:
    """The prompts that a recipe names.

    `limit` and `heldout_limit` take the prompts whose hash is smallest, in the order of the file,
    so that they do not depend on the order of rows; a share is drawn by the hash of the prompt.
    Both hashes hang on the section's own `seed`, so that runs of several seeds ask the same
    prompts. A prompt that is held out is never trained on.
    """
    counts = {"rows": 0, "null": 0, "repeated": 0, "too_long": 0, "in_heldout": 0, "over_limit": 0}
    train = _distinct(section.train, section, counts)
    if section.heldout is not None:
        heldout = _distinct(section.heldout, section, counts)
        if heldout.schema != train.schema:
            raise BadInput(
                f"loop: prompts of two kinds; got {heldout.schema['prompt']} held out, expected {train.schema['prompt']} as in train."
            )
        both = train.height
        train = train.join(heldout, on="prompt", how="anti", maintain_order="left")
        counts["in_heldout"] = both - train.height
    else:
        share = float(section.heldout_share or 0.0)
        if share >= 1:
            raise BadInput(f"loop: heldout_share {share:g} leaves no prompts to train on.")
        # Not the hash of `--split`: prompts that are one split of a file would then fall on one
        # side.
        held = (
            prompt_hash(train["prompt"], f"heldout:{section.seed}:".encode()).cast(pl.Float64)
            / 2.0**64
            < share
        )
        train, heldout = train.filter(~held), train.filter(held)
    train, heldout = (
        _limited(*each, section.seed, counts)
        for each in ((train, section.limit), (heldout, section.heldout_limit))
    )
    for name, frame in (("train", train), ("heldout", heldout)):
        if not frame.height:
            raise BadInput(
                f"loop: no prompts for {name}; got {counts}.",
                hint="name other files, or another heldout_share.",
            )
    digest = hashlib.sha256()
    for frame in (train, heldout):
        digest.update(prompt_hash(frame["prompt"], b"loop:").to_numpy().tobytes() + b"|")
    return Prompts(train, heldout, counts, digest.hexdigest()[:20])


def _distinct(files: Any, section: PromptsSection, counts: dict[str, int]) -> pl.DataFrame:
    """The distinct prompts of `files`, in the order of their first row."""
    with temporary() as home:
        inputs = [files] if isinstance(files, str) else list(files)
        distinct = open_prompts(inputs, section.column, home, where="loop: prompts")
        found = pl.read_parquet(distinct.path, columns=["prompt"])
    # One spelling of roles: chat templates know user and assistant only.
    if held_as_messages(found.schema, ("prompt",)):
        found = found.select(prompt=messages(found.schema, "prompt"))
        found = found.unique("prompt", keep="first", maintain_order=True)
    fitting = found
    if section.max_chars is not None:
        fitting = found.filter(chars_of("prompt", found.schema["prompt"]) <= section.max_chars)
    counts["rows"] += distinct.rows
    counts["null"] += distinct.nulls
    counts["repeated"] += distinct.rows - distinct.nulls - found.height
    counts["too_long"] += found.height - fitting.height
    return fitting


def chars_of(name: str, kind: Any) -> pl.Expr:
    """Characters of a text, or of all messages of a conversation."""
    if kind == pl.String:
        return pl.col(name).str.len_chars()
    return pl.col(name).list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()


def _limited(
    frame: pl.DataFrame, limit: int | None, seed: int, counts: dict[str, int]
) -> pl.DataFrame:
    if limit is None or frame.height <= limit:
        return frame
    counts["over_limit"] += frame.height - limit
    drawn = frame.with_row_index("_row").with_columns(
        _hash=prompt_hash(frame["prompt"], f"limit:{seed}:".encode())
    )
    return drawn.sort("_hash", "_row").head(limit).sort("_row").select("prompt")

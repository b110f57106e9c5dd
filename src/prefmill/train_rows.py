"""Rows to train on: read from any source, checked, and made into token ids by the very `Encoder` that scoring and sampling use.

That is why a reward model scores what it was trained on, and a policy is asked what it was trained to answer: nothing is tokenised twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.hashing import check_shares, split_frame
from prefmill.schema import RoleNames

Longs = npt.NDArray[np.int64]
_SIDES = ("chosen", "rejected")
_MARGINS = (("chosen_score", "rejected_score"), ("chosen_reward", "rejected_reward"))


@dataclass
class PairRows:
    """Preference pairs: `frame` has prompt, chosen, rejected, no nulls among them; `difference` of the feedback's scores, and `margin`.

    dropped   pairs left out so far, by reason
    implicit  the pairs were texts with the prompt in front, whose seam nobody knows: `prompt` is empty then
    """

    frame: pl.DataFrame
    rows_in: int
    dropped: dict[str, int] = field(default_factory=dict)
    implicit: bool = False

    def take(self, frame: pl.DataFrame) -> PairRows:
        """Some of these pairs, as a set of their own."""
        return PairRows(frame, frame.height, {}, self.implicit)

    @property
    def prompts(self) -> list[str]:
        """The prompt of every pair, spelled so that equal ones, and only they, are equal; without a prompt column the chosen text."""
        return spelled(self.frame["chosen" if self.implicit else "prompt"])


def read_table(inputs: Any) -> pl.DataFrame:
    """All rows of `inputs`: files, globs, folders, or a frame, relation, dataset or Arrow source."""
    from prefmill._engine import connect
    from prefmill.pool import paths_of, relation_of
    from prefmill.readers import open_source

    with tempfile.TemporaryDirectory(prefix="prefmill-") as name:
        home = Path(name)
        source = open_source(paths_of(inputs, home), temp_dir=home)
        con = connect(temp_dir=home, remote=source.remote)
        try:
            con.execute("SET preserve_insertion_order = true")
            return pl.DataFrame(con.sql(f"SELECT * FROM {relation_of(source)}").to_arrow_table())
        finally:
            con.close()


def read_pairs(inputs: Any, *, where: str) -> PairRows:
    """The pairs in `inputs`, as `prefmill pairs` writes them: with a prompt, or with the prompt in front of both sides.

    Raises `ColumnMissing`, `BadInput` for columns that are neither text nor messages.
    """
    table = read_table(inputs)
    missing = [side for side in _SIDES if side not in table.columns]
    if missing:
        raise ColumnMissing(
            f"{where}: no column {missing[0]!r}; got {table.columns}, expected chosen, rejected and best also prompt.",
            hint="prefmill pairs writes such files.",
        )
    rows_in = table.height
    columns = [name for name in ("prompt", *_SIDES) if name in table.columns]
    dropped: dict[str, int] = {}
    for name in columns:
        _check_type(table, name, where)
        null = int(table[name].null_count())
        if null:
            dropped[f"null_{name}"] = null
            table = table.drop_nulls(name)
    kept = [pl.col(name) for name in columns]
    implicit = "prompt" not in columns
    if implicit and table["chosen"].dtype != pl.String:
        size = pl.min_horizontal(pl.col("chosen").list.len(), pl.col("rejected").list.len()) - 1
        shared = pl.col("chosen").list.head(size)
        kept = [shared.alias("prompt"), *(pl.col(side).list.slice(size) for side in _SIDES)]
        differ = int(table.select((shared != pl.col("rejected").list.head(size)).sum()).item())
        if differ:
            raise BadInput(
                f"{where}: {differ} pairs have no prompt in common; got conversations that differ before their last message.",
                hint="prefmill pairs --format trl writes the prompt in a column of its own.",
            )
        implicit = False
    elif implicit:
        kept = [pl.lit("").alias("prompt"), *kept]
    if "margin" in table.columns:
        kept.append(pl.col("margin").cast(pl.Float64))
    for chosen, rejected in _MARGINS:
        if {chosen, rejected} <= set(table.columns):
            kept.append((pl.col(chosen).cast(pl.Float64) - pl.col(rejected).cast(pl.Float64)).alias("difference"))
            break
    frame = table.select(kept)
    if "margin" in frame.columns:
        bad = frame["margin"].is_null() | ~frame["margin"].is_finite()
        if bad.any():
            raise BadInput(f"{where}: {bad.sum()} pairs have no finite margin; got null, NaN or infinity, expected a number.")
    return PairRows(frame, rows_in, dropped, implicit)


def read_winners(inputs: Any, roles: RoleNames, *, where: str) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Prompts and completions for SFT (columns prompt, completion; or conversations in a column messages): rows, rows in, dropped."""
    from prefmill.stream import text_roles

    table = read_table(inputs)
    rows_in = table.height
    if "messages" in table.columns and not roles:
        _check_type(table, "messages", where)
        empty = table["messages"].is_null() | (table["messages"].list.len() < 2)
        dropped = {"null_messages": int(empty.sum())} if empty.any() else {}
        kept = table.filter(~empty).select(
            prompt=pl.col("messages").list.head(pl.col("messages").list.len() - 1), completion=pl.col("messages").list.tail(1)
        )
        return kept, rows_in, dropped
    named = text_roles(table.columns, roles, where=where)
    table = table.select(prompt=pl.col(named.prompt), completion=pl.col(named.completion))
    dropped = {}
    for name in table.columns:
        _check_type(table, name, where)
        if null := int(table[name].null_count()):
            dropped[f"null_{name}"] = null
            table = table.drop_nulls(name)
    return table, rows_in, dropped


def hold_out(pairs: PairRows, share: float, seed: int, *, where: str) -> tuple[PairRows, PairRows]:
    """The pairs to train on and those held out: split by prompt, as `--split` does."""
    if pairs.implicit:
        raise BadArgument(
            f"{where}: pairs of plain texts without a prompt column cannot be split by prompt; got holdout {share:g}.",
            hint="--holdout 0 and a test file; or pairs with a prompt: prefmill pairs --format trl.",
        )
    parts = dict(split_frame(pairs.frame, check_shares({"train": 1 - share, "test": share}), seed))
    return pairs.take(parts["train"]), pairs.take(parts["test"])


def pair_ids(encoder: Any, pairs: PairRows, *, where: str) -> tuple[dict[str, list[list[int]]], Longs, dict[str, int]]:
    """Token ids of both sides, which pairs they are of (both sides are short enough), and how many are not."""
    if pairs.implicit and encoder.template != "concat":
        raise BadInput(
            f"{where}: pairs of plain texts with the prompt in front do not say where it ends, which the model's template needs to know.",
            hint="prefmill pairs with --format trl, or with --chat.",
        )
    rows = {side: _encoded(encoder, pairs.frame["prompt"], pairs.frame[side]) for side in _SIDES}
    both = np.intersect1d(rows["chosen"].kept, rows["rejected"].kept)
    ids = {}
    for side, encoded in rows.items():
        place = np.searchsorted(encoded.kept, both)
        ids[side] = [encoded.rows.row(i).tolist() for i in place]
    lost = pairs.frame.height - len(both)
    return ids, both, {"too_long": lost} if lost else {}


def winner_ids(encoder: Any, winners: pl.DataFrame) -> tuple[list[list[int]], list[int], dict[str, int]]:
    """Token ids of the rows that are short enough, where the completion begins in each, and how many are too long."""
    encoded = _encoded(encoder, winners["prompt"], winners["completion"])
    lost = winners.height - len(encoded.kept)
    ids = [encoded.rows.row(i).tolist() for i in range(len(encoded.rows))]
    return ids, encoded.rows.starts.tolist(), {"too_long": lost} if lost else {}


def conversation(value: Any, speaker: str) -> Sequence[Mapping[str, Any]]:
    """Text as one message of `speaker`; messages as they are, their empty fields left out."""
    from prefmill.scoring.tokens import messages_of

    return messages_of(value, speaker)


def spelled(prompts: pl.Series) -> list[str]:
    """Prompts as texts that are equal where the prompts are."""
    return [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in prompts.to_list()]


def numbered(keys: Sequence[str]) -> Longs:
    """A number for every key, in the order of their first use; shape (keys,).

    >>> numbered(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    seen: dict[str, int] = {}
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), np.int64, len(keys))


def _encoded(encoder: Any, prompts: pl.Series, completions: pl.Series) -> Any:
    try:
        return encoder.encode(arrow(prompts), arrow(completions), numbered(spelled(prompts)))
    except BadInput as error:
        raise BadInput(error.message.replace("score:", "train:", 1), hint=error.hint) from error


def arrow(series: pl.Series) -> pa.Array:
    """A column as one Arrow array."""
    array = series.to_arrow()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _check_type(table: pl.DataFrame, name: str, where: str) -> None:
    kind = table.schema[name]
    messages = isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct)
    if not (messages or (kind == pl.String and name != "messages")):
        wanted = "messages {role, content}" if name == "messages" else "text or messages {role, content}"
        raise BadInput(f"{where}: the column {name!r} cannot be trained on; got {kind}, expected {wanted}.")

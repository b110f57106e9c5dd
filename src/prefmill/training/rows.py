"""Rows to train on: read, checked, and made into token ids by the `Encoder` of scoring.

A reward model therefore scores what it was trained on, and a policy is asked what it was trained to
answer: nothing is tokenised twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.connection import connect
from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument, BadInput, BadRow, ColumnMissing
from prefmill.models.contract import OnBadRow
from prefmill.pools.columns import text_roles
from prefmill.pools.stream import paths_of
from prefmill.readers import open_source
from prefmill.table.chance import check_shares, message_keys, split_frame
from prefmill.table.fits import fits_frame
from prefmill.table.json_values import present
from prefmill.table.roles import RoleNames

Longs = npt.NDArray[np.int64]
#: The number of a row in the input to its name.
Place = Callable[[int], str]
_SIDES = ("chosen", "rejected")
#: Who does not answer: a loss on what they say teaches the model to say it.
_NO_ANSWER = ("user", "human", "prompter", "system", "developer", "tool", "function", "observation")
_MARGINS = (("chosen_score", "rejected_score"), ("chosen_reward", "rejected_reward"))


@dataclass
class Rows:
    """Rows without nulls; their column `row` is the place of each in the input.

    rows_in  rows of the input
    place    how the owner finds the row of the input with that number
    dropped  rows left out so far, by reason
    """

    frame: pl.DataFrame
    rows_in: int
    place: Place
    dropped: dict[str, int] = field(default_factory=dict)

    def bad(self, error: BadRow, place: int, where: str) -> BadRow:
        """`error` about the row at `place`, which is named as in the input."""
        return error.at(place, where=where).named(self.place(self.frame["row"][place]))


@dataclass
class PairRows(Rows):
    """Preference pairs: prompt, chosen, rejected; `difference` of the scores, and `margin`.

    implicit  the pairs were texts with the prompt in front, whose seam nobody knows: `prompt` is
              empty then
    """

    implicit: bool = False

    def take(self, frame: pl.DataFrame) -> PairRows:
        """Some of these pairs, as a set of their own."""
        return PairRows(frame, frame.height, self.place, {}, self.implicit)

    @property
    def prompts(self) -> list[str]:
        """The prompt of every pair, spelled; without a prompt column the chosen text."""
        return spelled(self.frame["chosen" if self.implicit else "prompt"])


@dataclass
class Winners(Rows):
    """Prompts and completions to imitate."""


def added(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Both counts together.

    >>> added({"too_long": 1}, {"too_long": 2, "no_tokens": 1})
    {'too_long': 3, 'no_tokens': 1}
    """
    names = dict.fromkeys([*counts, *more])
    return {name: counts.get(name, 0) + more.get(name, 0) for name in names}


def read_table(inputs: Any) -> tuple[pl.DataFrame, Place]:
    """All rows of files, or of a frame, relation, dataset or Arrow source; and a row's place."""
    with temporary() as home:
        source = open_source(paths_of(inputs, home), temp_dir=home)
        with connect(temp_dir=home, reads=source.reads, remote=source.remote, ordered=True) as con:
            table = pl.DataFrame(con.sql(f"SELECT * FROM {source.relation}").to_arrow_table())
        return table, partial(source.place_of, home=home)


def read_pairs(inputs: Any, *, where: str) -> PairRows:
    """The pairs in `inputs`, as `prefmill pairs` writes them.

    They have a prompt, or both sides have it in front. Raises `ColumnMissing`, `BadInput` for
    columns that are neither text nor messages.
    """
    table, place = read_table(inputs)
    missing = [side for side in _SIDES if side not in table.columns]
    if missing:
        raise ColumnMissing(
            f"{where}: no column {missing[0]!r}; got {table.columns},"
            " expected chosen, rejected and best also prompt.",
            hint="prefmill pairs writes such files.",
        )
    rows_in = table.height
    columns = [name for name in ("prompt", *_SIDES) if name in table.columns]
    for name in columns:
        _check_type(table, name, where)
    table, dropped = _without_nulls(table.with_row_index("__row"), columns)
    same = table["chosen"].eq_missing(table["rejected"])
    if same.any():  # there is nothing to prefer
        dropped["same_text"], table = int(same.sum()), table.filter(~same)
    implicit = False
    texts = [pl.col(name) for name in columns]
    if "prompt" not in columns:
        implicit = table["chosen"].dtype == pl.String
        texts = [pl.lit("").alias("prompt"), *texts] if implicit else _shared_prompt(table, where)
    frame = table.select(pl.col("__row").alias("row"), *texts, *_margins(table))
    if "margin" in frame.columns:
        bad = frame["margin"].is_null() | ~frame["margin"].is_finite()
        if bad.any():
            raise BadInput(
                f"{where}: {bad.sum()} pairs have no finite margin;"
                " got null, NaN or infinity, expected a number."
            )
    return PairRows(frame, rows_in, place, dropped, implicit)


def _shared_prompt(table: pl.DataFrame, where: str) -> list[pl.Expr]:
    """Conversations in two: the messages that both sides have in front, and the last ones."""
    size = pl.min_horizontal(*(pl.col(side).list.len() for side in _SIDES)) - 1
    heads = table.select(pl.col(side).list.head(size) for side in _SIDES)
    spellings = zip(*(spelled(heads[side]) for side in _SIDES), strict=True)
    differ = sum(one != other for one, other in spellings)
    if differ:
        raise BadInput(
            f"{where}: {differ} pairs have no prompt in common;"
            " got conversations that differ before their last message.",
            hint="prefmill pairs --format trl writes the prompt in a column of its own.",
        )
    answers = [pl.col(side).list.slice(size) for side in _SIDES]
    return [pl.col("chosen").list.head(size).alias("prompt"), *answers]


def _margins(table: pl.DataFrame) -> list[pl.Expr]:
    """The margin to train with, and the difference of the feedback's scores, where they are."""
    columns = []
    if "margin" in table.columns:
        columns.append(pl.col("margin").cast(pl.Float64))
    known = [pair for pair in _MARGINS if set(pair) <= set(table.columns)]
    for chosen, rejected in known[:1]:
        scores = pl.col(chosen).cast(pl.Float64) - pl.col(rejected).cast(pl.Float64)
        columns.append(scores.alias("difference"))
    return columns


def read_winners(inputs: Any, roles: RoleNames, *, where: str) -> Winners:
    """Prompts and completions for SFT, or conversations in a column messages."""
    table, place = read_table(inputs)
    rows_in = table.height
    if "messages" in table.columns and not roles:
        _check_type(table, "messages", where)
        empty = table["messages"].is_null() | (table["messages"].list.len() < 2)
        kept = table.with_row_index("row").filter(~empty)
        size = pl.col("messages").list.len()
        kept = kept.select(
            "row",
            prompt=pl.col("messages").list.head(size - 1),
            completion=pl.col("messages").list.tail(1),
        )
        dropped = {"null_completion": int(empty.sum())} if empty.any() else {}
        return Winners(kept, rows_in, place, dropped)
    named = text_roles(table.columns, roles, where=where, fits=fits_frame(table))
    table = table.select(prompt=pl.col(named.prompt), completion=pl.col(named.completion))
    for name in table.columns:
        _check_type(table, name, where)
    kept, dropped = _without_nulls(table.with_row_index("row"), ["prompt", "completion"])
    return Winners(kept, rows_in, place, dropped)


def _without_nulls(
    table: pl.DataFrame, columns: Sequence[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows without a null in `columns`, and how many have one, by reason."""
    dropped: dict[str, int] = {}
    for name in columns:
        reason = "null_prompt" if name == "prompt" else "null_completion"
        if null := int(table[name].null_count()):
            dropped[reason] = dropped.get(reason, 0) + null
            table = table.drop_nulls(name)
    return table, dropped


def hold_out(pairs: PairRows, share: float, seed: int, *, where: str) -> tuple[PairRows, PairRows]:
    """The pairs to train on and those held out: split by prompt, as `--split` does."""
    if pairs.implicit:
        raise BadArgument(
            f"{where}: pairs of plain texts without a prompt column cannot be split by prompt;"
            f" got holdout {share:g}.",
            hint="--holdout 0 and a test file;"
            " or pairs with a prompt: prefmill pairs --format trl.",
        )
    parts = dict(split_frame(pairs.frame, check_shares({"train": 1 - share, "test": share}), seed))
    return pairs.take(parts["train"]), pairs.take(parts["test"])


def pair_ids(
    encoder: Any, pairs: PairRows, *, where: str, on_bad_row: OnBadRow
) -> tuple[dict[str, list[list[int]]], Longs, dict[str, int]]:
    """Token ids of both sides, of which pairs, and how many pairs cannot be used, by reason."""
    if pairs.implicit and encoder.template != "concat":
        raise BadInput(
            f"{where}: pairs of plain texts with the prompt in front do not say where it ends,"
            " which the model's template needs to know.",
            hint="prefmill pairs with --format trl, or with --chat.",
        )
    prompts = pairs.frame["prompt"]
    sides = {
        side: _encoded(encoder, pairs, prompts, pairs.frame[side], where, on_bad_row)
        for side in _SIDES
    }
    lost = {place: reason for side in _SIDES for place, reason in sides[side][1].items()}
    both = np.array([place for place in range(pairs.frame.height) if place not in lost], np.int64)
    ids = {side: [rows[place] for place in both.tolist()] for side, (rows, _, _) in sides.items()}
    return ids, both, dict(Counter(lost.values()))


def winner_ids(
    encoder: Any, winners: Winners, *, where: str, on_bad_row: OnBadRow
) -> tuple[list[list[int]], list[int], dict[str, int]]:
    """Token ids, where the completion begins, and how many rows cannot be used, by reason."""
    frame = winners.frame
    rows, lost, starts = _encoded(
        encoder, winners, frame["prompt"], frame["completion"], where, on_bad_row
    )
    return list(rows.values()), [starts[place] for place in rows], dict(Counter(lost.values()))


def spelled(prompts: pl.Series) -> list[str]:
    """Prompts as texts that are equal where, and only where, the prompts are.

    Fields that only other rows have do not count.
    """
    return [
        value if isinstance(value, str) else json.dumps(present(value), ensure_ascii=False)
        for value in prompts.to_list()
    ]


def numbered(keys: Sequence[str]) -> Longs:
    """A number for every key, in the order of their first use; shape (keys,).

    >>> numbered(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    seen: dict[str, int] = {}
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), np.int64, len(keys))


def _encoded(
    encoder: Any,
    rows: Rows,
    prompts: pl.Series,
    completions: pl.Series,
    where: str,
    on_bad_row: OnBadRow,
) -> tuple[dict[int, list[int]], dict[int, str], dict[int, int]]:
    """By place: ids of the rows that can be used, why others cannot, where completions begin."""
    unanswered = _unanswered(completions)
    if unanswered and on_bad_row == "error":
        place, role = next(iter(unanswered.items()))
        what = (
            f"has a completion that ends in a message of {role!r};"
            " expected one of the assistant, which is what is learnt."
        )
        raise rows.bad(BadRow(where, what, row=0, reason="bad_message"), place, where)
    lost = dict.fromkeys(unanswered, "bad_message")
    left = np.setdiff1d(np.arange(len(prompts)), list(lost))
    groups = numbered(spelled(prompts))
    while True:
        try:
            encoded = encoder.encode(
                arrow(prompts.gather(left)), arrow(completions.gather(left)), groups[left]
            )
        except BadRow as error:
            if on_bad_row == "error":
                raise rows.bad(error, int(left[error.row]), where) from error
            lost |= {int(left[bad.row]): bad.reason for bad in error.found}
            left = left[~np.isin(left, list(lost))]
            continue
        places = left[encoded.kept].tolist()
        lost |= dict.fromkeys(np.setdiff1d(left, places).tolist(), "too_long")
        ids = {place: encoded.rows.row(i).tolist() for i, place in enumerate(places)}
        return ids, lost, dict(zip(places, encoded.rows.starts.tolist(), strict=True))


def _unanswered(completions: pl.Series) -> dict[int, str]:
    """By place: the role of the last message, where that is not who answers."""
    if completions.dtype == pl.String:
        return {}
    role, _ = message_keys(completions.dtype, "completion")
    last = completions.list.last().struct.field(role).to_list()
    return {place: speaker for place, speaker in enumerate(last) if speaker in _NO_ANSWER}


def arrow(series: pl.Series) -> pa.Array:
    """A column as one Arrow array."""
    array = series.to_arrow()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _check_type(table: pl.DataFrame, name: str, where: str) -> None:
    kind = table.schema[name]
    messages = isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct)
    if not (messages or (kind == pl.String and name != "messages")):
        text = "" if name == "messages" else "text or "
        raise BadInput(
            f"{where}: the column {name!r} cannot be trained on;"
            f" got {kind}, expected {text}messages {{role, content}}."
        )

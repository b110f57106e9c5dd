"""Arrow batches in, Arrow batches out, with scores: a few chunks in memory, however long it is.

    source ──whole groups──▶ chunks ──prepare (own thread)──▶ tokens ──run──▶ scores

Files, resumption and rows that are not in prompt order are the business of `prefmill.score`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.arguments import closed
from prefmill.errors import BadArgument, BadInput, BadRow
from prefmill.models.contract import check_on_bad_row
from prefmill.pools.columns import others_of, text_roles
from prefmill.pools.stream import (
    CHUNK_ROWS,
    LARGEST_GROUP,
    ahead,
    reader_of,
    starts_of_groups,
    whole_groups,
)
from prefmill.sampling.samplers import whole_text
from prefmill.scoring.bad_rows import Ready, RowGuard
from prefmill.scoring.scorers import Scored, Staged, as_scorer
from prefmill.table.fits import fits_table
from prefmill.table.roles import Roles

_Longs = npt.NDArray[np.int64]


class TextColumns(TypedDict, total=False):
    """The columns that scoring reads, where they are not called so."""

    prompt: str
    completion: str
    id: str


@closed("stream")
def score_stream(
    source: Any,
    scorer: Any,
    *,
    score_column: str = "score",
    chunk_rows: int = CHUNK_ROWS,
    on_bad_row: Literal["error", "null"] = "error",
    **roles: Unpack[TextColumns],
) -> pa.RecordBatchReader:
    """The batches of `source` with the scorer's columns after theirs, in the same order.

    source      anything that `pools.stream.reader_of` takes; rows of one prompt should stand
                together (`prefmill.score` sees to that itself), and have to where the scorer says
                that it compares them.
    scorer      a function over record batches, or `RewardModel`, `LogProb`, `ImplicitReward`,
                `JudgeScorer`, `EndpointScorer`, `Ensemble`.
    on_bad_row  a row that cannot be scored (`errors.BAD_ROW`) is an `error` that names it, or has
                a `null` score.
    roles       `prompt`, `completion`, `id`: the columns, where they are not called so.

    Score columns are float64, scores of steps are lists of it, and what a judge said is text. A row
    with a null prompt or completion has a null score, and so has one that the scorer leaves out.
    Reading and tokenising run ahead in their own threads. Raises `BadRow`.

    >>> batch = pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "bcd"]})
    >>> lengths = lambda batch: [len(text) for text in batch["completion"].to_pylist()]
    >>> score_stream(batch, lengths).read_all()["score"].to_pylist()
    [1.0, 3.0]
    """
    check_on_bad_row("stream", on_bad_row)
    staged = as_scorer(scorer).with_bad_rows(on_bad_row)
    if staged.over_pool:
        raise BadArgument(
            "stream: this scorer compares all rows of a pool, and a stream has no end;"
            " got over 'pool', expected 'prompt'.",
            hint="prefmill.score, which writes a file, has the whole pool.",
        )
    reader = reader_of(source)
    columns, empty = reader.schema.names, pa.Table.from_batches([], reader.schema)
    texts = text_roles(columns, roles, where="stream", fits=fits_table(empty))
    names = score_names(staged, score_column, columns)
    schema = reader.schema
    for name, kind in zip(names, score_types(staged), strict=True):
        schema = schema.append(pa.field(name, kind))
    others = others_of(staged.reads, columns, texts)
    work = _Work(RowGuard(staged, on_bad_row), texts, others, chunk_rows)

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk, scored in work.scored(reader):
            table = chunk.table
            arrays = score_arrays(scored, chunk.usable, table.num_rows)
            for name, array in zip(names, arrays, strict=True):
                table = table.append_column(pa.field(name, array.type), array)
            yield from table.cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


@dataclass(frozen=True)
class _Chunk:
    """Rows of the source, and the batch of those that can be scored.

    first   the place of the first row in the source
    usable  which rows of the table are in the batch
    """

    table: pa.Table
    first: int
    usable: _Longs
    batch: pa.RecordBatch

    def named(self, error: BadRow) -> BadRow:
        return error.named(f"row {self.first + int(self.usable[error.row])}")


@dataclass(frozen=True)
class _Work:
    """The three stages, each of which runs ahead of the next."""

    guard: RowGuard
    roles: Roles
    others: Sequence[str]
    chunk_rows: int

    def chunks(self, reader: pa.RecordBatchReader) -> Iterator[_Chunk]:
        first, prompt, compares = 0, self.roles.prompt, self.guard.scorer.compares
        seen: set[bytes] = set()
        largest = LARGEST_GROUP if compares is False else None
        for table in whole_groups(reader, prompt=prompt, rows=self.chunk_rows, largest=largest):
            if compares:
                _refuse_scattered(table[prompt].combine_chunks(), seen, first)
            usable, batch = _batch_of(table, self.roles, self.others)
            yield _Chunk(table, first, usable, batch)
            first += table.num_rows

    def prepared(self, reader: pa.RecordBatchReader) -> Iterator[tuple[_Chunk, Ready]]:
        for chunk in ahead(self.chunks(reader), name="prefmill-read"):
            try:
                yield chunk, self.guard.prepare(chunk.batch)
            except BadRow as error:
                raise chunk.named(error) from error

    def scored(self, reader: pa.RecordBatchReader) -> Iterator[tuple[_Chunk, Scored]]:
        for chunk, ready in ahead(self.prepared(reader), name="prefmill-tokenise"):
            try:
                yield chunk, self.guard.run(ready)
            except BadRow as error:
                raise chunk.named(error) from error


def score_names(scorer: Staged, score_column: str, taken: list[str]) -> list[str]:
    """The columns that scoring adds to those that are `taken`.

    The score has its name, all others stand after it (`score_mean`), then lists (`score_steps`),
    texts last (`score_verdict`).
    """
    made = (*scorer.columns, *scorer.lists, *scorer.texts)
    names = [f"{score_column}_{name}" for name in made]
    names[0] = score_column
    # Names that differ in case only cannot be read again.
    known = {name.casefold(): name for name in taken}
    there = [known[name.casefold()] for name in names if name.casefold() in known]
    if there:
        raise BadArgument(
            f"score: the input already has a column {there[0]!r}; got {taken}.",
            hint="--score-column NAME (score_column=NAME) writes another.",
        )
    if len({name.casefold() for name in names}) < len(names):
        raise BadArgument(
            f"score: columns that differ in case only cannot be read again; got {names}.",
            hint="name the scorers otherwise.",
        )
    return names


def score_types(scorer: Staged, text: pa.DataType | None = None) -> list[pa.DataType]:
    """The types of the columns that `score_names` names; `text` is that of texts."""
    numbers, lists, texts = len(scorer.columns), len(scorer.lists), len(scorer.texts)
    return [
        *[pa.float64()] * numbers,
        *[pa.list_(pa.float64())] * lists,
        *[text or pa.string()] * texts,
    ]


def score_arrays(scored: Scored, usable: _Longs, rows: int) -> list[pa.Array]:
    """Every column of `scored` over all `rows`, then its lists and its texts.

    They are null where a row was not usable or got no score.
    """
    null = np.ones(rows, bool)
    null[usable] = False if scored.null is None else scored.null
    arrays = []
    for values in scored.columns.values():
        column = np.zeros(rows)
        column[usable] = values
        arrays.append(pa.array(column, mask=null))
    for lists in scored.lists.values():
        whole = np.full(rows, None, object)
        for row, numbers in zip(usable.tolist(), lists, strict=True):
            if numbers is not None and not null[row]:
                whole[row] = [float(number) for number in numbers]
        arrays.append(pa.array(whole.tolist(), pa.list_(pa.float64())))
    for texts in scored.texts.values():
        whole = np.full(rows, None, object)
        whole[usable] = [whole_text(text) for text in texts]
        arrays.append(pa.array(whole, pa.string()))
    return arrays


def _batch_of(
    table: pa.Table, roles: Roles, others: Sequence[str]
) -> tuple[_Longs, pa.RecordBatch]:
    """Which rows can be scored, and their batch of prompt, completion, group and `others`."""
    prompt = table[roles.prompt].combine_chunks()
    completion = table[roles.completion].combine_chunks()
    group = pa.array(np.cumsum(starts_of_groups(prompt)), pa.int64())
    columns = {"prompt": prompt, "completion": completion, "group": group}
    columns |= {name: table[name].combine_chunks() for name in others}
    batch = pa.record_batch(columns)
    usable = np.flatnonzero(np.asarray(prompt.is_valid()) & np.asarray(completion.is_valid()))
    return usable, batch if len(usable) == len(prompt) else batch.take(pa.array(usable))


def _refuse_scattered(prompts: pa.Array, seen: set[bytes], first: int) -> None:
    """Raise `BadInput` for a prompt that came before, apart from these rows.

    `first` is the place of the first of them.
    """
    for row in np.flatnonzero(starts_of_groups(prompts)).tolist():
        prompt = prompts[row].as_py()
        if prompt is None:
            continue
        content = repr(prompt).encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(content, digest_size=16).digest()
        if key in seen:
            raise BadInput(
                f"stream: row {first + row} has a prompt that earlier rows have, apart from it;"
                " this scorer compares a prompt's rows.",
                hint="sort the source by prompt; or prefmill.score, which brings them together.",
            )
        seen.add(key)

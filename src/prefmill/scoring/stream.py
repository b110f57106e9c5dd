"""Arrow batches in, Arrow batches out, with scores: a few chunks in memory, however long it is.

    source ──whole groups──▶ chunks ──prepare (own thread)──▶ tokens ──run──▶ scores

Files, resumption and rows that are not in prompt order are the business of `prefmill.score`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow
from prefmill.pools.stream import (
    CHUNK_ROWS,
    LARGEST_GROUP,
    ahead,
    others_of,
    reader_of,
    starts_of_groups,
    text_roles,
    whole_groups,
)
from prefmill.sampling.samplers import whole_text
from prefmill.scoring.bad_rows import RowGuard, check_on_bad_row, with_bad_rows
from prefmill.scoring.scorers import Scored, as_scorer, text_names
from prefmill.table.fits import fits_table
from prefmill.table.roles import Roles


def score_stream(
    source: Any,
    scorer: Any,
    *,
    score_column: str = "score",
    chunk_rows: int = CHUNK_ROWS,
    on_bad_row: Literal["error", "null"] = "error",
    **roles: Any,
) -> pa.RecordBatchReader:
    """The batches of `source` with the columns of `scorer` behind theirs, in the same order; Arrow
    in, Arrow out, a few chunks in memory.

    source  anything that `reader_of` takes; rows of one prompt should stand together
    (`prefmill.score` sees to that itself), and have to
            where the scorer says that it compares them.
    scorer  a function over record batches, or `RewardModel`, `LogProb`, `ImplicitReward`,
    `JudgeScorer`, `EndpointScorer`, `Ensemble`. on_bad_row  a row that cannot be scored
    (`errors.BAD_ROW`) is an `error` that names it, or has a `null` score.
    roles   `prompt`, `completion`, `id`: the columns, where they are not called so.

    Score columns are float64, and what a judge said is text; a row with a null prompt or completion
    has a null score, and so has one that the scorer leaves out.
    Reading and tokenising run ahead in their own threads. Raises `BadRow`.

    >>> batch = pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "bcd"]})
    >>> score_stream(batch, lambda batch: [len(t) for t in batch["completion"].to_pylist()]).read_all()["score"].to_pylist()
    [1.0, 3.0]
    """
    check_on_bad_row("stream", on_bad_row)
    staged = with_bad_rows(as_scorer(scorer), on_bad_row)
    guard = RowGuard(staged, on_bad_row)
    reader = reader_of(source)
    found = text_roles(
        reader.schema.names,
        roles,
        where="stream",
        fits=fits_table(pa.Table.from_batches([], reader.schema)),
    )
    others = others_of(getattr(staged, "reads", ()), reader.schema.names, found)
    names = score_names(staged.columns, score_column, reader.schema.names, text_names(staged))
    kinds = [pa.float64()] * len(staged.columns) + [pa.string()] * len(text_names(staged))
    schema = reader.schema
    for name, kind in zip(names, kinds, strict=True):
        schema = schema.append(pa.field(name, kind))

    def chunks() -> Iterator[tuple[pa.Table, npt.NDArray[np.int64], pa.RecordBatch, int]]:
        first = 0
        seen: set[bytes] | None = set() if _insists(staged) else None
        largest = None if compares(staged) else LARGEST_GROUP
        for table in whole_groups(reader, prompt=found.prompt, rows=chunk_rows, largest=largest):
            if seen is not None:
                _refuse_scattered(table[found.prompt].combine_chunks(), seen, first)
            usable, batch = batch_of(table, found, others)
            yield table, usable, batch, first
            first += table.num_rows

    def prepared() -> Iterator[tuple[pa.Table, npt.NDArray[np.int64], int, Any]]:
        for table, usable, batch, first in ahead(chunks(), name="prefmill-read"):
            try:
                yield table, usable, first, guard.prepare(batch)
            except BadRow as error:
                raise error.named(f"row {first + int(usable[error.row])}") from error

    def scored() -> Iterator[pa.RecordBatch]:
        for table, usable, first, work in ahead(prepared(), name="prefmill-tokenise"):
            try:
                done = guard.run(work)
            except BadRow as error:
                raise error.named(f"row {first + int(usable[error.row])}") from error
            for name, column in zip(names, score_arrays(done, usable, table.num_rows), strict=True):
                table = table.append_column(pa.field(name, column.type), column)
            yield from table.cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, scored())


def score_names(
    columns: tuple[str, ...], score_column: str, taken: list[str], texts: tuple[str, ...] = ()
) -> list[str]:
    """The columns that scoring adds: the score under its name, all others behind it (`score_mean`),
    texts last (`score_verdict`).
    """
    names = [
        score_column if name == columns[0] else f"{score_column}_{name}"
        for name in (*columns, *texts)
    ]
    known = {
        name.casefold(): name for name in taken
    }  # names that differ in case only cannot be read again
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


def batch_of(
    table: pa.Table, roles: Roles, others: Sequence[str] = ()
) -> tuple[npt.NDArray[np.int64], pa.RecordBatch]:
    """The rows that can be scored, as a batch of prompt, completion, group and `others`, and which
    rows they are, shape (their number,).
    """
    prompt, completion = (
        table[roles.prompt].combine_chunks(),
        table[roles.completion].combine_chunks(),
    )
    group = pa.array(np.cumsum(starts_of_groups(prompt)), pa.int64())
    columns = {
        "prompt": prompt,
        "completion": completion,
        "group": group,
        **{name: table[name].combine_chunks() for name in others},
    }
    batch = pa.record_batch(columns)
    usable = np.flatnonzero(np.asarray(prompt.is_valid()) & np.asarray(completion.is_valid()))
    return usable, batch if len(usable) == len(prompt) else batch.take(pa.array(usable))


def compares(scorer: Any) -> bool:
    """Whether a row's score may hang on the other rows of its prompt: a scorer that does not say so
    is never shown half a prompt.
    """
    return bool(getattr(scorer, "compares", True))


def _insists(scorer: Any) -> bool:
    """Whether the scorer itself says that it compares the rows of a prompt."""
    parts = getattr(scorer, "scorers", None)
    if parts is not None:
        return any(_insists(part) for part in parts.values())
    return getattr(getattr(scorer, "function", scorer), "compares", False) is True


def _refuse_scattered(prompts: pa.Array, seen: set[bytes], first: int) -> None:
    """Raise `BadInput` for a prompt that came before, apart from these rows; `first` is the place
    of the first of them.
    """
    for row in np.flatnonzero(starts_of_groups(prompts)).tolist():
        prompt = prompts[row].as_py()
        if prompt is None:
            continue
        key = hashlib.blake2b(
            repr(prompt).encode("utf-8", "surrogatepass"), digest_size=16
        ).digest()
        if key in seen:
            raise BadInput(
                f"stream: row {first + row} has a prompt that earlier rows have, apart from it; this scorer compares a prompt's rows.",
                hint="sort the source by prompt; or prefmill.score, which brings them together.",
            )
        seen.add(key)


def score_arrays(scored: Scored, usable: npt.NDArray[np.int64], rows: int) -> list[pa.Array]:
    """Every column of `scored` over all `rows`, null where a row was not usable or got no score;
    then its texts.
    """
    null = np.ones(rows, bool)
    null[usable] = False if scored.null is None else scored.null
    arrays = []
    for values in scored.columns.values():
        column = np.zeros(rows)
        column[usable] = values
        arrays.append(pa.array(column, mask=null))
    for texts in scored.texts.values():
        said = np.full(rows, None, object)
        said[usable] = [whole_text(text) for text in texts]
        arrays.append(pa.array(said, pa.string()))
    return arrays

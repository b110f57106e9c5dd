"""What a run over grown prompts takes of the pool as it stands: answers that were sampled before.

    prompts ─┐ equal prompts  ┌─▶ their answers, kept in the ledger ──┐
    pool ────┘                └─▶ the others are sampled ─────────────┴─▶ a pool, in order

Prompts are joined by equality in DuckDB, out of core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from prefmill.connection import connect, literal, quote
from prefmill.pools.pool import Longs
from prefmill.pools.prompts import DistinctPrompts
from prefmill.readers import open_source
from prefmill.runs.resumable.answers import REASON
from prefmill.runs.resumable.chunks import BEFORE

_READ_ROWS = 8192
#: What is taken of an answer, as `Answering.chunk` makes it.
_TYPES = {
    "completion": "VARCHAR",
    "id": "VARCHAR",
    "temperature": "DOUBLE",
    "seed": "BIGINT",
    "finish_reason": "VARCHAR",
    "logprob": "DOUBLE",
    "n_tokens": "BIGINT",
    "duplicate": "BOOLEAN",
}


@dataclass(frozen=True)
class EarlierAnswers:
    """Prompts that a pool has answers for.

    shared  whether any prompt stands in the pool, or the pool is empty
    con     has the answers as the table `taken`: place (of the prompt), draw, and columns of them
    """

    shared: bool
    con: duckdb.DuckDBPyConnection

    def save(self, file: IO[bytes]) -> None:
        """Write the answers in the order of prompts and draws, with counts of them."""
        columns, counts = ", ".join(_TYPES), json.dumps(self._counts())
        rows = self.con.sql(f"SELECT place, {columns} FROM taken ORDER BY place, draw")
        reader = rows.to_arrow_reader(_READ_ROWS)
        schema = reader.schema.with_metadata({"counts": counts})
        with pa.ipc.new_file(file, schema) as writer:
            for batch in reader:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))

    def _counts(self) -> dict[str, int]:
        counted = self.con.sql(
            "SELECT count(DISTINCT place) AS before, coalesce(sum(n_tokens), 0)::BIGINT AS tokens,"
            " count(*) - count(n_tokens) AS untold, count(*) FILTER (completion = '') AS empty,"
            " count(*) FILTER (duplicate) AS duplicates FROM taken"
        )
        (values,) = counted.fetchall()
        counts = dict(zip(counted.columns, values, strict=True))
        reasons = self.con.sql("SELECT finish_reason, count(*) FROM taken GROUP BY 1 ORDER BY 1")
        counts |= {REASON + reason: number for reason, number in reasons.fetchall()}
        return {BEFORE: counts.pop("before"), **counts}


def earlier_answers(
    output: str, prompts: DistinctPrompts, draws: int, home: Path, **limits: Any
) -> EarlierAnswers:
    """The answers that `prompts` have in `output`, which `prefmill.sample` wrote.

    A prompt has `draws` of them. One without an answer (a null completion) is sampled again.
    """
    place = home / "earlier"
    place.mkdir()
    old = open_source([output], temp_dir=place, **limits)
    reads = [*old.reads, str(prompts.path)]
    con = connect(temp_dir=place, reads=reads, remote=old.remote, ordered=True, **limits)
    columns = ", ".join(f"{quote(name)}::{kind} AS {name}" for name, kind in _TYPES.items())
    con.execute(
        "CREATE VIEW old AS SELECT row_number() OVER () - 1 AS line, prompt,"
        f" {columns} FROM {old.relation}"
    )
    fresh = f"read_parquet({literal(str(prompts.path))})"
    con.execute(f"CREATE VIEW fresh AS SELECT row_number() OVER () - 1 AS place, * FROM {fresh}")
    con.execute(
        "CREATE VIEW firsts AS SELECT prompt, min(line) AS first,"
        f" count(completion) = {draws} AND count(finish_reason) = {draws} AND count(*) = {draws}"
        f" AND max(line) - min(line) = {draws - 1} AS whole FROM old WHERE prompt IS NOT NULL"
        " GROUP BY prompt"
    )
    types = [con.sql(f"SELECT prompt FROM {name}").types for name in ("fresh", "firsts")]
    equal = "fresh.prompt = firsts.prompt" if types[0] == types[1] else "false"
    con.execute(
        "CREATE TABLE matches AS SELECT place, first, whole FROM fresh JOIN firsts ON " + equal
    )
    con.execute(
        "CREATE VIEW taken AS SELECT place, draw, old.* EXCLUDE (line, prompt) FROM old JOIN"
        f" (SELECT place, unnest(range({draws})) AS draw, first + draw AS line FROM matches"
        " WHERE whole) USING (line)"
    )
    ((shared,),) = con.execute(
        "SELECT count(*) > 0 OR (SELECT count(*) = 0 FROM firsts) FROM matches"
    ).fetchall()
    return EarlierAnswers(shared, con)


def counts_of(earlier: pa.RecordBatchFileReader) -> dict[str, int]:
    """What was counted in answers that were taken over."""
    counts: dict[str, int] = json.loads(earlier.schema.metadata[b"counts"])
    return counts


def places_in(earlier: pa.RecordBatchFileReader) -> Longs:
    """The places of prompts whose answers were taken over, ascending."""
    batches = (earlier.get_batch(i).column(0) for i in range(earlier.num_record_batches))
    return np.unique(np.concatenate([np.zeros(0, np.int64), *map(np.asarray, batches)]))


def only(prompts: DistinctPrompts, places: Longs, home: Path) -> DistinctPrompts:
    """The prompts at `places` (ascending), in a file of their own."""
    path = home / "only.parquet"
    with connect(temp_dir=home, reads=[str(prompts.path)], ordered=True) as con:
        con.register("wanted", pa.table({"place": places}))
        con.execute(
            f"COPY (SELECT * EXCLUDE place FROM (SELECT row_number() OVER () - 1 AS place, *"
            f" FROM read_parquet({literal(str(prompts.path))})) JOIN wanted USING (place)"
            f" ORDER BY place) TO {literal(str(path))}"
            " (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 8192)"
        )
    return replace(prompts, path=path, count=len(places))


def earlier_frames(earlier: pa.RecordBatchFileReader) -> Iterator[pl.DataFrame]:
    """The answers that were taken over, in order."""
    for number in range(earlier.num_record_batches):
        yield pl.DataFrame(pa.Table.from_batches([earlier.get_batch(number)]))


class Merged:
    """Answers of two sources as one, in the order of their column `place`, each prompt in one."""

    def __init__(self, *sources: Iterator[pl.DataFrame]) -> None:
        self._sources = list(sources)
        self._held: list[pl.DataFrame | None] = [None for _ in sources]

    def before(self, end: int, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """The next answers, of prompts whose place is less than `end`."""
        parts = [pl.DataFrame(schema={"place": pl.Int64(), **schema})]
        for number, source in enumerate(self._sources):
            while True:
                held = self._held[number]
                if held is None:
                    held = next(source, None)
                    if held is None:
                        break
                inside = int(held["place"].search_sorted(end))
                part = held[:inside].with_columns(pl.col("place").cast(pl.Int64()))
                parts.append(part.select(parts[0].columns).cast(parts[0].schema))
                self._held[number] = held[inside:] if inside < held.height else None
                if inside < held.height:
                    break
        return pl.concat(parts).sort("place", maintain_order=True)

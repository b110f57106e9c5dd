"""Texts that are nearly the same: found by MinHash, told by comparing them.

    texts ──shingles──▶ signatures ──bands──▶ buckets ──▶ each text against the first of its bucket

A bucket only proposes. What counts is the share of shingles that both texts have, so nothing is
said to be near that is not; what no bucket proposes is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.errors import MissingPackage
from prefmill.reports.found import Near
from prefmill.reports.parts import short
from prefmill.reports.tables import text_sql
from prefmill.runs.job.job import Job

#: Two texts are near from this share of common shingles on (Jaccard).
NEAR = 0.8
#: Characters of a shingle, which needs no words, so that it fits every language.
_WIDTH = 5
#: Bands of a signature and their rows: of two texts at 0.8, 998 of 1,000 meet in a band, and of two
#: at 0.5 it is 28 in 100.
_BANDS, _ROWS = 21, 6
_BATCH = 2000
#: Of a longer text its beginning is compared.
_MOST = 20_000
_EXAMPLES, _SHORT = 3, 120
_FACTORS = np.random.default_rng(0).integers(1, 2**63, _ROWS, dtype=np.uint64) | np.uint64(1)


def check_near() -> None:
    """Raise `MissingPackage` where texts cannot be compared, before any work."""
    _minhash()


def _minhash() -> Any:
    try:
        from rensa import RMinHash
    except ImportError:
        raise MissingPackage.for_extra("report", "rensa", "report") from None
    return RMinHash


def shingles(text: str) -> set[str]:
    """What is compared of a text: each five characters of it, without case and spacing.

    >>> sorted(shingles("Hello  you"))
    ['ello ', 'hello', 'llo y', 'lo yo', 'o you']
    """
    plain = " ".join(text.casefold().split())
    return {plain[at : at + _WIDTH] for at in range(max(1, len(plain) - _WIDTH + 1))}


def near(job: Job, key: str, column: str) -> Near:
    """Different texts of a column that are nearly the same as an earlier one.

    `key` is the column of `facts` that tells texts apart. Cost: about 0.3 ms for a text of 1,000
    characters, and 340 bytes.
    """
    con, made, bands = job.con, f"near_{key}", f"bands_{key}"
    con.execute(
        f"CREATE TABLE {made} AS SELECT min(pos) AS pos, count(DISTINCT split) AS splits,"
        f" min(split) AS split FROM facts WHERE {key} IS NOT NULL GROUP BY {key}"
    )
    con.execute(f"CREATE TABLE {bands} (pos BIGINT, band UTINYINT, hash UBIGINT)")
    text = f"({text_sql(job, column)})[:{_MOST}]"
    query = f"SELECT pos, {text} AS text FROM {made} JOIN texts ON _pos = pos"
    for batch in con.cursor().sql(query).to_arrow_reader(_BATCH):
        frame = pl.DataFrame(batch)
        _add(con, bands, frame["pos"].to_numpy(), frame["text"].to_list())
    con.execute(
        f"CREATE TABLE proposed_{key} AS SELECT DISTINCT pos, first FROM ("
        f"SELECT pos, min(pos) OVER (PARTITION BY band, hash) AS first FROM {bands})"
        " WHERE first < pos"
    )
    con.execute(f"DROP TABLE {bands}")
    found = dict(_told_near(con, f"proposed_{key}", text))
    (texts,) = con.execute(f"SELECT count(*) FROM {made}").fetchall()[0]
    return Near(
        texts=texts,
        near=len(found),
        across=_across(con, made, found),
        examples=_examples(con, found, text),
    )


def _add(
    con: duckdb.DuckDBPyConnection, bands: str, positions: npt.NDArray[Any], texts: Sequence[str]
) -> None:
    make = _minhash()
    signatures = np.empty((len(texts), _BANDS * _ROWS), np.uint64)
    for place, text in enumerate(texts):
        one = make(num_perm=_BANDS * _ROWS, seed=0)
        one.update(list(shingles(text)))
        signatures[place] = one.digest()
    hashes = (signatures.reshape(-1, _BANDS, _ROWS) * _FACTORS).sum(axis=2, dtype=np.uint64)
    frame = pl.DataFrame(
        {
            "pos": np.repeat(positions, _BANDS),
            "band": np.tile(np.arange(_BANDS, dtype=np.uint8), len(texts)),
            "hash": hashes.ravel(),
        }
    )
    con.register("_bands", frame.to_arrow())
    con.execute(f"INSERT INTO {bands} SELECT pos, band, hash FROM _bands")
    con.unregister("_bands")


def _told_near(
    con: duckdb.DuckDBPyConnection, proposed: str, text: str
) -> Iterator[tuple[int, int]]:
    """Each text that is near an earlier one, by position, and the earliest of those."""
    con.execute(
        f"CREATE TABLE texts_{proposed} AS SELECT _pos AS pos, {text} AS text FROM texts WHERE _pos"
        f" IN (SELECT pos FROM {proposed} UNION SELECT first FROM {proposed})"
    )
    both = (
        f"SELECT p.pos, p.first, a.text, b.text AS other FROM {proposed} p"
        f" JOIN texts_{proposed} a ON a.pos = p.pos JOIN texts_{proposed} b ON b.pos = p.first"
    )
    earliest: dict[int, int] = {}
    for batch in con.cursor().sql(both).to_arrow_reader(_BATCH):
        for pos, first, one, other in pl.DataFrame(batch).iter_rows():
            if first < earliest.get(pos, pos) and share(one, other) >= NEAR:
                earliest[pos] = first
    yield from sorted(earliest.items())


def share(one: str, other: str) -> float:
    """The share of shingles of either text that both have (Jaccard).

    >>> share("the same text", "The  same text"), share("abcdefg", "vwxyz")
    (1.0, 0.0)
    """
    here, there = shingles(one), shingles(other)
    return len(here & there) / len(here | there)


def _across(con: duckdb.DuckDBPyConnection, made: str, found: dict[int, int]) -> int:
    """How many of the texts are of another split than the one that they are near."""
    pairs = pl.DataFrame(
        {"pos": list(found), "first": list(found.values())},
        schema={"pos": pl.Int64, "first": pl.Int64},
    )
    con.register("_near", pairs.to_arrow())
    query = (
        f"SELECT count(*) FROM _near n JOIN {made} a ON a.pos = n.pos JOIN {made} b"
        " ON b.pos = n.first WHERE a.split <> b.split OR a.splits <> b.splits"
    )
    (across,) = con.execute(query).fetchall()[0]
    con.unregister("_near")
    return int(across)


def _examples(
    con: duckdb.DuckDBPyConnection, found: dict[int, int], text: str
) -> list[tuple[str, str]]:
    pairs = list(found.items())[:_EXAMPLES]
    wanted = ", ".join(str(position) for pair in pairs for position in pair)
    if not wanted:
        return []
    query = f"SELECT _pos, {text} FROM texts WHERE _pos IN ({wanted})"
    at = dict(con.execute(query).fetchall())
    return [_around(at[first], at[pos]) for pos, first in pairs]


def _around(one: str, other: str) -> tuple[str, str]:
    """What both begin with, or where they begin to differ.

    >>> _around("a" * 500 + " b" + "c" * 500, "a" * 500 + " d")[1]
    '…aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa d'
    """
    both = enumerate(zip(one, other, strict=False))
    same = next((place for place, (here, there) in both if here != there), 0)
    start = max(0, same - _SHORT // 3) if same > _SHORT * 2 // 3 else 0
    begin = "…" if start else ""
    return begin + short(one[start:], _SHORT), begin + short(other[start:], _SHORT)

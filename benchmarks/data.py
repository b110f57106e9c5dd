"""Seeded feedback tables for the benchmarks: the same bytes of text from the same seed, on any
machine.

Feedback has the shape of rated instruction data: prompts of about 120 characters, answers of about
600, four answers a prompt, scores 1..5, rows in random order. A pool has that of sampled
candidates: answers of about 120 characters, 16 a prompt, and scores as a reward model gives them.
Words are drawn with Zipf frequencies, so that the text compresses as prose does (about 2.2 times
with zstd), which is what makes the timings of Parquet honest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHUNK_ROWS = 250_000
ANSWERS_PER_PROMPT = 4
CANDIDATES_PER_PROMPT = 16


def _prose(rng: np.random.Generator, n_bytes: int) -> np.ndarray:
    """About `n_bytes` of lower-case words separated by single spaces, as a uint8 array."""
    letters = np.frombuffer(b"etaoinshrdlucmwfgypbvkxjqz", dtype=np.uint8)
    weights = 1.0 / np.arange(1, letters.size + 1)
    weights /= weights.sum()
    words = [bytes(rng.choice(letters, size=rng.integers(2, 11), p=weights)) for _ in range(8000)]
    zipf = 1.0 / np.arange(1, len(words) + 1) ** 0.8
    zipf /= zipf.sum()
    picks = rng.choice(len(words), size=n_bytes // 5, p=zipf)
    return np.frombuffer(b" ".join(words[i] for i in picks), dtype=np.uint8)


def _slices(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> pa.LargeStringArray:
    """Strings of `lengths` bytes that begin at `starts` of `text`."""
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    where = np.arange(offsets[-1], dtype=np.int64)
    where += np.repeat(starts - offsets[:-1], lengths)
    return pa.LargeStringArray.from_buffers(
        lengths.size, pa.py_buffer(offsets), pa.py_buffer(text[where])
    )


def write_feedback(path: str | Path, rows: int, *, seed: int = 0) -> Path:
    """Write `rows` feedback rows (prompt, completion, score float64, id int64) to a zstd Parquet
    file at `path`.
    """
    return _write(
        path, rows, seed, answers=ANSWERS_PER_PROMPT, length=(600, 200, 40, 2000), rated=True
    )


def write_pool(path: str | Path, rows: int, *, seed: int = 0, grouped: bool = False) -> Path:
    """Write `rows` scored candidates, with the columns of `write_feedback`, to a zstd Parquet file
    at `path`; with `grouped` those of a prompt stand together, else they are in random order.
    """
    return _write(
        path,
        rows,
        seed,
        answers=CANDIDATES_PER_PROMPT,
        length=(120, 40, 20, 400),
        rated=False,
        grouped=grouped,
    )


def _write(
    path: str | Path,
    rows: int,
    seed: int,
    *,
    answers: int,
    length: tuple[int, int, int, int],
    rated: bool,
    grouped: bool = False,
) -> Path:
    """`length` of the answers: mean, deviation, smallest, largest."""
    path = Path(path)
    rng = np.random.default_rng(seed)
    text = _prose(rng, 16_000_000)
    n_prompts = rows // answers
    mean, deviation, shortest, longest = length
    prompt_starts = rng.integers(0, text.size - 400, size=n_prompts)
    prompt_lengths = np.clip(rng.normal(110, 30, size=n_prompts), 20, 300).astype(np.int64)
    order = np.arange(rows) if grouped else rng.permutation(rows)
    schema = pa.schema(
        [
            ("prompt", pa.string()),
            ("completion", pa.string()),
            ("score", pa.float64()),
            ("id", pa.int64()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for lo in range(0, rows, CHUNK_ROWS):
            ids = order[lo : lo + CHUNK_ROWS]
            group = ids // answers
            # The number in front keeps prompts distinct whatever the slices of prose are.
            numbered = pa.array([f"{g} " for g in group.tolist()], pa.large_string())
            prose = _slices(text, prompt_starts[group], prompt_lengths[group])
            prompt = pa.compute.binary_join_element_wise(
                numbered, prose, pa.scalar("", pa.large_string())
            )
            drawn = rng.normal(mean, deviation, size=ids.size)
            lengths = np.clip(drawn, shortest, longest).astype(np.int64)
            starts = rng.integers(0, text.size - longest - 1, size=ids.size)
            completion = _slices(text, starts, lengths)
            if rated:
                score = rng.integers(1, 6, size=ids.size).astype(np.float64)
            else:
                score = rng.normal(0, 2, size=ids.size)
            writer.write_table(
                pa.table(
                    [prompt.cast(pa.string()), completion.cast(pa.string()), score, ids],
                    schema=schema,
                ),
                row_group_size=122_880,
            )
    return path

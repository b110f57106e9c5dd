"""A small pool of candidates with planted facts, for docs/sql-cookbook.md:  python
examples/make_pool.py pool

Writes pool.parquet (one row for every candidate: prompt, category, completion, score, source) and
judgements.parquet (one row for every rating: prompt, completion, score, annotator) into the folder.
The same rows every time. What is planted stands in the constants below.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CATEGORIES = ("code", "math", "writing")
SOURCES = ("alpha", "beta", "gamma", "delta")
PROMPTS_EACH = 20
CANDIDATES_EACH = 2  # of each source; delta has twice as many

#: Who is good at what: quality of a source in a category, on the scale of scores (1 to 5).
QUALITY = {
    "code": {"alpha": 4.2, "beta": 3.0, "gamma": 3.0, "delta": 2.2},
    "math": {"alpha": 3.0, "beta": 4.2, "gamma": 3.0, "delta": 2.2},
    "writing": {"alpha": 3.0, "beta": 3.0, "gamma": 4.2, "delta": 2.2},
}
#: In writing, and only there, the longer of two answers tends to score higher.
LENGTH_SELLS_IN = "writing"
#: Prompts whose answers all have one score.
FLAT = ("code task 7", "math task 3", "math task 11", "writing task 19")
#: Prompts with an answer that another one repeats but for case, spaces and a full stop.
REPEATED = ("code task 2", "math task 5", "writing task 8")
#: Rows without a score.
UNSCORED = ("code task 4", "writing task 12")
#: ann and bob mostly agree, bob one point lower now and then; carl guesses.
RATERS = ("ann", "bob", "carl")
RATED = 30  # candidates, the first of the first prompts

WORDS = (
    "the",
    "answer",
    "needs",
    "a",
    "clear",
    "step",
    "that",
    "follows",
    "from",
    "what",
    "is",
    "given",
    "and",
    "ends",
    "where",
    "it",
    "should",
)


def chance(*what: object) -> float:
    """A number in [0, 1) that depends on `what` alone."""
    digest = hashlib.md5(repr(what).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:6], "little") / 2**48


def text(words: int, *what: object) -> str:
    """So many words, drawn by `what`; the first ones say whose answer it is."""
    drawn = [WORDS[int(chance("word", i, *what) * len(WORDS))] for i in range(words)]
    return f"{' '.join(map(str, what))}: {' '.join(drawn)}."


def candidates() -> list[dict[str, object]]:
    """The rows of the pool."""
    rows: list[dict[str, object]] = []
    for category in CATEGORIES:
        for number in range(PROMPTS_EACH):
            prompt = f"{category} task {number}"
            for source in SOURCES:
                for draw in range(CANDIDATES_EACH * (2 if source == "delta" else 1)):
                    words = 8 + int(chance("length", prompt, source, draw) * 40)
                    noise = 1.6 * (chance("noise", prompt, source, draw) - 0.5)
                    bonus = (words - 28) / 12 if category == LENGTH_SELLS_IN else 0.0
                    score = round(min(5.0, max(1.0, QUALITY[category][source] + noise + bonus)), 1)
                    score = 3.0 if prompt in FLAT else score
                    rows.append(
                        {
                            "prompt": prompt,
                            "category": category,
                            "completion": text(words, source, draw, prompt),
                            "score": score,
                            "source": source,
                        }
                    )
            if prompt in REPEATED:
                first = rows[-1]
                again = str(first["completion"]).upper().replace(" ", "  ").rstrip(".")
                rows.append({**first, "completion": again})
            if prompt in UNSCORED:
                rows[-1]["score"] = None
    return rows


def judgements(pool: list[dict[str, object]]) -> list[dict[str, object]]:
    """Ratings of the first candidate of alpha for the first prompts, 1 to 5, by each rater."""
    rows: list[dict[str, object]] = []
    rated = [
        row
        for i, row in enumerate(pool)
        if row["source"] == "alpha" and (i == 0 or pool[i - 1]["prompt"] != row["prompt"])
    ][:RATED]
    for row in rated:
        true = 1 + int(5 * chance("true", row["completion"]))
        for rater in RATERS:
            off = chance(rater, row["completion"])
            score = {"ann": true, "bob": max(1, true - (off < 0.25)), "carl": 1 + int(5 * off)}[
                rater
            ]
            rows.append(
                {
                    "prompt": row["prompt"],
                    "completion": row["completion"],
                    "score": score,
                    "annotator": rater,
                }
            )
    return rows


def main(folder: str) -> None:
    """Write both files into `folder`."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    pool = candidates()
    ratings = judgements(pool)
    pq.write_table(pa.Table.from_pylist(pool), home / "pool.parquet")
    pq.write_table(pa.Table.from_pylist(ratings), home / "judgements.parquet")
    print(
        f"{folder}: {len(pool)} candidates of {len(CATEGORIES) * PROMPTS_EACH} prompts,"
        f" {len(ratings)} judgements"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_pool.py FOLDER")
    main(sys.argv[1])

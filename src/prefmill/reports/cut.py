"""What a limit of tokens leaves of pairs: which answers it cuts, and which pairs it makes the same.

    texts of both sides ──the user's tokenizer──▶ tokens, a hash of the first N ──▶ per pair

A row is made into tokens as `prefmill score` and `prefmill train-reward` make it: prompt and answer
as one conversation, by the chat template, and cut at the tokenizer's own side. Texts are read some
at a time, each once, and leave as two numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage
from prefmill.reports.found import Cut
from prefmill.runs.job.job import Job

#: What TRL cuts at where nobody says.
MAX_LENGTH = 1024
_BATCH = 2000
#: Of more pairs that a cut makes the same it is not told which limit would be enough.
_LOOKED_AT = 2000
_SCHEMA = {"pos": pl.Int64, "tokens": pl.Int32, "begin": pl.Binary}
#: Rows of a batch, by place, with the tokens of each; those that cannot be read are missing.
Read = Callable[[Sequence[Any], Sequence[Any]], dict[int, list[int]]]


class Cutter:
    """A tokenizer from a folder, and a limit of tokens. Nothing is fetched.

    Raises `BadArgument` for a limit that is none, `BadInput` for a folder without a tokenizer,
    `MissingPackage`.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        if type(limit) is not int or limit < 1:
            raise BadArgument(
                f"report: max_length is no number of tokens; got {limit!r}, expected 1 or more."
            )
        place = Path(folder)
        if not place.is_dir():
            raise BadInput(
                f"report: no directory with a tokenizer; got {str(folder)!r}.",
                hint="name the folder that save_pretrained wrote: nothing is fetched for a report.",
            )
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            package = error.name or "transformers"
            raise MissingPackage.for_extra("report", package, "score") from None
        from prefmill.models.encoder import Encoder
        from prefmill.models.loading import load_tokenizer

        self.folder, self.limit = str(folder), limit
        tokenizer = load_tokenizer(place, where="report")
        self.encoder: Any = Encoder(tokenizer, where="report")
        self.cutting: Any = Encoder(tokenizer, limit=limit, on_too_long="truncate", where="report")
        self.from_left = tokenizer.truncation_side == "left"

    def read(
        self, prompts: Sequence[Any], answers: Sequence[Any], *, cut: bool = False
    ) -> dict[int, list[int]]:
        """The tokens of rows, by place; those that cannot be read are not there."""
        encoder = self.cutting if cut else self.encoder
        left = [
            place
            for place, both in enumerate(zip(prompts, answers, strict=True))
            if None not in both
        ]
        while left:
            columns = (pa.array([side[place] for place in left]) for side in (prompts, answers))
            try:
                encoded = encoder.encode(*columns, np.zeros(len(left), np.int64))
            except BadRow as error:
                bad = {each.row for each in error.found}
                left = [place for row, place in enumerate(left) if row not in bad]
                continue
            return {place: encoded.rows.row(row).tolist() for row, place in enumerate(left)}
        return {}

    def enough(self, one: Sequence[int], other: Sequence[int]) -> int:
        """The smallest limit at which two different rows stay different."""
        if self.encoder.template == "pair":  # both texts lose tokens there
            return max(len(one), len(other))
        step = -1 if self.from_left else 1
        both = zip(one[::step], other[::step], strict=False)
        same = next((place for place, (a, b) in enumerate(both) if a != b), None)
        return min(len(one), len(other)) + 1 if same is None else same + 1


def cut(job: Job, cutter: Cutter, *, unpaired: bool) -> Cut:
    """What the limit does to the pairs of the table `sides`, or to all answers of `facts`."""
    con = job.con
    con.execute("CREATE TABLE cut_pairs AS SELECT slot, c_pos, r_pos FROM sides WHERE NOT same")
    con.execute("CREATE TABLE cuts (pos BIGINT, tokens INTEGER, begin BLOB)")
    wanted = "(SELECT c_pos AS pos FROM cut_pairs UNION SELECT r_pos FROM cut_pairs)"
    if unpaired:
        wanted = f"(SELECT min(pos) AS pos FROM {_ANSWERS} GROUP BY prompt, answer)"
    for positions, prompts, answers in _texts(job, wanted):
        whole = cutter.read(prompts, answers)
        over = [place for place, ids in whole.items() if len(ids) > cutter.limit]
        some = ([side[place] for place in over] for side in (prompts, answers))
        begins = dict(whole)
        begins |= {over[row]: ids for row, ids in cutter.read(*some, cut=True).items()}
        rows = [(positions[at], len(ids), _hash(begins[at])) for at, ids in whole.items()]
        con.register("_cuts", pl.DataFrame(rows, _SCHEMA, orient="row").to_arrow())
        con.execute("INSERT INTO cuts FROM _cuts")
        con.unregister("_cuts")
    (found,) = con.execute(_COUNTS.format(limit=cutter.limit)).fetchall()
    pairs, left_out, same, answers_read, over_limit, longest = map(int, found)
    (wanted_pairs,) = con.execute("SELECT count(*) FROM cut_pairs").fetchall()[0]
    return Cut(
        tokenizer=cutter.folder,
        limit=cutter.limit,
        end="first" if cutter.from_left else "last",
        answers=answers_read,
        cut=over_limit,
        longest=longest,
        pairs=pairs,
        unread=wanted_pairs - pairs,
        pairs_cut=left_out,
        same=same,
        enough=_enough(job, cutter) if 0 < same <= _LOOKED_AT else None,
    )


_ANSWERS = "facts WHERE prompt IS NOT NULL AND answer IS NOT NULL"
_SAME = "c.begin = r.begin AND (c.tokens > {limit} OR r.tokens > {limit})"
_BOTH = "cut_pairs p JOIN cuts c ON c.pos = p.c_pos JOIN cuts r ON r.pos = p.r_pos"
_COUNTS = f"""
    WITH told AS (SELECT c.tokens > {{limit}} OR r.tokens > {{limit}} AS over, {_SAME} AS same
                  FROM {_BOTH})
    SELECT (SELECT count(*) FROM told), (SELECT count(*) FROM told WHERE over),
           (SELECT count(*) FROM told WHERE same), count(*), count(*) FILTER (tokens > {{limit}}),
           coalesce(max(tokens), 0) FROM cuts
"""


def _texts(job: Job, wanted: str) -> Iterator[tuple[list[int], list[Any], list[Any]]]:
    """Positions, prompts and answers at the positions `wanted`, some at a time."""
    query = f"SELECT w.pos, _prompt, _completion FROM {wanted} w JOIN texts ON _pos = w.pos"
    for batch in job.con.cursor().sql(query).to_arrow_reader(_BATCH):
        positions, prompts, answers = (column.to_pylist() for column in batch.columns)
        yield positions, prompts, answers


def _hash(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=16).digest()


def _enough(job: Job, cutter: Cutter) -> int:
    """The smallest limit that leaves no pair the same."""
    same = _SAME.format(limit=cutter.limit)
    pairs = job.con.execute(f"SELECT c_pos, r_pos FROM {_BOTH} WHERE {same}").fetchall()
    job.con.execute(f"CREATE TABLE cut_same AS SELECT c_pos, r_pos FROM {_BOTH} WHERE {same}")
    ids: dict[int, list[int]] = {}
    wanted = "(SELECT c_pos AS pos FROM cut_same UNION SELECT r_pos FROM cut_same)"
    for positions, prompts, answers in _texts(job, wanted):
        ids |= {positions[at]: row for at, row in cutter.read(prompts, answers).items()}
    return max(cutter.enough(ids[chosen], ids[rejected]) for chosen, rejected in pairs)

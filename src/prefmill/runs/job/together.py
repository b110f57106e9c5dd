"""A pool whose prompts stand together, as its files say: one pass in order, and nothing is hashed.

    files ──▶ chunks of whole prompts ──judge──▶ runs of candidates ──pick──▶ rows of output
                   └── one hash of each run's prompt ──▶ at the end: did any prompt come again?

A claim in a file is a hint. If a prompt comes again, or a chunk would be too large, `NotTogether`
is raised before anything is published, and the caller ranks by hashing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from prefmill.connection import MB
from prefmill.engines import frames
from prefmill.readers.staging import in_order
from prefmill.rules.rows import judged, numbered
from prefmill.rules.together import pools, select, starts_of
from prefmill.table.chance import prompt_hash
from prefmill.table.report import PairReport

if TYPE_CHECKING:
    from prefmill.runs.job.job import Job

#: A chunk has about so many rows, or fewer of this size.
_ROWS, _LEAST_ROWS, _BYTES = 200_000, 1000, 64 * MB
#: Times the rows of a chunk: a prompt with more rows is left to the engine that spills.
_LARGEST = 8
_THREADS = 2
#: Under a smaller limit the engine that keeps to it ranks: Polars reads some row groups ahead.
_LEAST_MEMORY = 2000 * MB


class NotTogether(Exception):
    """A prompt came again, or has too many rows: whoever asked has to rank by hashing."""


@dataclass(frozen=True)
class Chunk:
    """Whole prompts: their rows, from position `first` on, and where in these each run begins."""

    first: int
    rows: pl.DataFrame
    begins: npt.NDArray[np.int64]


def stand_together(job: Job) -> bool:
    """Whether the files say that the prompts which the job groups by stand together.

    Where rows are judged by more than their own cells, or merged, the answer is no.
    """
    source, read, plan = job.source, job.program.read, job.plan
    there = source.together is not None and source.together == job.roles.prompt
    if not there or source.remote or source.stays or job.rowed.shape or job.roles.group:
        return False
    if job.memory_bytes is not None and job.memory_bytes < _LEAST_MEMORY:
        return False
    if read.merged or read.conclusion or job.roles.aspect or job.scalars:
        return False
    by_row = plan.aggregate == "none" and not plan.wide
    return by_row and plan.tie_break == "position" and plan.on_invalid == "drop"


def picks_together(job: Job) -> bool:
    """Whether the plan picks by rank, from prompts that stand together."""
    return job.output.by_rank is not None and stand_together(job)


def chunks(job: Job, extra: Sequence[str] = ()) -> Iterator[Chunk]:
    """The rows in order, in chunks of whole prompts, with the columns of roles and `extra`.

    Raises `NotTogether`, at the latest at the end.
    """
    prompt, done = job.roles.prompt, 0
    most = max(_LEAST_ROWS, min(_ROWS, _BYTES // job.row_bytes()))
    names = dict.fromkeys([*job.program.read.columns().values(), *extra])
    batches = (
        job.scan().select(cs.by_name(*names)).collect_batches(maintain_order=True, chunk_size=most)
    )
    hashes: list[pl.Series] = []
    held = pl.DataFrame()
    for batch in itertools.chain(batches, [None]):
        if batch is not None:
            held = pl.concat([held, batch]) if held.height else batch
        if not held.height:
            continue
        begins = starts_of(held[prompt].rle_id().to_numpy())
        # The last run may go on in the next batch.
        cut = held.height if batch is None else int(begins[-1])
        if held.height - cut > _LARGEST * most:
            raise NotTogether
        if cut:
            begins = begins[begins < cut]
            rows = held.head(cut)
            hashes.append(rows[prompt].gather(begins).drop_nulls().hash())
            yield Chunk(done, rows, begins)
            done, held = done + cut, held.slice(cut)
    # Hashes that differ are of prompts that differ; two equal ones are taken for one prompt.
    if hashes and (every := pl.concat(hashes)).n_unique() < len(every):
        raise NotTogether


def _judged(job: Job, chunk: Chunk) -> pl.DataFrame:
    """The step `counted` over whole prompts; `_grp` is the number of the run."""
    read = job.program.read
    sizes = np.diff(chunk.begins, append=chunk.rows.height)
    runs = pl.Series(np.repeat(np.arange(len(sizes)), sizes))
    key = pl.when(pl.col("_prompt").is_not_null()).then(runs)
    rows = numbered(read, chunk.rows.lazy(), first=chunk.first)
    made = {"numbered": rows.with_columns(_prompt=key)}
    told = judged(made["numbered"], read, job.never_null).collect(engine="in-memory")
    if _all_stand(told):  # a look at numbers; reasons are texts
        return told.with_columns(_reason=pl.lit(None, pl.String))
    (step,) = (step for step in job.program.steps if step.name == "counted")
    counted: pl.LazyFrame = frames.run(step, made | {"judged": told.lazy()})
    return counted.collect(engine="in-memory")


def _all_stand(told: pl.DataFrame) -> bool:
    """Whether nothing is there that a row is dropped for."""
    if "_refusal" in told.columns:
        return False
    bad = ~pl.col("_has_prompt", "_has_completion"), pl.col("_null_score")
    value = pl.col("_value")
    return not told.select(
        pl.any_horizontal(*bad, value.is_null(), ~value.is_finite()).any()
    ).item()


def picked_frames(job: Job) -> Iterator[pl.DataFrame]:
    """The output of a plan of which `picks_together` holds, in order, as frames of the assembly's
    schema; at the end the job has its account.

    Raises `NotTogether`; what came before it is of no use then.
    """
    by = job.output.by_rank
    assert by is not None, "asked without `picks_together`"
    assembly = replace(job.assembly, key_is_prompt=False)
    read = {"_prompt": job.roles.prompt, "_completion": job.roles.completion}
    read |= {f"_keep{place}": name for place, name in enumerate(assembly.keep)}
    ours = {name: read[name] for name in assembly.columns_read()}

    def pick(chunk: Chunk) -> tuple[pl.DataFrame, PairReport]:
        counted = _judged(job, chunk)
        slots, account = select(counted, k=by.k, pick=by.pick, min_score=by.min_score)
        texts = pl.DataFrame([chunk.rows[name].alias(own) for own, name in ours.items()])
        return assembly.frame(slots, texts, partial(np.add, -chunk.first))[0], account

    total = PairReport(0, 0, 0)
    # Reading, picking and encoding overlap: each waits for another part of the time.
    for frame, account in in_order(pick, chunks(job, list(ours.values())), _THREADS):
        total = PairReport.total([total, account])
        yield frame
        job.tell("writing", total.rows_in / max(1, job.source.rows))
    if not total.pairs_out:  # what would help is asked of ranked rows
        raise NotTogether
    job.accounted(total)


def score_pools(job: Job, seed: int | None) -> tuple[pl.DataFrame, dict[str, int]]:
    """The pools of a curve (_by: null, _h: the prompt's hash under `seed`, else 0, and _scores,
    sorted), and the rows dropped, by reason. Raises `NotTogether`.
    """
    found: list[pl.DataFrame] = []
    dropped: Counter[str] = Counter()
    for chunk in chunks(job):
        made, reasons = pools(_judged(job, chunk))
        dropped.update(reasons)
        prompts = chunk.rows[job.roles.prompt].gather(made["_first"] - chunk.first)
        hashes = pl.lit(0, pl.UInt64)
        if seed is not None:
            hashes = pl.lit(prompt_hash(prompts, f"{seed}:".encode()))
        found.append(made.select(_by=pl.lit(None, pl.String), _h=hashes, _scores="_scores"))
    if not found:
        raise NotTogether
    return pl.concat(found), dict(dropped)

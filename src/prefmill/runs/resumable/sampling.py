"""Prompts and a sampler, as a run that goes on: its chunks, its key, and its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.disk.targets import shown
from prefmill.errors import AccountingError, BadRow
from prefmill.pools.pool import Longs
from prefmill.pools.prompts import DistinctPrompts, open_prompts
from prefmill.readers import Source
from prefmill.runs.resumable.answers import REASON, Answering
from prefmill.runs.resumable.chunks import (
    BEFORE,
    FIRST,
    Pace,
    Resumable,
    by_reason,
)
from prefmill.runs.resumable.grown_prompts import (
    Merged,
    counts_of,
    earlier_answers,
    earlier_frames,
    only,
    places_in,
)
from prefmill.runs.resumable.sample_report import SampleReport
from prefmill.sampling.samplers import Sampler
from prefmill.sampling.seeds import Asked

#: After the prompt, in this order; kept columns come last.
COLUMNS: Mapping[str, pl.DataType] = {
    "completion": pl.String(),
    "id": pl.String(),
    "stage": pl.Int64(),
    "source": pl.String(),
    "temperature": pl.Float64(),
    "seed": pl.Int64(),
    "finish_reason": pl.String(),
    "logprob": pl.Float64(),
    "n_tokens": pl.Int64(),
    "duplicate": pl.Boolean(),
}


@dataclass(kw_only=True)
class Sampling(Resumable[Sampler, SampleReport]):
    """Prompts, what is asked of them, and a sampler."""

    command: ClassVar[str] = "sample"
    reports: ClassVar[type] = SampleReport
    part_name: ClassVar[Literal["sampler"]] = "sampler"

    inputs: Any
    prompt: str | None
    id: str | None
    words: Mapping[str, Any]
    keep: tuple[str, ...]
    asked: Asked
    chunk_rows: int
    prompts: DistinctPrompts = field(init=False)
    fresh: DistinctPrompts = field(init=False)  #: those that are to be sampled
    places: Longs = field(init=False)  #: where these stand among all prompts, ascending
    #: answers of the other ones
    earlier: pa.RecordBatchFileReader | None = field(init=False, default=None)
    chunk_prompts: int = field(init=False)
    way: str = field(init=False, default="")
    tokens_sampled: int = field(init=False, default=0)
    spent: Mapping[str, int] = field(init=False, default_factory=dict)

    def open(self, **reading: Any) -> None:
        """The distinct prompts."""
        self.prompts = open_prompts(
            self.inputs,
            self.prompt or self.words.get("prompt"),
            self.home,
            keep=self.keep,
            id=self.id or self.words.get("id"),
            words=self.words,
            **reading,
        )
        self.fresh, self.places = self.prompts, np.arange(self.prompts.count)

    @property
    def asked_for(self) -> dict[str, Any]:
        """The words, what is kept, and what is asked of every prompt."""
        words = {"prompt": self.prompt, "id": self.id, **self.words}
        return {"rows": words, "keep": list(self.keep), "asked": self.asked.key}

    @property
    def source(self) -> Source:
        """The files as they are."""
        return self.prompts.source

    @property
    def schema(self) -> pl.Schema:
        """The columns of the pool."""
        own = self.prompts.schema
        kept = {name: own[name] for name in self.keep}
        return pl.Schema({"prompt": own["prompt"], **COLUMNS, **kept})

    def key(self) -> dict[str, Any]:
        """The content of the prompts, and what is asked of them."""
        return {
            "keep": list(self.keep),
            "input": {"prompts": self.prompts.count, "content": self.prompts.identity},
            **self.asked.key,
        }

    def shape(self) -> dict[str, Any]:
        """Prompts of a chunk."""
        return {"chunk_prompts": max(1, self.chunk_rows // len(self.asked.draws))}

    def take_over(self) -> None:
        """Answers of prompts that the output has."""
        draws = len(self.asked.draws)
        output = shown(self.target)
        earlier = earlier_answers(output, self.prompts, draws, self.home, **self.limits)
        with earlier.con:
            if not earlier.shared:
                self.ledger.refuse()
            self.ledger.take_over(earlier.save)

    def leave_out(self, earlier: pa.RecordBatchFileReader) -> None:
        """Prompts that have their answers."""
        self.earlier, places = earlier, places_in(earlier)
        self.taken = counts_of(earlier)
        if len(places):
            self.places = np.setdiff1d(np.arange(self.prompts.count), places)
            self.fresh = only(self.prompts, self.places, self.home)

    def divide(self, shape: Mapping[str, Any]) -> None:
        """Chunks of so many prompts."""
        self.chunk_prompts = int(shape["chunk_prompts"])

    @property
    def together(self) -> str | None:
        """The prompt: each was asked once."""
        return "prompt"

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Answers of each chunk, shape (chunks,)."""
        bounds = np.append(np.arange(0, self.fresh.count, self.chunk_prompts), self.fresh.count)
        return np.diff(bounds) * len(self.asked.draws)

    def work(self, missing: list[int]) -> None:
        """Sample the chunks."""
        if self.crew is not None:
            self._work_on_workers(missing)
            return
        before = self.part.usage
        # Here, so that errors of loading are raised before anything is read.
        self.way = self.part.load()
        pace = Pace(self, missing, "answers", digits=1)
        for number, frame in self.fresh.slices(self.chunk_prompts, missing):
            started = time.perf_counter()
            with self._naming_prompts(frame):
                columns, counts = self._answering(self.part).chunk(frame)
            self.seconds_model += time.perf_counter() - started
            self._commit(number, columns, counts)
            pace.add(int(self.sizes[number]), counts["tokens"], self.seconds_model)
        after = self.part.usage
        if before is not None and after is not None:
            self.spent = after.since(before)

    def _work_on_workers(self, missing: list[int]) -> None:
        started = time.perf_counter()
        pace = Pace(self, missing, "answers", digits=1)

        def commit(number: int, columns: Mapping[str, pa.Array], counts: dict[str, int]) -> None:
            self._commit(number, columns, counts)
            passed = time.perf_counter() - started
            pace.add(int(self.sizes[number]), counts["tokens"], passed)

        def place_of(number: int, place: int) -> str:
            ((_, frame),) = self.fresh.slices(self.chunk_prompts, [number])
            return self._name(frame, place)

        slices = self.fresh.slices(self.chunk_prompts, missing)
        crew = self.part.work(slices, len(missing), commit, place_of)  # type: ignore[attr-defined]
        self.seconds_model = time.perf_counter() - started
        self.way, self.spent = crew.way, crew.spent

    def _commit(
        self, number: int, columns: Mapping[str, pa.Array], counts: Mapping[str, int]
    ) -> None:
        self.ledger.write(number, columns, counts)
        self.tokens_sampled += counts["tokens"]

    def rehearse(self, part: Sampler, missing: list[int]) -> None:
        """Ask what the chunks ask."""
        for _, frame in self.fresh.slices(self.chunk_prompts, missing):
            with self._naming_prompts(frame):
                self._answering(self.part).chunk(frame)

    def _answering(self, part: Sampler) -> Answering:
        return Answering(part, self.asked, self.on_bad_row)

    @contextmanager
    def _naming_prompts(self, frame: pl.DataFrame) -> Iterator[None]:
        """A bad prompt as its owner knows it: its row, and its id where there is one."""
        try:
            yield
        except BadRow as error:
            raise error.named(self._name(frame, error.row)) from error

    def _name(self, frame: pl.DataFrame, place: int) -> str:
        row, name = frame["row"][place], frame["name"][place]
        return self.prompts.source.place_of(row, name, home=self.home)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The answers of every prompt, in the order of the prompts."""
        schema = self.schema
        asked = {
            "stage": pl.lit(self.asked.stage, pl.Int64()),
            "source": pl.lit(self.asked.source, pl.String()),
        }
        draws, size = len(self.asked.draws), self.chunk_prompts
        answers = self._answers()
        made = {
            name: kind for name, kind in schema.items() if name in COLUMNS and name not in asked
        }
        every = range(-(-self.prompts.count // size))
        for number, prompts in self.prompts.slices(size, every):
            repeated = prompts[np.repeat(np.arange(prompts.height), draws)]
            kept = {name: repeated[f"keep{i}"] for i, name in enumerate(self.keep)}
            rows = answers.before(number * size + prompts.height, made)
            rows = rows.with_columns(repeated["prompt"], **kept, **asked)
            yield rows.select(list(schema)).cast(schema)

    def _answers(self) -> Merged:
        """What was taken over and what was sampled, by the places of prompts."""
        earlier = iter(()) if self.earlier is None else earlier_frames(self.earlier)
        return Merged(earlier, self._sampled())

    def _sampled(self) -> Iterator[pl.DataFrame]:
        draws, first = len(self.asked.draws), 0
        for batch in self.chunks():
            places = self.places[first : first + batch.num_rows // draws]
            first += len(places)
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            yield frame.with_columns(place=pl.Series(np.repeat(places, draws)))

    def report(self, **common: Any) -> SampleReport:
        """Account for every prompt and every answer."""
        prompts, counts = self.prompts, self.ledger.counts
        reasons = by_reason(REASON, counts)
        answers = prompts.count * len(self.asked.draws)
        rows = prompts.count + prompts.nulls + prompts.duplicates
        if sum(reasons.values()) != answers or prompts.rows != rows:
            raise AccountingError(
                f"sample: {answers} answers were asked for, and {reasons} are there;"
                f" of {prompts.rows} rows."
            )
        places = {
            reason: prompts.source.place_of(row, home=self.home)
            for reason, row in by_reason(FIRST, counts).items()
        }
        return SampleReport(
            prompts_in=prompts.rows,
            prompts=prompts.count,
            prompts_before=counts.get(BEFORE, 0),
            null_prompts=prompts.nulls,
            duplicate_prompts=prompts.duplicates,
            answers=answers,
            finish_reasons=reasons,
            duplicates=counts.get("duplicates", 0),
            empty=counts.get("empty", 0),
            tokens=counts.get("tokens", 0),
            untold=counts.get("untold", 0),
            tokens_sampled=self.tokens_sampled,
            way=self.way,
            columns=tuple(self.schema),
            requests=self.spent.get("requests", 0),
            retries=self.spent.get("retries", 0),
            retried=by_reason("retry:", self.spent),
            first_null=places,
            notes=(*prompts.source.notes, *self.remarks),
            **common,
        )

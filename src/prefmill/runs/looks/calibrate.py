"""Calibrate a scorer: pairs that it scored, and how often the chosen answer wins by a margin.

scored pairs ──margins──▶ a monotone curve ──▶ the file that `Ensemble(calibrations=)` takes
                └─▶ by parts of the prompts: how far the chances can be believed
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import polars as pl

from prefmill.connection import connect, quote, share_of
from prefmill.disk.ledger import key_of_finished
from prefmill.disk.targets import staging
from prefmill.disk.whole import check_name
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.readers import Source
from prefmill.rules import reliability
from prefmill.rules.intervals import Floats
from prefmill.rules.isotonic import Fit, fit_wins
from prefmill.runs.job.opening import Reading, opened_source
from prefmill.runs.records.commands import recorded_files
from prefmill.scoring.calibration import Calibration
from prefmill.table.chance import prompt_hash
from prefmill.table.messages import is_json_text, is_text
from prefmill.table.numbers import number
from prefmill.table.roles import Inputs
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched

#: Fewer pairs say little about any chance.
FEW = 200
_BATCH = 50_000
_AS_IT_IS, _AFTER = "score as log-odds", "calibrated"


@dataclass(frozen=True)
class CalibrateReport(Showing):
    """What calibrating did.

    rows_in = pairs + rows of `dropped` for each reason; `rows_rejected` are malformed rows.
    accuracy: the share of pairs whose chosen answer scored higher (equal scores: half), with its
    95 % interval over prompts, as of all means here. brier and error (the expected calibration
    error) are of chances for prompts that the fit had not seen: `before`, if scores were log-odds,
    `after`, and for brier the `difference`. reliability: the bins of both. steps: those of the
    curve that is written. scorer: the fingerprint of the scorer, empty where nobody knows it.
    """

    rows_in: int
    rows_rejected: int
    dropped: Mapping[str, int]
    pairs: int
    prompts: int
    accuracy: Sequence[float]
    brier: Mapping[str, Sequence[float]]
    error: Mapping[str, float]
    reliability: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, float]]
    scorer: Mapping[str, str]
    columns: Sequence[str]
    seconds: float
    peak_rss_mb: float
    output: str | None
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return asdict(self)


@watched("calibrate")
def calibrate(
    inputs: Inputs,
    output: str | Path | None,
    *,
    score_column: str = "score",
    prompt: str | None = None,
    scorer: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> CalibrateReport:
    """Write how likely an answer wins whose score is so much higher, from pairs scored on both
    sides.

    Args:
        inputs: pairs that `prefmill.score` wrote: columns `chosen_SCORE` and `rejected_SCORE`. They
            should be judged by people, or whoever is to be believed, and not be what the scorer was
            trained on.
        output: a `.json` file, for `Ensemble(combine="calibrated", calibrations={NAME: FILE})` and
            `prefmill score --calibration FILE`. None: only measure.
        score_column: the SCORE of the columns; `score_NAME` is one of an ensemble's.
        prompt: the column of prompts (default `prompt`, where there is one): they decide the parts
            of the measurement, and the intervals. Without it each pair stands alone.
        scorer: the fingerprint of the scorer. None: that of the run which wrote the input, where it
            is still next to it. No other scorer can use the file.
        overwrite, progress, reading: as in `prefmill.run`.

    The curve is the isotonic regression of wins on margins, seen from both sides. The order of
    pairs does not matter. Cost: one narrow pass and a sort. Raises `ColumnMissing`, `BadInput`
    where no pair has two scores, `TargetExists`.

    >>> pairs = pl.DataFrame({"prompt": ["p", "q", "r"], "chosen_score": [2.0, 1.0, 0.0]})
    >>> pairs = pairs.with_columns(rejected_score=pl.Series([0.0, 0.0, 1.0]))
    >>> report = calibrate(pairs, None)
    >>> [(step["from"], step["chance"]) for step in report.steps]
    [(1.0, 0.5), (2.0, 1.0)]
    """
    started = time.perf_counter()
    tell = progress or silent
    if output is not None:
        _check_name(Path(output))
    recording = recorded_files(
        "calibrate",
        inputs,
        [] if output is None else [output],
        reading,
        overwrite=overwrite,
        score_column=score_column,
        prompt=prompt,
        scorer=scorer,
    )
    with recording as record:
        if record.done:
            return record.restored(CalibrateReport)
        source_here = opened_source("calibrate", inputs, progress=progress, **reading)
        with source_here as (source, home):
            columns = _columns(source, score_column, prompt)
            tell("reading margins", None)
            limits = {
                "memory_bytes": reading.get("memory_bytes"),
                "threads": reading.get("threads"),
            }
            margins, hashes, dropped = _pairs(source, columns, home, **limits)
            known = _scorer_of(source, score_column) if scorer is None else dict(scorer)
            rejected, notes = source.rejected, list(source.notes)
            rows_in = source.rows
            record.read(source.inputs)
        if not len(margins):
            raise BadInput(
                f"calibrate: no pair has two scores; got {rows_in:,} rows, dropped {dropped}.",
                hint="prefmill score pairs.parquet -o scored.parquet --model DIR scores both"
                " sides.",
            )
        fit = fit_wins(margins)
        measured = _measured(margins, hashes)
        prompts = len(np.unique(hashes))
        kept = _kept(measured)
        calibration = Calibration(fit.curve, known, len(margins), prompts, kept)
        notes += _notes(margins, prompts, columns, known)
        report = CalibrateReport(
            rows_in=rows_in,
            rows_rejected=rejected,
            dropped=dropped,
            pairs=len(margins),
            prompts=prompts,
            steps=_steps(fit),
            scorer=known,
            columns=[name for name in columns if name],
            seconds=round(time.perf_counter() - started, 3),
            peak_rss_mb=peak_rss_mb(),
            output=None if output is None else str(output),
            notes=notes,
            **measured,
        )
        if output is not None:
            record.facts["fingerprints"] = {"scorer": known}
            with staging([Path(output)], where="calibrate") as stage:
                calibration.save(stage.path(Path(output)))
                record.publish_files(stage, report=asdict(report), overwrite=overwrite)
        return report


def _check_name(output: Path) -> None:
    check_name(output, "calibrate")
    if output.suffix != ".json":
        raise BadArgument(
            f"calibrate: got {str(output)!r}, expected a name that ends in .json.",
        )


def _columns(source: Source, score_column: str, prompt: str | None) -> tuple[str, str, str | None]:
    """The columns of both scores, and of the prompt."""
    names = list(source.columns.names)
    sides = f"chosen_{score_column}", f"rejected_{score_column}"
    for name in (*sides, *([prompt] if prompt else [])):
        if name not in names:
            raise ColumnMissing(
                f"calibrate: no column {name!r}; got {names}.",
                hint="pairs get scores on both sides by prefmill score; score_column=NAME"
                " (--score-column NAME) names others.",
            )
    for name in sides:
        kind = pl.Schema(pl.DataFrame(source.columns.empty_table()).schema)[name]
        if not (kind.is_numeric() or is_text(kind) or is_json_text(kind)):
            raise BadArgument(
                f"calibrate: the column {name!r} holds no numbers; got {kind}.",
                hint="score_column=NAME (--score-column NAME) names another.",
            )
    return (*sides, prompt or ("prompt" if "prompt" in names else None))


def _pairs(
    source: Source, columns: tuple[str, str, str | None], home: Path, **limits: Any
) -> tuple[Floats, reliability.Hashes, dict[str, int]]:
    """The margin and the prompt's hash of each pair with two scores, and how many have not."""
    chosen, rejected, prompt = columns
    memory_bytes = limits["memory_bytes"]
    limits["memory_bytes"] = share_of(memory_bytes) if memory_bytes else None
    key = quote(prompt) if prompt else "NULL"
    margins, hashes = [np.zeros(0)], [np.zeros(0, np.uint64)]
    dropped: dict[str, int] = {}
    with connect(temp_dir=home, reads=source.reads, remote=source.remote, **limits) as con:
        reader = con.sql(
            f"SELECT {quote(chosen)} AS chosen, {quote(rejected)} AS rejected,"
            f" {key} AS prompt FROM {source.relation}"
        ).to_arrow_reader(_BATCH)
        first = 0
        for batch in reader:
            frame = pl.DataFrame(batch)
            null = int((frame["chosen"].is_null() | frame["rejected"].is_null()).sum())
            kinds = frame.schema
            frame = frame.with_columns(
                number(pl.col(side), kinds[side]).alias(side) for side in ("chosen", "rejected")
            )
            gap = (frame["chosen"] - frame["rejected"]).fill_nan(None)
            finite = gap.is_not_null() & gap.is_finite().fill_null(False)
            unread = int((frame["chosen"].is_null() | frame["rejected"].is_null()).sum())
            _count(dropped, "null_score", null)
            _count(dropped, "bad_score", unread - null)
            _count(dropped, "non_finite_score", frame.height - int(finite.sum()) - unread)
            hashed = _hashes(frame, first, prompt is not None)
            first += frame.height
            keep = finite.to_numpy()
            margins.append(gap.filter(finite).to_numpy())
            hashes.append(hashed[keep])
    return np.concatenate(margins), np.concatenate(hashes), dropped


def _hashes(frame: pl.DataFrame, first: int, by_prompt: bool) -> reliability.Hashes:
    """A hash of the prompt of each row; without prompts, and for a null, of its place."""
    place = pl.Series([str(first + row) for row in range(frame.height)])
    own = prompt_hash(place, b"calibrate:row:")
    if by_prompt:
        own = prompt_hash(frame["prompt"], b"calibrate:").fill_null(own)
    return own.to_numpy()


def _count(counts: dict[str, int], reason: str, rows: int) -> None:
    if rows:
        counts[reason] = counts.get(reason, 0) + int(rows)


def _scorer_of(source: Source, score_column: str) -> dict[str, str]:
    """The fingerprint of the scorer of a column, where the run that wrote the files is known."""
    keys = [key_of_finished(Path(label)) for label, _ in source.inputs]
    found = [_of_column(key, score_column) for key in keys]
    return found[0] if found and all(each == found[0] for each in found) else {}


def _of_column(key: Mapping[str, Any], score_column: str) -> dict[str, str]:
    """The fingerprint of what gave a column, from the key of its run.

    An ensemble's scorers have a column each; any other further column is named in the fingerprint,
    so that nobody takes its chances for those of the score.
    """
    names, whole = key.get("columns", []), dict(key.get("scorer", {}))
    if not names or f"chosen_{score_column}" not in names:
        return {}
    score = names[0].removeprefix("chosen_")
    if score_column == score:
        return whole
    own = score_column.removeprefix(f"{score}_")
    members = {name.removeprefix(f"chosen_{score}_") for name in names}
    inside = {
        name.removeprefix(f"{own}."): value
        for name, value in whole.items()
        if max((m for m in members if name.startswith(f"{m}.")), key=len, default="") == own
    }
    inside.pop("calibration", None)
    return inside if inside and "combine" in whole else {**whole, "column": own}


def _measured(margins: Floats, hashes: reliability.Hashes) -> dict[str, Any]:
    """What is said of chances, measured on prompts that the fit had not seen."""
    won = (np.sign(margins) + 1) / 2
    accuracy = reliability.means_over_prompts(won[:, None], hashes)[0]
    after = reliability.held_out(margins, hashes)
    if np.isnan(after).any():  # one part of the prompts only
        return {"accuracy": list(accuracy), "brier": {}, "error": {}, "reliability": []}
    before = reliability.as_log_odds(margins)
    losses = np.stack([(1 - before) ** 2, (1 - after) ** 2], axis=1)
    losses = np.concatenate([losses, losses[:, 1:] - losses[:, :1]], axis=1)
    means = map(list, reliability.means_over_prompts(losses, hashes))
    bins = {_AS_IT_IS: reliability.binned(before), _AFTER: reliability.binned(after)}
    errors = [reliability.calibration_error(each) for each in bins.values()]
    return {
        "accuracy": list(accuracy),
        "brier": {
            n: list(m) for n, m in zip(("before", "after", "difference"), means, strict=True)
        },
        "error": dict(zip(("before", "after"), errors, strict=True)),
        "reliability": [{"chance": name, **row} for name, rows in bins.items() for row in rows],
    }


def _kept(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: measured[name] for name in ("accuracy", "brier", "error")}


def _steps(fit: Fit) -> list[dict[str, float]]:
    """The steps of the curve, each with its pairs and interval."""
    names = ("from", "to", "chance", "low", "high", "pairs")
    parts = (fit.least, fit.most, fit.chances, fit.low, fit.high, fit.pairs)
    rows = zip(*(part.tolist() for part in parts), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _notes(
    margins: Floats, prompts: int, columns: tuple[str, str, str | None], scorer: Mapping[str, str]
) -> list[str]:
    """What people have to know of this calibration."""
    notes = []
    if len(margins) < FEW:
        notes.append(f"{len(margins):,} pairs say little: {FEW} or more are better")
    if (margins > 0).all() and len(margins) > 1:
        notes.append(
            "the chosen answer has the higher score in every pair: were the pairs made of these"
            f" scores? {columns[0]} has to be the model's, and the choice somebody else's"
        )
    if np.median(margins) < 0:
        notes.append("the chosen answer mostly has the lower score: chances are near a half")
    if columns[2] is None:
        notes.append("no column of prompts: each pair stands alone in parts and intervals")
    elif prompts < 2:
        notes.append("one prompt only: nothing is measured on prompts that the fit had not seen")
    if not scorer:
        notes.append(
            "nobody knows which scorer gave these scores (its run is not next to the file):"
            " whoever uses the calibration is not checked"
        )
    return notes

"""`prefmill.worth`: whether pairs are worth training on, by a proxy that is fitted in a minute."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import polars as pl

from prefmill.errors import BadArgument, BadInput
from prefmill.models.embedding import Embedder
from prefmill.plans import Pairs
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.proxies.features import features
from prefmill.proxies.fit import Ints, folds_of, held_out
from prefmill.proxies.flips import LIKELY, flips_of
from prefmill.proxies.learning import curve, right_of
from prefmill.proxies.notes import notes_of
from prefmill.proxies.output import written
from prefmill.proxies.pairs import count, drawn, ids_of, opened_pairs, texts_of
from prefmill.proxies.told import Part, WorthReport
from prefmill.reports.floors import CHANCE, FEWEST, floor, floors, independent
from prefmill.reports.found import Floor
from prefmill.reports.look import named, typed
from prefmill.reports.warned import file_of
from prefmill.rules.audits.effects import ratio
from prefmill.rules.intervals import Floats
from prefmill.rules.tails import holm
from prefmill.rules.votes import summed
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading
from prefmill.runs.records.commands import recorded
from prefmill.shapes.sides import PAIRS
from prefmill.shapes.source import words_in
from prefmill.table.roles import Inputs, RoleNames
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

#: Pairs that are drawn: with the default encoder they take about a minute of two cores.
MOST = 1000
#: Tokens of an answer that the encoder reads.
TOKENS = 128
_FOLDS = 5
#: With fewer pairs, or prompts, nothing is fitted.
_PAIRS, _PROMPTS = 50, 10


@watched("worth")
def worth(
    inputs: Inputs,
    output: str | Path | None = None,
    *,
    plan: Pairs | None = None,
    most: int = MOST,
    model: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    max_tokens: int = TOKENS,
    device: str = "auto",
    seed: int = 0,
    roles: RoleNames | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> WorthReport:
    """Say what pairs are worth before they cost GPU hours: a proxy of a reward model is fitted to
    them, a logistic regression on the vectors of a small encoder.

    Args:
        output: a file of the pairs whose label is more likely wrong than right, the likeliest
            first, as `prefmill.run(..., exclude=FILE)` takes it: `text_id`, `pair_id` where the
            input has it, row, chance, margin, source, annotator, prompt, chosen, rejected.
            None: only look.
        plan: how pairs are made of feedback; None: the default plan, without thresholds where these
            do not fit. Pairs of a file that has pairs are its own.
        most: the pairs that are read; of more, so many are drawn by their texts. 0: all.
        model: the encoder, a folder or a hub id; None: all-MiniLM-L6-v2 from its package (extra
            `worth`). `revision`, `trust_remote_code` and `device` as in `prefmill.RewardModel`.
        max_tokens: what the encoder reads of an answer, at most.
        seed: of the draw, of the folds, and of the learning curve.
        roles, overwrite, progress, reading: as in `prefmill.run`.

    No prompt is in two folds. Cost: one pass over texts as in `prefmill.report`, then about a
    minute on two cores for 1,000 pairs. Raises `PrefmillError`s for inputs that cannot be read, or
    are too few: 50 pairs of 10 prompts are needed.
    """
    started = time.perf_counter()
    for name, value, least in (("most", most, 0), ("max_tokens", max_tokens, 8), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise BadArgument(f"worth: {name} is no whole number >= {least}; got {value!r}.")
    plan = plan or Pairs()
    tell = progress or silent
    embedder = Embedder(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        max_tokens=max_tokens,
        device=device,
        where="worth",
    )
    recording = recorded(
        "worth",
        inputs,
        output,
        reading,
        overwrite=overwrite,
        words=words_in(plan.rows, roles or {}).named(),
        plan=plan.content(),
        settings={"most": most, "seed": seed, "max_tokens": max_tokens},
        encoder=embedder.fingerprint,
    )
    with recording as record:
        if record.done:
            return record.restored_by(WorthReport.of_json)
        record.facts |= {"fingerprints": {"encoder": embedder.fingerprint}, "seed": seed}
        with opened_pairs(plan, inputs, roles, progress=progress, **reading) as job:
            look = _Look(job, most, seed)
            tell("embedding", 0.0)
            look.fit(embedder, lambda share: tell("embedding", share))
            tell("fitting", None)
            made = replace(
                look.report(),
                name=named(inputs),
                read=f"{file_of(named(inputs))} {typed(roles or {}, reading)}".strip(),
                model=model_told(model),
                fingerprint=embedder.fingerprint,
            )

            def report(files: writers.Written | None) -> WorthReport:
                path = files.paths.get("") if files else None
                notes = [*made.notes, *(files.notes if files else ())]
                took = round(time.perf_counter() - started, 3)
                memory = peak_rss_mb()
                return replace(made, output=path, notes=notes, seconds=took, peak_rss_mb=memory)

            if output is None:
                return report(None)
            record.read(job.records.inputs)
            frame = look.mislabelled()
            written(frame, output, record, report, reading)
            return record.made or report(None)


def model_told(model: str | Path | None) -> str:
    """What the encoder is called."""
    return "all-MiniLM-L6-v2" if model is None else str(model)


class _Look:
    """The pairs of a job, and what a proxy says of them."""

    def __init__(self, job: Job, most: int, seed: int) -> None:
        self.job, self.seed = job, seed
        self.pairs, self.prompts = count(job)
        frame = drawn(job, most or self.pairs, seed)
        self.frame = frame
        if self.pairs < _PAIRS or frame["group"].n_unique() < _PROMPTS:
            raise BadInput(
                f"worth: {self.pairs:,} pairs of {self.prompts:,} prompts are too few to fit a"
                f" proxy; expected {_PAIRS} of {_PROMPTS} prompts.",
                hint="prefmill report needs no number of pairs.",
            )
        groups = frame["group"]
        self.folds = folds_of(groups.to_list(), _FOLDS, seed)
        self.prompt: Ints = groups.rank("dense").cast(pl.Int64).to_numpy() - 1

    def fit(self, embedder: Embedder, tell: Any) -> None:
        """Read the texts, and find the margin of each pair."""
        frame = self.frame
        texts = texts_of(self.job, pl.concat([frame["c_pos"], frame["r_pos"]]))
        # A text that stands in several rows is embedded once.
        known = texts.select("answer").unique(maintain_order=True).with_row_index("at")
        rows = features(embedder, known["answer"], tell)
        at = texts.join(known, on="answer", how="left").select("pos", "at")

        def side(name: str) -> Floats:
            places = frame.select(pos=name).join(at, on="pos", how="left", maintain_order="left")
            found: Floats = rows[places["at"].to_numpy()]
            return found

        self.differences = side("c_pos") - side("r_pos")
        self.margins = held_out(self.differences, self.folds)
        self.right = right_of(self.margins)
        self.accuracy, worth = self._share("proxy", slice(None))
        self.flips = flips_of(self.margins, worth / len(self.right))
        self.chances = self.flips.chances(self.margins)
        self.likely = np.flatnonzero(self.chances > LIKELY)

    def _share(self, name: str, rows: Any) -> tuple[Floor, float]:
        """The share of right ones among `rows`, and how many independent pairs these are worth."""
        right, prompt = self.right[rows], self.prompt[rows]
        total = int(self.prompt.max()) + 1
        s = summed(prompt, right, total)
        m = summed(prompt, np.ones(len(right)), total)
        sums = (float(len(right)), float(s @ s), float(s @ m), float(m @ m))
        told = floor(name, "the answer that the proxy prefers", "", right.sum(), sums, (0.0, 0.0))
        return told, independent(right.sum(), sums)

    def report(self) -> WorthReport:
        """All figures but those of the run."""
        job = self.job
        placed = job.rowed.recognised != PAIRS
        known = floors(job.con, placed=placed)
        best, beyond = self._beyond()
        points, forecast = curve(
            self.differences, self.folds, self.prompt, self.margins, seed=self.seed
        )
        notes = notes_of(job)
        if self.frame.height < self.pairs:
            notes.append(
                f"{self.frame.height:,} of {self.pairs:,} pairs were drawn; --most N draws more,"
                " and only pairs that were drawn are called mislabelled"
            )
        return WorthReport(
            name="",
            rows_in=job.source.rows,
            rows_rejected=job.source.rejected,
            pairs=self.pairs,
            prompts=self.prompts,
            used=self.frame.height,
            accuracy=self.accuracy,
            best=best,
            beyond=beyond,
            floors=known,
            curve=points,
            forecast=forecast,
            parts=self._parts(),
            flips=self.flips,
            mislabelled=len(self.likely),
            model="",
            fingerprint="",
            seed=self.seed,
            read="",
            seconds=0.0,
            peak_rss_mb=0.0,
            output=None,
            notes=notes,
        )

    def _beyond(self) -> tuple[str, tuple[float, float, float]]:
        """What the proxy gets right beyond length, or lists, of the same pairs."""
        frame, found = self.frame, {}
        for name in ("chars", "lists"):
            gap = frame[f"c_{name}"].cast(pl.Int64) - frame[f"r_{name}"].cast(pl.Int64)
            bet = np.sign(gap.fill_null(0).to_numpy()).astype(np.float64)
            # Which way the guess goes is what the labels say on the whole.
            found[name] = right_of(bet if bet.sum() >= 0 else -bet)
        name = max(found, key=lambda each: float(found[each].mean()))
        gain = ratio(self.right - found[name], np.ones(len(self.right)), self.prompt)
        low, high = gain.ends(0.95)
        words = {"chars": "length", "lists": "lists"}
        return words[name], (gain.value, low, high)

    def _parts(self) -> list[Part]:
        """Sources and annotators, those that agree least first."""
        sides = {
            "annotator": [self.frame["annotator"]],
            "source": [self.frame["c_source"], self.frame["r_source"]],
        }
        shares: list[tuple[str, Floor, float]] = []
        for of, columns in sides.items():
            values = [column.to_numpy().astype(object) for column in columns]
            names = sorted({name for each in values for name in each if name is not None})
            if len(names) < 2:
                continue
            for name in names:
                rows = np.logical_or.reduce([each == name for each in values])
                if rows.sum() < FEWEST:
                    continue
                part = self._share(str(name), rows)
                shares.append((of, part[0], self._tail(part, rows)))
        adjusted = holm([p for *_, p in shares])
        upside = holm([_below_half(part) for _, part, _ in shares])
        parts = [
            Part(
                of=of,
                name=part.name,
                pairs=part.pairs,
                share=part.share or 0.0,
                low=part.low or 0.0,
                high=part.high or 0.0,
                p=p,
                reversed=low < CHANCE,
            )
            for (of, part, _), p, low in zip(shares, adjusted, upside, strict=True)
        ]
        return sorted(parts, key=lambda part: (part.share, part.of, part.name))

    def _tail(self, part: tuple[Floor, float], rows: Any) -> float:
        """The chance of so low a share, were it that of the pairs that are not of the part."""
        if rows.all():
            return 1.0
        (here, n), (there, m) = part, self._share("", ~rows)
        share, other = here.share or 0.0, there.share or 0.0
        both = (share * n + other * m) / (n + m)
        spread = math.sqrt(both * (1 - both) * (1 / n + 1 / m))
        return math.erfc((other - share) / spread / math.sqrt(2)) / 2 if spread else 1.0

    def mislabelled(self) -> pl.DataFrame:
        """The pairs whose label is more likely wrong than right, the likeliest first."""
        order = self.likely[np.argsort(-self.chances[self.likely], kind="stable")]
        pairs = self.frame[order.tolist()]
        texts = texts_of(self.job, pl.concat([pairs["c_pos"], pairs["r_pos"]]), most=2**31 - 1)
        chosen = texts.select(c_pos="pos", prompt="prompt", chosen="answer")
        rejected = texts.select(r_pos="pos", rejected="answer")
        told = pairs.join(chosen, on="c_pos", how="left", maintain_order="left").join(
            rejected, on="r_pos", how="left", maintain_order="left"
        )
        ids = ids_of(self.job, pairs)
        both: pl.DataFrame = pl.concat([ids, told], how="horizontal")
        return both.select(
            *ids.columns,
            row=pl.col("c_pos") // self.job.source.width,
            chance=pl.Series(self.chances[order], dtype=pl.Float64).round(4),
            margin=pl.Series(self.margins[order], dtype=pl.Float64).round(4),
            chosen_source="c_source",
            rejected_source="r_source",
            annotator="annotator",
            prompt="prompt",
            chosen="chosen",
            rejected="rejected",
        )


def _below_half(part: Floor) -> float:
    """The chance of so few, were the labels a coin's; 1 where they are half or more."""
    if part.share is None or part.share >= 0.5 or part.p is None:
        return 1.0
    return part.p / 2

"""The steps of a loop: each is done once, over a `RunFolder`, from what earlier steps left there.
What they are for is in `loops.py`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from prefmill.errors import BadInput
from prefmill.loops import findings as stage_report
from prefmill.loops import parts as loop_parts
from prefmill.loops.figures import measure, pool_figures
from prefmill.loops.folder import RunFolder
from prefmill.loops.prompts import Prompts
from prefmill.loops.recipe import Recipe
from prefmill.plans import BestOf
from prefmill.progress import Progress
from prefmill.sampling.samplers import as_sampler
from prefmill.scoring.scorers import as_scorer

#: a policy's folder (or hub id) to its `Sampler`
MakeSampler = Callable[[str], Any]
#: called with data, output, model (paths), method, seed and the options of [train]; writes the
#: folder `output`
Trainer = Callable[..., Any]


@dataclass
class Parts:
    """What does the work: of the recipe, or given by the caller. Models are made for a step and let
    go behind it.
    """

    recipe: Recipe
    make_sampler: MakeSampler | None
    given: Mapping[str, Any]
    make_ratio: Callable[[str], Any] | None
    train: Trainer | None
    #: what templates print as the date of today, at every stage and however often the loop is
    #: stopped
    date: str

    def inputs(self) -> dict[str, Any]:
        """What decides the results of the parts, by name."""
        found = {"policy": loop_parts.identity(self.recipe)}
        if loop_parts.prints_date(self.recipe):
            found["policy"]["template_date"] = self.recipe.sample.sampler.get(
                "template_date", self.date
            )
        for name in self.given:
            scorer = self.scorer(name)
            if scorer is not None:
                found[name] = dict(scorer.fingerprint)
        return found

    def sampler(self, policy: str) -> Any:
        if self.make_sampler is None:
            return loop_parts.sampler_of(self.recipe, policy).on_date(self.date)
        made = self.make_sampler(policy)
        sampler = as_sampler(made)
        return made if sampler is None else sampler.on_date(self.date)

    def scorer(self, name: str) -> Any:
        """The scorer that selects (`score`) or the one that only looks on (`second`); None if there
        is none.
        """
        section = getattr(self.recipe, name)
        if self.given[name] is not None:
            made = self.given[name]
        elif section is not None:
            made = loop_parts.scorer_of(section)
        else:
            return None
        return as_scorer(made).on_date(self.date)

    def ratio(self, policy: str) -> Any:
        if self.make_ratio is None:
            return loop_parts.ratio_of(self.recipe, policy).on_date(self.date)
        return as_scorer(self.make_ratio(policy)).on_date(self.date)

    def trainer(self) -> Trainer:
        from prefmill.training.train import train_policy

        return self.train or train_policy


@dataclass
class Stages:
    """One loop over its folder; every method is one step, done before or now."""

    recipe: Recipe
    prompts: Prompts
    parts: Parts
    run: RunFolder
    tell: Progress

    def all(self) -> str | None:
        """Every stage; the rule that stopped it early, or None."""
        self._prompts()
        stopped = None
        for stage in range(self.recipe.stages + 1):
            self._evaluate(stage)
            rows = self.rows(stage)
            stopped = stage_report.stop_rule(rows, self.recipe.stop)
            if (
                self.run.ran and stage < self.recipe.stages
            ):  # so far, for who looks at a run that goes on
                stage_report.write(
                    self.run, rows, self.recipe, self.prompts.counts, stopped, plot=False
                )
            if stopped or stage == self.recipe.stages:
                break
            self._sample(stage)
            self._score(stage)
            self._select(stage)
            self._train(stage)
        return stopped

    def policy(self, stage: int) -> str:
        """The folder of the policy that stage `stage` samples from."""
        return (
            self.recipe.policy.model
            if stage == 0
            else str(self.run.folder / f"stage-{stage - 1}" / "policy")
        )

    def _key(self, step: str) -> str:
        return str(self.run.steps[step]["key"])

    def _policy_key(self, stage: int) -> Any:
        return (
            self.run.decides["inputs"]["policy"]
            if stage == 0
            else self._key(f"stage-{stage - 1}/train")
        )

    def _told(self, phase: str) -> Progress:
        return lambda inner, share: self.tell(f"{phase}: {inner}", share)

    # -- steps
    # --------------------------------------------------------------------------------------------------------------------------

    def _prompts(self) -> None:
        def work() -> dict[str, Any]:
            for name in ("train", "heldout"):
                self.run.write(f"prompts/{name}.parquet", getattr(self.prompts, name).write_parquet)
            return {
                **self.prompts.counts,
                "train": self.prompts.train.height,
                "heldout": self.prompts.heldout.height,
            }

        self.run.step(
            "prompts",
            {"prompts": self.prompts.content},
            ["prompts/train.parquet", "prompts/heldout.parquet"],
            work,
        )

    def _sample(self, stage: int) -> None:
        section = self.recipe.sample
        asked = {"n": section.n, "temperatures": list(section.temperatures)}
        self._answers(f"stage-{stage}/sample", f"stage-{stage}/pool.parquet", "train", stage, asked)

    def _answers(
        self, name: str, output: str, prompts: str, stage: int, asked: Mapping[str, Any]
    ) -> None:
        """Answers of policy `stage` to the prompts `train` or `heldout`."""
        policy = self.policy(stage)
        sampling = self.run.decides.get("sample", {})
        own = {key: value for key, value in sampling.items() if key not in ("n", "temperatures")}
        asked = {**asked, "seed": self.recipe.seed, "stage": stage}
        key = {
            "step": "sample",
            "policy": self._policy_key(stage),
            "prompts": [prompts, self.prompts.content],
            "sampler": own,
            **asked,
        }

        def work() -> Mapping[str, Any]:
            from prefmill.loops.serving import served
            from prefmill.runs.sample import sample

            chunk: dict[str, Any] = (
                {"chunk_rows": self.recipe.sample.chunk_rows}
                if self.recipe.sample.chunk_rows
                else {}
            )
            with served(self.recipe.sample, policy):
                report = sample(
                    self.run.folder / "prompts" / f"{prompts}.parquet",
                    self.run.folder / output,
                    sampler=self.parts.sampler(policy),
                    source=f"policy-{stage}",
                    progress=self._told(name),
                    **chunk,
                    **asked,
                    on_bad_row=self.recipe.sample.on_bad_row,
                )
            return _plain(report)

        self.run.step(name, key, [output], _released(work))

    def _scored(
        self,
        name: str,
        source: str,
        output: str,
        before: str,
        column: str,
        scorer: Any,
        key: Mapping[str, Any],
    ) -> None:
        """The rows of `source` with a column of scores behind them."""
        section = self.recipe.second if column == "second" else self.recipe.score
        on_bad_row: Literal["error", "null"] = "error" if section is None else section.on_bad_row
        if column == "log_ratio":  # an estimate over the answers that it can be said of
            on_bad_row = "null"

        def work() -> Mapping[str, Any]:
            from prefmill.runs.score import score

            report = score(
                self.run.folder / source,
                self.run.folder / output,
                scorer=scorer(),
                score_column=column,
                progress=self._told(name),
                roles={"prompt": "prompt", "completion": "completion"},
                on_bad_row=on_bad_row,
            )
            return _plain(report)

        self.run.step(
            name, {"step": "score", "rows": self._key(before), **key}, [output], _released(work)
        )

    def _score(self, stage: int) -> None:
        at = f"stage-{stage}"
        self._scored(
            f"{at}/score",
            f"{at}/pool.parquet",
            f"{at}/scored.parquet",
            f"{at}/sample",
            "score",
            lambda: self.parts.scorer("score"),
            {"scorer": self.run.decides["inputs"]["score"]},
        )

    def _select(self, stage: int) -> None:
        plan, at = self.recipe.select.plan, f"stage-{stage}"
        if plan.seed == 0:  # drawn anew at every stage and seed, unless the recipe says otherwise
            plan = replace(plan, seed=_seed(self.recipe.seed, stage))

        def work() -> Mapping[str, Any]:
            from prefmill.runs.run import run

            pool = [self.run.folder / f"stage-{s}" / "scored.parquet" for s in range(stage + 1)]
            picks, cut_off = isinstance(plan, BestOf), 0
            candidates = self.run.folder / at / "candidates.parquet"
            if self.recipe.select.finished:
                cut_off = _finished(pool, candidates)
            report = run(
                plan,
                candidates if self.recipe.select.finished else pool,
                self.run.folder / at / "selected.parquet",
                overwrite=True,
                roles={
                    "prompt": "prompt",
                    "completion": "completion",
                    "score": "score",
                    "id": "id",
                    "stage": "stage",
                },
                format="prompt-completion" if picks else "trl",
                keep=("stage", "score", "id") if picks else ("stage",),
            )
            candidates.unlink(missing_ok=True)
            if not report.pairs_out:
                raise BadInput(
                    f"loop: nothing was selected at stage {stage}; got {dict(report.dropped)} of {report.rows_in} rows, {cut_off} cut off.",
                    hint="lower [select] min_score, sample more answers, or give more max_new_tokens.",
                )
            told = _plain(report)
            told["dropped"] = {**told["dropped"], "cut_off": cut_off}
            return {**told, **_picked(self.run.folder / at / "selected.parquet")}

        key = {
            "step": "select",
            "pool": [self._key(f"stage-{s}/score") for s in range(stage + 1)],
            "plan": plan.hash(),
            "finished": self.recipe.select.finished,
        }
        self.run.step(f"{at}/select", key, [f"{at}/selected.parquet"], work)

    def _train(self, stage: int) -> None:
        section, at = self.recipe.train, f"stage-{stage}"
        start = 0 if section.start == "base" else stage
        seed = _seed(self.recipe.seed, stage)

        def work() -> Mapping[str, Any]:
            report = self.parts.trainer()(
                self.run.folder / at / "selected.parquet",
                self.run.folder / at / "policy",
                model=self.policy(start),
                method=section.method,
                seed=seed,
                overwrite=True,
                progress=self._told(f"{at}/train"),
                **section.options,
            )
            return _plain(report)

        key = {
            "step": "train",
            "rows": self._key(f"{at}/select"),
            "model": self._policy_key(start),
            "seed": seed,
            "train": self.run.decides["train"],
        }
        self.run.step(f"{at}/train", key, [f"{at}/policy"], _released(work))

    def _evaluate(self, stage: int) -> None:
        """Answers to held-out prompts with the score of both judges and the log ratio to the base,
        a file behind each.
        """
        section, at = self.recipe.evaluate, f"stage-{stage}/heldout"
        asked = {"n": section.n, "temperatures": [section.temperature]}
        self._answers(f"{at}/sample", f"{at}/answers.parquet", "heldout", stage, asked)
        inputs = self.run.decides["inputs"]
        last, before = f"{at}/answers.parquet", f"{at}/sample"
        columns = [
            ("score", "score", lambda: self.parts.scorer("score"), {"scorer": inputs["score"]})
        ]
        if "second" in inputs:
            columns.append(
                (
                    "second",
                    "second",
                    lambda: self.parts.scorer("second"),
                    {"scorer": inputs["second"]},
                )
            )
        if self.measures_kl() and stage:
            key = {"ratio": [self._policy_key(stage), self._policy_key(0)]}
            columns.append(("kl", "log_ratio", lambda: self.parts.ratio(self.policy(stage)), key))
        for name, column, scorer, key in columns:
            self._scored(f"{at}/{name}", last, f"{at}/{name}.parquet", before, column, scorer, key)
            last, before = f"{at}/{name}.parquet", f"{at}/{name}"

    def measures_kl(self) -> bool:
        """Whether answers are drawn from the policy itself, so that the mean of the log ratio
        estimates KL.
        """
        section, own = self.recipe.evaluate, self.recipe.sample.sampler
        return (
            section.kl
            and section.temperature == 1
            and own.get("top_p", 1) == 1
            and not own.get("top_k")
        )

    # -- figures
    # ------------------------------------------------------------------------------------------------------------------------

    def rows(self, last: int | None = None) -> list[dict[str, Any]]:
        """The figures of every stage that is evaluated, up to `last`, from the files."""
        rows: list[dict[str, Any]] = []
        base: pl.DataFrame | None = None
        for stage in range(self.recipe.stages + 1 if last is None else last + 1):
            done = [
                name
                for name in ("kl", "second", "score")
                if f"stage-{stage}/heldout/{name}" in self.run.steps
            ]
            if not done:
                break
            answers = pl.read_parquet(
                self.run.folder / f"stage-{stage}" / "heldout" / f"{done[0]}.parquet"
            )
            row = {"stage": stage, **measure(answers, base)}
            if stage == 0 and self.measures_kl():
                row |= {"kl": 0.0, "kl_per_token": 0.0}  # by definition
            base = answers if base is None else base
            if f"stage-{stage}/score" in self.run.steps:
                scored = pl.read_parquet(
                    self.run.folder / f"stage-{stage}" / "scored.parquet",
                    columns=["prompt", "score", "finish_reason"],
                )
                row |= pool_figures(scored)
            select = self.run.steps.get(f"stage-{stage}/select", {}).get("figures", {})
            row |= {
                name: select[name]
                for name in ("selected_rows", "selected_mean", "selected_from")
                if name in select
            }
            at = f"stage-{stage}/"
            row["seconds"] = {
                name.removeprefix(at): step["seconds"]
                for name, step in self.run.steps.items()
                if name.startswith(at)
            }
            rows.append(row)
        return rows


def _seed(seed: int, stage: int) -> int:
    """Another seed for every stage, so that a policy that did not change would still give other
    samples.
    """
    return (seed + 1_000_003 * stage) % 2**32


def _released(work: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    """`work`, and behind it the memory of the models that it loaded."""

    def whole() -> Mapping[str, Any]:
        try:
            return work()
        finally:
            torch = sys.modules.get("torch")
            if torch is not None:
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    return whole


def _plain(report: Any) -> dict[str, Any]:
    told = report.as_json() if hasattr(report, "as_json") else dict(report or {})
    return {name: value for name, value in told.items() if name not in ("output", "peak_rss_mb")}


def _finished(pool: Sequence[Path], target: Path) -> int:
    """The rows of the pool that were not cut off, in `target`; how many were."""
    rows = pl.concat([pl.scan_parquet(path) for path in pool], how="vertical_relaxed")
    finished = pl.col("finish_reason").ne_missing("length")
    rows.filter(finished).sink_parquet(target)
    return int(rows.select((~finished).sum()).collect().item())


def _picked(path: Path) -> dict[str, Any]:
    """How many rows were selected, from which stages, and their mean score."""
    rows = pl.read_parquet(path)
    score, stage = (
        next(name for name in (f"chosen_{role}", role) if name in rows.columns)
        for role in ("score", "stage")
    )
    stages = rows.group_by(stage).len().sort(stage)
    return {
        "selected_rows": rows.height,
        "selected_mean": rows[score].mean(),
        "selected_from": ", ".join(f"{name}: {number}" for name, number in stages.iter_rows()),
    }

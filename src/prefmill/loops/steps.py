"""The steps of a loop: each is done once, over a `RunFolder`, from what earlier steps left there.

What they are for is in `loop.py`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from prefmill.disk.hidden import temporary
from prefmill.errors import BadInput
from prefmill.loops.figures import draws_itself, rows_of
from prefmill.loops.findings import stop_rule
from prefmill.loops.folder import RunFolder
from prefmill.loops.parts import Parts
from prefmill.loops.prompts import DividedPrompts
from prefmill.loops.recipe import Recipe
from prefmill.loops.report import write_report
from prefmill.loops.serving import served
from prefmill.progress import Progress
from prefmill.runs.resumable.sample import sample
from prefmill.runs.resumable.score import score
from prefmill.runs.run import run

Work = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class _Scores:
    """A column of scores that one step adds; `key` says what decides them."""

    step: str
    column: str
    scorer: Callable[[], Any]
    key: Mapping[str, Any]
    on_bad_row: Literal["error", "null"]


@dataclass
class LoopSteps:
    """One loop over its folder; every method is one step, done before or now."""

    recipe: Recipe
    prompts: DividedPrompts
    parts: Parts
    folder: RunFolder
    tell: Progress

    def all(self) -> str | None:
        """Every stage; the rule that stopped it early, or None."""
        self._prompts()
        last = self.recipe.stages
        for stage in range(last + 1):
            self._evaluate(stage)
            rows = self.rows(stage)
            stopped = stop_rule(rows, self.recipe.stop)
            if self.folder.ran and stage < last:
                # A report so far, for who looks at a run that goes on.
                counts = self.prompts.counts
                write_report(self.folder, rows, self.recipe, counts, stopped, plot=False)
            if stopped:
                return stopped
            if stage < last:
                self._sample(stage)
                self._score(stage)
                self._select(stage)
                self._train(stage)
        return None

    def policy(self, stage: int) -> str:
        """The folder of the policy that stage `stage` samples from."""
        if stage == 0:
            return self.recipe.policy.model
        return str(self.folder.folder / f"stage-{stage - 1}" / "policy")

    def rows(self, last: int | None = None) -> list[dict[str, Any]]:
        """The figures of every stage that is evaluated, up to `last`, from the files."""
        until = self.recipe.stages if last is None else last
        return rows_of(self.folder, range(until + 1), measures_kl=self.measures_kl())

    def measures_kl(self) -> bool:
        """Whether the mean of the log ratio estimates KL.

        It does where answers are drawn from the policy itself.
        """
        section = self.recipe.evaluate
        return section.kl and draws_itself(section.temperature, self.recipe.sample.sampler)

    def _key(self, step: str) -> str:
        return str(self.folder.steps[step]["key"])

    def _inputs(self) -> Mapping[str, Any]:
        return self.folder.decides["inputs"]  # type: ignore[no-any-return]

    def _policy_key(self, stage: int) -> Any:
        return self._key(f"stage-{stage - 1}/train") if stage else self._inputs()["policy"]

    def _progress(self, step: str) -> Progress:
        return lambda phase, share: self.tell(f"{step}: {phase}", share)

    # --- steps ---

    def _prompts(self) -> None:
        frames = {"train": self.prompts.train, "heldout": self.prompts.heldout}
        files = {f"prompts/{name}.parquet": frame for name, frame in frames.items()}

        def work() -> dict[str, Any]:
            for name, frame in files.items():
                self.folder.write(name, frame.write_parquet)
            heights = {name: frame.height for name, frame in frames.items()}
            return {**self.prompts.counts, **heights}

        self.folder.step("prompts", {"prompts": self.prompts.content}, list(files), work)

    def _sample(self, stage: int) -> None:
        section, at = self.recipe.sample, f"stage-{stage}"
        draws = {"n": section.n, "temperatures": list(section.temperatures)}
        self._answers(f"{at}/sample", f"{at}/pool.parquet", "train", stage, draws)

    def _answers(
        self, name: str, output: str, prompts: str, stage: int, draws: Mapping[str, Any]
    ) -> None:
        """Answers of policy `stage` to the prompts `train` or `heldout`."""
        policy, section = self.policy(stage), self.recipe.sample
        sampler = dict(self.folder.decides.get("sample", {}))
        for each in ("n", "temperatures"):
            sampler.pop(each, None)
        draws = {**draws, "seed": self.recipe.seed, "stage": stage}
        key = {
            "step": "sample",
            "policy": self._policy_key(stage),
            "prompts": [prompts, self.prompts.content],
            "sampler": sampler,
            **draws,
        }
        chunk: dict[str, Any] = {}
        if section.chunk_rows:
            chunk["chunk_rows"] = section.chunk_rows

        def work() -> Mapping[str, Any]:
            with served(section, policy):
                report = sample(
                    self.folder.folder / "prompts" / f"{prompts}.parquet",
                    self.folder.folder / output,
                    sampler=self.parts.sampler(policy),
                    source=f"policy-{stage}",
                    keep=self.recipe.prompts.keep,
                    progress=self._progress(name),
                    on_bad_row=section.on_bad_row,
                    **chunk,
                    **draws,
                )
            return _plain(report)

        self.folder.step(name, key, [output], _released(work))

    def _score(self, stage: int) -> None:
        at = f"stage-{stage}"
        files = f"{at}/pool.parquet", f"{at}/scored.parquet"
        self._add(f"{at}/score", self._judge("score"), f"{at}/sample", *files)

    def _add(self, name: str, scores: _Scores, before: str, source: str, output: str) -> None:
        """The rows of `source`, which step `before` made, with a column of scores after them."""

        def work() -> Mapping[str, Any]:
            report = score(
                self.folder.folder / source,
                self.folder.folder / output,
                scorer=scores.scorer(),
                score_column=scores.column,
                progress=self._progress(name),
                roles={"prompt": "prompt", "completion": "completion"},
                on_bad_row=scores.on_bad_row,
            )
            return _plain(report)

        key = {"step": "score", "rows": self._key(before), **scores.key}
        self.folder.step(name, key, [output], _released(work))

    def _judge(self, name: str) -> _Scores:
        """The scores of `score` or `second`."""
        section = getattr(self.recipe, name)
        on_bad_row: Any = "error" if section is None else section.on_bad_row
        key = {"scorer": self._inputs()[name]}
        return _Scores(name, name, lambda: self.parts.scorer(name), key, on_bad_row)

    def _select(self, stage: int) -> None:
        plan, at = self.recipe.select.plan, f"stage-{stage}"
        finished = self.recipe.select.finished
        if plan.seed == 0:  # drawn anew at every stage and seed, unless the recipe says otherwise
            plan = replace(plan, seed=_seed(self.recipe.seed, stage))
        home = self.folder.folder
        pool = [home / f"stage-{each}" / "scored.parquet" for each in range(stage + 1)]
        selected = home / at / "selected.parquet"

        def work() -> Mapping[str, Any]:
            picks = plan.layout == "pool"
            columns = ("prompt", "completion", "score", "id", "stage")
            with temporary(home / at) as scratch:
                candidates = scratch / "candidates.parquet"
                cut_off = _finished(pool, candidates) if finished else 0
                report = run(
                    plan,
                    candidates if finished else pool,
                    selected,
                    overwrite=True,
                    roles={name: name for name in columns},  # type: ignore[arg-type]
                    format="prompt-completion" if picks else "trl",
                    keep=("stage", "score", "id") if picks else ("stage",),
                )
            dropped = dict(report.dropped)
            if not report.pairs_out:
                raise BadInput(
                    f"loop: nothing was selected at stage {stage};"
                    f" got {dropped} of {report.rows_in} rows, {cut_off} cut off.",
                    hint="lower [select] min_score, sample more answers,"
                    " or give more max_new_tokens.",
                )
            figures = {**_plain(report), "dropped": {**dropped, "cut_off": cut_off}}
            return {**figures, **_picked(selected)}

        key = {
            "step": "select",
            "pool": [self._key(f"stage-{each}/score") for each in range(stage + 1)],
            "plan": plan.hash(),
            "finished": finished,
        }
        self.folder.step(f"{at}/select", key, [f"{at}/selected.parquet"], work)

    def _train(self, stage: int) -> None:
        section, at = self.recipe.train, f"stage-{stage}"
        start = 0 if section.start == "base" else stage
        seed = _seed(self.recipe.seed, stage)

        def work() -> Mapping[str, Any]:
            report = self.parts.trainer()(
                self.folder.folder / at / "selected.parquet",
                self.folder.folder / at / "policy",
                model=self.policy(start),
                method=section.method,
                seed=seed,
                overwrite=True,
                progress=self._progress(f"{at}/train"),
                **section.options,
            )
            return _plain(report)

        key = {
            "step": "train",
            "rows": self._key(f"{at}/select"),
            "model": self._policy_key(start),
            "seed": seed,
            "train": self.folder.decides["train"],
        }
        self.folder.step(f"{at}/train", key, [f"{at}/policy"], _released(work))

    def _evaluate(self, stage: int) -> None:
        """Answers to held-out prompts; then a file for each column of scores, one after the other.

        The columns are both judges' scores and the log ratio to the base.
        """
        section, at = self.recipe.evaluate, f"stage-{stage}/heldout"
        draws = {"n": section.n, "temperatures": [section.temperature]}
        self._answers(f"{at}/sample", f"{at}/answers.parquet", "heldout", stage, draws)
        before, source = f"{at}/sample", f"{at}/answers.parquet"
        for scores in self._heldout_scores(stage):
            name = f"{at}/{scores.step}"
            self._add(name, scores, before, source, f"{name}.parquet")
            before, source = name, f"{name}.parquet"

    def _heldout_scores(self, stage: int) -> Iterator[_Scores]:
        yield self._judge("score")
        if "second" in self._inputs():
            yield self._judge("second")
        if stage and self.measures_kl():
            policy = self.policy(stage)
            key = {"ratio": [self._policy_key(stage), self._policy_key(0)]}
            # An estimate over the answers that it can be told of.
            yield _Scores("kl", "log_ratio", lambda: self.parts.ratio(policy), key, "null")


def _seed(seed: int, stage: int) -> int:
    """Another seed for every stage: also a policy that did not change then gives new samples."""
    return (seed + 1_000_003 * stage) % 2**32


def _released(work: Work) -> Work:
    """`work`, and after it the memory of the models that it loaded is free."""

    def released() -> Mapping[str, Any]:
        try:
            return work()
        finally:
            torch = sys.modules.get("torch")
            if torch is not None:
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    return released


def _plain(report: Any) -> dict[str, Any]:
    """The figures of a report, without what differs from one machine to the next."""
    values = report.as_json() if hasattr(report, "as_json") else dict(report or {})
    return {name: value for name, value in values.items() if name not in ("output", "peak_rss_mb")}


def _finished(pool: Sequence[Path], target: Path) -> int:
    """The rows of the pool that were not cut off, in `target`; how many were."""
    rows = pl.concat([pl.scan_parquet(path) for path in pool], how="vertical_relaxed")
    finished = pl.col("finish_reason").ne_missing("length")
    rows.filter(finished).sink_parquet(target)
    return int(rows.select((~finished).sum()).collect().item())


def _picked(path: Path) -> dict[str, Any]:
    """How many rows were selected, from which stages, and their mean score."""
    rows = pl.read_parquet(path)
    prefix = "chosen_" if "chosen_score" in rows.columns else ""
    score, stage = f"{prefix}score", f"{prefix}stage"
    stages = rows.group_by(stage).len().sort(stage)
    return {
        "selected_rows": rows.height,
        "selected_mean": rows[score].mean(),
        "selected_from": ", ".join(f"{name}: {number}" for name, number in stages.iter_rows()),
    }

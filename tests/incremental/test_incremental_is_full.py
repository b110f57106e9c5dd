"""An incremental run leaves what a full run over the same input leaves, whatever came and went."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefmill as pm
from prefmill.plans import FeedbackPlan
from prefmill.runs.account.report import RunReport
from prefmill.runs.incremental import compact
from prefmill.runs.incremental import work as incremental
from prefmill.runs.run import run

Row = tuple[str | None, str, object]

PLANS: dict[str, FeedbackPlan] = {
    "pairs": pm.Pairs(chosen_min=None, rejected_below=None),
    "all": pm.Pairs(strategy="all", chosen_min=3, rejected_below=4, max_pairs_per_prompt=2),
    "auto": pm.Pairs(),
    "quantile": pm.Pairs(chosen_quantile=0.6, rejected_quantile=0.4),
    "mean": pm.Pairs(aggregate="mean", chosen_min=None, rejected_below=None),
    "unpaired": pm.Unpaired(chosen_min=4, rejected_below=3),
    "best": pm.BestOf(k=2),
    "random": pm.BestOf(k=1, pick="random"),
    "pool": pm.BestOf(k=3, scope="pool"),
    "advantages": pm.Advantage(),
}
_SUFFIXES = ("parquet", "jsonl", "csv")
OUTPUTS = ("out.parquet", "out/part-*.parquet")

#: How a plan begins what it says of thresholds and labels.
NOTES = ("the scores ", "the default ", "every label ")

rows = st.lists(
    st.tuples(
        st.sampled_from([*"pqrstuvw", None]),
        st.sampled_from(["a", "b", "c", "dd", ""]),
        st.sampled_from([1, 2, 3, 4, 5, 5, None]),
    ),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True)
class Step:
    """What happens to one file of the input."""

    what: str
    place: int
    rows: list[Row] = field(default_factory=list)


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(
            ["arrive", "arrive", "first", "append", "change", "drop", "vanish", "turn"]
        ),
        st.integers(0, 20),
        rows,
    ),
    min_size=1,
    max_size=3,
)


class Folder:
    """Files of feedback, changed step by step."""

    def __init__(self, home: Path, suffix: str) -> None:
        self.home, self.suffix = home, suffix
        self.files: dict[str, list[Row]] = {}
        self.count = 0
        home.mkdir()

    def take(self, step: Step) -> None:
        self.count += 1
        name = sorted(self.files)[step.place % len(self.files)] if self.files else "m000"
        before = self.files.get(name, [])
        half = len(before) // 2
        if step.what == "arrive" or not before:
            self._write(f"m{self.count:03}", step.rows)
        elif step.what == "first":
            self._write(f"a{999 - self.count:03}", step.rows)
        elif step.what == "append":
            self._write(name, [*before, *step.rows])
        elif step.what == "change":
            self._write(name, [*before[:half], step.rows[0], *before[half + 1 :]])
        elif step.what == "turn":
            self._write(name, before[::-1])
        elif step.what == "drop" and len(before) > 1:
            self._write(name, [*before[:half], *before[half + 1 :]])
        elif len(self.files) > 1:
            del self.files[name]
            (self.home / f"{name}.{self.suffix}").unlink()

    def _write(self, name: str, some: list[Row]) -> None:
        self.files[name] = some
        path = self.home / f"{name}.{self.suffix}"
        schema = {"prompt": pl.String, "completion": pl.String, "score": pl.Float64}
        frame = pl.DataFrame(some, schema=schema, orient="row")
        if self.suffix == "parquet":
            frame.write_parquet(path)
        elif self.suffix == "csv":
            frame.write_csv(path, quote_style="non_numeric")
        else:
            frame.write_ndjson(path)


def account(report: RunReport) -> dict[str, object]:
    names = ("rows_in", "rows_used", "rows_not_selected", "dropped", "groups_in", "groups_used")
    told = {name: getattr(report, name) for name in (*names, "pairs_out", "labels", "thresholds")}
    told["notes"] = [note for note in report.notes if note.startswith(NOTES)]
    return json.loads(json.dumps(told))


def applied(before: pl.DataFrame | None, changes: pl.DataFrame) -> pl.DataFrame:
    """What a table holds after the change file was merged into it."""
    fresh = changes.filter(pl.col("change") != "removed").drop("change")
    if before is None:
        return fresh
    kept = before.join(changes, on="pair_id", how="anti")
    return pl.concat([kept, fresh.select(before.columns)])


def same_rows(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    return one.sort("pair_id").equals(other.select(one.columns).sort("pair_id"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs have several parts, no change is too large to be one, and states are compacted."""
    monkeypatch.setattr(compact, "MOST_FILES", 1)
    monkeypatch.setattr(incremental, "PART_ROWS", 3)
    monkeypatch.setattr(incremental, "MOST", 2.0)


def few(examples: int) -> settings:
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck))


given_anything = given(
    first=rows,
    second=rows,
    steps=steps,
    suffix=st.sampled_from(_SUFFIXES),
    out=st.sampled_from(OUTPUTS),
)


@pytest.mark.parametrize("name", PLANS)
@few(3)
@given_anything
def test_incremental_is_full(
    name: str, first: list[Row], second: list[Row], steps: list[Step], suffix: str, out: str
) -> None:
    check(PLANS[name], out, first, second, steps, suffix)


@pytest.mark.torture
@pytest.mark.parametrize("name", PLANS)
@few(60)
@given_anything
def test_incremental_is_full_many_times(
    name: str, first: list[Row], second: list[Row], steps: list[Step], suffix: str, out: str
) -> None:
    check(PLANS[name], out, first, second, steps, suffix)


def check(
    plan: FeedbackPlan,
    out: str,
    first: list[Row],
    second: list[Row],
    steps: list[Step],
    suffix: str,
) -> None:
    come = [Step("arrive", 0, first), Step("arrive", 0, second), *steps]
    with tempfile.TemporaryDirectory() as home:
        _check(plan, Path(home), out, come, suffix)


def _check(plan: FeedbackPlan, home: Path, out: str, steps: list[Step], suffix: str) -> None:
    folder = Folder(home / "in", suffix)
    folder.take(steps[0])
    before: pl.DataFrame | None = None
    for number, step in enumerate(steps[1:]):
        folder.take(step)
        inputs = str(home / "in")
        try:
            whole = home / f"full{number}.parquet"
            engine = ("duckdb", "polars")[number % 2]
            full = run(plan, inputs, whole, allow_empty=True, pair_id=True, engine=engine)
        except pm.errors.PrefmillError as refusal:
            with pytest.raises(type(refusal)):
                run(plan, inputs, home / out, allow_empty=True, incremental=True)
            continue
        report = run(plan, inputs, home / out, allow_empty=True, incremental=True)
        assert account(report) == account(full)
        rows = pl.read_parquet(home / out)
        assert rows.equals(pl.read_parquet(whole))
        assert rows["pair_id"].n_unique() == rows.height
        changes = pl.read_parquet(home / "out-changes.parquet")
        assert same_rows(rows, applied(before, changes))
        before = rows

"""`why` and `diff` on the command line and in Python: what they name, and what they refuse."""

from __future__ import annotations

import json
import os

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import BadArgument, BadInput

ROWS = {
    "prompt": ["p"] * 5 + ["q"] * 2,
    "completion": ["best", "worst", "middle", "no score", "worst but later", "yes", "no"],
    "score": [5.0, 1.0, 3.0, None, 2.0, 5.0, 1.0],
}


def cli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def written(folder, rows, plan, name="a", **options):
    """A run over rows of its own; the path of its output."""
    pl.DataFrame(rows).write_parquet(folder / f"rows_{name}.parquet")
    output = folder / f"{name}.parquet"
    pm.run(plan, folder / f"rows_{name}.parquet", output, pair_id=True, **options)
    return output


def id_of(output, **wanted):
    return pl.read_parquet(output).filter(**wanted)["pair_id"][0]


def test_every_row_of_the_prompt_has_its_reason(tmp_path):
    output = written(tmp_path, ROWS, pm.Pairs())
    report = pm.why(id_of(output, chosen="best"), output)
    assert [(side.role, side.place.split(" of ")[0], side.score) for side in report.sides] == [
        ("chosen", "row 0", 5.0),
        ("rejected", "row 1", 1.0),
    ]
    assert report.sides[0].values == {"score": 5.0}
    assert {other.place.split(" of ")[0]: other.reason for other in report.others} == {
        "row 2": "not selected: rank 2 of 4",
        "row 3": "dropped: null_score",
        "row 4": "not selected: rank 3 of 4",
    }
    assert report.bounds[0].startswith("chosen_min 4: nobody gave it")
    assert report.draw is None


@pytest.mark.parametrize(
    ("plan", "draw"),
    [
        (pm.Pairs(strategy="best_random", seed=3), "seed 3, one of 3 that could be rejected"),
        (
            pm.Pairs(strategy="all", chosen_min=None, rejected_below=None, max_pairs_per_prompt=2),
            "seed 0, 2 of 6 pairs of the prompt",
        ),
        (pm.BestOf(pick="random", seed=1), "seed 1, 1 of 4 answers of the prompt"),
        (pm.BestOf(k=2), None),
    ],
)
def test_a_draw_says_of_how_many(tmp_path, plan, draw):
    output = written(tmp_path, ROWS, plan)
    assert pm.why(id_of(output, prompt="p"), output).draw == draw


def test_votes_that_were_merged_are_named(tmp_path):
    rows = {
        "prompt": ["p"] * 4,
        "completion": ["good", "good", "bad", "bad"],
        "score": [5.0, 4.0, 1.0, 2.0],
        "annotator": ["x", "y", "x", "y"],
    }
    output = written(tmp_path, rows, pm.Pairs(aggregate="mean"), roles={"annotator": "annotator"})
    report = pm.why(id_of(output, chosen="good"), output)
    assert [(side.score, side.votes) for side in report.sides] == [(4.5, 2), (1.5, 2)]
    assert report.sides[0].values == {"score": 5.0, "annotator": "x"}
    assert {other.reason for other in report.others} == {
        "merged with other rows of the same answer"
    }


def test_a_label_and_its_bounds(tmp_path):
    output = written(tmp_path, ROWS, pm.Unpaired(chosen_quantile=0.7, rejected_quantile=0.5))
    report = pm.why(id_of(output, completion="best"), output)
    assert report.bounds == [
        "chosen_min 5: the quantile 0.7 of all scores",
        "rejected_below 2: the quantile 0.5 of all scores",
    ]
    reasons = {other.place.split(" of ")[0]: other.reason for other in report.others}
    assert reasons["row 2"] == "between_thresholds"
    assert reasons["row 1"] == "used too"


def test_the_scorer_of_a_pool_is_named(tmp_path):
    def by_length(batch):
        return [float(len(text)) for text in batch["completion"].to_pylist()]

    by_length.fingerprint = {"scorer": "length"}  # type: ignore[attr-defined]
    pool = {"prompt": ["p", "p"], "completion": ["long one", "short"]}
    pl.DataFrame(pool).write_parquet(tmp_path / "pool.parquet")
    scored = tmp_path / "scored.parquet"
    pm.score(tmp_path / "pool.parquet", scored, scorer=by_length)
    pm.run(pm.BestOf(), scored, tmp_path / "best.parquet", pair_id=True)
    report = pm.why(id_of(tmp_path / "best.parquet"), tmp_path / "best.parquet")
    assert report.sides[0].values == {"score": 8.0}
    assert "length" in str(report.sides[0].scorer)


def test_malformed_rows_stay_set_aside(tmp_path):
    feedback, aside = tmp_path / "f.csv", tmp_path / "rejects.csv"
    feedback.write_text("prompt,completion,score\np,a,5\np,b,1\np,c,2,3,4\n")
    output = tmp_path / "a.parquet"
    pm.run(pm.Pairs(), feedback, output, pair_id=True, rejects=aside)
    before = aside.read_bytes()
    assert pm.diff(output, output).stayed == 1
    assert pm.why(id_of(output), output).sides[0].score == 5.0
    assert aside.read_bytes() == before


def test_an_output_without_ids_has_them_too(tmp_path):
    output = written(tmp_path, ROWS, pm.Pairs())
    wanted = id_of(output, chosen="yes")
    pm.run(pm.Pairs(), tmp_path / "rows_a.parquet", tmp_path / "plain.jsonl")
    report = pm.why(wanted, tmp_path / "plain.jsonl")
    assert [side.score for side in report.sides] == [5.0, 1.0]


def test_an_id_of_another_run_is_told_where_it_is(tmp_path):
    a = written(tmp_path, ROWS, pm.Pairs())
    b = written(tmp_path, ROWS, pm.Pairs(strategy="adjacent", chosen_min=None), name="b")
    (gone,) = set(pl.read_parquet(a)["pair_id"]) - set(pl.read_parquet(b)["pair_id"])
    with pytest.raises(BadInput, match=r"a\.parquet has it: prefmill diff"):
        pm.why(gone, b)
    found = cli("why", "0" * 32, b)
    assert found.exit_code == 1
    assert isinstance(found.exception, BadInput | SystemExit)


def test_the_commands_print_json_and_a_table(tmp_path):
    a = written(tmp_path, ROWS, pm.Pairs())
    b = written(tmp_path, ROWS, pm.Pairs(strategy="all"), name="b")
    told = cli("diff", a, b, "--json", "-o", tmp_path / "d.csv")
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report["causes"] == {"plan changed": {"appeared": 2}}
    assert "strategy best_worst -> all" in told.stderr
    assert pl.read_csv(tmp_path / "d.csv").columns == ["pair_id", "kind", "cause", "details"]
    again = json.loads(cli("diff", a, b, "--json", "-o", tmp_path / "d.csv").stdout)
    assert again["causes"] == report["causes"]
    assert "done before" in again["notes"][0]
    told = cli("why", id_of(a, chosen="best"), a, "--json")
    assert json.loads(told.stdout)["sides"][0]["role"] == "chosen"
    assert "rule: best_worst" in told.stderr


def test_an_input_that_changed_is_named(tmp_path):
    a = written(tmp_path, ROWS, pm.Pairs())
    b = written(tmp_path, ROWS, pm.Pairs(chosen_min=5), name="b")
    os.utime(tmp_path / "rows_a.parquet", ns=(1, 1))
    with pytest.raises(BadInput, match=r"rows_a\.parquet.* is not what it was"):
        pm.diff(a, b)
    (tmp_path / "rows_a.parquet").unlink()
    with pytest.raises(BadInput, match="got no such file"):
        pm.diff(a, b)


def test_what_cannot_be_played_again_is_refused(tmp_path):
    a = written(tmp_path, ROWS, pm.Pairs())
    labels = written(tmp_path, ROWS, pm.Unpaired(), name="b")
    with pytest.raises(BadArgument, match="two kinds; got pairs and unpaired"):
        pm.diff(a, labels)
    with pytest.raises(BadInput, match="no record of"):
        pm.diff(a, tmp_path / "rows_a.parquet")
    pm.run(pm.Pairs(), pl.DataFrame(ROWS), tmp_path / "memory.parquet")
    with pytest.raises(BadInput, match="a table in memory"):
        pm.diff(a, tmp_path / "memory.parquet")
    a.write_bytes(b"other")
    with pytest.raises(BadInput, match="is not what its run left"):
        pm.diff(a, labels)

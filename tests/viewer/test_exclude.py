"""`--exclude`: pairs that a file names do not come out, on every engine, and are counted."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest

import prefmill as pm
import prefmill.duckdb
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.executor import Inline

ENGINES = ("duckdb", "polars", "ray")
EVERY = pm.Pairs(strategy="all", chosen_min=None, rejected_below=None)


def run(plan, rows, output, engine="auto", **options):
    if engine == "ray":
        options |= {"executor": Inline(), "cut": Cut(4, 3, 1 << 20, 64)}
    return pm.run(plan, rows, output, engine=engine, **options)


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    """A file, and its pairs with their ids under `EVERY`."""
    folder = tmp_path_factory.mktemp("exclude")
    rows = [(f"p{n % 7}", f"answer {n % 11}", n * 13 % 5) for n in range(60)]
    frame = pl.DataFrame(rows, ["prompt", "completion", "score"], orient="row")
    path = folder / "feedback.parquet"
    frame.write_parquet(path)
    run(EVERY, path, folder / "pairs.parquet", pair_id=True)
    return path, pl.read_parquet(folder / "pairs.parquet")


def named(tmp_path, ids, column="pair_id", kind="jsonl"):
    path = tmp_path / f"flags.{kind}"
    frame = pl.DataFrame({column: ids})
    {"jsonl": frame.write_ndjson, "csv": frame.write_csv, "parquet": frame.write_parquet}[kind](
        path
    )
    return path


@pytest.mark.parametrize("host", ENGINES)
def test_pairs_that_are_named_are_left_out_and_the_others_stay(tmp_path, feedback, host):
    path, pairs = feedback
    base = pairs.unique("pair_id", keep="none", maintain_order=True)
    gone = base["pair_id"].gather_every(3).to_list()
    texts = ["prompt", "chosen", "rejected"]
    lost = base.filter(pl.col("pair_id").is_in(gone)).select(texts)
    kept = pairs.join(lost, on=texts, how="anti", maintain_order="left")
    report = run(
        EVERY, path, tmp_path / "out.parquet", host, exclude=named(tmp_path, [*gone, "0" * 32])
    )
    assert pl.read_parquet(tmp_path / "out.parquet").equals(kept.drop("pair_id"))
    assert report.pairs_out == kept.height < pairs.height
    assert f"exclude: {pairs.height - kept.height} pairs were left out" in report.notes[0]
    if host != "ray":
        assert report.notes[1].startswith(f"exclude: 1 of the {len(gone) + 1} ids")


@pytest.mark.parametrize("host", ENGINES)
def test_rows_of_a_prompt_that_has_no_other_pair_are_dropped_as_excluded(tmp_path, host):
    rows = {
        "prompt": ["p", "p", "p", "q", "q", "r", "r"],
        "completion": ["a", "b", "c", "a", "b", "same", "same"],
        "score": [5, 1, 3, 5, 1, 5, 1],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    run(pm.Pairs(), tmp_path / "rows.parquet", tmp_path / "all.parquet", pair_id=True)
    flags = named(tmp_path, pl.read_parquet(tmp_path / "all.parquet")["pair_id"].head(1))
    report = run(
        pm.Pairs(), tmp_path / "rows.parquet", tmp_path / "out.parquet", host, exclude=flags
    )
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [("q", "a", "b", 5.0, 1.0)]
    assert report.dropped == {"excluded": 3, "identical_text": 2}
    assert (report.rows_used, report.rows_not_selected, report.groups_used) == (2, 0, 1)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_answer_that_is_named_takes_its_pairs_along(tmp_path, kind):
    pairs = {"prompt": ["p", "p", "q"], "chosen": ["a", "b", "a"], "rejected": ["c", "a", "b"]}
    pl.DataFrame(pairs).write_parquet(tmp_path / "pairs.parquet")
    with duckdb.connect() as con:
        prefmill.duckdb.install(con)
        (answer,) = con.sql("SELECT pair_id('p', 'a')").fetchall()[0]
    flags = named(tmp_path, [answer], "text_id", kind)
    run(EVERY, tmp_path / "pairs.parquet", tmp_path / "out.parquet", exclude=flags)
    assert pl.read_parquet(tmp_path / "out.parquet")["prompt"].to_list() == ["q"]


def test_the_same_ids_are_the_same_run_and_others_are_another_one(tmp_path, feedback):
    path, pairs = feedback
    flags = named(tmp_path, pairs["pair_id"].head(2))
    again = {"output": tmp_path / "out.parquet", "exclude": flags}
    run(EVERY, path, **again)
    flags = named(tmp_path, pairs["pair_id"].head(2).reverse())
    assert "nothing was to do" in run(EVERY, path, **again).notes[-1]
    named(tmp_path, pairs["pair_id"].head(3))
    with pytest.raises(pm.PrefmillError, match="exclude"):
        run(EVERY, path, **again)


def test_what_is_no_file_of_ids_is_refused(tmp_path, feedback):
    path, _ = feedback
    out = tmp_path / "out.parquet"
    with pytest.raises(ColumnMissing, match=r"has no ids; got the columns \['prompt'"):
        run(EVERY, path, out, exclude=path)
    with pytest.raises(BadInput, match="an id that is none; got 'abc'"):
        run(EVERY, path, out, exclude=named(tmp_path, ["abc"]))
    flags = named(tmp_path, ["0" * 32])
    with pytest.raises(BadArgument, match="exclude leaves pairs out; got a plan of best_of"):
        run(pm.BestOf(), path, out, exclude=flags)
    with pytest.raises(BadArgument, match="incremental"):
        run(EVERY, path, out, exclude=flags, incremental=True)
    run(EVERY, path, out, exclude=flags)
    with pytest.raises(BadInput, match="was made with --exclude"):
        pm.why("0" * 32, out)

"""What incremental runs take, refuse, and tell."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import duckdb
import polars as pl
import pytest

import prefmill as pm
from prefmill.disk import records
from prefmill.duckdb import install
from prefmill.errors import BadArgument, RunDiffers, TargetExists, ThresholdsUnfit
from prefmill.runs.incremental import compact
from prefmill.runs.incremental import work as incremental
from prefmill.runs.records.kept import found_in, verify
from prefmill.runs.run import run

PLAN = pm.Pairs(chosen_min=None, rejected_below=None)


def write(
    path: Path, rows: list[tuple[object, ...]], names: str = "prompt completion score"
) -> None:
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame(rows, schema=names.split(), orient="row").write_parquet(path)


def many(prompts: range) -> list[tuple[object, ...]]:
    return [(f"p{n}", answer, score) for n in prompts for answer, score in (("a", 5), ("b", 1))]


def test_only_prompts_with_late_rows_are_read_again(tmp_path):
    write(tmp_path / "in" / "1.parquet", many(range(50)))
    write(tmp_path / "in" / "2.parquet", many(range(50, 100)))
    run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    write(tmp_path / "in" / "3.parquet", [("p7", "c", 9), ("new", "a", 1), ("new", "b", 2)])
    report = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    note = "incremental: 2 groups changed; 5 of 203 rows were read, and 1 of 3 files were not"
    assert note in report.notes
    assert (report.rows_in, report.pairs_out) == (203, 101)
    changes = pl.read_parquet(tmp_path / "out-changes.parquet")
    told = {tuple(row) for row in changes.select("change", "prompt", "chosen").rows()}
    assert told == {("removed", None, None), ("added", "p7", "c"), ("added", "new", "b")}


def test_a_file_that_changes_the_guess_is_refused_until_columns_are_named(tmp_path):
    source, names = tmp_path / "in", "prompt answer stars score"
    write(source / "1.parquet", [("p", "a", 5), ("p", "b", 1)], "prompt answer stars")
    run(PLAN, source, tmp_path / "out.parquet", incremental=True)
    write(source / "2.parquet", [("q", "a", 5, 0.1), ("q", "b", 1, 0.9)], names)
    with pytest.raises(
        RunDiffers, match=r"got --prompt .* --score score, expected .* stars"
    ) as got:
        run(PLAN, source, tmp_path / "out.parquet", incremental=True)
    assert "type the options that are meant" in str(got.value.hint)
    typed = {"prompt": "prompt", "completion": "answer", "score": "stars"}
    run(PLAN, source, tmp_path / "out.parquet", incremental=True, roles=typed)
    run(PLAN, source, tmp_path / "whole.parquet", roles=typed, pair_id=True)
    read = [pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("out", "whole")]
    assert read[0].select(read[1].columns).sort("pair_id").equals(read[1].sort("pair_id"))
    with pytest.raises(RunDiffers):
        run(PLAN, source, tmp_path / "out.parquet", incremental=True, roles={"score": "score"})


def test_scores_that_are_none_go_with_their_rows(tmp_path):
    rows = [(*row[:2], str(row[2])) for row in many(range(20))]
    write(tmp_path / "in" / "1.parquet", rows)
    write(tmp_path / "in" / "2.parquet", [("q", "a", "abc"), ("q", "b", "1")])
    first = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    assert first.bad_scores == ("'abc'",)
    write(tmp_path / "in" / "2.parquet", [("q", "a", "xyz"), ("q", "b", "1")])
    other = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    assert other.bad_scores == ("'xyz'",)
    (tmp_path / "in" / "2.parquet").unlink()
    last = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    assert (last.bad_scores, last.dropped) == ((), {})


def test_thresholds_that_fit_no_more_are_refused_as_a_full_run_refuses_them(tmp_path):
    """Nothing is ranked yet when the scores of all files refuse the defaults."""
    source = tmp_path / "in"
    write(source / "1.parquet", [("p", "a", 5), ("p", "b", 1)])
    run(pm.Pairs(), source, tmp_path / "out.parquet", incremental=True)
    write(source / "1.parquet", [("p", "a", 5), ("p", "b", 4)])
    with pytest.raises(ThresholdsUnfit) as whole:
        run(pm.Pairs(), source, tmp_path / "whole.parquet")
    assert "at most 1 pair" in str(whole.value)
    with pytest.raises(ThresholdsUnfit) as part:
        run(pm.Pairs(), source, tmp_path / "out.parquet", incremental=True)
    assert str(part.value) == str(whole.value)


def test_a_pair_with_other_scores_is_changed_and_keeps_its_id(tmp_path):
    write(tmp_path / "in.parquet", many(range(20)))
    run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", incremental=True)
    before = pl.read_parquet(tmp_path / "out.parquet")
    write(tmp_path / "in.parquet", [("p0", "a", 4), ("p0", "b", 1), *many(range(1, 20))])
    run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", incremental=True)
    changes = pl.read_parquet(tmp_path / "out-changes.parquet")
    assert changes.select("pair_id", "change", "chosen_score").rows() == [
        (before["pair_id"][0], "changed", 4.0)
    ]


def test_the_id_is_that_of_the_macro_and_of_md5(tmp_path):
    rows = [("é", "aa", 5), ("é", "b", 1), ("é", "aa", 5), ("q", "", 3), ("q", "c", 2)]
    write(tmp_path / "in.parquet", rows)
    plan = pm.Pairs(strategy="all", chosen_min=None, rejected_below=None)
    run(plan, tmp_path / "in.parquet", tmp_path / "out.parquet", incremental=True)
    told = pl.read_parquet(tmp_path / "out.parquet").sort("prompt", "pair_id")
    with duckdb.connect() as con:
        install(con)
        path = tmp_path / "out.parquet"
        query = f"SELECT pair_id(prompt, chosen, rejected) AS id FROM '{path}' ORDER BY prompt"
        ids = [row[0] for row in con.execute(query).fetchall()]
        twin = con.execute("SELECT pair_id('é', 'aa', 'b', one_twin := 1)").fetchall()[0][0]
    plain = hashlib.md5(b"1:q0:1:c", usedforsecurity=False).hexdigest()
    assert told.filter(pl.col("prompt") == "q")["pair_id"].to_list() == [plain] == ids[:1]
    assert set(told.filter(pl.col("prompt") == "é")["pair_id"]) == {ids[1], twin}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "arrow"])
def test_the_output_is_parquet(suffix, tmp_path):
    write(tmp_path / "in.parquet", many(range(2)))
    with pytest.raises(BadArgument, match=r"local Parquet; got .*(?s:.)*part-\*\.parquet"):
        run(PLAN, tmp_path / "in.parquet", tmp_path / f"out.{suffix}", incremental=True)


def test_what_stands_is_not_replaced_unless_it_is_of_the_same_plan(tmp_path):
    write(tmp_path / "in.parquet", many(range(9)))
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    out.write_text("mine")
    with pytest.raises(TargetExists):
        run(PLAN, source, out, incremental=True)
    assert out.read_text() == "mine"
    run(PLAN, source, out, incremental=True, overwrite=True)
    other = pm.Pairs(chosen_min=3, rejected_below=3)
    with pytest.raises(RunDiffers, match="chosen_min"):
        run(other, source, out, incremental=True)
    assert run(other, source, out, incremental=True, overwrite=True).pairs_out == 9


def test_an_output_of_another_plan_is_overwritten_whole(tmp_path):
    write(tmp_path / "in.parquet", [*many(range(20)), ("p0", "c", 3)])
    run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", incremental=True)
    other = pm.Pairs(strategy="all", chosen_min=None, rejected_below=None)
    how = {"incremental": True, "overwrite": True}
    report = run(other, tmp_path / "in.parquet", tmp_path / "out.parquet", **how)
    assert (report.rows_in, report.pairs_out) == (41, 22)
    assert "incremental: the plan or its options changed, so all were" in report.notes
    changes = pl.read_parquet(tmp_path / "out-changes.parquet")
    assert changes["change"].to_list() == ["added", "added"]


def test_nothing_is_done_twice_and_a_change_file_may_be_taken_away(tmp_path):
    write(tmp_path / "in.parquet", many(range(9)))
    run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", incremental=True)
    stood = (tmp_path / "out.parquet").stat().st_mtime_ns
    (tmp_path / "out-changes.parquet").unlink()
    report = run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", incremental=True)
    assert "nothing was to do" in report.notes[-1]
    assert not any(note.startswith("changes:") for note in report.notes)
    assert (tmp_path / "out.parquet").stat().st_mtime_ns == stood


def test_parts_without_a_changed_row_are_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(incremental, "PART_ROWS", 10)
    write(tmp_path / "in" / "1.parquet", many(range(35)))
    run(PLAN, tmp_path / "in", tmp_path / "out" / "part-*.parquet", incremental=True)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.parquet")}
    write(tmp_path / "in" / "2.parquet", [("p12", "c", 9)])
    run(PLAN, tmp_path / "in", tmp_path / "out" / "part-*.parquet", incremental=True)
    now = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.parquet")}
    assert len(before) == 4
    same = {name for name in before if before[name] == now[name]}
    assert same == set(before) - {"part-00001.parquet"}


def test_parts_that_stay_are_not_hashed_again_and_the_record_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(incremental, "PART_ROWS", 10)
    write(tmp_path / "in" / "1.parquet", many(range(35)))
    run(PLAN, tmp_path / "in", tmp_path / "out" / "part-*.parquet", incremental=True)
    hashed = []
    digest = records.sha256_of
    monkeypatch.setattr(records, "sha256_of", lambda path: hashed.append(path.name) or digest(path))
    write(tmp_path / "in" / "2.parquet", [("p12", "c", 9)])
    run(PLAN, tmp_path / "in", tmp_path / "out" / "part-*.parquet", incremental=True)
    assert sorted(hashed) == ["out-changes.parquet", "part-00001.parquet", "prefmill.json"]
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("plan", [PLAN, pm.Pairs(), pm.Pairs(chosen_quantile=0.8)])
def test_files_of_a_state_stay_few(tmp_path, monkeypatch, plan):
    monkeypatch.setattr(compact, "MOST_FILES", 3)
    for day in range(8):
        write(tmp_path / "in" / f"{day}.parquet", many(range(day * 10, day * 10 + 12)))
        run(plan, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
        kept = [path.name.split("-")[0] for path in tmp_path.glob(".out.parquet.prefmill/*/*-*")]
        assert all(kept.count(kind) <= 4 for kind in ("rows", "scores", "accounts"))
    run(plan, tmp_path / "in", tmp_path / "full.parquet")
    out = pl.read_parquet(tmp_path / "out.parquet").drop("pair_id")
    assert out.equals(pl.read_parquet(tmp_path / "full.parquet"))


def test_what_is_computed_whole_takes_the_index_that_is_there(tmp_path, monkeypatch):
    write(tmp_path / "in" / "1.parquet", many(range(30)))
    run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    write(tmp_path / "in" / "2.parquet", [(f"p{n}", "c", 9) for n in range(30)])
    monkeypatch.setattr(incremental, "MOST", 0.1)
    report = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    assert any("90 rows changed, so all were" in note for note in report.notes)
    indexes = list(tmp_path.glob(".out.parquet.prefmill/*/rows-*"))
    assert sorted(pl.read_parquet(path).height for path in indexes) == [30, 60]
    run(PLAN, tmp_path / "in", tmp_path / "full.parquet")
    out = pl.read_parquet(tmp_path / "out.parquet").drop("pair_id")
    assert out.equals(pl.read_parquet(tmp_path / "full.parquet"))
    write(tmp_path / "in" / "3.parquet", [("p3", "d", 0)])
    report = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", incremental=True)
    assert any("1 group changed; 4 of 91 rows were read" in note for note in report.notes)


def test_prompts_of_messages_and_groups_of_columns(tmp_path):
    def rows(days: range) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "prompt": [[{"role": "user", "content": "hi"}] for _ in days for _ in "ab"],
                "completion": [text for _ in days for text in "ab"],
                "score": [score for _ in days for score in (5, 1)],
                "day": [f"d{day}" for day in days for _ in "ab"],
            }
        )

    (tmp_path / "in").mkdir()
    rows(range(20)).write_parquet(tmp_path / "in" / "1.parquet")
    options = {"roles": {"group": ("day",)}, "incremental": True, "keep": ["day"]}
    run(PLAN, tmp_path / "in", tmp_path / "out.parquet", **options)
    rows(range(19, 22)).write_parquet(tmp_path / "in" / "2.parquet")
    report = run(PLAN, tmp_path / "in", tmp_path / "out.parquet", **options)
    assert any("3 groups changed" in note for note in report.notes)
    out = pl.read_parquet(tmp_path / "out.parquet")
    del options["incremental"]
    run(PLAN, tmp_path / "in", tmp_path / "full.parquet", **options)
    assert out.drop("pair_id").equals(pl.read_parquet(tmp_path / "full.parquet"))
    assert out["pair_id"].n_unique() == out.height == 22


@pytest.mark.skipif("PREFMILL_REALDATA" not in os.environ, reason="PREFMILL_REALDATA is not set")
def test_a_real_file_that_comes_in_two_parts(tmp_path):
    rows = pl.read_csv(
        Path(os.environ["PREFMILL_REALDATA"]) / "seed_feedback.csv", encoding="cp1252"
    )
    half = rows.height // 2
    (tmp_path / "in").mkdir()
    rows.head(half).write_csv(tmp_path / "in" / "1.csv")
    roles = {"completion": "answer"}
    run(pm.Pairs(), tmp_path / "in", tmp_path / "out.parquet", incremental=True, roles=roles)
    rows.tail(-half).write_csv(tmp_path / "in" / "2.csv")
    run(pm.Pairs(), tmp_path / "in", tmp_path / "out.parquet", incremental=True, roles=roles)
    run(pm.Pairs(), tmp_path / "in", tmp_path / "full.parquet", roles=roles)
    out = pl.read_parquet(tmp_path / "out.parquet").drop("pair_id")
    assert out.height
    assert out.equals(pl.read_parquet(tmp_path / "full.parquet"))


@pytest.mark.parametrize("out", ["out.parquet", "out/part-*.parquet"])
def test_the_record_is_that_of_what_stands(tmp_path, out):
    for file in ("1", "2"):
        write(tmp_path / "in" / f"{file}.parquet", many(range(int(file) * 10)))
        run(PLAN, tmp_path / "in", tmp_path / out, incremental=True)
    target = tmp_path / out.partition("/")[0]
    assert verify(target) == []
    (found,) = found_in(tmp_path)
    assert found.as_json()["rows"] == pl.read_parquet(tmp_path / out).height == 20


@pytest.mark.parametrize("threads", [1, 4])
def test_a_change_file_has_one_order(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(incremental, "MOST", 2.0)
    write(tmp_path / "in.parquet", many(range(40)))
    out = tmp_path / "out.parquet"
    run(PLAN, tmp_path / "in.parquet", out, incremental=True, threads=threads)
    changes = pl.read_parquet(tmp_path / "out-changes.parquet")
    assert changes["pair_id"].equals(pl.read_parquet(out)["pair_id"])
    rows = [(f"p{n}", a, s + n % 2) for n in range(20, 60) for a, s in (("a", 5), ("b", 1))]
    write(tmp_path / "in.parquet", rows)
    run(PLAN, tmp_path / "in.parquet", out, incremental=True, threads=threads)
    changes = pl.read_parquet(tmp_path / "out-changes.parquet")
    assert changes["change"].value_counts(sort=True)["count"].to_list() == [20, 20, 10]
    assert changes.equals(changes.sort("change", "pair_id"))


def test_an_output_of_other_columns_is_overwritten_and_every_row_is_changed(tmp_path):
    rows = [(*row, "web") for row in many(range(3))]
    write(tmp_path / "in.parquet", rows, "prompt completion score source")
    out = tmp_path / "out.parquet"
    run(PLAN, tmp_path / "in.parquet", out, incremental=True)
    for keep in (["source"], []):
        run(PLAN, tmp_path / "in.parquet", out, incremental=True, keep=keep, overwrite=True)
        changes = pl.read_parquet(tmp_path / "out-changes.parquet")
        assert changes["change"].to_list() == ["changed"] * 3
        rows_out = pl.read_parquet(out)
        assert changes.select(rows_out.columns).equals(rows_out.sort("pair_id"))


def test_columns_have_the_names_of_those_that_we_add(tmp_path, monkeypatch):
    monkeypatch.setattr(incremental, "MOST", 2.0)
    rows = [(*row, f"f{n}", -n) for n, row in enumerate(many(range(9)))]
    names, keep = "prompt completion score _file _row", ["_file", "_row"]
    out = tmp_path / "out.parquet"
    for extra in ([], [("p3", "late", 9, "late", 7)]):
        write(tmp_path / "in.parquet", [*rows, *extra], names)
        run(PLAN, tmp_path / "in.parquet", out, incremental=True, keep=keep)
    run(PLAN, tmp_path / "in.parquet", tmp_path / "full.parquet", keep=keep, pair_id=True)
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "full.parquet"))
    write(tmp_path / "in.parquet", [*rows, ("p3", "late", 9, "other", 7)], names)
    run(PLAN, tmp_path / "in.parquet", out, incremental=True, keep=keep)
    changes = pl.read_parquet(tmp_path / "out-changes.parquet")
    assert changes.select("change", "chosen__file").rows() == [("changed", "other")]


@pytest.mark.parametrize("how", [{"incremental": True}, {"pair_id": True}])
def test_a_place_of_rows_is_no_column_of_the_input(tmp_path, how):
    write(
        tmp_path / "in.parquet",
        [("p", "a", 5, 1), ("p", "b", 1, 2)],
        "prompt completion score _position",
    )
    with pytest.raises(BadArgument, match="_position"):
        run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", keep=["_position"], **how)
    assert run(PLAN, tmp_path / "in.parquet", tmp_path / "out.parquet", **how).pairs_out == 1

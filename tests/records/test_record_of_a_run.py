"""A run that writes keeps a record next to its output, and the same run again does nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import polars as pl
import pytest

import prefmill as pm
from prefmill.disk import records
from prefmill.disk.ledger import Ledger, key_of_finished
from prefmill.errors import BadInput, RunDiffers, TargetExists
from prefmill.runs.records.kept import verify
from prefmill.runs.records.recording import NOTHING_TO_DO

ROWS = pl.DataFrame(
    {
        "prompt": ["p", "p", "q", "q", "r", "r"],
        "completion": ["a", "b", "c", "d", "e", "f"],
        "score": [5, 1, 4, 2, 3, 1],
    }
)
PLAN = pm.Pairs(chosen_min=None, rejected_below=None)
SPLIT = {"train": 0.5, "test": 0.5}
SCHEMA = json.loads((Path(records.__file__).parent / "manifest.schema.json").read_text())


def length(batch):
    return [len(text) for text in batch["completion"].to_pylist()]


length.fingerprint = "length 1"


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ROWS.write_csv("rows.csv")
    return "rows.csv"


def record(output):
    found = records.record_of(Path(output))
    assert found is not None
    jsonschema.validate(found, SCHEMA)
    return found


def state(folder="."):
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


COMMANDS = {
    "pairs": lambda rows: pm.run(PLAN, rows, "o.parquet"),
    "split": lambda rows: pm.run(PLAN, rows, "o-train.jsonl", split=None),
    "folder": lambda rows: pm.run(PLAN, rows, "o", split=SPLIT),
    "best": lambda rows: pm.run(pm.BestOf(), rows, "o.csv"),
    "score": lambda rows: pm.score(rows, "o.parquet", scorer=length, score_column="length"),
    "in memory": lambda _: pm.run(PLAN, ROWS, "o.parquet"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_run_again_does_nothing(name, rows):
    first = COMMANDS[name](rows)
    before = state()
    again = COMMANDS[name](rows)
    assert state() == before
    assert again.notes[-1] == NOTHING_TO_DO
    told, expected = (json.loads(json.dumps(each.as_json())) for each in (again, first))
    told["notes"].pop()
    for each in (told, expected):
        each.pop("seconds")
        each.pop("chunks_resumed", None)
    assert told == expected


def test_a_record_says_what_was_read_and_written(rows):
    report = pm.run(PLAN, rows, "o.parquet", split=SPLIT)
    told = record("o-train.parquet")
    (read,) = told["inputs"]
    assert (read["path"], read["size"], read["rows"]) == (
        os.path.abspath("rows.csv"),
        os.path.getsize("rows.csv"),
        6,
    )
    made = {output["split"]: output for output in told["outputs"]}
    assert {name: output["rows"] for name, output in made.items()} == report.split_rows
    for name, output in made.items():
        path = Path(f"o-{name}.parquet")
        assert output["files"] == [
            {
                "path": path.name,
                "size": path.stat().st_size,
                "modified": path.stat().st_mtime_ns,
                "sha256": records.sha256_of(path),
            }
        ]
        assert list(output["schema"]) == pl.read_parquet_schema(path).names()
    assert told["plan"]["pairs"]["strategy"] == "best_worst"
    assert told["report"]["pairs_out"] == 3
    assert told["run_key"] == records.key_hash(told["key"])
    assert told["versions"]["polars"] == pl.__version__


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plan": pm.Pairs(chosen_min=None, rejected_below=None, min_margin=1)}, "plan.min_margin"),
        ({"chat": True}, "chat"),
        ({"split": None, "margin_scale": 2.0}, "margin_scale"),
        (
            {"roles": {"score": "-score"}},
            "choice of columns; got --score -score, expected --prompt",
        ),
        ({"delimiter": ","}, "delimiter"),
        ({"inputs": ["rows.csv", "more.csv"]}, "input '.*more.csv'; got 60 bytes"),
    ],
)
def test_another_key_is_refused_by_name_unless_overwritten(changes, named, rows):
    ROWS.write_csv("more.csv")
    usual = {"plan": PLAN, "inputs": rows, "output": "o.parquet"}
    pm.run(**usual)
    before = state()
    with pytest.raises(RunDiffers, match=f"pairs: 'o.parquet' belongs to a run with .*{named}"):
        pm.run(**usual | changes)
    assert state() == before
    pm.run(**usual | changes, overwrite=True)
    assert pm.run(**usual | changes).notes[-1] == NOTHING_TO_DO


def test_options_that_a_run_printed_are_the_same_run(rows):
    named = dict(zip(ROWS.columns, ("user_query", "bot_reply", "rating"), strict=True))
    ROWS.rename(named).write_csv("odd.csv")
    first = pm.run(PLAN, "odd.csv", "o.parquet")
    told = "--prompt user_query --completion bot_reply --score rating"
    assert first.records["read_as"] == told
    assert record("o.parquet")["read_as"] == named
    before = state()
    assert pm.run(PLAN, "odd.csv", "o.parquet", roles=named).notes[-1] == NOTHING_TO_DO
    assert state() == before
    # Fewer words might be read otherwise, so they are another run, which says what was read.
    with pytest.raises(RunDiffers, match=f"got --score rating, expected {told}."):
        pm.run(PLAN, "odd.csv", "o.parquet", roles={"score": "rating"})
    # The other way round: nobody knows yet what would be guessed.
    pm.run(PLAN, "odd.csv", "typed.parquet", roles=named)
    with pytest.raises(RunDiffers, match=f"choice of columns; got none, expected {told}."):
        pm.run(PLAN, "odd.csv", "typed.parquet")


def test_another_guess_of_a_file_that_changed_is_another_run(rows):
    ROWS.rename({"score": "rating"}).write_csv("odd.csv")
    pm.run(PLAN, "odd.csv", "o.parquet")
    named = record("o.parquet")["read_as"]
    ROWS.rename({"score": "stars", "completion": "reply"}).write_csv("odd.csv")
    with pytest.raises(RunDiffers, match="another input"):
        pm.run(PLAN, "odd.csv", "o.parquet")
    with pytest.raises(RunDiffers, match="another input"):
        pm.run(PLAN, "odd.csv", "o.parquet", roles=named)


def test_what_changed_since_is_not_ours(rows):
    pm.run(PLAN, rows, "o.parquet", split=SPLIT)
    Path("o-test.parquet").write_text("mine")
    with pytest.raises(TargetExists, match="o-t"):
        pm.run(PLAN, rows, "o.parquet", split=SPLIT)
    Path("o-test.parquet").unlink()
    with pytest.raises(TargetExists, match="o-train"):
        pm.run(PLAN, rows, "o.parquet", split=SPLIT)
    Path("o-train.parquet").unlink()
    assert NOTHING_TO_DO not in pm.run(PLAN, rows, "o.parquet", split=SPLIT).notes


@pytest.mark.parametrize("name", ["pairs", "best", "score"])
def test_a_changed_byte_of_the_same_size_is_not_ours(name, rows):
    COMMANDS[name](rows)
    (output,) = Path().glob("o.*")
    content = bytearray(output.read_bytes())
    content[len(content) // 2] ^= 1
    output.write_bytes(content)
    with pytest.raises(TargetExists):
        COMMANDS[name](rows)
    assert output.read_bytes() == content


def test_a_changed_input_is_another_key(rows):
    pm.run(PLAN, rows, "o.parquet")
    os.utime(rows, ns=(0, 0))
    with pytest.raises(RunDiffers, match=r"another input '.*rows.csv'; got .* of 1970"):
        pm.run(PLAN, rows, "o.parquet")
    with pytest.raises(RunDiffers, match="input 'a table in memory'"):
        pm.run(PLAN, ROWS, "o.parquet")


def test_what_can_be_read_once_is_never_done(rows):
    pm.run(PLAN, ROWS.lazy(), "o.parquet")
    with pytest.raises(TargetExists):
        pm.run(PLAN, ROWS.lazy(), "o.parquet")


@pytest.mark.parametrize("refused", ["no.csv", "rows.txt"])
def test_a_refused_run_leaves_nothing(refused, rows):
    Path("rows.txt").write_text("x")
    before = sorted(os.listdir("."))
    with pytest.raises(ValueError, match=refused):
        pm.run(PLAN, refused, "deep/er/o.parquet")
    Path("torn.jsonl").write_text('{"prompt": 1}\n{')
    with pytest.raises(BadInput):
        pm.run(PLAN, "torn.jsonl", "deep/er/o.parquet")
    Path("torn.jsonl").unlink()
    none = pm.Pairs(chosen_min=None, rejected_below=None, min_margin=99)
    assert not pm.run(none, rows, "deep/er/o.parquet").output
    assert sorted(os.listdir(".")) == before


def test_no_secret_of_a_url_is_written():
    from prefmill.redact import redacted

    told = redacted({"inputs": [["https://me:secret@h.org/x.parquet?sig=secret", None]]})
    assert told == {"inputs": [["https://h.org/x.parquet", None]]}


def test_what_redaction_makes_equal_is_another_run_all_the_same():
    from prefmill.redact import redacted_key

    one, two = (redacted_key({"rows": {"each": f"https://h.org/?q={n}"}}) for n in (1, 2))
    assert one != two
    assert one["rows"]["each"].startswith("https://h.org/ #")
    # An input has its size and its time, or a tag.
    inputs = [redacted_key({"inputs": [[f"s3://b/x?key={n}", "tag"]]}) for n in (1, 2)]
    assert inputs[0] == inputs[1]
    keys = [redacted_key({"extra": {"api_key": key}}) for key in "ab"]
    assert keys == [{"extra": {"api_key": "***"}}] * 2


def test_names_of_columns_and_sources_are_data_and_no_secrets(rows):
    sources = [f"https://h.org/?q={n}" for n in (1, 2)]
    ROWS.with_columns(secret=pl.lit("s"), source=pl.Series(sources * 3)).write_parquet(
        "more.parquet"
    )
    plan = pm.Pairs(chosen_min=None, rejected_below=None, expect=pm.Expect(sources=sources))
    first = pm.run(plan, "more.parquet", "o.parquet", keep=["secret"])
    assert dict(first.sources) == dict.fromkeys(sources, 3)
    assert record("o.parquet")["outputs"][0]["schema"]["chosen_secret"] == "string"
    assert verify("o.parquet") == []
    again = pm.run(plan, "more.parquet", "o.parquet", keep=["secret"])
    assert NOTHING_TO_DO in again.notes
    assert dict(again.sources) == dict(first.sources)


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["s", "t", "u"])], ids=str)
def test_categories_of_polars_are_texts(rows, kind):
    source = pl.Series(["s", "t", "s", None, "u", "s"])
    texts = ROWS.with_columns(source=source)
    frame = texts.with_columns(pl.col("source").cast(kind))
    frame.write_ipc("frame.arrow")
    pm.run(PLAN, texts, "texts.parquet", keep=["source"])
    for name, given in {"frame": frame, "lazy": frame.lazy(), "ipc": "frame.arrow"}.items():
        pm.run(PLAN, given, f"{name}.parquet", keep=["source"])
        assert pl.read_parquet(f"{name}.parquet").equals(pl.read_parquet("texts.parquet"))
    assert NOTHING_TO_DO in pm.run(PLAN, frame, "frame.parquet", keep=["source"]).notes
    other = texts.with_columns(source=source.reverse()).cast({"source": kind})
    with pytest.raises(RunDiffers, match="a table in memory"):
        pm.run(PLAN, other, "frame.parquet", keep=["source"])


def test_rejects_that_went_away_are_made_again(rows):
    Path(rows).write_text(Path(rows).read_text() + "too,many,5,fields\n")

    def again():
        return pm.run(PLAN, rows, "pairs.parquet", rejects="bad.jsonl")

    assert NOTHING_TO_DO not in again().notes
    bad = Path("bad.jsonl").read_text()
    assert NOTHING_TO_DO in again().notes
    Path("bad.jsonl").unlink()
    assert NOTHING_TO_DO not in again().notes
    assert Path("bad.jsonl").read_text() == bad != ""
    assert NOTHING_TO_DO in again().notes


def test_another_content_of_one_size_is_not_what_a_ledger_left(tmp_path):
    output = tmp_path / "x.parquet"
    with Ledger(output, {"a": 1}, {}) as ledger:
        ledger.publishing()
        output.write_bytes(b"output")
        ledger.finish({})
    assert key_of_finished(output) == {"a": 1}
    output.write_bytes(b"other!")
    os.utime(output, ns=(1, 1))
    assert key_of_finished(output) == {}

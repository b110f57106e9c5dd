"""What pairs are worth: figures that mean what they say, and planted faults that are found."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import duckdb
import polars as pl
import pytest
from good_words import WORDS, pairs_of
from word_encoder import word_encoder

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, MissingPackage
from prefmill.models import embedding

pytestmark = pytest.mark.score


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return word_encoder(tmp_path_factory.mktemp("models") / "encoder", WORDS)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, encoder):
    """Pairs of which one in ten is flipped, what is said of them, and the file."""
    rows = pairs_of(random.Random(5), 500, flipped=0.1)
    path = tmp_path_factory.mktemp("worth") / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    output = path.with_name("mislabelled.parquet")
    return rows, path, pm.worth(path, output, model=encoder), pl.read_parquet(output)


def test_flipped_labels_are_found(faulty):
    rows, _, report, listed = faulty
    assert report.found == ["mislabelled"]
    assert report.mislabelled == listed.height
    assert report.flips.low <= 0.1 <= report.flips.high
    right = sum(rows[row]["planted"] for row in listed["row"])
    planted = sum(row["planted"] for row in rows)
    assert right >= 0.8 * listed.height
    assert right >= 0.6 * planted


def test_the_list_names_the_pairs(faulty):
    rows, _, _, listed = faulty
    ids = duckdb.connect()
    pm_sql = __import__("prefmill.duckdb", fromlist=["install"])
    pm_sql.install(ids)
    assert listed["chance"].is_sorted(descending=True)
    for each in listed.iter_rows(named=True):
        row = rows[each["row"]]
        names = ("prompt", "chosen", "rejected", "annotator")
        assert [each[name] for name in names] == [row[name] for name in names]
        texts = [row[name] for name in names[:3]]
        told = ids.execute("SELECT pair_id(?, ?, ?)", texts).fetchall()
        assert told == [(each["text_id"],)]


def test_the_order_of_pairs_does_not_matter(faulty, encoder):
    rows, _, report, _ = faulty
    again = pm.worth(pl.DataFrame(random.Random(0).sample(rows, len(rows))), model=encoder)
    assert again.accuracy.share == report.accuracy.share
    assert again.mislabelled == report.mislabelled


def test_a_record_stands_next_to_the_list(faulty, encoder):
    _, path, report, _ = faulty
    again = pm.worth(path, path.with_name("mislabelled.parquet"), model=encoder)
    assert "nothing was to do" in again.notes[-1]
    assert again.curve == report.curve
    assert again.found == report.found


def test_an_annotator_who_is_upside_down_is_named(encoder):
    rows = pairs_of(random.Random(2), 500, upside_down="v")
    report = pm.worth(pl.DataFrame(rows), model=encoder)
    assert [part.name for part in report.parts if part.reversed] == ["v"]
    assert "annotator" in report.found
    assert report.parts[0].name == "v"


def test_of_many_pairs_some_are_drawn(faulty, encoder):
    rows, *_ = faulty
    report = pm.worth(pl.DataFrame(rows), model=encoder, most=120)
    assert (report.used, report.pairs) == (120, 500)
    assert any("120 of 500 pairs were drawn" in note for note in report.notes)
    assert report.curve[-1].labels == 96
    assert str(report).count("\n") > 30


def test_ids_of_the_file_are_kept(encoder, tmp_path):
    rows = [
        {**row, "pair_id": f"{number:032x}"}
        for number, row in enumerate(pairs_of(random.Random(8), 300, flipped=0.15))
    ]
    pm.worth(pl.DataFrame(rows), tmp_path / "out.jsonl", model=encoder)
    listed = pl.read_ndjson(tmp_path / "out.jsonl")
    assert listed.height
    assert listed["pair_id"].to_list() == [f"{row:032x}" for row in listed["row"]]


def test_few_pairs_are_refused(encoder):
    rows = pl.DataFrame(pairs_of(random.Random(0), 20))
    with pytest.raises(BadInput, match=r"20 pairs of 10 prompts are too few.*expected 50"):
        pm.worth(rows, model=encoder)
    with pytest.raises(BadArgument, match="most is no whole number"):
        pm.worth(rows, model=encoder, most=-1)


def test_without_an_encoder_it_says_which(monkeypatch):
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    with pytest.raises(MissingPackage, match="no-such-package") as error:
        pm.worth(pl.DataFrame(pairs_of(random.Random(0), 60)))
    assert "--model" in error.value.hint


def test_the_command(faulty, encoder, tmp_path):
    _, path, report, _ = faulty
    line = [sys.executable, "-m", "prefmill", "worth", path, "--model", encoder, "--json"]
    line += ["--page", tmp_path / "worth.html", "--strict"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["accuracy"]["share"] == report.accuracy.share
    assert [each["name"] for each in told["warnings"]] == ["mislabelled"]
    assert "Likely mislabelled" in (tmp_path / "worth.html").read_text()

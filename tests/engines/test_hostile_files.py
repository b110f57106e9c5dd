"""Names of files, tables and splits that want to be code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hostile import KEYS, NAMES, SAYS, VALUES

import prefmill
import prefmill.duckdb
import prefmill.polars
from prefmill import Pairs, PrefmillError, Unpaired


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch) -> Iterator[Path]:
    """The working folder; what a test makes goes below `made`, so that anything else is a
    stranger.
    """
    (tmp_path / "CANARY").write_text(SAYS)
    (tmp_path / "made").mkdir()
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert (tmp_path / "CANARY").read_text() == SAYS, "the canary is dead"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CANARY", "made", "temp"], (
        "a file that nobody named"
    )
    assert list((tmp_path / "temp").iterdir()) == [], "a temporary file is left"


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2}) as connection:
        prefmill.duckdb.install(connection)
        yield connection


def only(*names: str) -> None:
    """The folder `made` holds exactly these."""
    records = {f".{name}.prefmill" for name in names}  # of the runs that wrote them
    there = {p.name for p in Path("made").iterdir()}
    assert sorted(there - records) == sorted(names)


SURFACES = ("duckdb", "polars", "sql", "lazy")

#: Names that `pl.col` reads as all columns, or as those that match (here: `other`).
PATTERNS = {"star": "*", "regex": "^ot.*$"}

# Tables


#: `query_table` reads these as qualified names, or cannot read them: a plain error, and nothing of
#: them runs. Quoted, they work.
QUALIFIED = ("double", "dot", "regex", "inject", "inject bracket")


@pytest.mark.parametrize("key", [*KEYS, *PATTERNS])
def test_table_names(key, con):
    """`plan.sql` over a table of a hostile name, as it is and as an SQL identifier: the rows of
    that table.
    """
    name = (NAMES | PATTERNS)[key]
    quoted = '"' + name.replace('"', '""') + '"'
    con.execute(
        f"CREATE TABLE {quoted} AS FROM (VALUES ('p', 'a', 5), ('p', 'b', 1)) t(prompt, completion,"
        f" score)"
    )
    try:
        assert con.sql(Pairs().sql(quoted)).fetchall() == [("p", "a", "b", 5.0, 1.0)]
        if key in QUALIFIED:
            with pytest.raises((duckdb.ParserException, duckdb.CatalogException)):
                con.sql(Pairs().sql(name))
        else:
            assert con.sql(Pairs().sql(name)).fetchall() == [("p", "a", "b", 5.0, 1.0)]
    finally:
        con.execute(f"DROP TABLE {quoted}")


# Files


def file_name(name: str) -> str:
    return name.replace("/", "∕")  # the one character, beside NUL, that no file name can hold


@pytest.mark.parametrize("key", [*KEYS, "star", "regex"])
def test_file_names(key):
    """Input and output files of hostile names; the kinds of file and the engines go round."""
    stem, engine_name = (
        file_name((NAMES | PATTERNS)[key]),
        SURFACES[KEYS.index(key) // 3 % 2 if key in NAMES else 0],
    )
    kind = ("parquet", "jsonl", "csv")[KEYS.index(key) % 3 if key in NAMES else 0]
    frame = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    source, target = f"made/{stem}.{kind}", f"made/{stem}.out.{kind}"
    with open(source, "wb") as file:
        {"parquet": frame.write_parquet, "jsonl": frame.write_ndjson, "csv": frame.write_csv}[kind](
            file
        )
    report = prefmill.run(Pairs(), source, target, engine=engine_name, temp_dir="temp")
    assert report.output == {"": target}
    only(f"{stem}.{kind}", f"{stem}.out.{kind}")
    with open(target, "rb") as file:
        read = {"parquet": pl.read_parquet, "jsonl": pl.read_ndjson, "csv": pl.read_csv}[kind](file)
    assert [(p, c, r, float(a), float(b)) for p, c, r, a, b in read.rows()] == [
        ("p", "a", "b", 5.0, 1.0)
    ]


@pytest.mark.parametrize("engine_name", ["duckdb", "polars"])
@pytest.mark.parametrize("key", [*KEYS[::9], "glob"])
def test_folders_of_files(key, engine_name):
    """A hostile folder with two files in it: both are read, and nothing beside them."""
    folder = Path("made", file_name(NAMES[key]))
    folder.mkdir()
    for i in range(2):
        with (folder / f"{i}.parquet").open("wb") as file:
            pl.DataFrame(
                {"prompt": ["p"], "completion": [f"a{i}"], "score": [1 + 4 * i]}
            ).write_parquet(file)
    report = prefmill.run(Pairs(), folder, "made/out.jsonl", engine=engine_name, temp_dir="temp")
    assert (report.rows_in, report.pairs_out) == (2, 1)
    only(folder.name, "out.jsonl")
    assert json.loads(Path("made/out.jsonl").read_text())["chosen"] == "a1"


@pytest.mark.parametrize(
    "split",
    [
        "a b",
        "../up",
        "..",
        ".",
        "",
        "a/b",
        "/a",
        "a\0b",
        "*",
        "'",
        '"',
        "CANARY",
        "é",
        "a\nb",
        "-x",
        "a.parquet",
        "x" * 300,
    ],
)
def test_split_names(split):
    """A name of a split is part of a file name: plain names only."""
    pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}).write_parquet(
        "made/in.parquet"
    )
    try:
        report = prefmill.run(
            Pairs(),
            "made/in.parquet",
            "made/out.jsonl",
            split={split: 0.5, "rest": 0.5},
            temp_dir="temp",
        )
    except (PrefmillError, OSError):
        only("in.parquet")
    else:
        assert report.output == {split: f"made/out-{split}.jsonl", "rest": "made/out-rest.jsonl"}
        only("in.parquet", f"out-{split}.jsonl", "out-rest.jsonl")


@pytest.mark.parametrize(
    "target",
    [
        "made/a\0b.parquet",
        "",
        ".",
        "..",
        "made",
        "CANARY",
        "CANARY/x.parquet",
        "made/in.parquet",
        "made/x.exe",
        "/dev/null",
    ],
)
def test_targets_that_cannot_be(target):
    pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}).write_parquet(
        "made/in.parquet"
    )
    before = Path("made/in.parquet").read_bytes()
    with pytest.raises((PrefmillError, OSError, ValueError)) as error:
        prefmill.run(
            Pairs(),
            "made/in.parquet",
            target,
            temp_dir="temp",
            overwrite=target != "made/in.parquet",
        )
    assert str(error.value)
    only("in.parquet")
    assert Path("made/in.parquet").read_bytes() == before


@pytest.mark.parametrize("engine_name", ["duckdb", "polars"])
@pytest.mark.parametrize(
    "name",
    [
        "*.parquet'; COPY (SELECT 1) TO 'CANARY'; --",
        "made/*'); --.parquet",
        "no\0file.parquet",
        "$HOME/*.parquet",
        "~",
    ],
)
def test_inputs_that_are_not_there(name, engine_name):
    with pytest.raises(PrefmillError):
        prefmill.run(Pairs(), name, "made/out.parquet", engine=engine_name, temp_dir="temp")
    only()


@pytest.mark.parametrize("key", [*VALUES[1:], "\x7f"], ids=repr)
def test_plans_as_toml_keep_hostile_weights(key):
    plan = Unpaired(weights={key: 0.5}, chosen_min=1, rejected_below=1)
    assert Unpaired.from_toml(plan.to_toml()) == plan

"""Parquet objects stay where they are: workers read their own rows, and a run is the local one."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_serving import S3

import prefmill as pm
from prefmill.errors import BadInput, RunDiffers, StoreFailed
from prefmill.objects import ObjectReader
from prefmill.readers import in_place, open_source
from prefmill.runs.cluster import spread
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.executor import Inline, Note, Stage
from prefmill.runs.cluster.splits import splits_of
from prefmill.runs.cluster.work import Work
from prefmill.runs.looks.check import check

#: Splits of several groups of rows.
CUT = Cut(split_rows=170, buckets=3, part_bytes=50_000, row_bytes=100)
GROUP = 60


def rows(first: int, count: int, seed: int = 7) -> pl.DataFrame:
    draw = random.Random(seed + first)
    numbers = range(first, first + count)
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return pl.DataFrame(
        {
            "prompt": [f"question {n // 5}" for n in numbers],
            "completion": [f"answer {n} {draw.random()}" for n in numbers],
            "score": [draw.randrange(10) for _ in numbers],
            "made": [when + datetime.timedelta(hours=n) for n in numbers],
            "tags": [[f"t{n}", None] if n % 3 else None for n in numbers],
        }
    )


class Counting(Inline):
    """Inline, and what was fetched before the first task, and in each stage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = "driver"
        self.bytes: dict[str, int] = {}
        fetch, first = ObjectReader._fetch, ObjectReader._first

        def fetched(reader: ObjectReader, start: int, end: int) -> memoryview:
            self._add(end - start)
            return fetch(reader, start, end)

        def opened(reader: ObjectReader) -> Any:
            answer = first(reader)
            self._add(len(answer[2]))
            return answer

        monkeypatch.setattr(ObjectReader, "_fetch", fetched)
        monkeypatch.setattr(ObjectReader, "_first", opened)

    def _add(self, count: int) -> None:
        self.bytes[self.stage] = self.bytes.get(self.stage, 0) + count

    def run(self, work: Work, stage: Stage, numbers: Sequence[int]) -> Iterator[tuple[int, Note]]:
        self.stage = stage.name
        yield from super().run(work, stage, numbers)
        self.stage = "driver again"


def put(s3: S3, folder: Path, name: str, frame: pl.DataFrame | pa.Table, **options: Any) -> None:
    """The same file in a folder and as an object."""
    path = folder / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
    pq.write_table(table, path, **{"row_group_size": GROUP, **options})
    s3.put(f"in/{name}", path.read_bytes())


def told(report: Any) -> dict[str, Any]:
    own = ("seconds", "peak_rss_mb", "worker_rss_mb", "engine", "output", "notes")
    return {name: value for name, value in asdict(report).items() if name not in own}


def both(plan: Any, s3: S3, folder: Path, **words: Any) -> tuple[pl.DataFrame, Any]:
    """The output of a spread run over objects, which is that of the local run over files."""
    spreading = {name: words.pop(name) for name in ("executor", "cut") if name in words}
    report = pm.run(plan, folder / "in", folder / "local.parquet", engine="duckdb", **words)
    away = spread.run(
        plan,
        f"{s3.url}/in/",
        folder / "away.parquet",
        **{"executor": Inline(), "cut": CUT, **spreading, **words},
    )
    made = pl.read_parquet(folder / "away.parquet")
    assert made.equals(pl.read_parquet(folder / "local.parquet"))
    assert told(away) == told(report)
    assert made.height
    return made, away


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (pm.Pairs(strategy="all"), {"keep": ["made", "tags"]}),
        (pm.Pairs(chosen_min=7, rejected_below=3), {"roles": {"group": ["prompt"]}}),
        (pm.BestOf(), {}),
        (pm.Unpaired(), {"split": None}),
    ],
)
def test_a_run_over_objects_is_the_local_run(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Any, words: Any
) -> None:
    monkeypatch.setattr(in_place, "_SAMPLE", 30)
    put(s3, tmp_path, "a.parquet", rows(0, 450))
    put(s3, tmp_path, "b.parquet", rows(440, 0))
    # Splits of this one end inside groups.
    put(s3, tmp_path, "c.parquet", rows(447, 333), compression="snappy", row_group_size=300)
    both(plan, s3, tmp_path, **words)


def test_partitions_and_columns_that_some_lack(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place, "_SAMPLE", 30)
    put(s3, tmp_path, "day=1/a.parquet", rows(0, 250))
    more = rows(240, 260).with_columns(
        pl.col("score").cast(pl.Float64) / 1.5,
        model=pl.lit("m"),
        completion=pl.when(pl.col("score") > 8).then(None).otherwise(pl.col("completion")),
    )
    put(s3, tmp_path, "day=a%2Fb/a.parquet", more.select(sorted(more.columns)))
    words: Any = {"roles": {"group": ["prompt", "day"]}, "keep": ["model", "day"]}
    made, report = both(pm.Pairs(strategy="all"), s3, tmp_path, **words)
    assert report.dropped["null_completion"] > 0
    assert set(made["chosen_day"]) == {"1", "a/b"}
    assert {None, "m"} == set(made["chosen_model"])


@pytest.mark.parametrize("writer", ["polars", "duckdb"])
def test_files_of_other_writers(s3: S3, tmp_path: Path, writer: str) -> None:
    frame = rows(0, 400).with_columns(
        prompt=pl.struct(role=pl.lit("user"), content="prompt").implode().over(pl.int_range(400)),
        model=pl.col("prompt").cast(pl.Categorical),
        price=pl.col("score").cast(pl.Decimal(10, 2)),
        day=pl.col("made").dt.date(),
    )
    path = tmp_path / "in/a.parquet"
    path.parent.mkdir()
    if writer == "polars":
        frame.write_parquet(path, row_group_size=GROUP)
    else:
        frame = frame.with_columns(pl.col("model").cast(pl.String), uint=pl.lit(3, pl.UInt16))
        duckdb.sql(f"COPY (FROM frame) TO '{path}' (ROW_GROUP_SIZE {GROUP})")
    s3.put("in/a.parquet", path.read_bytes())
    source = open_source([f"{s3.url}/in/a.parquet"], temp_dir=tmp_path, stay=True)
    local = open_source([str(path)], temp_dir=tmp_path)
    assert source.stays
    assert (source.columns, source.nulls) == (local.columns, local.nulls)
    names = ["made", "tags", "model", "price", "day"]
    both(pm.Pairs(strategy="all"), s3, tmp_path, keep=names)


def test_a_text_that_is_not_utf_8_is_named(s3: S3, tmp_path: Path) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 450), compression="none")
    data = bytearray(s3.get("in/a.parquet"))
    at = data.index(b"answer 440 ")
    data[at : at + 6] = b"\xff" * 6
    s3.put("in/a.parquet", bytes(data))
    with pytest.raises(BadInput, match=r"a\.parquet: not a readable Parquet file.*UTF"):
        spread.run(
            pm.Pairs(strategy="all"),
            f"{s3.url}/in/a.parquet",
            tmp_path / "out.parquet",
            cut=CUT,
            executor=Inline(),
        )


def test_a_column_of_some_objects_may_be_a_role(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a column can be is seen in the first object that has it."""
    monkeypatch.setattr(in_place, "_SAMPLE", 10)
    frame = rows(0, 200)
    critique = frame.with_columns(feedback=pl.lit("Well said."), rating="score").drop("score")
    put(s3, tmp_path, "a.parquet", frame.rename({"score": "rating"}))
    put(s3, tmp_path, "b.parquet", critique)
    both(pm.Pairs(strategy="all"), s3, tmp_path)


def test_objects_next_to_text(s3: S3, tmp_path: Path) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 250).drop("made", "tags"))
    other = rows(240, 100).drop("made", "tags")
    other.write_csv(tmp_path / "in/b.csv")
    s3.put("in/b.csv", (tmp_path / "in/b.csv").read_bytes())
    # Numbers in one file and text in the other are text in both.
    both(pm.Pairs(strategy="all"), s3, tmp_path)


def test_records_are_fetched_whole(s3: S3, tmp_path: Path) -> None:
    records = pl.DataFrame(
        {
            "prompt": [f"question {n}" for n in range(400)],
            "answers": [[f"a {n}", f"b {n}", f"c {n}"] for n in range(400)],
            "scores": [[n % 7, n % 5, n % 3] for n in range(400)],
        }
    )
    put(s3, tmp_path, "a.parquet", records)
    both(pm.Pairs(strategy="all"), s3, tmp_path, roles={"each": "answers,scores"})


def test_types_that_a_copy_would_change_are_fetched_whole(s3: S3, tmp_path: Path) -> None:
    table = rows(0, 300).to_arrow()
    blobs = pa.array([bytes([n % 256]) * 4 for n in range(300)], pa.binary(4))
    put(s3, tmp_path, "a.parquet", table.append_column("blob", blobs))
    source = open_source([f"{s3.url}/in/a.parquet"], temp_dir=tmp_path, stay=True)
    assert source.stays == ()
    assert pq.read_metadata(source.files[0]).num_rows == 300
    both(pm.Pairs(strategy="all"), s3, tmp_path, keep=["blob"])


def test_what_crosses_the_network(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "_SAMPLE", 20)
    monkeypatch.setattr(in_place, "_HEAD", 20)
    draw = random.Random(3)
    large = rows(0, 2000).with_columns(
        completion=pl.Series([draw.randbytes(500).hex() for _ in range(2000)]),
        unread=pl.Series([draw.randbytes(500).hex() for _ in range(2000)]),
    )
    for name in "ab":
        options = {"compression": "none", "use_dictionary": False, "row_group_size": 500}
        put(s3, tmp_path, f"{name}.parquet", large, **options)
    size = (tmp_path / "in/a.parquet").stat().st_size
    assert size > 4_000_000
    counting = Counting(monkeypatch)
    cut = replace(CUT, split_rows=700)  # of which groups have 500
    both(pm.Pairs(strategy="all"), s3, tmp_path, executor=counting, cut=cut)
    # Two footers, and of one object the first pieces of its columns.
    assert counting.bytes["driver"] < 1_800_000
    assert counting.bytes.get("driver again", 0) == 0
    # Neither answers nor what nobody reads are fetched for ranking.
    ends = 8 * 66_000
    assert counting.bytes["narrow"] < 2 * 2000 * 40 + ends
    answers = 2 * 2000 * 1000
    assert answers < counting.bytes["fetch"] < 1.1 * answers + ends


def test_an_object_without_rows(s3: S3, tmp_path: Path) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 0))
    words: Any = {"allow_empty": True, "executor": Inline()}
    url, out = f"{s3.url}/in/a.parquet", tmp_path / "out.parquet"
    report = spread.run(pm.Pairs(strategy="all"), url, out, **words)
    assert (report.rows_in, report.pairs_out) == (0, 0)
    assert pl.read_parquet(out).height == 0


@pytest.mark.parametrize("stage", ["narrow", "fetch"])
def test_a_replaced_object_is_never_mixed(s3: S3, tmp_path: Path, stage: str) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 450))
    s3.put("b.parquet", (tmp_path / "in/a.parquet").read_bytes())
    put(s3, tmp_path, "a.parquet", rows(0, 450, seed=8))
    other = (tmp_path / "in/a.parquet").read_bytes()

    class Replacing(Inline):
        def run(self, work: Work, at: Stage, numbers: Sequence[int]) -> Iterator[tuple[int, Note]]:
            if at.name == stage:
                s3.put("b.parquet", other)
            yield from super().run(work, at, numbers)

    out = tmp_path / "out.parquet"
    words: Any = (pm.Pairs(strategy="all"), f"{s3.url}/b.parquet", out)
    with pytest.raises(StoreFailed, match="was replaced while it was read"):
        spread.run(*words, cut=CUT, executor=Replacing())
    assert not out.exists()
    if stage == "fetch":  # begun over one object, it does not go on over another
        with pytest.raises(RunDiffers, match="another input"):
            spread.run(*words, cut=CUT, executor=Inline())
    s3.client().delete_object(Bucket=s3.bucket, Key="b.parquet")
    with pytest.raises(BadInput, match="no such object"):
        spread.run(*words, cut=CUT, executor=Inline())


def test_a_damaged_page_is_named(s3: S3, tmp_path: Path) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 450), write_page_checksum=True, compression="none")
    data = bytearray(s3.get("in/a.parquet"))
    at = data.rindex(b"answer 440")
    data[at : at + 6] = b"ANSWER"
    s3.put("in/a.parquet", bytes(data))
    with pytest.raises(BadInput, match=r"a\.parquet: not a readable Parquet file"):
        spread.run(
            pm.Pairs(strategy="all"),
            f"{s3.url}/in/a.parquet",
            tmp_path / "out.parquet",
            cut=CUT,
            executor=Inline(),
        )


def test_a_damaged_footer_is_refused(s3: S3, tmp_path: Path) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 20))
    data = s3.get("in/a.parquet")
    for name, damaged, told_of in (
        ("cut", data[:-9], "does not end as one"),
        ("empty", b"", "it is empty"),
        ("head", b"XXXX" + data[4:], "does not begin as one"),
    ):
        s3.put(f"{name}.parquet", damaged)
        with pytest.raises(BadInput, match=told_of):
            open_source([f"{s3.url}/{name}.parquet"], temp_dir=tmp_path, stay=True)


def test_check_counts_all_rows(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "_SAMPLE", 10)
    monkeypatch.setattr(in_place, "_HEAD", 10)
    frame = rows(0, 450)
    # The sign for no score is in rows of no sample.
    scores = [*frame["score"].to_list()[:-2], -1, -1]
    put(s3, tmp_path, "a.parquet", frame.with_columns(score=pl.Series(scores)))
    local = check(str(tmp_path / "in/a.parquet"))
    away = check(f"{s3.url}/in/a.parquet", engine="ray", cut=CUT, executor=Inline())
    assert "-1 stands apart from the other scores (2 rows)" in "".join(local.notes)
    assert away.as_json() == local.as_json()


def test_a_curve_over_objects(s3: S3, tmp_path: Path) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, 450).with_columns(t=pl.col("score") % 2))
    words: Any = {"by": "t", "check": "t", "resamples": 20}
    local = pm.curve(tmp_path / "in/a.parquet", **words)
    spreading: Any = {"engine": "ray", "executor": Inline(), "cut": CUT}
    away = pm.curve(f"{s3.url}/in/a.parquet", **words, **spreading)
    assert away.points.equals(local.points)
    assert (away.rows_in, away.rows_used) == (local.rows_in, local.rows_used) == (450, 450)


@pytest.mark.parametrize("most", [1, 59, 60, 61, 120, 1000])
@pytest.mark.parametrize("count", [0, 1, 60, 450])
def test_splits_have_every_row_once(s3: S3, tmp_path: Path, most: int, count: int) -> None:
    put(s3, tmp_path, "a.parquet", rows(0, count))
    source = open_source([f"{s3.url}/in/a.parquet"], temp_dir=tmp_path, stay=True)
    splits = splits_of(source, most)
    assert [row for each in splits for row in range(each.first, each.last)] == list(range(count))
    assert all(each.rows <= most for each in splits)
    if most >= 60:
        assert all(each.first % 60 == 0 for each in splits)

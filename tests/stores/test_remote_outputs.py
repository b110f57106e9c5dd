"""Objects as outputs are what local files of the same command are."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from s3_serving import S3, new_bucket, s3_server, without_others

import prefmill as pm
from prefmill.disk import leases, uploads
from prefmill.disk.leases import Lease
from prefmill.disk.stores import store_of
from prefmill.disk.targets import shown, staging, target_of
from prefmill.errors import BadArgument, RunBusy, RunDiffers, StoreFailed, TargetExists
from prefmill.objects import _failed

ROWS = pl.DataFrame(
    {
        "prompt": [f"question {n // 4}" for n in range(200)],
        "completion": [f"answer {n}" for n in range(200)],
        "score": [float(n * 7 % 10) for n in range(200)],
    }
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    ROWS.write_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize(
    "name", ["x.parquet", "x.jsonl", "x.csv", "x.tsv", "x.arrow", "x.jsonl.gz"]
)
def test_every_format_is_byte_for_byte_that_of_a_file(s3: S3, rows: Path, name: str) -> None:
    local = rows.parent / "out" / name
    pm.run(pm.Pairs(strategy="all"), rows, local)
    report = pm.run(pm.Pairs(strategy="all"), rows, f"{s3.url}/out/{name}")
    assert s3.get(f"out/{name}") == local.read_bytes()
    assert report.output == {"": f"{s3.url}/out/{name}"}
    assert s3.keys() == [f"out/.{name}.prefmill/manifest.json", f"out/{name}"]


def test_partitions(s3: S3, rows: Path) -> None:
    names = pl.Series("name", ["a/b", None, "é=ü", "100%"] * 50)
    ROWS.with_columns(names).write_parquet(rows)
    how = {"keep": ["name"], "partition_by": ["name"]}
    pm.run(pm.Unpaired(), rows, rows.parent / "labels", **how)
    local = {
        f"labels/{path.relative_to(rows.parent / 'labels')}": path.read_bytes()
        for path in (rows.parent / "labels").rglob("*.parquet")
    }
    for _ in range(2):
        report = pm.run(pm.Unpaired(), rows, f"{s3.url}/labels", **how)
        assert report.output == {"": f"{s3.url}/labels"}
        keys = s3.keys()
        assert {key: s3.get(key) for key in keys if key.startswith("labels/")} == local
    assert "nothing was to do" in report.notes[-1]
    assert uploads.objects_of(f"{s3.url}/labels") == {key: f"{s3.url}/{key}" for key in local}
    back = pm.run(pm.Pairs(), f"{s3.url}/labels", rows.parent / "back.parquet")
    assert back.pairs_out == pm.run(pm.Pairs(), rows, rows.parent / "full.parquet").pairs_out
    ROWS.with_columns(name=pl.lit("a/b")).write_parquet(rows)
    pm.run(pm.Unpaired(), rows, f"{s3.url}/labels", overwrite=True, **how)
    keys = s3.keys()
    there = [key for key in keys if key.startswith("labels/")]
    assert there == ["labels/name=a%2Fb/part-00000.parquet"]


def test_splits(s3: S3, rows: Path) -> None:
    split = {"train": 0.8, "test": 0.2}
    report = pm.run(pm.Pairs(), rows, f"{s3.url}/p.parquet", split=split)
    pm.run(pm.Pairs(), rows, rows.parent / "p.parquet", split=split)
    assert set(report.output.values()) == {f"{s3.url}/p-train.parquet", f"{s3.url}/p-test.parquet"}
    for name in ("p-train.parquet", "p-test.parquet"):
        assert s3.get(name) == (rows.parent / name).read_bytes()
    assert uploads.objects_of(f"{s3.url}/p-train.parquet") == {
        name: f"{s3.url}/{name}" for name in ("p-train.parquet", "p-test.parquet")
    }
    again = pm.run(pm.Pairs(), rows, f"{s3.url}/p.parquet", split=split)
    assert again.notes[-1] == "this run was done before: nothing was to do."
    other = {**split, "train": split["train"] / 2, "test": split["train"] / 2 + split["test"]}
    with pytest.raises(RunDiffers, match=f"{s3.url}/p-t.*another split"):
        pm.run(pm.Pairs(), rows, f"{s3.url}/p.parquet", split=other)
    assert [key for key in s3.keys("") if "/new/" in key or key.endswith("lease")] == []


def test_a_folder_of_datasets(s3: S3, rows: Path, tmp_path: Path) -> None:
    split = {"train": 0.8, "test": 0.2}
    pm.run(pm.Pairs(), rows, f"{s3.url}/a/set/", split=split)
    pm.run(pm.Pairs(), rows, tmp_path / "set", split=split)
    local = sorted(
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.glob("set/**/*")
        if path.is_file()
    )
    assert [key.removeprefix("a/") for key in s3.keys("a/set/")] == local
    for key in local:
        assert s3.get(f"a/{key}") == (tmp_path / key).read_bytes()
    # Read as an input, one split is a folder of its own.
    report = pm.run(pm.Pairs(), f"{s3.url}/a/set/train", None, roles={"prompt": "prompt"})
    assert report.rows_in > 0
    # Without splits: what the old set had more of goes.
    pm.run(pm.Pairs(), rows, f"{s3.url}/a/set/", overwrite=True)
    assert s3.keys("a/set/") == [
        "a/set/data-00000-of-00001.arrow",
        "a/set/dataset_info.json",
        "a/set/state.json",
    ]


def test_a_folder_of_other_objects_is_not_replaced(s3: S3, rows: Path) -> None:
    s3.put("mine/photo.jpg", b"x")
    with pytest.raises(BadArgument, match="none of `datasets`"):
        pm.run(pm.Pairs(), rows, f"{s3.url}/mine/", overwrite=True)
    assert s3.get("mine/photo.jpg") == b"x"


def test_what_is_there_stays(s3: S3, rows: Path) -> None:
    s3.put("x.parquet", b"old")
    with pytest.raises(TargetExists, match=f"'{s3.url}/x.parquet' is already there"):
        pm.run(pm.Pairs(), rows, f"{s3.url}/x.parquet")
    assert s3.get("x.parquet") == b"old"
    pm.run(pm.Pairs(), rows, f"{s3.url}/x.parquet", overwrite=True)
    assert pl.read_parquet(io.BytesIO(s3.get("x.parquet"))).height


def test_another_program_is_first(s3: S3) -> None:
    target = target_of(f"{s3.url}/x", "test")
    with staging([target], where="test") as stage:
        stage.path(target).write_bytes(b"ours")
        s3.put("x", b"theirs")
        with pytest.raises(TargetExists):
            stage.publish(overwrite=False)
    assert s3.get("x") == b"theirs"


def test_two_writers(s3: S3) -> None:
    target = target_of(f"{s3.url}/x", "test")
    with staging([target], where="test") as stage:
        with pytest.raises(RunBusy, match=f"another process is writing '{s3.url}/x'"):
            staging([target], where="test")
        stage.path(target).write_bytes(b"ours")
        stage.publish(overwrite=False)
    assert s3.get("x") == b"ours"
    assert s3.keys() == ["x"]


def test_an_error_leaves_nothing(s3: S3, rows: Path, tmp_path: Path) -> None:
    target = target_of(f"{s3.url}/x", "test")
    with contextlib.suppress(RuntimeError), staging([target], where="test") as stage:
        stage.path(target).write_bytes(b"half")
        raise RuntimeError
    assert s3.keys() == []


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("s3", ["AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"]),
        ("gs", ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SKIP_SIGNATURE"]),
        ("gcs", ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SKIP_SIGNATURE"]),
        ("az", ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_SKIP_SIGNATURE"]),
    ],
)
def test_a_hint_names_the_variables_of_its_store(scheme, words):
    asked = OSError("error sending request for http://169.254.169.254/computeMetadata/v1")
    hint = _failed(asked, f"{scheme}://b/x", "store").hint
    assert [word for word in words if word in hint] == words
    assert {word.partition("_")[0] for word in hint.split() if "_" in word} == {
        words[0].partition("_")[0]
    }


@pytest.mark.parametrize("target", ["hf://datasets/a/b.parquet", "file:///x.csv", "ftp://h/x.csv"])
def test_other_schemes_are_refused(rows: Path, target: str) -> None:
    with pytest.raises(BadArgument, match=r"no store of the scheme '\w+'.*s3://"):
        pm.run(pm.Pairs(), rows, target)


def test_a_missing_bucket_is_told_before_the_work(s3: S3, rows: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(StoreFailed, match="no such bucket"):
            pm.run(pm.Pairs(), rows, "s3://no-such-bucket-there/x.parquet", overwrite=overwrite)
    with pytest.raises(BadArgument, match="names a bucket"):
        pm.run(pm.Pairs(), rows, s3.url)


# --- kills ----------------------------------------------------------------------------------------

CHILD = """
import sys, os, signal
from prefmill.disk import uploads, stores
from prefmill.disk.targets import staging, target_of
url, names, word, moment, number, overwrite = sys.argv[1:]
calls = 0
def deadly(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(number):
            if moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            function(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("put_file", "put_new", "replace", "copy", "delete", "put_where_none"):
    setattr(stores.ObjectStore, name, deadly(getattr(stores.ObjectStore, name)))
targets = [target_of(f"{url}/{name}", "test") for name in names.split(",")]
with staging(targets, where="test") as stage:
    for target in targets:
        stage.path(target).write_text(word * 1000)
    stage.publish(overwrite=overwrite == "yes")
print("done")
"""


def write(s3: S3, names: str, word: str, moment: str, number: int, overwrite: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", CHILD, s3.url, names, word, moment, str(number), overwrite],
        env={**without_others(), **s3.environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def seen(s3: S3, names: list[str]) -> set[str]:
    """What a reader by the manifest finds at each name."""
    there = uploads.objects_of(f"{s3.url}/{names[0]}")
    words = set()
    for name in names:
        url = there.get(name, f"{s3.url}/{name}")
        try:
            text = s3.get(url.removeprefix(f"{s3.url}/")).decode()
        except s3.client().exceptions.NoSuchKey:
            words.add("")
            continue
        assert len(text) == 3000
        words.add(text[:3])
    return words


LONG = pytest.mark.torture


@pytest.mark.parametrize(
    ("names", "begin", "moment"),
    [
        ("a", "", "before"),
        ("a", "old", "after"),
        ("a,b", "old", "before"),
        pytest.param("a", "", "after", marks=LONG),
        pytest.param("a", "old", "before", marks=LONG),
        pytest.param("a,b", "", "before", marks=LONG),
        pytest.param("a,b", "", "after", marks=LONG),
        pytest.param("a,b", "old", "after", marks=LONG),
    ],
)
def test_killed_at_every_request_and_run_again(s3: S3, names: str, begin: str, moment: str) -> None:
    number = 0
    while True:
        number += 1
        for key in s3.keys(""):
            s3.client().delete_object(Bucket=s3.bucket, Key=key)
        if begin:
            assert "done" in write(s3, names, begin, moment, 0, "no").stdout
        overwrite = "yes" if begin else "no"
        done = write(s3, names, "new", moment, number, overwrite)
        words = seen(s3, names.split(","))
        assert words in ({begin}, {"new"}), number
        if "done" in done.stdout:
            assert number > 3
            return
        at_the_end = not [key for key in s3.keys("") if key.endswith("lease")]
        again = write(s3, names, "new", moment, 0, overwrite)
        if moment == "after" and at_the_end and words == {"new"} and not begin:
            assert "already there" in again.stderr  # all was done but to say so
            continue
        assert "done" in again.stdout, again.stderr
        assert seen(s3, names.split(",")) == {"new"}
        for name in names.split(","):
            assert s3.get(name).decode() == "new" * 1000
        assert [key for key in s3.keys("") if key.endswith("lease") or "/new/" in key] == []


def test_a_lease_outlives_no_owner(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    store, refusal = store_of(s3.url), RunBusy("busy")
    with Lease(store, "lease", refusal) as lease:
        lease.say({"x": 1})
        with pytest.raises(RunBusy):
            Lease(store, "lease", refusal)
    assert store.names() == []
    # An owner on another machine, who is silent.
    mark = "prefmill-1-2-aaaaaaaa-bbbbbb-cccccccc.tmp"
    store.put_text("lease", json.dumps({"owner": mark, "at": time.time(), "note": {"x": 2}}))
    with pytest.raises(RunBusy):
        Lease(store, "lease", refusal)
    monkeypatch.setattr(leases, "WATCH", 0.2)
    store.put_text("lease", json.dumps({"owner": mark, "at": time.time() - 1e6, "note": {"x": 2}}))
    with Lease(store, "lease", refusal) as lease:
        assert lease.note == {"x": 2}
    # One that renews his lease while he is watched.
    store.put_text("lease", json.dumps({"owner": mark, "at": time.time() - 1e6, "note": {}}))
    sleep = time.sleep

    def renewed(seconds: float) -> None:
        store.put_text(
            "lease", json.dumps({"owner": mark, "at": time.time() - 1e6, "note": {"y": 3}})
        )
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", renewed)
    with pytest.raises(RunBusy):
        Lease(store, "lease", refusal)


def test_a_lease_is_renewed_and_a_lost_one_is_known(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    store = store_of(s3.url)
    with Lease(store, "lease", RunBusy("busy")) as lease:
        first = store.get_text("lease")
        until = time.monotonic() + 5
        while store.get_text("lease") == first and time.monotonic() < until:
            time.sleep(0.02)
        assert store.get_text("lease") != first
        lease.check()
        store.put_text("lease", json.dumps({"owner": "somebody", "at": time.time()}))
        while not lease.lost and time.monotonic() < until:
            time.sleep(0.02)
        with pytest.raises(RunBusy):
            lease.check()
    assert json.loads(store.get_text("lease"))["owner"] == "somebody"


def test_paths_of_targets() -> None:
    assert shown(target_of("s3://b/c/x.parquet", "t")) == "s3://b/c/x.parquet"
    assert shown(target_of("out/x", "t")) == "out/x"
    assert shown(target_of("./s3:/x", "t")) == os.path.abspath("s3:/x")


def test_an_input_is_not_overwritten(s3: S3, rows: Path) -> None:
    s3.put("in/rows.parquet", rows.read_bytes())
    s3.put("in/more.parquet", rows.read_bytes())
    for given in ("in/rows.parquet", "in/rows.*"):
        with pytest.raises(BadArgument, match="as input and as output"):
            pm.run(pm.Pairs(), f"{s3.url}/{given}", f"{s3.url}/in/rows.parquet", overwrite=True)
    # In a folder the output is left out, and the report says so.
    report = pm.run(pm.Pairs(), f"{s3.url}/in", f"{s3.url}/in/rows.parquet", overwrite=True)
    assert report.rows_in == 200
    assert any("left out" in note for note in report.notes)


def test_nothing_comes_out(s3: S3, rows: Path) -> None:
    nothing = pm.Pairs(chosen_min=99, rejected_below=-99)
    s3.put("x.csv", b"old")
    report = pm.run(nothing, rows, f"{s3.url}/x.csv", overwrite=True)
    assert (report.pairs_out, report.output) == (0, {})
    assert s3.get("x.csv") == b"old"
    pm.run(nothing, rows, f"{s3.url}/x.csv", overwrite=True, allow_empty=True)
    assert s3.get("x.csv").startswith(b"prompt")
    assert s3.keys("") == [".x.csv.prefmill/manifest.json", "x.csv"]


def test_models_and_loops_stay_local(s3: S3, tmp_path: Path, rows: Path) -> None:
    with pytest.raises(BadArgument, match="outputs are local"):
        pm.train_reward(rows, f"{s3.url}/model", model="org/any")


def test_killed_in_the_middle_of_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an object that goes up in parts nothing is seen before the last."""
    child: list[subprocess.Popen[str]] = []
    parts: list[str] = []

    def spoil(request: Any, moto: Any, start: Any) -> Any:
        if "partNumber" in request.get("QUERY_STRING", "") and child:
            parts.append(request["QUERY_STRING"])
            if len(parts) == 3:
                child[0].kill()
        return moto(request, start)

    script = (
        "import sys\n"
        "from prefmill.disk.targets import staging, target_of\n"
        "target = target_of(sys.argv[1], 'test')\n"
        "with staging([target], where='test') as stage:\n"
        "    stage.path(target).write_bytes(b'new!' * (20 << 20))\n"
        "    stage.publish(overwrite=True)\n"
        "print('done')\n"
    )
    with s3_server(spoil) as port:
        s3 = new_bucket(port)
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        s3.put("x", b"old!")
        words = [sys.executable, "-c", script, f"{s3.url}/x"]
        child.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert "done" not in child[0].communicate(timeout=60)[0]
        assert len(parts) >= 3
        assert s3.get("x") == b"old!"
        child.clear()
        again = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60)
        assert "done" in again.stdout
        assert s3.get("x") == b"new!" * (20 << 20)
        assert s3.keys("") == ["x"]

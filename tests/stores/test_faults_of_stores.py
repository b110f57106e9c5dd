"""A store that fails now and then is asked again; one that goes on failing is told of."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from s3_serving import KEY_ID, S3, SECRET, Faults, new_bucket, s3_server

import prefmill as pm
from prefmill import objects
from prefmill.disk.stores import store_of
from prefmill.disk.targets import staging, target_of
from prefmill.disk.uploads import objects_of
from prefmill.errors import RunBusy, StoreFailed, TargetExists


def flaky(faults: Faults, monkeypatch: pytest.MonkeyPatch, port: int) -> S3:
    s3 = new_bucket(port).lead_here(monkeypatch)
    faults.on = True
    return s3


@pytest.mark.parametrize(
    "kinds",
    [
        ("503", "lost", "cut"),
        *(pytest.param((kind,), marks=pytest.mark.torture) for kind in ("503", "lost", "cut")),
    ],
)
def test_a_run_over_a_store_that_fails(
    kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(*kinds)
    rows = pl.DataFrame(
        {
            "prompt": [f"question {n // 4}" for n in range(400)],
            "completion": [f"answer {n}" * 20 for n in range(400)],
            "score": [float(n * 7 % 10) for n in range(400)],
        }
    )
    rows.write_parquet(tmp_path / "in.parquet")
    with s3_server(faults) as port:
        s3 = flaky(faults, monkeypatch, port)
        faults.on = False
        s3.put("in.parquet", (tmp_path / "in.parquet").read_bytes())
        faults.on = True
        split = {"train": 0.8, "test": 0.2}
        pm.run(pm.Pairs(), tmp_path / "in.parquet", tmp_path / "x.parquet")
        pm.run(pm.Pairs(), f"{s3.url}/in.parquet", f"{s3.url}/x.parquet")
        pm.run(pm.Pairs(), f"{s3.url}/in.parquet", f"{s3.url}/y.parquet", split=split)
        pm.run(pm.Pairs(), tmp_path / "in.parquet", tmp_path / "y.parquet", split=split)
        scores = {"score_column": "s", "chunk_rows": 100}
        pm.score(f"{s3.url}/in.parquet", f"{s3.url}/z.parquet", scorer=lengths, **scores)
        pm.score(tmp_path / "in.parquet", tmp_path / "z.parquet", scorer=lengths, **scores)
        faults.on = False
        for name in ("x.parquet", "y-train.parquet", "y-test.parquet", "z.parquet"):
            assert s3.get(name) == (tmp_path / name).read_bytes()
    assert all(faults.done[kind] > 3 for kind in kinds)


def lengths(batch: pa.RecordBatch) -> list[float]:
    return [float(len(text)) for text in batch["completion"].to_pylist()]


def test_a_stalled_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "STALLED", 1)
    objects._bucket.cache_clear()
    faults = Faults("slow", spacing=2, seconds=2.5)
    with s3_server(faults) as port:
        s3 = flaky(faults, monkeypatch, port)
        faults.on = False
        s3.put("x", b"content")
        faults.on = True
        store = store_of(s3.url)
        for _ in range(3):
            assert store.get_text("x") == "content"
    objects._bucket.cache_clear()
    assert faults.done["slow"] >= 1


def test_nobody_answers(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = store_of(f"{s3.url}/x")
    with pytest.raises(StoreFailed, match="no answer after all retries") as caught:
        store.put_text("y", "z")
    assert "AWS_ENDPOINT_URL" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert KEY_ID not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "told"), [("403 Forbidden", "refuses access"), ("400 Bad", "refuses the")]
)
def test_a_refusal_names_no_secret(status: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request, moto, start):
        if not refusing:
            return moto(request, start)
        # What a store may say of a wrong signature: the request, and whose key it was.
        body = f"<Error><Code>SignatureDoesNotMatch</Code><Key>{KEY_ID}</Key></Error>".encode()
        start(status, [("Content-Length", str(len(body)))])
        return [body]

    refusing: list[int] = []
    with s3_server(refuse) as port:
        s3 = new_bucket(port)
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        refusing.append(1)
        store = store_of(s3.url)
        for call in (lambda: store.put_text("x", "y"), lambda: store.get_text("x"), store.names):
            with pytest.raises(StoreFailed, match=told) as caught:
                call()
            assert "SignatureDoesNotMatch" in str(caught.value)
            assert caught.value.__cause__ is None
            assert KEY_ID not in str(caught.value)
            assert SECRET not in str(caught.value)


def test_two_writers_and_a_reader(s3: S3) -> None:
    """Of a set that two replace at once, a reader by the manifest sees one or the other."""
    targets = [target_of(f"{s3.url}/{name}", "test") for name in ("a", "b")]

    def write(word: str) -> bool:
        try:
            with staging(targets, where="test") as stage:
                for target in targets:
                    stage.path(target).write_text(word * 50_000)
                stage.publish(overwrite=True)
        except RunBusy:
            return False
        return True

    assert write("x")
    over = threading.Event()
    written = {"x"}

    def rewrite(words: str) -> None:
        for word in words:
            if write(word):
                written.add(word)

    seen: set[str] = set()
    mixed: list[set[str]] = []

    def read() -> None:
        store = store_of(s3.url)
        while not over.is_set():
            try:
                there = objects_of(targets[0])
                texts = {store.get_text(url.removeprefix(f"{s3.url}/")) for url in there.values()}
            except FileNotFoundError:
                continue  # it was of the old set
            if objects_of(targets[0]) != there:
                continue  # so may what was read be
            seen.update(texts)
            if len(texts) != 1:
                mixed.append({text[:1] for text in texts})

    writers = [threading.Thread(target=rewrite, args=(words,)) for words in ("pqrst", "PQRST")]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert not mixed
    assert {text[0] for text in seen} <= written
    assert len(written) > 2
    assert all(len(text) == 50_000 for text in seen)


def test_one_of_two_new_outputs_wins(s3: S3) -> None:
    target = target_of(f"{s3.url}/x", "test")
    said: list[str] = []
    begin = threading.Barrier(4)

    def write(word: str) -> None:
        begin.wait()
        try:
            with staging([target], where="test") as stage:
                stage.path(target).write_text(word)
                stage.publish(overwrite=False)
            said.append(word)
        except (RunBusy, TargetExists) as error:
            said.append(type(error).__name__)

    threads = [threading.Thread(target=write, args=(word,)) for word in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [word for word in said if len(word) == 1]
    assert s3.get("x").decode() == won
    assert np.isin(said, ["RunBusy", "TargetExists", won]).all()

"""A folder and a prefix in a bucket are the same kind of place."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from s3_serving import S3, SECRET

from prefmill.disk.stores import LocalStore, ObjectStore, Store, store_of
from prefmill.errors import BadArgument, StoreFailed
from prefmill.objects import ObjectReader


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return store_of(tmp_path / "root")
    return store_of(request.getfixturevalue("s3").url + "/some/prefix")


def test_what_is_put_is_there(store: Store) -> None:
    store.put_text("a/b.txt", "höhe")
    store.put("a/c.bin", lambda file: file.write(b"\0" * 1000))
    store.put_text("other", "x")
    assert store.names() == ["a/b.txt", "a/c.bin", "other"]
    assert store.names("a/") == ["a/b.txt", "a/c.bin"]
    assert store.names("a/b") == ["a/b.txt"]
    assert store.names("no/such/") == []
    assert store.get_text("a/b.txt") == "höhe"
    assert store.size("a/c.bin") == 1000
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert store.names("a/") == ["a/c.bin"]
    for read in (store.get_text, store.open, store.size, store.tagged):
        with pytest.raises(FileNotFoundError):
            read("a/b.txt")


def test_a_put_that_fails_changes_nothing(store: Store) -> None:
    store.put_text("x", "old")

    def save(file) -> None:
        file.write(b"new")
        raise RuntimeError("half")

    with pytest.raises(RuntimeError):
        store.put("x", save)
    assert store.get_text("x") == "old"
    assert store.names() == ["x"]


def test_large_files_go_up_in_parts(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * (40 << 12)  # 40 MB
    store.put("big", lambda file: file.write(data))
    (tmp_path / "big").write_bytes(data)
    store.put_file("two", tmp_path / "big")
    for name in ("big", "two"):
        with store.open(name) as file:
            assert file.read() == data
            file.seek(33_333_333)
            assert file.read(7) == data[33_333_333:33_333_340]


def test_an_arrow_file_is_read_in_few_requests(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(s3.url)
    batches = [
        pa.record_batch({"x": pa.array(range(n, n + 200_000)), "y": ["text"] * 200_000})
        for n in range(4)
    ]

    def save(file) -> None:
        with pa.ipc.new_file(file, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    store.put("a.arrow", save)
    asked = []
    fetch = ObjectReader._fetch
    monkeypatch.setattr(
        ObjectReader, "_fetch", lambda self, *ends: asked.append(ends) or fetch(self, *ends)
    )
    with store.open("a.arrow") as source:
        file = pa.ipc.open_file(source)
        assert file.num_record_batches == 4
        assert not asked  # the footer came with the opening
        assert file.get_batch(2).equals(batches[2])
    assert len(asked) <= 2


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000])
def test_reads_at_any_place(store: Store, size: int) -> None:
    data = bytes(n * 7 % 251 for n in range(size))
    store.put("x", lambda file: file.write(data))
    with store.open("x") as file:
        assert file.size() == size
        for start in (size - 3, 0, size // 2, size // 3, size + 5):
            start = max(0, start)
            file.seek(start)
            assert file.read(1000) == data[start : start + 1000]


def test_one_of_many_writers_is_first(store: Store) -> None:
    won: list[int] = []
    begin = threading.Barrier(8)

    def write(number: int) -> None:
        begin.wait()
        if store.put_new("lease", f"owner {number}"):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get_text("lease") == f"owner {won[0]}"
    assert store.names() == ["lease"]


def test_a_version_is_replaced_once(store: Store) -> None:
    assert not store.replace("m", "x", "no such tag")
    store.put_text("m", "one")
    text, tag = store.tagged("m")
    assert text == "one"
    assert store.replace("m", "two", tag)
    assert not store.replace("m", "three", tag)
    assert store.get_text("m") == "two"


def test_it_travels_without_secrets(store: Store) -> None:
    store.put_text("x", "1")
    frozen = pickle.dumps(store)
    assert SECRET.encode() not in frozen
    assert pickle.loads(frozen).get_text("x") == "1"
    assert SECRET not in repr(store)


@pytest.mark.parametrize("name", ["", "/x", "a//b", "../x", "a/../b", "."])
def test_names_stay_below_the_root(store: Store, name: str) -> None:
    with pytest.raises(BadArgument, match="no name"):
        store.put_text(name, "x")


def test_urls(tmp_path: Path, s3: S3) -> None:
    assert store_of(f"{s3.url}/a/b/").url("c") == f"{s3.url}/a/b/c"
    assert store_of(s3.url).url() == s3.url
    assert isinstance(store_of("s3://x"), ObjectStore)
    assert store_of(tmp_path).url("c") == str(tmp_path / "c")
    assert isinstance(store_of("plain"), LocalStore)
    for wrong in ("ftp://x/y", "memory://x", "https://h/x", "file:///x"):
        with pytest.raises(BadArgument, match=r"s3://, gs://.*abfss://"):
            store_of(wrong)


def test_an_object_that_is_replaced_while_it_is_read(s3: S3) -> None:
    store = store_of(s3.url)
    store.put("x", lambda file: file.write(b"a" * 1_000_000))
    with store.open("x") as file:
        store.put("x", lambda file: file.write(b"b" * 1_000_000))
        with pytest.raises(StoreFailed, match="replaced while it was read"):
            file.read(100)


def test_no_such_bucket(s3: S3) -> None:
    store = store_of("s3://no-such-bucket-here/x")
    for call in (
        lambda: store.get_text("x"),
        lambda: store.put_text("x", "y"),
        lambda: store.put_new("x", "y"),
        store.names,
    ):
        with pytest.raises(StoreFailed, match="no such bucket") as caught:
            call()
        assert "make the bucket" in str(caught.value)
        assert SECRET not in str(caught.value)

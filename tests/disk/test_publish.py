"""Outputs appear whole or not at all under every fault, and nothing of a dead process stays."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill.disk import folders, hidden, settling, whole
from prefmill.errors import BadArgument, RunBusy, RunDiffers, TargetExists
from prefmill.readers.find import find_files
from prefmill.writers import write as writers

FAULTS = Path(__file__).parents[1] / "support" / "runners" / "publish_faults.py"


@pytest.mark.parametrize(
    ("kind", "old", "how"),
    [
        ("file", "nothing", "death"),
        ("split", "some", "error"),
        ("dataset", "all", "death"),
        pytest.param("split", "nothing", "death", marks=pytest.mark.torture),
        pytest.param("split", "all", "death", marks=pytest.mark.torture),
        pytest.param("datasets", "nothing", "death", marks=pytest.mark.torture),
    ],
)
def test_every_fault_leaves_old_or_new(kind, old, how, tmp_path):
    command = [sys.executable, str(FAULTS), str(tmp_path / "out"), kind, old, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    faults = json.loads(done.stdout)
    assert min(faults[name] for name in ("replace", "fsync", "write", "rmdir")) >= 4
    if kind == "split":
        assert faults["symlink"] == 8
        assert faults.get("link", 0) == {"nothing": 0, "some": 2, "all": 4}[old]
    if kind.startswith("dataset") and old == "all":
        assert faults["exchange"] == 2


def killed(work) -> None:
    """Run `work` in a child, which kills itself in it."""
    with (
        warnings.catch_warnings()
    ):  # of threads that a fork does not take along: the child only writes files
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def publish(targets: list[Path], text: str, *, overwrite: bool = False) -> None:
    with whole.Staging(targets, where="t") as staging:
        for target in targets:
            if target.suffix:
                staging.path(target).write_text(text)
            else:
                staging.path(target).mkdir()
                (staging.path(target) / "data.jsonl").write_text(text)
        staging.publish(overwrite=overwrite)


def texts(folder: Path) -> dict[str, str]:
    """All that is there, hidden or not."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_disk_without_links_settles_a_set_at_the_next_start(number, tmp_path, monkeypatch):
    """FAT, or an object store that is mounted: renames one by one, and the next start goes on where
    a kill came.
    """

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "symlink", refused)
    targets = [tmp_path / "a.txt", tmp_path / "b.txt"]
    publish(targets, "old")

    def dies() -> None:
        real, calls = os.replace, 0

        def counted(source: Path, target: Path) -> None:
            nonlocal calls
            calls += target in targets
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = counted
        publish(targets, "new", overwrite=True)
        os.kill(os.getpid(), signal.SIGKILL)

    killed(dies)
    settling.settle(tmp_path)
    text = "old" if number == 1 else "new"
    assert texts(tmp_path) == {"a.txt": text, "b.txt": text}


@pytest.mark.parametrize("number", [1, 2])
def test_a_system_without_exchange_puts_the_old_folder_back(number, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "exchange", lambda *_: False)
    publish([tmp_path / "out"], "old")

    def dies() -> None:
        real, calls = os.rename, 0

        def counted(source: Path, target: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.rename = counted
        publish([tmp_path / "out"], "new", overwrite=True)

    killed(dies)
    assert (tmp_path / "out").exists() == (
        number == 1
    )  # between two renames it is absent, for others
    reads = find_files(str(tmp_path / "out"))  # for our readers it is there
    assert [Path(item.path).read_text() for item in reads] == ["old"]
    settling.settle(tmp_path)
    assert texts(tmp_path) == {"out/data.jsonl": "old"}
    publish([tmp_path / "out"], "new", overwrite=True)
    assert texts(tmp_path) == {"out/data.jsonl": "new"}


def test_the_folder_of_a_dead_training_is_replaced_without_a_word(tmp_path):
    def train(text: str) -> None:
        with folders.whole_folder(tmp_path / "out", overwrite=False, where="train") as folder:
            (folder / folders.MARK).write_text(text)

    def dies() -> None:
        os.rmdir = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        train("new")

    killed(dies)
    assert (tmp_path / "out" / folders.MARK).read_text() == "new"
    train("newer")
    assert texts(tmp_path) == {f"out/{folders.MARK}": "newer"}
    with pytest.raises(TargetExists):
        train("once more")


def test_a_cache_may_be_made_by_several_at_once(tmp_path):
    with whole.Staging([tmp_path / "a.txt"], where="t", shared=True) as one:
        with whole.Staging([tmp_path / "a.txt"], where="t", shared=True) as other:
            one.path(tmp_path / "a.txt").write_text("one")
            other.path(tmp_path / "a.txt").write_text("other")
            other.publish(overwrite=True)
        one.publish(overwrite=True)
    assert texts(tmp_path) == {"a.txt": "one"}


def test_the_exchange_is_real_where_there_is_one(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    if whole.exchange(tmp_path / "one", tmp_path / "other"):
        assert texts(tmp_path) == {"one/other": "", "other/one": ""}
    else:
        assert sys.platform not in ("linux", "darwin")


WAITS = """
import sys, time
from pathlib import Path
from prefmill.disk import whole
from prefmill.disk.hidden import temporary
folder, temp = map(Path, sys.argv[1:])
with temporary(temp) as home, whole.Staging([folder / "out.parquet"], where="t") as staging:
    (home / "rows").write_text("spilled")
    staging.path(folder / "out.parquet").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    out, temp = tmp_path / "out", tmp_path / "temp"
    out.mkdir()
    temp.mkdir()
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    rows.write_parquet(tmp_path / "rows.parquet")
    other = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(out), str(temp)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "ready\n"
        (staged,), (home,) = list(out.iterdir()), list(temp.iterdir())
        boot = hidden.machine()[0]
        assert re.search(rf"prefmill-{other.pid}-\d+-{boot}-", home.name)
        assert staged.name.startswith(f".out.parquet.{other.pid}-")
        with pytest.raises(RunBusy, match=r"write: another process is writing '.*out.parquet'"):
            pm.run(pm.Pairs(), tmp_path / "rows.parquet", out / "out.parquet", temp_dir=temp)
        pm.run(pm.Pairs(), tmp_path / "rows.parquet", out / "another.parquet", temp_dir=temp)
        assert (home / "rows").read_text() == "spilled"
        assert {path.name for path in out.iterdir()} == {
            staged.name,
            "another.parquet",
            ".another.parquet.prefmill",
        }
        other.kill()
        other.wait()
        pm.run(pm.Pairs(), tmp_path / "rows.parquet", out / "out.parquet", temp_dir=temp)
        assert sorted(path.name for path in out.iterdir()) == [
            ".another.parquet.prefmill",
            ".out.parquet.prefmill",
            "another.parquet",
            "out.parquet",
        ]
        assert list(temp.iterdir()) == []
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_process_number_that_was_given_again_is_dead(tmp_path):
    """The number is of a living process, but another began since."""
    pid = os.getppid()
    boot, host = hidden.machine()
    reused = tmp_path / f"prefmill-{pid}-{hidden.start_of(pid) + 1}-{boot}-{host}-00000000.tmp"
    living = tmp_path / f"prefmill-{pid}-{hidden.start_of(pid)}-{boot}-{host}-00000000.tmp"
    before = tmp_path / f"prefmill-{pid}-{hidden.start_of(pid)}-00000000-{host}-00000000.tmp"
    elsewhere = tmp_path / f"prefmill-{pid}-1-00000000-000000-00000000.tmp"
    for path in (
        reused,
        living,
        before,
        elsewhere,
        tmp_path / "prefmill-mine",
        tmp_path / "mine.tmp",
    ):
        path.mkdir()
    with hidden.temporary(tmp_path):
        kept = {path.name for path in tmp_path.iterdir() if f"-{os.getpid()}-" not in path.name}
    assert kept == {living.name, elsewhere.name, "prefmill-mine", "mine.tmp"}


def test_what_this_process_gave_up_is_settled_by_its_next_call(tmp_path, monkeypatch):
    """A notebook goes on after an I/O error: the same cell succeeds."""
    targets = [tmp_path / "a.txt", tmp_path / "b.txt"]
    real = os.replace

    def fails(source: Path, target: Path) -> None:
        if target == targets[1] and Path(source).parent.name == "new":
            raise OSError(errno.EIO, "no")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"):
        publish(targets, "new")
    assert [path.read_text() for path in targets] == [
        "new",
        "new",
    ]  # the second one through its link
    monkeypatch.undo()
    publish(targets, "newer")
    assert texts(tmp_path) == {"a.txt": "newer", "b.txt": "newer"}


def test_a_file_that_its_user_put_there_is_no_output_of_a_dead_run(tmp_path):
    target = tmp_path / "out.txt"

    def dies() -> None:
        os.rmdir = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        publish([target], "new")

    killed(dies)
    assert settling.is_free(target)
    target.unlink()
    target.write_text("mine")
    assert not settling.is_free(target)
    with pytest.raises(TargetExists):
        publish([target], "newer")
    assert texts(tmp_path) == {"out.txt": "mine"}


def test_a_target_that_came_meanwhile_is_not_replaced(tmp_path):
    frame = pl.DataFrame(
        {
            "prompt": ["p"],
            "chosen": ["a"],
            "rejected": ["b"],
            "chosen_score": [5.0],
            "rejected_score": [1.0],
        }
    )

    def frames():
        (tmp_path / "pairs.jsonl").write_text("mine")
        yield frame

    with pytest.raises(TargetExists):
        writers.write(frames(), frame.schema, tmp_path / "pairs.jsonl")
    assert texts(tmp_path) == {"pairs.jsonl": "mine"}


def test_a_link_of_the_user_is_read_through_until_the_set_is_published(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "real.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to("store/real.txt")
    (tmp_path / "b.txt").write_text("old")
    seen = []
    real = os.replace

    def looks(source: Path, target: Path) -> None:
        real(source, target)
        seen.append(((tmp_path / "a.txt").read_text(), (tmp_path / "b.txt").read_text()))

    os.replace = looks
    try:
        publish([tmp_path / "a.txt", tmp_path / "b.txt"], "new", overwrite=True)
    finally:
        os.replace = real
    assert set(seen) == {("old", "old"), ("new", "new")}
    assert texts(tmp_path) == {"a.txt": "new", "b.txt": "new", "store/real.txt": "old"}


def test_a_temporary_folder_can_be_written_to(tmp_path):
    """It is locked by its owner, who publishes there too (`-o -`)."""
    with hidden.temporary(tmp_path) as home:
        publish([home / "a.txt", home / "b.txt"], "new")
        assert texts(home) == {"a.txt": "new", "b.txt": "new"}


def test_a_folder_that_somebody_holds_is_written_to_all_the_same(tmp_path, monkeypatch):
    """`flock DIR prefmill ...` is how scheduled jobs are kept apart."""
    monkeypatch.setattr(hidden, "PATIENCE", 0.05)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        publish([tmp_path / "a.txt"], "new")
    finally:
        os.close(handle)
    assert texts(tmp_path) == {"a.txt": "new"}


def test_long_names_have_hidden_names_too(tmp_path):
    name = "ü" * 120 + ".jsonl"
    publish([tmp_path / name], "new")
    assert texts(tmp_path) == {name: "new"}


@pytest.mark.parametrize("folder", ["absent", "file"])
def test_a_temporary_folder_that_cannot_be_made_says_so(folder, tmp_path):
    (tmp_path / "file").write_text("")
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,completion,score\n")
    with pytest.raises(
        BadArgument,
        match=r"temporary folder: none can be made in '.*'; got .*\nHint: name another with "
        r"--temp-dir",
    ):
        pm.run(pm.Pairs(), rows, tmp_path / "out.parquet", temp_dir=tmp_path / folder)


def test_a_refused_start_cleans_up_too(tmp_path):
    """A run that died between its last rename and its end: the output is there, and its temporary
    folder.
    """
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    rows.write_parquet(tmp_path / "rows.parquet")
    pm.run(pm.Pairs(), tmp_path / "rows.parquet", tmp_path / "pairs.parquet")
    (tmp_path / "temp").mkdir()
    _, host = hidden.machine()
    (tmp_path / "temp" / f"prefmill-1-1-00000000-{host}-00000000.tmp").mkdir()
    with pytest.raises(RunDiffers, match=r"another plan.min_margin; got 1.0, expected 0.0"):
        pm.run(
            pm.Pairs(min_margin=1),
            tmp_path / "rows.parquet",
            tmp_path / "pairs.parquet",
            temp_dir=tmp_path / "temp",
        )
    assert list((tmp_path / "temp").iterdir()) == []

"""The folder of a training: whole, ours, one process at a time."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bases import laid_out, pairs, reward_base
from command import prefmill

import prefmill as pm
from prefmill.errors import (
    BadArgument,
    BadInput,
    MissingPackage,
    PrefmillError,
    RunBusy,
    TargetExists,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest.importorskip("trl", reason="needs the extra prefmill[train]")

torch = pytest.importorskip("torch", reason="needs the extra prefmill[train]")

from prefmill.disk import folders, settling, whole  # noqa: E402
from prefmill.training.report import share_of  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# --- policies

WINNERS = pl.DataFrame({"prompt": ["ab?", "cd?"] * 4, "completion": ["yes", "no way"] * 4})

# --- what is refused, and what is left behind


def test_what_is_refused(home, policy_base, tmp_path):
    model, frame = reward_base(home, "llama"), pairs()
    target = tmp_path / "reward"

    def refused(
        kind: type[PrefmillError],
        words: str,
        data: Any = frame,
        train: Any = pm.train_reward,
        **more: Any,
    ) -> None:
        with pytest.raises(kind, match=words):
            train(data, target, **{"model": model, **more})
        assert not list(tmp_path.glob("*reward*")), words

    refused(BadArgument, "holdout must be a number in 0..1", holdout=1.5)
    refused(BadArgument, "epochs must be .*\n.*seed must be", seed=-1, epochs=0)
    refused(
        BadArgument,
        "max_length 5000 is more than the model takes; got a limit of 1024",
        max_length=5000,
    )
    refused(
        BadInput, "nothing to train on; got 0 usable rows \\(.*too_long", max_length=3, holdout=0
    )
    refused(BadInput, "no pairs to measure on in 'none'", test={"none": frame.clear()})
    refused(PrefmillError, "no column 'rejected'", frame.drop("rejected"))
    refused(
        BadInput,
        "'chosen' cannot be trained on; got Int64",
        frame.with_columns(chosen=pl.lit(1, pl.Int64)),
    )
    refused(BadInput, "do not say where it ends", laid_out(frame, "text-implicit"), holdout=0)
    refused(BadArgument, "cannot be split by prompt", laid_out(frame, "text-implicit"))
    refused(BadInput, "no model in .*: no config.json", model=tmp_path)
    refused(
        BadInput,
        "the loss is no number at step|no numbers any more",
        learning_rate=1e30,
        steps=20,
        holdout=0,
    )
    refused(
        BadInput,
        "needs to know where the prompt ends",
        laid_out(frame, "text-implicit"),
        pm.train_policy,
        method="dpo",
        model=policy_base,
    )
    refused(BadInput, r"lack \['lm_head.weight'\]", WINNERS, pm.train_policy, model=model)


def test_missing_packages_say_what_to_install(home, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[lora\]'"):
        pm.train_reward(pairs(), tmp_path / "reward", model=reward_base(home, "llama"), lora_rank=2)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[train\]'"):
        pm.train_reward(pairs(), tmp_path / "reward", model=reward_base(home, "llama"))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_if_it_is_ours(home, tmp_path):
    target = tmp_path / "reward"
    target.mkdir()
    pm.train_reward(
        pairs(), target, model=reward_base(home, "llama"), steps=1, holdout=0
    )  # an empty folder is free
    before = weights(target)
    with pytest.raises(TargetExists):
        pm.train_reward(pairs(), target, model=reward_base(home, "llama"), steps=1)
    pm.train_reward(
        pairs(),
        target,
        model=reward_base(home, "llama"),
        steps=2,
        holdout=0,
        learning_rate=1e-2,
        overwrite=True,
    )
    assert weights(target) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(BadArgument, match=r"did not write: it holds no prefmill.json"):
        pm.train_reward(
            pairs(), tmp_path / "mine", model=reward_base(home, "llama"), overwrite=True
        )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "reward"]


def test_one_process_at_a_time(tmp_path):
    with folders.whole_folder(tmp_path / "out", overwrite=False, where="t") as first:
        (first / folders.MARK).write_text("{}")
        with (
            pytest.raises(RunBusy),
            folders.whole_folder(tmp_path / "out", overwrite=False, where="t"),
        ):
            pass
        assert first.exists()
    assert (tmp_path / "out" / folders.MARK).exists()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("instant", ["write_report", "sync", "exchange", "replace", "rmtree"])
def test_killed_at_any_instant_there_is_the_old_folder_or_the_new(instant, there, tmp_path):
    """Real SIGKILL in a child, in the middle of publishing; what comes next works, and cleans
    up.
    """
    target = tmp_path / "out"

    def make(text: str) -> None:
        with folders.whole_folder(target, overwrite=True, where="t") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "weights").write_text(text)
            (folder / folders.MARK).write_text(text)
            if instant == "write_report" and text == "new":
                os.kill(os.getpid(), signal.SIGKILL)

    if there:
        make("old")
    with (
        warnings.catch_warnings()
    ):  # of threads that a fork does not take along, and lance's: the child only writes files
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        place = {"sync": whole, "exchange": whole, "replace": os, "rmtree": settling.shutil}.get(
            instant
        )
        if place is not None:
            real = getattr(place, instant)

            def killed(*args: Any, **more: Any) -> None:
                if instant != "rmtree":
                    real(*args, **more)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(place, instant, killed)
        make("new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or (instant == "exchange" and not there)
    assert target.exists() >= there
    if target.exists():
        assert (
            (target / "sub" / "weights").read_text()
            == (target / folders.MARK).read_text()
            in (("old", "new") if there else ("new",))
        )
    make("newer")
    assert (target / "sub" / "weights").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command(home, tmp_path):
    pairs().write_parquet(tmp_path / "pairs.parquet")
    arguments = (
        "train-reward",
        tmp_path / "pairs.parquet",
        "-o",
        tmp_path / "reward",
        "--model",
        reward_base(home, "llama"),
    )
    done = prefmill(
        *arguments, "--steps", 2, "--batch-size", 4, "--test", tmp_path / "pairs.parquet", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows_in"], told["rows_used"], told["steps"], told["method"]) == (
        16,
        16,
        2,
        "reward",
    )
    assert told["held_out"][0]["accuracy"]["pairs"] == 16
    for words in (
        "trained on",
        "2 steps of 4",
        "longer completion",
        "margin 4",
        "16 of them in training too",
        "wrote ",
    ):
        assert words in done.stderr
    assert "Warning" not in done.stderr
    done = prefmill(*arguments, models=True)
    assert done.returncode == 2
    assert "is already there" in done.stderr
    done = prefmill("train-reward", tmp_path / "pairs.parquet", "--model", "x")
    assert done.returncode == 2
    assert "no output named" in done.stderr


def test_shares_count_prompts():
    alone, together = np.arange(100), np.arange(100) // 2
    mixed, twins = np.array([1.0, 0.0] * 50), np.array([1.0, 1.0, 0.0, 0.0] * 25)

    def interval(wins: Any, prompts: Any) -> tuple[float, float]:
        share = share_of(wins, prompts)
        return share.low, share.high

    assert interval(mixed, alone) == pytest.approx((0.404, 0.596), abs=1e-3)
    assert interval(mixed, together) == pytest.approx(
        (0.404, 0.596), abs=1e-2
    )  # never narrower than n independent pairs
    assert interval(twins, together) == pytest.approx(
        interval(mixed[:50], alone[:50])
    )  # a pair twice is worth one pair
    assert interval(np.ones(10), alone[:10]) == pytest.approx((0.722, 1.0), abs=1e-3)

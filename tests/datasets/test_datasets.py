"""Hugging Face Datasets: whole groups in every form, declared features, the cache, processes,
files, cards. No network.
"""

from __future__ import annotations

import os
import subprocess
import sys

import polars as pl
import pytest
from feedback import PLANS, feedback

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")

datasets.disable_progress_bars()

import prefmill.datasets as pmd  # noqa: E402

FEEDBACK = feedback(5, prompts=200)

STRING, DOUBLE = datasets.Value("string"), datasets.Value("float64")

PAIR_FEATURES = datasets.Features(
    prompt=STRING, chosen=STRING, rejected=STRING, chosen_score=DOUBLE, rejected_score=DOUBLE
)


def dataset(frame: pl.DataFrame = FEEDBACK) -> datasets.Dataset:
    return datasets.Dataset.from_polars(frame)


def rows(made) -> list[tuple]:
    return [tuple(row.values()) for row in made]


def expected(plan, frame: pl.DataFrame = FEEDBACK) -> list[tuple]:
    return plan.lazy(frame).collect().rows()


# Every form


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.kind}-{plan.hash()[:6]}")
def test_a_dataset_and_a_stream_give_what_the_plan_gives(plan):
    wanted = expected(plan)
    assert len(wanted) > 100
    whole = pmd.apply(plan, dataset())
    assert rows(whole) == wanted
    stream = pmd.apply(plan, dataset().to_iterable_dataset(num_shards=7))
    assert isinstance(stream, datasets.IterableDataset)
    assert stream.features == whole.features
    assert rows(stream) == wanted
    assert rows(stream) == wanted, "a second pass"


def test_dictionaries_of_splits():
    halves = {"train": FEEDBACK.head(3000), "test": FEEDBACK.tail(3000)}
    whole = datasets.DatasetDict({name: dataset(half) for name, half in halves.items()})
    made = pmd.pairs(whole, chosen_min=5)
    assert type(made) is datasets.DatasetDict
    streams = datasets.IterableDatasetDict(
        {name: split.to_iterable_dataset() for name, split in whole.items()}
    )
    streamed = pmd.pairs(streams, chosen_min=5)
    assert type(streamed) is datasets.IterableDatasetDict
    told, told_streams = (
        pmd.report(pm.Pairs(chosen_min=5), whole),
        pmd.report(pm.Pairs(chosen_min=5), streams),
    )
    for name, half in halves.items():
        assert rows(made[name]) == rows(streamed[name]) == expected(pm.Pairs(chosen_min=5), half)
        wanted = dict(pm.pair_report(half, pm.Pairs(chosen_min=5)))
        assert dict(told[name]) == dict(told_streams[name]) == wanted


def test_functions_take_roles_and_layouts():
    named = datasets.Dataset.from_dict(
        {"q": ["p", "p", "p"], "a": ["x", "y", "z"], "loss": [0.1, 0.9, 0.5], "model": ["m"] * 3}
    )
    roles = {"prompt": "q", "completion": "a", "score": "-loss"}
    off = {"chosen_min": None, "rejected_below": None}
    assert pmd.pairs(named, **off, **roles, margin_scale=10)[0] == {
        "prompt": "p",
        "chosen": "x",
        "rejected": "y",
        "chosen_score": -0.1,
        "rejected_score": -0.9,
        "margin": 8.0,
    }
    implicit = pmd.pairs(named, **off, **roles, format="trl-implicit", chat=True)
    said = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]
    assert implicit[0]["chosen"] == said
    assert pmd.best_of(named, **roles)[:] == {
        "prompt": ["p"],
        "completion": ["x"],
        "score": [-0.1],
        "rank": [1],
    }
    assert (
        pmd.best_of(named.to_iterable_dataset(), **roles, format="messages").features["messages"]
        == implicit.features["chosen"]
    )
    assert (
        next(iter(pmd.best_of(named.to_iterable_dataset(), **roles, format="messages")))["messages"]
        == said
    )
    assert pmd.unpaired(named, chosen_min=-0.2, rejected_below=-0.6, **roles)["completion"][:] == [
        "x",
        "y",
    ]
    stage = pmd.best_of(named.add_column("round", [1, 2, 2]), stages="last", stage="round", **roles)
    assert stage[:] == {
        "prompt": ["p"],
        "completion": ["z"],
        "score": [-0.5],
        "rank": [1],
        "stage": [2],
    }
    streamed = pmd.best_of(
        named.add_column("round", [1, 2, 2]).to_iterable_dataset(),
        stages="last",
        stage="round",
        **roles,
    )
    assert rows(streamed) == rows(stage)
    assert streamed.features == stage.features


def test_conversations_come_out_ready_for_a_trainer():
    asked = [[{"role": "user", "content": text}] for text in ("p", "p", "q")]
    chats = datasets.Dataset.from_dict(
        {"prompt": asked, "completion": ["a", "b", "c"], "score": [5, 1, 5]}
    )
    answer = {
        "prompt": asked[0],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    for made in (
        pmd.pairs(chats),
        pmd.pairs(chats.to_iterable_dataset()),
        pmd.pairs(chats.to_iterable_dataset(), clustered=True),
    ):
        assert list(made) == [answer | {"chosen_score": 5.0, "rejected_score": 1.0}]
        assert made.features["chosen"] == datasets.List({"role": STRING, "content": STRING})


def test_no_rows():
    nothing = dataset(FEEDBACK.head(0))
    stream = datasets.IterableDataset.from_generator(lambda: iter(()), features=nothing.features)
    for made in (pmd.pairs(nothing), pmd.pairs(stream), pmd.pairs(stream, clustered=True)):
        assert rows(made) == []
        assert made.features == PAIR_FEATURES


def test_types_of_text_come_out_plain():
    wide = dataset().cast(
        datasets.Features(
            prompt=datasets.Value("large_string"),
            completion=STRING,
            score=datasets.Value("int32"),
            id=STRING,
        )
    )
    assert (
        pmd.pairs(wide).features == pmd.pairs(wide.to_iterable_dataset()).features == PAIR_FEATURES
    )
    assert rows(pmd.pairs(wide)) == expected(pm.Pairs())


def test_what_is_no_dataset():
    with pytest.raises(pm.PrefmillError, match="cannot run over a DataFrame"):
        pmd.pairs(FEEDBACK)
    with pytest.raises(pm.PrefmillError, match="cannot report on a list"):
        pmd.report(pm.Pairs(), [])
    with pytest.raises(pm.PrefmillError, match="clustered is for streams"):
        pmd.pairs(dataset(), clustered=True)
    with pytest.raises(pm.PrefmillError, match="no column 'rating'"):
        pmd.pairs(dataset().to_iterable_dataset(), score="rating")
    with pytest.raises(pm.PrefmillError, match="chunk_rows"):
        pmd.apply(pm.Pairs(), dataset().to_iterable_dataset(), chunk_rows=0)
    with pytest.raises(pm.PrefmillError, match="cannot be the role 'prompt'"):
        pmd.pairs(dataset(FEEDBACK.with_columns(prompt=1)))


def test_without_the_package():
    code = (
        "import sys; sys.modules['datasets'] = None\nimport prefmill.datasets as pmd\n"
        "try: pmd.pairs([])\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install '.[datasets]'" in done.stdout


# Files and cards


@pytest.mark.parametrize(
    "plan", [pm.Pairs(), pm.Unpaired(), pm.BestOf()], ids=lambda plan: plan.kind
)
def test_files_give_back_the_same_features(plan, tmp_path):
    made = pmd.apply(plan, dataset())
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "made.parquet")
    pmd.apply(plan, dataset().to_iterable_dataset()).to_parquet(tmp_path / "streamed.parquet")
    loaded = datasets.load_from_disk(tmp_path / "saved")
    assert loaded.features == made.features
    assert rows(loaded) == rows(made)
    for name in ("made", "streamed"):
        loaded = datasets.load_dataset(
            "parquet",
            data_files=str(tmp_path / f"{name}.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert loaded.features == made.features
        assert rows(loaded) == rows(made)


def test_what_is_known_of_the_source_stays():
    about = datasets.DatasetInfo(
        license="cc-by-4.0", homepage="https://example.org", features=dataset().features
    )
    ds = datasets.Dataset(dataset().data, info=about, split=datasets.Split.TRAIN)
    made = pmd.pairs(ds)
    assert (made.info.license, made.info.homepage, made.split) == (
        "cc-by-4.0",
        "https://example.org",
        "train",
    )

"""Hugging Face Datasets: whole groups in every form, declared features, the cache, processes,
files, cards. No network.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from test_matrix import PLANS, feedback

import prefmill as pm
from prefmill.datasets.cards import card, merged, write_card
from prefmill.plans import read_plan

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
datasets.disable_progress_bars()

import prefmill.datasets as pmd  # noqa: E402
from prefmill.datasets import tables as datasets_tables  # noqa: E402

FEEDBACK = feedback(5, prompts=200)
CLUSTERED = FEEDBACK.sort("prompt", maintain_order=True)
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


@pytest.mark.parametrize("chunk_rows", [1, 7, 100, 100_000])
@pytest.mark.parametrize(
    "plan",
    [
        plan
        for plan in PLANS
        if getattr(plan, "scope", "prompt") == "prompt"
        and not getattr(plan, "length_control", False)
    ],
    ids=lambda p: f"{p.kind}-{p.hash()[:6]}",
)
def test_a_clustered_stream_keeps_prompts_whole(plan, chunk_rows):
    frame = CLUSTERED.head(1500)
    wanted = expected(plan, frame)
    got = rows(
        pmd.apply(
            plan,
            dataset(frame).to_iterable_dataset(num_shards=5),
            clustered=True,
            chunk_rows=chunk_rows,
        )
    )
    assert sorted(got, key=repr) == sorted(wanted, key=repr)
    if plan.kind != "unpaired":  # labels of one prompt are kept apart, which takes all rows
        assert got == wanted


def test_a_prompt_larger_than_any_chunk_stays_whole():
    many = pl.DataFrame(
        {
            "prompt": ["a"] * 5 + ["p"] * 500 + ["z"] * 2,
            "completion": [f"c{i}" for i in range(507)],
            "score": [i % 7 for i in range(507)],
        }
    )
    plan = pm.Pairs(strategy="best_rest")
    assert rows(
        pmd.apply(plan, dataset(many).to_iterable_dataset(3), clustered=True, chunk_rows=4)
    ) == expected(plan, many)


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


def test_a_stream_that_does_not_know_its_features():
    def source():
        for i in range(2000):
            yield {
                "prompt": f"p{i // 2}",
                "completion": f"c{i}",
                "score": 1 + 4 * (i % 2),
                "more": {"a": [i]},
            }

    stream = datasets.IterableDataset.from_generator(source)
    assert stream.features is None
    for clustered in (False, True):
        made = pmd.pairs(stream, clustered=clustered)
        assert made.features == PAIR_FEATURES
        assert rows(made)[999] == ("p999", "c1999", "c1998", 5.0, 1.0)


def test_a_stream_whose_types_change():
    """Whole numbers first and fractions later are numbers all the same."""

    def source():
        for i in range(3000):
            yield {
                "prompt": f"p{i // 2}",
                "completion": f"c{i}",
                "score": 4 if i < 2500 else 3.5 + i % 2,
            }

    for clustered in (False, True):
        made = pmd.pairs(datasets.IterableDataset.from_generator(source), clustered=clustered)
        pairs = list(made)
        assert [row["prompt"] for row in pairs] == [f"p{i}" for i in range(1250, 1500)]
        assert {(row["chosen_score"], row["rejected_score"]) for row in pairs} == {(4.5, 3.5)}


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


# What is refused


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (pm.Pairs(normalize="rank", chosen_min=None, rejected_below=None), "normalize"),
        (pm.BestOf(scope="pool"), "scope"),
        (pm.BestOf(stages="last"), "stages"),
        (pm.BestOf(length_control=True), "length_control"),
    ],
)
def test_a_clustered_stream_refuses_plans_that_need_all_rows(plan, said):
    frame = CLUSTERED.with_columns(annotator=pl.lit("x"), stage=pl.lit(1))
    with pytest.raises(pm.PrefmillError, match=said):
        pmd.apply(plan, dataset(frame).to_iterable_dataset(), clustered=True)
    assert rows(pmd.apply(plan, dataset(frame).to_iterable_dataset())) == expected(plan, frame)


@pytest.mark.parametrize("apart", [1, 50, 3000])
def test_a_prompt_that_comes_back_is_an_error(apart, monkeypatch):
    prompts = ["p", "p", *(f"q{i}" for i in range(apart)), "p"]
    frame = pl.DataFrame(
        {
            "prompt": prompts,
            "completion": [f"c{i}" for i in range(len(prompts))],
            "score": [1] * len(prompts),
        }
    )
    stream = dataset(frame).to_iterable_dataset()
    for chunk_rows in (1, 64, 10_000) if apart < 1000 else (500,):
        with pytest.raises(pm.PrefmillError, match=f"row {apart + 2} comes back"):
            list(pmd.apply(pm.Pairs(), stream, clustered=True, chunk_rows=chunk_rows))


def test_rows_without_a_prompt_may_stand_anywhere():
    frame = pl.DataFrame(
        {
            "prompt": ["p", None, "q", "q", None, None],
            "completion": list("abcdef"),
            "score": [1, 1, 5, 1, 5, 5],
        }
    )
    for chunk_rows in (1, 2, 100):
        assert rows(
            pmd.apply(
                pm.Pairs(),
                dataset(frame).to_iterable_dataset(),
                clustered=True,
                chunk_rows=chunk_rows,
            )
        ) == [("q", "c", "d", 5.0, 1.0)]


def test_group_columns_in_a_clustered_stream():
    frame = pl.DataFrame(
        {
            "prompt": ["p"] * 6,
            "completion": list("abcdef"),
            "score": [1, 5, 5, 1, 1, 5],
            "x": [1, 1, 1, 1, 2, 2],
            "y": list("ssttss"),
        }
    )
    plan = pm.Pairs()
    wanted = plan.lazy(frame, group=["x", "y"]).collect().rows()
    assert len(wanted) == 3
    for chunk_rows in (1, 2, 100):
        made = pmd.apply(
            plan,
            dataset(frame).to_iterable_dataset(),
            clustered=True,
            chunk_rows=chunk_rows,
            group=["x", "y"],
        )
        assert rows(made) == wanted


def test_an_unusable_row_is_named_by_its_place_in_the_stream():
    frame = CLUSTERED.with_columns(
        score=pl.when(pl.int_range(pl.len()) != 1234).then(pl.col("score").fill_null(1))
    )
    plan = pm.Pairs(on_invalid="raise")
    for made in (
        lambda: pmd.apply(plan, dataset(frame)),
        lambda: list(pmd.apply(plan, dataset(frame).to_iterable_dataset())),
        lambda: list(
            pmd.apply(plan, dataset(frame).to_iterable_dataset(), clustered=True, chunk_rows=10)
        ),
    ):
        with pytest.raises(pm.PrefmillError, match="row 1234 cannot be used"):
            made()


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


# Memory, the cache, processes


def test_an_indices_mapping_and_pieces_of_tables():
    shuffled = dataset().shuffle(seed=3).select(range(100, 4000))
    order = [int(i) for i in shuffled["id"]]
    assert rows(pmd.pairs(shuffled)) == expected(pm.Pairs(), FEEDBACK[order])
    joined = datasets.concatenate_datasets(
        [dataset(FEEDBACK.head(100)), dataset(FEEDBACK.slice(100))]
    )
    assert rows(pmd.pairs(joined)) == expected(pm.Pairs())
    kept = dataset().filter(lambda row: row["score"] != 3)
    assert rows(pmd.pairs(kept)) == expected(
        pm.Pairs(), FEEDBACK.filter(pl.col("score").is_null() | (pl.col("score") != 3))
    )


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's account of memory"
)
def test_texts_of_a_file_are_not_copied(tmp_path):
    text = "x" * 10_000
    frame = pl.DataFrame(
        {
            "prompt": [f"{i // 2} {text}" for i in range(8000)],
            "completion": [f"{i} {text}" for i in range(8000)],
            "score": range(8000),
        }
    )
    dataset(frame).save_to_disk(tmp_path / "data")
    del frame
    code = """
import sys, polars as pl, datasets
from prefmill.datasets.tables import frame_of, used_table
def anonymous(): return int([line for line in open("/proc/self/status") if line.startswith("RssAnon")][0].split()[1]) // 1024
ds = datasets.load_from_disk(sys.argv[1]).select(range(7999, -1, -1)).select(range(8000))
pl.DataFrame({"a": ["x"]}).lazy().group_by("a").len().collect()
before = anonymous()
frame = frame_of(ds, used_table(ds, ["prompt", "completion", "score"]))
print(anonymous() - before, frame.height)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    megabytes, height = map(int, done.stdout.split())
    assert height == 8000
    assert megabytes < 40  # of 160 MB of text


CACHED = """
import json, os, sys
import datasets, prefmill.datasets as pmd, prefmill.datasets.tables as tables
ds = datasets.load_from_disk(sys.argv[1])
ran = []
lazily = tables.lazily
tables.lazily = lambda plan, frame, **how: (ran.append(1) if not hasattr(frame, "explain") else None, lazily(plan, frame, **how))[1]
made = pmd.pairs(ds, weights=None, strategy="best_random", seed=3)
other = pmd.unpaired(ds)
print(json.dumps([made._fingerprint, other._fingerprint, len(made), len(ran), [f["filename"] for f in made.cache_files],
                  pmd.pairs(datasets.Dataset.from_dict({"prompt": ["p"], "completion": ["a"], "score": [1]}))._fingerprint]))
"""


def test_the_cache_hits_in_another_process(tmp_path):
    dataset().save_to_disk(tmp_path / "data")
    told = []
    for seed in ("1", "77"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CACHED, str(tmp_path / "data")],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    first, second = told
    assert (first[3], second[3]) == (2, 0), "the second process computed again"
    assert first[:3] == second[:3]
    assert first[4:] == second[4:]
    assert first[0] != first[1]
    assert len(list((tmp_path / "data").glob("cache-*.arrow"))) == 2
    assert not list((tmp_path / "data").glob("*.tmp"))


def test_what_changes_the_fingerprint():
    told = {
        name: made._fingerprint
        for name, made in {
            "plain": pmd.pairs(dataset()),
            "plan": pmd.pairs(dataset(), chosen_min=5),
            "layout": pmd.pairs(dataset(), chat=True),
            "roles": pmd.pairs(dataset(), completion="id"),
            "rows": pmd.pairs(dataset(FEEDBACK.head(10))),
            "kind": pmd.unpaired(dataset()),
        }.items()
    }
    assert len(set(told.values())) == len(told)
    four = pmd.pairs(dataset(), chosen_min=4.0)._fingerprint
    assert (
        four
        == pmd.apply(pm.Pairs(chosen_min=4), dataset())._fingerprint
        != told["plain"]
        == pmd.apply(pm.Pairs(), dataset())._fingerprint
    )


def broken_write(tables, features, path, fingerprint) -> None:
    def half():
        yield next(iter(tables))
        raise ZeroDivisionError

    WRITE(half(), features, path, fingerprint)


WRITE = datasets_tables._write


def test_a_failure_leaves_no_half_of_a_cache_file(tmp_path, monkeypatch):
    dataset().save_to_disk(tmp_path / "data")
    ds = datasets.load_from_disk(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(datasets_tables, "_write", broken_write)
    with pytest.raises(ZeroDivisionError):
        pmd.pairs(ds)
    monkeypatch.undo()
    assert sorted(tmp_path.rglob("*")) == before
    datasets.disable_caching()
    try:
        assert pmd.pairs(ds).cache_files == []
    finally:
        datasets.enable_caching()
    assert sorted(tmp_path.rglob("*")) == before


def longer(row: dict) -> dict:
    return {"completion": row["completion"] + "!"}


def test_what_several_processes_made_and_what_they_are_given():
    wanted = expected(pm.Pairs(), FEEDBACK.with_columns(pl.col("completion") + "!"))
    made = pmd.pairs(dataset().map(longer, num_proc=2))
    assert rows(made) == wanted
    again = made.map(lambda row: {"chosen": row["chosen"].upper()}, num_proc=2)
    assert again["chosen"][:] == [row[1].upper() for row in wanted]


def _in_a_fork(work, queue) -> None:
    try:
        queue.put(work())
    except Exception as error:
        queue.put(str(error))


def forked(work) -> object:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_in_a_fork, args=(work, queue))
    worker.start()
    try:
        return queue.get(timeout=240)
    finally:
        worker.kill()
        worker.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_reads_a_stream_and_does_not_wait_for_ever():
    """As the workers of a DataLoader do: Polars' threads do not come along."""
    frame = CLUSTERED.head(300)
    stream = dataset(frame).to_iterable_dataset()
    for made in (pmd.pairs(stream), pmd.pairs(stream, clustered=True)):
        assert forked(lambda made=made: rows(made)) == expected(pm.Pairs(), frame)
    whole = dataset(frame)
    assert "forked" in forked(lambda: pmd.pairs(whole))
    assert "forked" in forked(lambda: pmd.report(pm.Pairs(), stream))
    broken = pmd.pairs(dataset(FEEDBACK).to_iterable_dataset(), clustered=True)
    assert "comes back" in forked(lambda: rows(broken))


def test_a_stream_that_is_left_early_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reading = iter(pmd.pairs(dataset().to_iterable_dataset()))
    assert next(reading)["chosen_score"] == 5.0
    assert list(tmp_path.iterdir())
    reading.close()
    assert not list(tmp_path.iterdir())


def test_a_stream_can_be_cut_shuffled_and_resumed():
    made = pmd.pairs(dataset().to_iterable_dataset())
    wanted = expected(pm.Pairs())
    assert rows(made.skip(5).take(3)) == wanted[5:8]
    assert sorted(rows(made.shuffle(seed=1, buffer_size=50))) == sorted(wanted)
    reading = iter(made)
    for _ in range(10):
        next(reading)
    state = made.state_dict()
    fresh = pmd.pairs(dataset().to_iterable_dataset())
    fresh.load_state_dict(state)
    assert rows(fresh) == wanted[10:]


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


def test_a_card_says_what_was_done(tmp_path):
    plan = pm.Pairs(strategy="all", min_margin=1, aggregate="mean")
    report = pmd.report(plan, dataset())
    text = card(
        plan,
        report,
        source=["org/feedback", 'a "quoted": name'],
        license="cc-by-4.0",
        title="Pairs",
        language="en",
    )
    _, body = text.split("---\n")[1:]
    from huggingface_hub import DatasetCard

    read = DatasetCard(text).data.to_dict()
    assert read["license"] == "cc-by-4.0"
    assert read["source_datasets"] == ["org/feedback", 'a "quoted": name']
    assert read["language"] == ["en"]
    assert read["prefmill"] == {
        "version": pm.__version__,
        "plan": plan.hash(),
        "rows_in": report.rows_in,
        "rows_out": report.pairs_out,
    }
    assert read_plan(body.split("```toml\n")[1].split("```")[0]) == plan
    for reason, count in report.dropped.items():
        assert f"| dropped: {reason} | {count:,} |" in body
    assert text == card(
        plan,
        report,
        source=["org/feedback", 'a "quoted": name'],
        license="cc-by-4.0",
        title="Pairs",
        language="en",
    )
    splits = card(plan, {"train": report, "test": report})
    assert "| | train | test |" in splits
    assert f"| rows out | {report.pairs_out:,} | {report.pairs_out:,} |" in splits
    assert "license: not stated" in splits
    with pytest.raises(pm.PrefmillError, match="no report"):
        card(plan, {})
    pmd.pairs(dataset()).save_to_disk(tmp_path / "pairs")
    assert write_card(tmp_path / "pairs", plan, report).name == "README.md"
    datasets.load_from_disk(tmp_path / "pairs")


def test_a_card_of_a_run(tmp_path):
    FEEDBACK.write_parquet(tmp_path / "in.parquet")
    report = pm.run(pm.Pairs(), tmp_path / "in.parquet", tmp_path / "pairs.parquet")
    assert (
        f"| rows in | {FEEDBACK.height:,} |"
        in write_card(tmp_path / "card.md", pm.Pairs(), report).read_text()
    )


THEIRS = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
dataset_info:
  features:
  - name: prompt
    dtype: string
tags: [mine]
---
# My data

My words.
"""


def test_a_readme_keeps_its_words_and_its_front_matter(tmp_path):
    from huggingface_hub import DatasetCard

    plan, report = pm.Pairs(), pmd.report(pm.Pairs(), dataset())
    once = merged(THEIRS, card(plan, report, license="cc-by-4.0"))
    twice = merged(once, card(pm.Pairs(chosen_min=5), report))
    for text in (once, twice):
        read = DatasetCard(text)
        assert read.data.to_dict()["license"] == "cc-by-4.0"
        assert read.data.to_dict()["configs"] == [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ]
        assert read.data.to_dict()["dataset_info"] == {
            "features": [{"name": "prompt", "dtype": "string"}]
        }
        assert read.data.to_dict()["tags"] == ["mine", "preference", "prefmill", "pairs"]
        assert "My words." in text
        assert text.count("What became of every row") == 1
    assert pm.Pairs(chosen_min=5).hash() in twice
    assert plan.hash() not in twice
    (tmp_path / "README.md").write_text(THEIRS)
    assert write_card(tmp_path, plan, report, license="cc-by-4.0").read_text() == once


@pytest.mark.parametrize("there", [True, False])
def test_push_to_hub(there, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    pushed = []
    monkeypatch.setattr(
        datasets.Dataset,
        "push_to_hub",
        lambda self, repo_id, **options: pushed.append((repo_id, len(self), options)) or "done",
    )

    def load(repo_id, **options):
        if there:
            return huggingface_hub.DatasetCard(THEIRS)
        raise EntryNotFoundError("no README")

    monkeypatch.setattr(huggingface_hub.DatasetCard, "load", load)
    monkeypatch.setattr(
        huggingface_hub.DatasetCard,
        "push_to_hub",
        lambda self, repo_id, **options: pushed.append((repo_id, str(self), options)),
    )
    plan, report = pm.Pairs(), pmd.report(pm.Pairs(), dataset())
    made = pmd.pairs(dataset())
    assert (
        pmd.push_to_hub(
            made,
            "me/pairs",
            plan=plan,
            report=report,
            license="mit",
            source="org/x",
            token="t",
            private=True,
        )
        == "done"
    )
    assert pushed[0] == ("me/pairs", len(made), {"token": "t", "private": True})
    repo, text, options = pushed[1]
    assert (repo, options) == ("me/pairs", {"repo_type": "dataset", "token": "t"})
    assert plan.hash() in text
    assert ("My words." in text) == there

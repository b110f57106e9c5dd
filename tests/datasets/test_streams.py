"""Streams: chunks, clustered prompts, types that are not known."""

from __future__ import annotations

import os

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

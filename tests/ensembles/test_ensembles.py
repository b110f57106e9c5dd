"""Several scorers as one: what is combined, what is told, what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pyarrow as pa
import pytest
from function_scorers import BATCH, giving, run

from prefmill.errors import BadArgument, BadInput
from prefmill.scoring.ensemble import Ensemble
from prefmill.scoring.scorers import Staged, as_scorer

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.scoring import RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()


def length(batch: pa.RecordBatch) -> list[int]:
    return [len(text) for text in batch["completion"].to_pylist()]


def shouting(batch: pa.RecordBatch) -> list[float]:
    return [-2.0 * text.count("e") for text in batch["completion"].to_pylist()]


def test_ensembles() -> None:
    both = {"length": length, "shouting": shouting}
    a, b = np.array([1.0, 3.0, 2.0]), np.array([0.0, 0.0, -2.0])
    for combine, scales, wanted in (
        ("mean", None, (a + b) / 2),
        ("min", None, np.minimum(a, b)),
        ("worst", {"length": 4.0, "shouting": 2.0}, np.minimum(a / 4, b / 2)),
    ):
        ensemble = Ensemble(scorers=both, combine=combine, scales=scales)
        done = run(ensemble)
        assert (
            ensemble.columns
            == tuple(done.columns)
            == ("score", "length", "shouting", "disagreement")
        )
        assert done.columns["score"].tolist() == wanted.tolist()
        assert done.columns["length"].tolist() == a.tolist()
        assert done.columns["shouting"].tolist() == b.tolist()
        assert ensemble(BATCH).tolist() == wanted.tolist()
        assert isinstance(ensemble, Staged)


def test_ensembles_without_a_score() -> None:
    first, second = giving(pa.array([1.0, None, 3.0])), giving(pa.array([None, 2.0, 4.0]))
    ensemble = Ensemble(scorers={"first": first, "second": second, "length": length}, combine="min")
    done = run(ensemble)
    assert done.null.tolist() == [True, True, False]
    assert done.columns["score"][2] == 2.0
    assert np.isnan(ensemble(BATCH)).tolist() == [True, True, False]


def test_ensembles_do_not_hide_nan() -> None:
    for combine in ("mean", "min"):
        done = run(
            Ensemble(scorers={"a": length, "b": giving([float("nan"), 1.0, 1.0])}, combine=combine)
        )
        assert np.isnan(done.columns["score"]).tolist() == [True, False, False]


def test_ensembles_tell_their_parts_in_the_fingerprint() -> None:
    one = Ensemble(scorers={"a": length, "b": shouting})
    prints = [
        one.fingerprint,
        Ensemble(scorers={"a": length, "b": shouting}, combine="min").fingerprint,
        Ensemble(scorers={"a": length, "b": length}).fingerprint,
        Ensemble(
            scorers={"a": length, "b": shouting}, combine="worst", scales={"a": 1, "b": 2}
        ).fingerprint,
        Ensemble(
            scorers={"a": length, "b": shouting}, combine="worst", scales={"a": 1, "b": 3}
        ).fingerprint,
    ]
    assert len({json.dumps(dict(p), sort_keys=True) for p in prints}) == len(prints)
    assert prints[0] == Ensemble(scorers={"a": length, "b": shouting}).fingerprint


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scorers": {}}, "no scorers"),
        ({"combine": "median"}, "combine is not one of .*got 'median'"),
        ({"combine": "worst"}, "worst needs one scale"),
        ({"scales": {"a": 1.0}}, "and only worst"),
        ({"combine": "worst", "scales": {"b": 1.0}}, "worst needs one scale"),
        ({"scorers": {"score": length}}, "can be named 'score'"),
        ({"scorers": {"a": 7}}, "not a scorer; got int"),
        (
            {"combine": "worst", "scales": {"a": 0.0}},
            "scales must be finite numbers > 0; got .*0.0",
        ),
        ({"combine": "worst", "scales": {"a": -1.0}}, "scales must be"),
        ({"combine": "worst", "scales": {"a": float("nan")}}, "scales must be"),
        ({"combine": "worst", "scales": {"a": "1"}}, "scales must be"),
    ],
)
def test_ensembles_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        Ensemble(**{"scorers": {"a": length}, **settings})


def test_an_ensemble_of_models_loads_nothing_until_it_scores() -> None:
    """No hub, no hashing, no torch: a description can be made, printed, compared and pickled
    anywhere.
    """
    model = RewardModel(model="./not/there/yet", cache="./nowhere")
    ensemble = Ensemble(scorers={"model": model})
    assert as_scorer(model) is model
    assert pickle.loads(pickle.dumps(ensemble)).scorers["model"] == model
    assert ensemble.on_device("cuda:1").scorers["model"].device == "cuda:1"
    with pytest.raises(BadInput, match="no directory"):
        run(ensemble)


def test_an_ensemble_of_models(tmp_path: Path) -> None:
    folders = pools.reward("llama"), pools.reward("bert")
    ensemble = Ensemble(
        scorers={f.name: RewardModel(model=f, device="cpu") for f in folders}, combine="min"
    )
    done = run(ensemble, pools.batch(pools.POOL))
    wanted = [pools.oracle(folder, pools.POOL) for folder in folders]
    pools.assert_close(done.columns["score"], np.minimum(*wanted))
    assert done.counts["tokens"] > 0
    again = pickle.loads(pickle.dumps(ensemble))
    assert (run(again, pools.batch(pools.POOL)).columns["score"] == done.columns["score"]).all()


# -- scores on one scale

Z = np.array([[1.0, 3.0, 5.0, 2.0], [10.0, 10.0, 40.0, 7.0]])
POOL = pa.record_batch({"prompt": list("ppps"), "completion": list("abcd"), "group": [4, 4, 4, 2]})


def by_hand(values: np.ndarray, rows: list[int]) -> np.ndarray:
    some = [values[i] for i in rows]
    mean = sum(some) / len(some)
    deviation = (sum((v - mean) ** 2 for v in some) / len(some)) ** 0.5
    return np.array([round((v - mean) / deviation, 9) if deviation else 0.0 for v in some])


def two(**settings: Any) -> Ensemble:
    return Ensemble(scorers={"a": giving(Z[0]), "b": giving(Z[1])}, **settings)


def test_zscores_inside_the_prompt() -> None:
    done = run(two(combine="zscore"), POOL)
    wanted = [*(by_hand(Z[0], [0, 1, 2]) + by_hand(Z[1], [0, 1, 2])) / 2, 0.0]
    np.testing.assert_allclose(done.columns["score"], wanted, atol=2e-9)
    apart = np.std([by_hand(Z[0], [0, 1, 2]), by_hand(Z[1], [0, 1, 2])], axis=0)
    np.testing.assert_allclose(done.columns["disagreement"], [*apart, 0.0], atol=2e-9)


def test_zscores_and_ranks_over_the_pool() -> None:
    every = [0, 1, 2, 3]
    wanted = (by_hand(Z[0], every) + by_hand(Z[1], every)) / 2
    np.testing.assert_allclose(two(combine="zscore", over="pool")(POOL), wanted, atol=2e-9)
    ranks = (np.array([0, 2, 3, 1]) + np.array([1.5, 1.5, 3, 0]) + 1) / 8
    np.testing.assert_allclose(two(combine="rank", over="pool")(POOL), ranks, atol=2e-9)


def test_ranks_inside_the_prompt() -> None:
    wanted = [(0.5 + 1) / 6, (1.5 + 1) / 6, 5 / 6, 0.5]
    np.testing.assert_allclose(two(combine="rank")(POOL), wanted, atol=2e-9)


@pytest.mark.parametrize("hole", [None, float("nan")])
@pytest.mark.parametrize("combine", ["zscore", "rank"])
def test_no_row_knows_of_one_that_a_scorer_left_out(combine: str, hole: float | None) -> None:
    a, b = pa.array([1.0, 99.0, 3.0, 5.0]), pa.array([4.0, hole, 2.0, 1.0])
    batch = pa.record_batch({"prompt": list("pppp"), "completion": list("abcd"), "group": [0] * 4})
    score = Ensemble(scorers={"a": giving(a), "b": giving(b)}, combine=combine)(batch)
    kept = [0, 2, 3]
    parts = {"a": giving(a.take(kept)), "b": giving(b.take(kept))}
    alone = Ensemble(scorers=parts, combine=combine)(batch.take(kept))
    assert np.isnan(score[1])
    assert score[kept].tolist() == alone.tolist()
    assert np.isfinite(alone).all()


def test_a_scorer_without_an_opinion_is_counted() -> None:
    flat = Ensemble(scorers={"a": giving([2.0, 2.0, 2.0, 1.0]), "b": giving(Z[1])}, combine="rank")
    done = run(flat, POOL)
    assert {k: n for k, n in done.counts.items() if k.startswith("flat:")} == {"flat:a": 1}
    np.testing.assert_allclose(done.columns["score"][:3], (np.array([1, 1, 2.5]) / 3 + 0.5) / 2)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e15, 1e200])
def test_zscores_know_no_unit(scale: float) -> None:
    values = np.array([[1.0, 2.0, 4.0, 4.0]])
    from prefmill.rules.standards import Groups, zscores

    wanted = by_hand(values[0], [0, 1, 2, 3])
    np.testing.assert_allclose(zscores(values * scale, Groups.one(4))[0], wanted, atol=2e-9)


def test_one_scorer_disagrees_with_nobody() -> None:
    assert Ensemble(scorers={"a": length}).columns == ("score", "a")
    assert Ensemble(scorers={"a": length}).compares is None
    assert two().compares is True
    assert two(disagreement=False).compares is None
    assert two(disagreement=False).columns == ("score", "a", "b")

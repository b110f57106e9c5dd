"""Functions and ensembles as scorers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pyarrow as pa
import pytest

from prefmill.errors import BadArgument, BadInput
from prefmill.scoring.ensemble import Ensemble
from prefmill.scoring.scorers import FunctionScorer, Staged, as_scorer

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.scoring import RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

BATCH = pa.record_batch(
    {"prompt": ["p", "p", "q"], "completion": ["a", "bcd", "ef"], "group": [0, 0, 1]}
)


def run(scorer: Any, batch: pa.RecordBatch = BATCH) -> Any:
    staged = as_scorer(scorer)
    return staged.run(staged.prepare(batch))


def giving(value: Any) -> Any:
    return lambda batch: value


# -- functions


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, -3],
        (1, 2.5, -3),
        np.array([1, 2.5, -3], np.float32),
        pa.array([1, 2.5, -3]),
        pa.chunked_array([[1.0], [2.5, -3]]),
        torch.tensor([1, 2.5, -3]),
        torch.tensor([1, 2.5, -3], dtype=torch.bfloat16),
        torch.tensor([1, 2.5, -3], requires_grad=True),
        pa.array([1, 2.5, -3], pa.float32()),
        np.array([1, 2.5, -3], object),
    ],
)
def test_a_function_may_give_any_row_of_numbers(value: Any) -> None:
    done = run(giving(value))
    assert done.columns["score"].tolist() == [1, 2.5, -3]
    assert done.columns["score"].dtype == np.float64
    assert done.null is None


@pytest.mark.parametrize("value", [[1, None, 3], pa.array([1, None, 3])])
def test_none_and_null(value: Any) -> None:
    """Null in arrow means without a score; None in a list is no number: it becomes NaN, which is an
    error of the row when it is written.
    """
    done = run(giving(value))
    if isinstance(value, list):
        assert done.null is None
        assert np.isnan(done.columns["score"]).tolist() == [False, True, False]
    else:
        assert done.null.tolist() == [False, True, False]
        assert done.columns["score"][[0, 2]].tolist() == [1, 3]


def test_nan_is_not_null() -> None:
    for value in (
        [1.0, float("nan"), 3.0],
        pa.array([1.0, float("nan"), 3.0]),
        torch.tensor([1.0, float("nan"), 3.0]),
    ):
        done = run(giving(value))
        assert done.null is None
        assert np.isnan(done.columns["score"]).tolist() == [False, True, False]


def test_masked_numpy_is_null_too() -> None:
    """NumPy would hand out what lies under the mask as if it were a score."""
    done = run(giving(np.ma.masked_array([1.0, 99.0, 3.0], mask=[False, True, False])))
    assert done.null is not None
    assert done.null.tolist() == [False, True, False]
    assert done.columns["score"][[0, 2]].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, r"shape \(\); expected \(3,\)"),
        (1.0, r"shape \(\); expected \(3,\)"),
        ([1, 2], r"shape \(2,\); expected \(3,\)"),
        ([1, 2, 3, 4], r"shape \(4,\); expected \(3,\)"),
        (np.zeros((3, 1)), r"shape \(3, 1\); expected \(3,\)"),
        (torch.zeros(3, 1), r"shape \(3, 1\)"),
        (pa.array([1.0]), r"shape \(1,\)"),
        (["a", "b", "c"], "no numbers"),
        ({"score": 1}, "no numbers"),
        (pa.array(["a", "b", "c"]), "no numbers"),
        (pa.array([[1], [2], [3]]), "no numbers"),
        ([[1], [2, 3], [4]], "no numbers"),
        ((x for x in (1, 2, 3)), "no numbers"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused(value: Any, says: str) -> None:
    with pytest.raises(BadInput, match=f"score: the scorer gave .*{says}"):
        run(giving(value))


def length(batch: pa.RecordBatch) -> list[int]:
    return [len(text) for text in batch["completion"].to_pylist()]


def shouting(batch: pa.RecordBatch) -> list[float]:
    return [-2.0 * text.count("e") for text in batch["completion"].to_pylist()]


def test_fingerprint_of_a_function() -> None:
    assert (
        FunctionScorer(length).fingerprint
        == FunctionScorer(length).fingerprint
        != FunctionScorer(shouting).fingerprint
    )

    class Named:
        fingerprint = "v1"

        def __call__(self, batch: pa.RecordBatch) -> list[int]:
            return length(batch)

    assert FunctionScorer(Named()).fingerprint == {"function": "v1"}
    assert run(Named()).columns["score"].tolist() == [1, 3, 2]


def test_what_is_no_scorer() -> None:
    for thing in (1, "length", None, [length]):
        with pytest.raises(BadArgument, match=r"score: not a scorer; got .*, expected a function"):
            as_scorer(thing)


# -- ensembles


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
        assert ensemble.columns == tuple(done.columns) == ("score", "length", "shouting")
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

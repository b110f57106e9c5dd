"""Functions as scorers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pools
import pyarrow as pa
import pytest
from function_scorers import giving, run

from prefmill.errors import BadArgument, BadInput
from prefmill.scoring.scorers import FunctionScorer, as_scorer

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


pytestmark = pytest.mark.score

pools.one_thread()

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

"""Chunks are dealt out so that each is done once, whatever is lost and whatever fails."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.runs.workers.dealing import Dealing, Task
from prefmill.runs.workers.versions import refuse_other, versions
from prefmill.runs.workers.worker import packed_batch
from prefmill.scoring.scorers import FunctionScorer


@given(
    total=st.integers(0, 12),
    failing=st.sets(st.integers(0, 11), max_size=3),
    fates=st.lists(st.sampled_from(["done", "lost"]), max_size=60),
    workers=st.integers(1, 4),
    data=st.data(),
)
def test_each_chunk_is_done_once_and_the_first_error_is_told(
    total: int, failing: set[int], fates: list[str], workers: int, data: st.DataObject
) -> None:
    """Workers take chunks, lose them or do them, in any order."""
    work = Dealing(((number, number) for number in range(total)), total)
    held: list[Task] = []
    done: list[int] = []
    fate = iter(fates)
    while not work.is_over:
        while len(held) < workers:
            task = work.next(lambda chunk: chunk, alone=True)
            if task is None:
                break
            held.append(task)
        # Nothing is left, and nobody works on anything: then it is over.
        assert held
        task = held.pop(data.draw(st.integers(0, len(held) - 1)))
        if next(fate, "done") == "lost":
            task.deaths += 1
            work.again([task])
        elif task.number in failing:
            work.failed(task.number, ValueError(task.number))
        else:
            done.append(task.number)
            work.done(task)
    assert len(done) == len(set(done))
    bad = sorted(number for number in failing if number < total)
    if not bad:
        assert work.error is None
        assert sorted(done) == list(range(total))
    else:
        # As a run that does one chunk after the other.
        assert work.error is not None
        assert work.error.args == (bad[0],)
        assert set(range(bad[0])) <= set(done)


def test_a_chunk_that_ended_a_worker_goes_to_one_that_has_nothing_else() -> None:
    work = Dealing(iter([(0, "a"), (1, "b")]), 2)
    first = work.next(str, alone=True)
    assert first is not None
    first.deaths = 1
    work.again([first])
    second = work.next(str, alone=False)
    assert second is not None
    assert second.number == 1
    assert work.next(str, alone=False) is None
    assert work.next(str, alone=True) is first


def test_a_slice_travels_without_the_rest() -> None:
    whole = pa.record_batch({"text": ["x" * 1000] * 1000})
    assert packed_batch(whole.slice(10, 2)).size < 10_000


def test_what_differs_is_named_with_the_place() -> None:
    here = {**versions(), "numpy": "0"}
    with pytest.raises(BadArgument, match=r"the worker at b has another numpy; got .* expected 0"):
        refuse_other("score", here, versions(), "b")
    refuse_other("score", versions(), {**versions(), "more": "1"}, "b")


def test_a_function_is_called_as_where_it_was_made() -> None:
    """Elsewhere its module may be another one: what its fingerprint covers is not there."""
    import pickle

    scorer = FunctionScorer(pa.compute.utf8_length)
    copy = pickle.loads(pickle.dumps(scorer))
    object.__setattr__(copy, "function", len)
    assert copy.fingerprint == scorer.fingerprint
    assert copy == FunctionScorer(len)


def test_workers_are_a_public_name() -> None:
    assert pm.Workers(2, 8, gpus=0.5).limit == 8

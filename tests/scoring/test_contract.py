"""The contracts of scorers and samplers: what is asked of one, and what its absence means."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prefmill.models.contract import on_its_date
from prefmill.models.described import Described
from prefmill.sampling.kinds import SAMPLERS, kind_for, sampler_class, sampler_from
from prefmill.sampling.samplers import Answer, Reply, Request, Sampler, as_sampler
from prefmill.scoring.kinds import SCORERS, scorer_class
from prefmill.scoring.scorers import Scored, Staged, as_scorer

BATCH = pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "bcd"]})


class Bare:
    """No more than is needed, and nothing inherited."""

    columns = ("score",)
    fingerprint = {"scorer": "bare"}  # noqa: RUF012

    def prepare(self, batch: pa.RecordBatch) -> int:
        return int(batch.num_rows)

    def run(self, rows: int) -> Scored:
        return Scored({"score": np.arange(rows, dtype=float)})


class Dated(Bare):
    """It prints a date, and says so as its own class likes."""

    def __init__(self, date: str = "2026-11-28") -> None:
        self.printed_date = date

    def on_date(self, date: str) -> Dated:
        return Dated(date)


class Inherits(Bare, Staged):
    reads = ("gold",)


class Echo:
    fingerprint = {"sampler": "echo"}  # noqa: RUF012

    def sample(self, requests: list[Request]) -> list[Answer]:
        return [Answer(str(request.prompt), "stop", None, 1) for request in requests]


@pytest.mark.parametrize("own", [Bare(), Inherits()])
def test_what_a_scorer_lacks_has_the_defaults_of_the_contract(own: Any) -> None:
    scorer = as_scorer(own)
    assert (scorer.texts, scorer.compares, scorer.chunk_tokens) == ((), None, None)
    assert scorer.reads == getattr(own, "reads", ())
    assert (scorer.shape, scorer.printed_date, scorer.way, scorer.load()) == ({}, None, "", "")
    assert scorer.with_shape({}).on_device("cuda:1").with_bad_rows("null").columns == ("score",)
    assert scorer.cost({"tokens_in": 1}) is None
    assert scorer.start(scorer.prepare(BATCH))().columns["score"].tolist() == [0.0, 1.0]
    again = pickle.loads(pickle.dumps(scorer))
    assert (again.fingerprint, again.texts) == ({"scorer": "bare"}, ())


def test_what_inherits_is_taken_as_it_is_and_nothing_is_completed_twice() -> None:
    own = Inherits()
    assert as_scorer(own) is own
    assert own(BATCH).tolist() == [0.0, 1.0]
    once = as_scorer(Bare())
    assert as_scorer(once) is once


def test_what_an_object_says_itself_counts_and_its_changes_keep_the_contract() -> None:
    scorer = as_scorer(Dated())
    moved = on_its_date(scorer, {"model.template_date": "2024-02-29"})
    assert (scorer.printed_date, moved.printed_date) == ("2026-11-28", "2024-02-29")
    assert (moved.texts, moved.compares) == ((), None)


def test_a_needed_member_that_is_missing_is_named() -> None:
    class Anonymous(Bare):
        fingerprint: Any = property(lambda self: self.nothing)  # raises AttributeError

    with pytest.raises(AttributeError, match="Anonymous has no fingerprint"):
        _ = as_scorer(Anonymous()).fingerprint


def test_what_a_sampler_lacks_has_the_defaults_of_the_contract() -> None:
    sampler = as_sampler(Echo())
    assert sampler is not None
    assert (sampler.name, sampler.usage, sampler.shape, sampler.load()) == ("", None, {}, "")
    replies = sampler.replies([Request("p", 1.0, 0)], top=5, refusals=True)
    assert replies == [Reply(Answer("p", "stop", None, 1), None)]
    assert as_sampler(object()) is None


def test_every_kind_keeps_the_contract_and_says_what_it_takes() -> None:
    for contract, classes in (
        (Staged, [scorer_class(kind) for kind in SCORERS]),
        (Sampler, [sampler_class(kind) for kind in SAMPLERS]),
    ):
        for each in classes:
            assert {contract, Described} <= set(each.__mro__)
            assert "model" not in each.options()
            assert not each.__abstractmethods__
    assert {"device", "url", "rubric"} <= scorer_class("judge").options()


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"url": "http://h"}, "endpoint"), ({"url": None}, "local"), ({}, "local")],
)
def test_a_url_makes_the_sampler_of_a_server(options: Mapping[str, Any], kind: str) -> None:
    assert kind_for(options) == kind
    given = {name: value for name, value in options.items() if value is not None}
    assert type(sampler_from({"model": "m", **given})) is sampler_class(kind)

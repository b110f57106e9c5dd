"""Every engine agrees with the oracle on anything that Hypothesis can think of; and the laws that
users lean on.

PREFMILL_EXAMPLES sets the number of examples of each property (30), PREFMILL_RANDOM=1 draws new
ones at every run.
"""

from __future__ import annotations

import pytest
from engines import assert_same
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import answer, bag, common
from strategies import Problem, problems

from prefmill.errors import PrefmillError, ThresholdsUnfit
from prefmill.plans import BestOf, Pairs, Unpaired


@common
@given(problem=problems())
def test_equals_the_oracle(rival: str, problem: Problem) -> None:
    try:
        expected = answer("oracle", problem)
    except ThresholdsUnfit:
        with pytest.raises(PrefmillError, match="smallest score seen"):
            answer(rival, problem)
        return
    assert_same(repr(problem), rival, answer(rival, problem), expected)


@common
@given(problem=problems(kinds=(Pairs,)), more=st.sampled_from([0.1, 1, 3]))
def test_a_larger_margin_gives_a_subset(lawful: str, problem: Problem, more: float) -> None:
    assume(
        problem.plan.strategy != "best_random"
    )  # draws from what is allowed, so another margin is another draw
    few, _ = answer(
        lawful, problem, min_margin=problem.plan.min_margin + more, max_pairs_per_prompt=None
    )
    many, _ = answer(lawful, problem, max_pairs_per_prompt=None)
    assert bag(few) <= bag(many)


@common
@given(problem=problems(kinds=(Pairs,)), data=st.data())
def test_row_order_is_no_matter_with_unique_ids(
    lawful: str, problem: Problem, data: st.DataObject
) -> None:
    problem.columns["id"] = list(range(problem.rows))
    problem.roles["id"] = "id"
    order = data.draw(st.permutations(range(problem.rows)))
    (rows, report), (shuffled, shuffled_report) = (
        answer(lawful, problem, tie_break="id"),
        answer(lawful, problem, order, tie_break="id"),
    )
    assert bag(rows) == bag(shuffled)
    assert report == shuffled_report


@common
@given(problem=problems())
def test_a_prompt_is_no_matter_to_the_others(lawful: str, problem: Problem) -> None:
    whole_table = isinstance(problem.plan, BestOf) and (
        problem.plan.scope == "pool" or problem.plan.stages == "last"
    )
    assume(not whole_table and not getattr(problem.plan, "quantiles", ()))
    assume(problem.rows and problem.plan.normalize == "none" and "group" not in problem.roles)
    last = problem.columns["prompt"][-1]
    others = [i for i, prompt in enumerate(problem.columns["prompt"]) if prompt != last]
    rows, _ = answer(lawful, problem)
    without, _ = answer(lawful, problem, others)
    assert bag([row for row in rows if row[0] != last]) == bag(without)


@common
@given(problem=problems())
def test_every_row_is_accounted_for(lawful: str, problem: Problem) -> None:
    refused = isinstance(problem.plan, Unpaired) and problem.plan.quantiles
    assume(not refused)  # labels by one quantile may be refused
    rows, report = answer(lawful, problem)
    dropped = report["dropped"]
    assert (
        report["rows_in"]
        == problem.rows
        == report["rows_used"] + report["rows_not_selected"] + sum(dropped.values())
    )
    assert report["pairs_out"] == len(rows)
    assert all(count > 0 for count in dropped.values())


@common
@given(problem=problems(kinds=(Pairs,)))
def test_what_every_pair_promises(lawful: str, problem: Problem) -> None:
    plan = problem.plan
    rows, _ = answer(lawful, problem)
    for _, chosen, rejected, high, low in rows:
        assert chosen != rejected
        assert high > low
        assert high - low >= plan.min_margin
        assert plan.chosen_min in (None, "auto") or high >= plan.chosen_min
        assert plan.rejected_below in (None, "auto") or low < plan.rejected_below


@pytest.mark.parametrize("cap", [1, 2])
@common
@given(problem=problems(kinds=(Pairs,)))
def test_a_cap_gives_a_subset(lawful: str, problem: Problem, cap: int) -> None:
    few, _ = answer(lawful, problem, max_pairs_per_prompt=cap)
    many, _ = answer(lawful, problem, max_pairs_per_prompt=cap + 1)
    assert bag(few) <= bag(many)


@common
@given(problem=problems(kinds=(BestOf,)), k=st.integers(1, 4))
def test_more_of_the_best_begin_with_fewer(lawful: str, problem: Problem, k: int) -> None:
    assume(problem.plan.pick != "median")  # the middle of more is another middle
    few, _ = answer(lawful, problem, k=k)
    many, _ = answer(lawful, problem, k=k + 1)
    assert bag(few) <= bag(many)
    if problem.plan.pick == "best":
        assert few == [row for row in many if row[3] <= k]


@common
@given(problem=problems(kinds=(BestOf,)))
def test_every_pick_gives_as_many(lawful: str, problem: Problem) -> None:
    """The controls have the size of what they control."""
    reports = [
        answer(lawful, problem, pick=pick)[1] for pick in ("best", "median", "worst", "random")
    ]
    assert (
        len(
            {
                (report["pairs_out"], str(dict(report["dropped"])), report["groups_in"])
                for report in reports
            }
        )
        == 1
    )
    if problem.plan.scope == "pool":
        assert reports[0]["pairs_out"] <= problem.plan.k


@common
@given(problem=problems(kinds=(BestOf,)), data=st.data())
def test_picks_do_not_depend_on_row_order_with_unique_ids(
    lawful: str, problem: Problem, data: st.DataObject
) -> None:
    problem.columns["id"] = list(range(problem.rows))
    problem.roles["id"] = "id"
    order = data.draw(st.permutations(range(problem.rows)))
    (rows, report), (shuffled, shuffled_report) = (
        answer(lawful, problem, tie_break="id"),
        answer(lawful, problem, order, tie_break="id"),
    )
    assert bag(rows) == bag(shuffled)
    assert report == shuffled_report


@common
@given(problem=problems(kinds=(BestOf,)), data=st.data())
def test_a_smallest_score_is_as_if_the_rest_were_not_there(
    lawful: str, problem: Problem, data: st.DataObject
) -> None:
    assume(problem.plan.aggregate == "none" and problem.plan.normalize == "none")
    rows, _ = answer(lawful, problem)
    everything, _ = answer(lawful, problem, min_score=None, k=99)
    if problem.plan.pick in ("best", "worst") and problem.plan.min_score is not None:
        high = [row for row in everything if row[2] >= problem.plan.min_score]
        assert bag([row[:3] for row in rows]) <= bag([row[:3] for row in high])

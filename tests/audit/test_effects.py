"""Effects and their errors against slow ways to the same numbers, written apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from planted import FAIR, Judge, scored, world

from prefmill.rules.audits.agreement import agreement
from prefmill.rules.audits.answers import Answers, Differences, lengths, outcome, pairings
from prefmill.rules.audits.effects import Effect, Model, of_sums, ratio
from prefmill.rules.audits.repeats import stable
from prefmill.rules.audits.twice import Repeats, Shown, meetings

NOBODY = Shown(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


def judged(seed=0, **where) -> Answers:
    answers, quality = world(seed, **where)
    return scored(Judge(longer=0.3), answers, quality, seed)


def left_out(statistic, prompts) -> float:
    """The standard error by leaving out each prompt, one after the other."""
    values = np.array([statistic(prompt) for prompt in prompts])
    spread = ((values - values.mean()) ** 2).sum()
    return math.sqrt(spread * (len(values) - 1) / len(values))


def test_every_two_answers_of_a_ballot_meet_once():
    answers = judged(prompts=40, answers=5, ragged=True)
    pairs = pairings(answers)
    met = {frozenset(pair) for pair in zip(pairs.one.tolist(), pairs.two.tolist(), strict=True)}
    rows = {}
    for row, ballot in enumerate(answers.ballot):
        rows.setdefault(ballot, []).append(row)
    wanted = {frozenset(two) for each in rows.values() for two in itertools.combinations(each, 2)}
    assert met == wanted
    assert len(pairs.one) == len(wanted)
    # Each answer of a ballot counts the same: that of a ballot of n is n / 2 in all.
    for ballot, each in rows.items():
        weight = pairs.weight[answers.ballot[pairs.one] == ballot].sum()
        assert weight == pytest.approx(len(each) / 2 if len(each) > 1 else 0)


def test_with_too_many_pairs_each_answer_meets_as_many_others():
    answers = judged(prompts=10, answers=30)
    pairs = pairings(answers, most=2000)
    counts = np.bincount(np.concatenate([pairs.one, pairs.two]))
    assert len(pairs.one) <= 2000
    assert set(counts) == {12}
    assert pairs.weight.sum() == pytest.approx(10 * 30 / 2)
    assert (answers.ballot[pairs.one] == answers.ballot[pairs.two]).all()
    again = pairings(answers, most=2000)
    assert (again.one == pairs.one).all()
    assert (pairings(answers, most=2000, seed=1).one != pairs.one).any()


def test_a_ratio_and_its_error_are_those_of_leaving_out_prompts():
    draw = np.random.default_rng(0)
    prompt = draw.integers(0, 25, 300)
    above, below = draw.normal(1, 1, 300), draw.random(300)
    effect = ratio(above, below, prompt)

    def without(left):
        rest = prompt != left
        return above[rest].sum() / below[rest].sum()

    assert effect.value == pytest.approx(above.sum() / below.sum())
    assert effect.error == pytest.approx(left_out(without, range(25)))
    assert effect.prompts == 25
    sums = np.bincount(prompt, below)
    assert effect.freedom == pytest.approx(sums.sum() ** 2 / (sums**2).sum() - 1)


def test_an_effect_is_the_coefficient_of_weighted_least_squares():
    answers = judged(prompts=220, answers=4, ragged=True, sources=True)
    pairs = pairings(answers)
    design = Differences(answers, pairs)
    told = outcome(answers.score, pairs)
    model = Model(design, told, pairs.weight, answers.prompt[pairs.one])
    controls = [*lengths(500), "lists", "code", "own"]
    effect = model.effect("bold", controls)
    columns = design.part(0, len(told))
    places = [design.names.index(name) for name in ("bold", *controls)]
    root = np.sqrt(pairs.weight)[:, None]
    solved, *_ = np.linalg.lstsq(root * columns[:, places], root[:, 0] * told, rcond=1e-9)
    assert effect.value == pytest.approx(solved[0], abs=1e-9)

    def without(prompt):
        rest = answers.prompt[pairs.one] != prompt
        fit, *_ = np.linalg.lstsq(
            (root * columns[:, places])[rest], (root[:, 0] * told)[rest], rcond=1e-9
        )
        return fit[0]

    # Ours holds the controls as they are: with few of them for many prompts nearly the same.
    slow = left_out(without, np.unique(answers.prompt[pairs.one]))
    assert effect.error == pytest.approx(slow, rel=0.06)


def test_an_effect_does_not_depend_on_which_of_two_comes_first():
    answers = judged(prompts=50)
    pairs = pairings(answers)
    turn = np.random.default_rng(1).random(len(pairs.one)) < 0.5
    turned = type(pairs)(
        np.where(turn, pairs.two, pairs.one), np.where(turn, pairs.one, pairs.two), pairs.weight
    )
    effects = []
    for each in (pairs, turned):
        told = outcome(answers.score, each)
        model = Model(Differences(answers, each), told, each.weight, answers.prompt[each.one])
        effects.append(model.effect("longer", ["bold", "lists"]))
    assert effects[0].value == pytest.approx(effects[1].value)
    assert effects[0].error == pytest.approx(effects[1].error)


def test_what_controls_explain_has_no_effect_and_what_is_not_there_no_prompts():
    answers = judged(prompts=50)
    pairs = pairings(answers)
    told = outcome(answers.score, pairs)
    model = Model(Differences(answers, pairs), told, pairs.weight, answers.prompt[pairs.one])
    assert model.effect("longer", ["longer", "bold"]) is None
    assert model.effect("first", ["bold"]).prompts == 0


def test_few_prompts_have_no_interval():
    assert not of_sums(np.ones(9), np.ones(9), 9).is_known
    assert of_sums(np.arange(10.0), np.ones(10), 10).is_known
    heavy = of_sums(np.ones(50), np.append(np.full(49, 0.001), 100.0), 50)
    assert not heavy.is_known
    assert math.isnan(heavy.tail)
    assert Effect(0.0, 0.0, 20.0, 21, 21).tail == 1.0
    assert Effect(0.5, 0.0, 20.0, 21, 21).tail == 0.0


def test_agreement_is_that_of_slow_counts():
    answers = judged(prompts=60, answers=4, ragged=True, human=0.7)
    answers.score[:] = np.round(answers.score)
    answers.reference[:] = np.round(answers.reference)
    answers.reference[::11] = np.nan
    pairs = pairings(answers)
    judge, human = outcome(answers.score, pairs), outcome(answers.reference, pairs)
    finding = agreement(answers, pairs, judge, human)
    right = weight = shorter = 0.0
    table = np.zeros((3, 3))
    for one, two, w in zip(pairs.one, pairs.two, pairs.weight, strict=True):
        said = np.sign(answers.score[one] - answers.score[two])
        truth = np.sign(answers.reference[one] - answers.reference[two])
        if np.isnan(truth):
            continue
        table[int(said) + 1, int(truth) + 1] += w
        table[1 - int(said), 1 - int(truth)] += w
        if truth:
            right += w * (said == truth) + w * (said == 0) / 2
            longer = np.sign(answers.length[one] - answers.length[two])
            shorter += w * (longer == truth) + w * (longer == 0) / 2
            weight += w
    got = finding.numbers
    assert got["accuracy"] == pytest.approx(right / weight)
    assert got["accuracy of length alone"] == pytest.approx(shorter / weight)
    assert finding.effect.value == pytest.approx((right - shorter) / weight)
    share = table / table.sum()
    chance = (share.sum(0) * share.sum(1)).sum()
    assert got["kappa"] == pytest.approx((np.trace(share) - chance) / (1 - chance))
    taus, rhos = [], []
    for prompt in range(60):
        rows = np.flatnonzero((answers.prompt == prompt) & ~np.isnan(answers.reference))
        said, truth = answers.score[rows], answers.reference[rows]
        taus.append(tau_b(said, truth))
        rhos.append(pearson(ranks(said), ranks(truth)))
    for name, values in (("tau-b in prompts", taus), ("Spearman in prompts", rhos)):
        known = [value for value in values if value is not None]
        assert got[name] == pytest.approx(np.mean(known))
        error = np.std(known, ddof=1) / len(known) ** 0.5
        assert got[f"{name}, high"] - got[name] == pytest.approx(2.0 * error, rel=0.05)


def tau_b(one, two) -> float | None:
    both = one_ties = two_ties = 0
    for i, j in itertools.combinations(range(len(one)), 2):
        a, b = np.sign(one[i] - one[j]), np.sign(two[i] - two[j])
        both += a * b
        one_ties += a != 0
        two_ties += b != 0
    return both / math.sqrt(one_ties * two_ties) if one_ties and two_ties else None


def ranks(values) -> list[float]:
    return [float((values < v).sum() + ((values == v).sum() + 1) / 2) for v in values]


def pearson(one, two) -> float | None:
    if len(set(one)) < 2 or len(set(two)) < 2:
        return None
    return float(np.corrcoef(one, two)[0, 1])


def test_alpha_and_the_correlation_are_those_of_slow_sums():
    draw = np.random.default_rng(4)
    units = np.repeat(np.arange(30), draw.integers(1, 5, 30))
    prompt = units // 3
    score = np.round(5 + draw.normal(0, 1, 30)[units] + draw.normal(0, 0.7, len(units)), 1)
    finding = stable(Repeats.of(prompt, units, score), NOBODY)
    by_unit = [score[units == u] for u in range(30) if (units == u).sum() > 1]
    values = np.concatenate(by_unit)
    observed = sum(((x[:, None] - x[None]) ** 2).sum() / (len(x) - 1) for x in by_unit) / len(
        values
    )
    expected = ((values[:, None] - values[None]) ** 2).sum() / len(values) / (len(values) - 1)
    assert finding.numbers["alpha"] == pytest.approx(1 - observed / expected)
    assert finding.numbers["answers judged again"] == len(by_unit)
    same = np.mean([len(set(x)) == 1 for x in by_unit])
    assert finding.numbers["same score each time"] == pytest.approx(same)
    inside = sum(((x - x.mean()) ** 2).sum() for x in by_unit)
    within = inside / (len(values) - len(by_unit))
    assert finding.numbers["standard deviation of an answer"] == pytest.approx(within**0.5)
    # With equal numbers the correlation is the textbook's.
    table = draw.normal(0, 1, (40, 1)) + draw.normal(0, 1, (40, 3))
    rows = np.repeat(np.arange(40), 3)
    icc = stable(Repeats.of(rows, rows, table.ravel()), NOBODY).numbers["intraclass correlation"]
    between = 3 * table.mean(axis=1).var(ddof=1)
    inner = table.var(axis=1, ddof=1).mean()
    assert icc == pytest.approx((between - inner) / (between + 2 * inner))


def test_three_equal_scores_are_the_same_each_time():
    draw = np.random.default_rng(2)
    units, score = np.repeat(np.arange(200), 3), np.repeat(draw.random(200), 3)
    score[0] += 1
    numbers = stable(Repeats.of(units, units, score), NOBODY).numbers
    assert numbers["same score each time"] == 199 / 200


def test_scores_far_from_nought_have_the_same_alpha():
    draw = np.random.default_rng(4)
    units = np.repeat(np.arange(30), 2)
    score = draw.normal(0, 1, 30)[units] + draw.normal(0, 0.7, 60)
    near, far = (
        stable(Repeats.of(units // 3, units, shift + score), NOBODY).numbers["alpha"]
        for shift in (0, 1e6)
    )
    assert near == pytest.approx(far, abs=1e-6)
    huge = stable(Repeats.of(units // 3, units, score * 1e300), NOBODY).numbers
    assert huge["alpha"] == pytest.approx(near)
    assert huge["standard deviation of an answer"] > 1e299


def test_matches_that_were_seen_twice_are_found():
    # (prompt, first, second, judge, points of the first)
    said = [
        (0, 0, 1, 0, 1.0),
        (0, 1, 0, 0, 1.0),  # the same match in the other order: the first again
        (0, 0, 1, 1, 0.0),  # another judge
        (0, 0, 1, 0, 0.5),  # again, in the first order
        (1, 2, 3, 0, 0.0),
        (1, 2, 3, 0, 1.0),  # again
        (1, 4, 3, 0, 1.0),
    ]
    rows = [
        (p, n, a, j, s)
        for n, (p, one, two, j, x) in enumerate(said)
        for a, s in ((one, x), (two, 1 - x))
    ]
    prompt, ballot, answer, judge, score = (np.array(column) for column in zip(*rows, strict=True))
    nothing = np.full(len(rows), -1)
    answers = Answers(
        prompt,
        ballot,
        answer,
        judge,
        score,
        score * np.nan,
        nothing,
        {},
        nothing,
        None,
        ordered=True,
    )
    swapped, again = meetings(answers, pairings(answers))
    assert (swapped.prompt.tolist(), swapped.once.tolist(), swapped.again.tolist()) == (
        [0],
        [0.5],
        [0.5],
    )
    assert sorted(
        zip(again.prompt.tolist(), again.once.tolist(), again.again.tolist(), strict=True)
    ) == [
        (0, 0.5, 0.0),
        (1, -0.5, 0.5),
    ]


def test_a_fair_world_is_fair():
    answers, quality = world(0, prompts=4000, answers=2)
    pairs = pairings(scored(FAIR, answers, quality, 0))
    longer = np.sign(answers.length[pairs.one] - answers.length[pairs.two])
    assert abs((outcome(quality, pairs) * longer).mean()) < 0.03

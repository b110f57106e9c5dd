"""Judges with a planted bias: each is found at the power that is stated, and a fair one passes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from planted import FAIR, NOBODY, Judge, battles, in_both_orders, leaning, scored, world

from prefmill.rules.audits.answers import pairings
from prefmill.rules.audits.probes import compared
from prefmill.rules.audits.repeats import stable
from prefmill.rules.audits.twice import Repeats
from prefmill.rules.audits.verdicts import probes

SEEDS = 200
BIASES = ("position", "length", "lists", "headings", "bold", "code", "emoji", "self-preference")


def bound(share: float, n: int, sigmas: float = 4) -> float:
    """How much more than `share` of n trials chance may make of it."""
    return share + sigmas * math.sqrt(share * (1 - share) / n)


def audited(answers, swapped=NOBODY, level=0.95):
    findings = compared(answers, pairings(answers), swapped)
    told = probes(findings, prompts=answers.prompts, level=level, least=0.05)
    return {probe.name: probe for probe in told}


def alarms(make, seeds: int = SEEDS) -> tuple[float, dict[str, float]]:
    """How often any bias is said to be there, and each probe's share of p below 0.05."""
    any_found, low = 0, dict.fromkeys(BIASES, 0)
    for seed in range(seeds):
        told = make(seed)
        any_found += any(told[name].verdict in ("found", "small") for name in BIASES)
        for name in BIASES:
            low[name] += (told[name].p or 1) < 0.05
    return any_found / seeds, {name: count / seeds for name, count in low.items()}


@pytest.mark.parametrize(
    "where",
    [
        {"prompts": 60},
        {"prompts": 30, "answers": 2, "sources": True},
        {"prompts": 40, "ragged": True, "sources": True},
        {"prompts": 40, "human": 0.5, "quality_of_length": 0.6},
    ],
    ids=["pool", "pairs", "ragged", "human"],
)
def test_a_fair_judge_passes(where):
    def make(seed):
        answers, quality = world(seed, **where)
        swapped = in_both_orders(FAIR, seed, prompts=where["prompts"])
        return audited(scored(FAIR, answers, quality, seed), swapped)

    rate, low = alarms(make)
    # At level 0.95 in 5 of 100 audits at most, whatever their number of tests.
    assert rate <= bound(0.05, SEEDS)
    # The tests are not blunt either: a chance below 0.05 comes up about that often.
    tested = [share for name, share in low.items() if name not in ("position", "emoji")]
    assert max(tested) <= bound(0.06, SEEDS)
    assert np.mean([share for share in tested if share]) >= 0.02


@pytest.mark.parametrize(("prompts", "per"), [(120, 2), (25, 1)])
def test_a_fair_judge_of_one_order_passes(prompts, per):
    rate, low = alarms(lambda seed: audited(battles(seed, prompts=prompts, per=per)))
    assert rate <= bound(0.05, SEEDS)
    assert low["position"] <= bound(0.06, SEEDS)


def test_a_place_in_one_order_is_found_whatever_the_sources_are_worth():
    told = [audited(battles(seed, first=0.3))["position"] for seed in range(40)]
    assert sum(probe.verdict == "found" for probe in told) >= 38
    # Of the half that the second would win it takes 30 %.
    assert np.mean([probe.effect for probe in told]) == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("human", [None, 0.5])
def test_a_fair_judge_on_a_coarse_scale_passes(human):
    def make(seed):
        answers, quality = world(seed, prompts=60, answers=3, human=human)
        told = scored(FAIR, answers, quality, seed)
        coarse = [np.clip(np.round(each + 3), 1, 5) for each in (told.score, told.reference)]
        return audited(replace(told, score=coarse[0], reference=coarse[1]))

    rate, _ = alarms(make)
    assert rate <= bound(0.05, SEEDS)


@pytest.mark.parametrize(
    ("judge", "where", "name"),
    [
        (Judge(longer=0.6), {}, "length"),
        (Judge(bold=0.8), {}, "bold"),
        (Judge(own=0.8), {"sources": True}, "self-preference"),
        (Judge(first=0.3), {}, "position"),
        (Judge(longer=0.6), {"human": 0.5, "quality_of_length": 0.6}, "length"),
        (Judge(own=0.8), {"sources": True, "human": 0.5}, "self-preference"),
    ],
    ids=["length", "bold", "own", "first", "length-human", "own-human"],
)
def test_a_strong_bias_is_found_and_nothing_else(judge, where, name):
    found, others = 0, 0
    for seed in range(40):
        answers, quality = world(seed, prompts=250, **where)
        swapped = in_both_orders(judge, seed, prompts=250)
        told = audited(scored(judge, answers, quality, seed), swapped)
        found += told[name].verdict == "found" and told[name].effect > 0
        others += any(told[each].verdict == "found" for each in BIASES if each != name)
    assert found >= 38
    assert others <= 40 * bound(0.05, 40)


@pytest.mark.parametrize("name", ["length", "bold", "self-preference", "position"])
def test_an_effect_of_the_detectable_size_is_found_in_80_of_100_files(name):
    def make(points, seed):
        answers, _ = world(seed, prompts=300, answers=2, sources=True)
        what = {"length": answers.length, "bold": answers.formats["bold"]}
        aim = what.get(name, answers.own)
        judge = Judge(first=2 * points) if name == "position" else FAIR
        swapped = in_both_orders(judge, seed, prompts=300)
        return audited(leaning(answers, aim, 0 if name == "position" else points, seed), swapped)

    detectable = float(np.mean([make(0.0, seed)[name].detectable for seed in range(5)]))
    found, effects = 0, []
    for seed in range(SEEDS):
        probe = make(detectable, seed)[name]
        found += probe.verdict == "found"
        effects.append(probe.effect)
    assert np.mean(effects) == pytest.approx(detectable, abs=4 * np.std(effects) / SEEDS**0.5)
    assert 0.8 - 4 * (0.16 / SEEDS) ** 0.5 <= found / SEEDS <= 0.95


def test_intervals_hold_the_planted_effect_in_95_of_100_files():
    held = 0
    for seed in range(SEEDS):
        answers, _ = world(seed, prompts=120, answers=2)
        probe = audited(leaning(answers, answers.length, 0.1, seed))["length"]
        held += probe.low <= 0.1 <= probe.high
    assert abs(held / SEEDS - 0.95) <= bound(0.05, SEEDS) - 0.05


def test_the_prompts_that_it_needs_are_enough():
    def length(seed, prompts):
        answers, quality = world(seed, prompts=prompts)
        return audited(scored(FAIR, answers, quality, seed))["length"]

    small = [length(seed, 80) for seed in range(30)]
    needs = [probe.needs for probe in small if probe.verdict == "cannot tell"]
    assert len(needs) >= 27
    enough = int(1.25 * np.mean(needs))
    assert [length(seed, enough).verdict for seed in range(20)].count("not found") >= 16
    few = int(0.75 * np.mean(needs))
    assert [length(seed, few).verdict for seed in range(20)].count("not found") <= 4


@pytest.mark.parametrize(
    ("noise", "verdict"), [(0.0, "not found"), (0.05, "not found"), (1, "found")]
)
def test_a_judge_that_changes_its_mind_is_found(noise, verdict):
    answers, quality = world(5, prompts=300)
    draw = np.random.default_rng([5, 9])
    runs = [quality + draw.normal(0, noise, len(quality)) for _ in range(2)]
    repeats = Repeats.of(
        np.tile(answers.prompt, 2), np.tile(answers.answer, 2), np.concatenate(runs)
    )
    (probe,) = probes([stable(repeats, NOBODY)], prompts=300, level=0.95, least=0.05)
    assert probe.verdict == verdict
    # Of differences with spread 2 and errors with 2 * noise**2 a share of arccos(rho) / pi flips.
    rho = 1 / (1 + noise**2)
    assert probe.effect == pytest.approx(math.acos(rho) / math.pi, abs=0.02)
    assert probe.numbers["standard deviation of an answer"] == pytest.approx(noise, rel=0.06)
    reliable = 5 / (5 + noise**2)  # of variance: 1 inside a prompt, 4 between prompts
    assert probe.numbers["intraclass correlation"] == pytest.approx(reliable, abs=0.03)


def test_flips_by_order_are_of_position_or_of_noise():
    noisy, _ = Judge(noise=1.0), Judge(first=0.4, noise=0)
    answers, quality = world(2, prompts=400)
    fair = scored(FAIR, answers, quality, 2)
    told = audited(fair, in_both_orders(noisy, 2, prompts=400))
    assert told["order flips"].verdict == "found"
    assert told["position"].verdict != "found"
    told = audited(fair, in_both_orders(Judge(first=0.4, noise=0), 2, prompts=400))
    assert (told["order flips"].verdict, told["position"].verdict) == ("found", "found")
    told = audited(fair, in_both_orders(Judge(noise=0), 2, prompts=400))
    assert told["order flips"].verdict == told["position"].verdict == "not found"


def test_a_length_of_quality_is_no_bias_where_a_human_says_so():
    answers, quality = world(1, prompts=600, quality_of_length=1.0, human=0.5)
    with_human = audited(scored(FAIR, answers, quality, 1))["length"]
    answers, quality = world(1, prompts=600, quality_of_length=1.0)
    without = audited(scored(FAIR, answers, quality, 1))["length"]
    assert without.verdict == "found"
    assert "quality" in without.caveat
    assert with_human.verdict != "found"
    assert abs(with_human.effect) < 0.03 < without.effect

"""The probes over comparisons: position, length, format, self-preference, agreement.

Each effect is in points of the win rate: 0.07 means that what is looked for wins 57 % where 50 %
is fair. With a reference (a human, or another judge) it is the judge's win rate less that of the
reference, over the same comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from prefmill.rules.audits.agreement import agreement
from prefmill.rules.audits.answers import Answers, Differences, Pairings, lengths, outcome
from prefmill.rules.audits.effects import FEWEST_PROMPTS, Effect, Model, of_sums, ratio, scale_of
from prefmill.rules.audits.texts import FORMATS
from prefmill.rules.audits.twice import Shown, flips, numbered, of_both_orders
from prefmill.rules.audits.verdicts import Finding
from prefmill.rules.intervals import Floats
from prefmill.rules.votes import summed

#: Sources are controlled for where there are this many prompts for each, and no more of them.
_PROMPTS_OF_SOURCE, _MOST_SOURCES = 10, 64
_QUALITY = "nothing holds quality fixed, so these may be better: --human COLUMN would tell"


def compared(answers: Answers, pairs: Pairings, swapped: Shown) -> list[Finding]:
    """What the comparisons of one file tell."""
    judged, prompt = outcome(answers.score, pairs), answers.prompt[pairs.one]
    reference = outcome(answers.reference, pairs)
    known = ~np.isnan(reference)
    enough = len(np.unique(prompt[known])) >= FEWEST_PROMPTS
    told = judged - reference if enough else judged
    design = Differences(answers, pairs)
    model = Model(design, told, pairs.weight, prompt)
    against = " less the reference's" if enough else ""
    findings = [
        *_positions(answers, pairs, swapped, told, against),
        _length(answers, pairs, model, judged, enough, against),
        *_formats(answers, model, enough, against),
        _own(answers, pairs, judged, told if enough else None, against),
    ]
    if known.any():
        findings.append(agreement(answers, pairs, judged, reference))
    return findings


# Position


def _positions(
    answers: Answers, pairs: Pairings, swapped: Shown, told: Floats, against: str
) -> list[Finding]:
    if len(np.unique(swapped.prompt)) >= FEWEST_PROMPTS or (
        len(swapped.prompt) and not answers.ordered
    ):
        return [of_both_orders(swapped), flips("order flips", swapped)]
    what = "win rate of the answer shown first, over 50 %"
    if not answers.ordered:
        why = "no answer was shown before another: these are scores, not verdicts on two answers"
        return [Finding("position", what, why=why)]
    return [_of_one_order(answers, pairs, told, f"{what}{against}", against)]


def _of_one_order(
    answers: Answers, pairs: Pairings, told: Floats, what: str, against: str
) -> Finding:
    sources = int(answers.source.max(initial=-1)) + 1
    weighs = 0 < sources <= _MOST_SOURCES and sources * _PROMPTS_OF_SOURCE <= answers.prompts
    design = Differences(answers, pairs, sources=sources if weighs and not against else 0)
    model = Model(design, told, pairs.weight, answers.prompt[pairs.one])
    controls = design.by_source
    if not against:
        controls = [*lengths(model.prompts), *answers.formats, *design.by_source]
    effect = model.effect("first", controls)
    if effect is None:
        why = "the source of an answer decides its place, so the two cannot be told apart"
        return Finding("position", what, why=why)
    caveat = ""
    if not against:
        caveat = "each pair was shown in one order: this holds if chance chose it"
    return Finding("position", what, effect, caveat=caveat, holds=True)


# Length and format


def _length(
    answers: Answers,
    pairs: Pairings,
    model: Model,
    judged: Floats,
    referenced: bool,
    against: str,
) -> Finding:
    others = [*answers.formats, *_rest(answers)]
    effect = model.effect("longer", others)
    prompt = answers.prompt[pairs.one]
    longer = np.sign(answers.length[pairs.one] - answers.length[pairs.two])
    above = pairs.weight * judged * longer
    raw = ratio(above, pairs.weight * (longer != 0), prompt)
    slope, correlation = _slope(answers)
    low, high = slope.ends(0.95)
    return Finding(
        "length",
        f"win rate of the longer answer, over 50 %{against}, at equal format",
        effect,
        why="" if effect else "formats decide which answer is longer",
        caveat="" if referenced else _QUALITY,
        numbers={
            "longer wins, nothing held equal": raw.value + 0.5,
            "score for twice the length": slope.value,
            "score for twice the length, low": low,
            "score for twice the length, high": high,
            "correlation with log length in prompts": correlation,
        },
    )


def _slope(answers: Answers) -> tuple[Effect, float]:
    """By least squares within ballots: what a doubled length adds to the score; correlation."""
    count = int(answers.ballot.max(initial=-1)) + 1
    sizes = np.maximum(np.bincount(answers.ballot, minlength=count), 1)

    def inside(values: Floats) -> Floats:
        means = summed(answers.ballot, values, count) / sizes
        left: Floats = values - means[answers.ballot]
        return left

    length = inside(np.log2(np.maximum(answers.length, 1)))
    unit = scale_of(answers.score)
    score = inside(answers.score / unit)
    prompts = answers.prompts
    above = summed(answers.prompt, length * score, prompts)
    below = summed(answers.prompt, length * length, prompts)
    spread = float(np.sqrt((length @ length) * (score @ score)))
    effect = of_sums(above, below, len(length))
    effect = replace(effect, value=effect.value * unit, error=effect.error * unit)
    return effect, float(length @ score) / spread if spread else np.nan


def _formats(answers: Answers, model: Model, referenced: bool, against: str) -> list[Finding]:
    findings = []
    for name in FORMATS:
        others = [other for other in answers.formats if other != name]
        effect = model.effect(name, [*lengths(model.prompts), *others, *_rest(answers)])
        findings.append(
            Finding(
                name,
                f"win rate of the answer with {name}, over 50 %{against}, at equal length",
                effect,
                why="" if effect else "length and other formats decide which answer has it",
                caveat="" if referenced else _QUALITY,
            )
        )
    return findings


def _rest(answers: Answers) -> Sequence[str]:
    own = [] if answers.own is None else ["own"]
    return [*own, *(["first"] if answers.ordered else [])]


# Self-preference


def _own(
    answers: Answers, pairs: Pairings, judged: Floats, told: Floats | None, against: str
) -> Finding:
    what = "win rate of the judge's own answers, over 50 %"
    if answers.own is None:
        why = "it is not known which answers are the judge's (--source, --judge-name)"
        return Finding("self-preference", what, why=why)
    caveat = ""
    if told is None:
        others = _other_judges(answers, pairs, judged)
        if len(np.unique(answers.prompt[pairs.one][~np.isnan(others)])) >= FEWEST_PROMPTS:
            told, against = judged - others, " less the other judges'"
        else:
            told, caveat = judged, _QUALITY
    model = Model(Differences(answers, pairs), told, pairs.weight, answers.prompt[pairs.one])
    first = ["first"] if answers.ordered else []
    effect = model.effect("own", [*lengths(model.prompts), *answers.formats, *first])
    return Finding(
        "self-preference",
        f"{what}{against}, at equal length and format",
        effect,
        why="" if effect else "length and format decide which answers are its own",
        caveat=caveat,
    )


def _other_judges(answers: Answers, pairs: Pairings, judged: Floats) -> Floats:
    """For each comparison, the mean outcome of other judges on the same two answers."""
    low = np.minimum(answers.answer[pairs.one], answers.answer[pairs.two])
    high = np.maximum(answers.answer[pairs.one], answers.answer[pairs.two])
    turn = np.where(answers.answer[pairs.one] == low, 1.0, -1.0)
    match = numbered(low, high)
    by_judge = numbered(match, answers.judge[pairs.one])
    totals: Mapping[str, tuple[Floats, Floats]] = {
        name: (summed(keys, judged * turn, len(keys)), summed(keys, np.ones(len(keys)), len(keys)))
        for name, keys in (("all", match), ("mine", by_judge))
    }
    sums = totals["all"][0][match] - totals["mine"][0][by_judge]
    counts = totals["all"][1][match] - totals["mine"][1][by_judge]
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    turned: Floats = means * turn
    return turned

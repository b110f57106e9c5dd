"""What is said of a probe: found, not found, or that so few prompts cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from prefmill.rules.audits.effects import FEWEST_PROMPTS, POWER, Effect
from prefmill.rules.intervals import Floats
from prefmill.rules.tails import holm, student_tail

Verdict = Literal["found", "small", "not found", "cannot tell", "not tested"]
#: How an effect is read: 0 is fair, or a share that is fair up to `least`.
Kind = Literal["difference", "share"]
#: Verdicts that come with a caveat: of one that may make an effect up, and that may hide one too.
_CAREFUL = {False: ("found", "small"), True: ("found", "small", "not found")}
_MOST_PROMPTS = 10_000_000
#: Three of n prompts at 0.5 are two errors away from none.
_ODD_PROMPT = 0.75


@dataclass(frozen=True)
class Finding:
    """A probe before its verdict: an effect, or why there is none (`why`).

    `what` says in words what the effect is, `caveat` what else it may come from, `exact` a chance
    that is known without an error of the effect, `variance` that of an outcome where most are 0.
    """

    name: str
    what: str
    effect: Effect | None = None
    kind: Kind = "difference"
    why: str = ""
    caveat: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    exact: float | None = None
    variance: float | None = None
    #: Whether the caveat may also hide an effect.
    holds: bool = False
    #: Agreement is no bias: it has a test of its own.
    alone: bool = False


@dataclass(frozen=True)
class Probe:
    """One thing that was looked for in a judge.

    `effect` is what `what` says, `low` and `high` its interval; `p` the chance of as much in a
    fair judge, `p_adjusted` the same for all tests of the audit together (Holm). `detectable` is
    the effect that is found in 80 of 100 such files; `needs` how many prompts it takes to find one
    of `least`. `prompts` and `comparisons` bear on it. `why` says what a verdict of "cannot tell"
    or "not tested" lacks, `caveat` what else the effect may come from. `numbers` tell more.
    """

    name: str
    what: str
    verdict: Verdict
    effect: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    prompts: int
    comparisons: int
    detectable: float | None
    needs: int | None
    why: str = ""
    caveat: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def probes(findings: Sequence[Finding], *, prompts: int, level: float, least: float) -> list[Probe]:
    """The verdict on each finding, of a file with so many prompts.

    found        the test says so, after Holm over all tests, at 1 - `level`
    small        the same, and the whole interval is nearer to fair than `least`
    not found    neither, and an effect of `least` would have been found in 80 of 100 such files
    cannot tell  neither, and it would not

    A share is found where it is above `least`, and not found where its interval is below.
    """
    findings = [_steady(each) for each in findings]
    tails = [_tail(each, least) for each in findings]
    together = [math.nan if f.alone else p for f, p in zip(findings, tails, strict=True)]
    adjusted = holm(together)
    tests = max(1, sum(not math.isnan(p) for p in together))
    told = []
    for finding, p, of_all in zip(findings, tails, adjusted, strict=True):
        alone = finding.alone
        alpha = 1 - level if alone else (1 - level) / tests
        probe = _probe(finding, p, p if alone else of_all, alpha, level, least, prompts)
        told.append(probe)
    return told


def _steady(finding: Finding) -> Finding:
    """The finding, its error not below what one prompt unlike all others would make it.

    Prompts that all say the same have no spread, and yet 3 in n may be otherwise (the rule of
    three); an outcome is at most 0.5.
    """
    effect = finding.effect
    if effect is None or finding.kind == "share" or not effect.is_known:
        return finding
    least = _ODD_PROMPT / (effect.freedom + 1)
    return replace(finding, effect=replace(effect, error=max(effect.error, least)))


def share_ends(effect: Effect, level: float) -> tuple[float, float]:
    """Wilson's interval of a share, of as many trials as its error over prompts is worth."""
    trials, z = _trials(effect), NormalDist().inv_cdf((1 + level) / 2)
    share = min(max(effect.value, 0.0), 1.0)
    middle = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return (middle - half) / (1 + z**2 / trials), (middle + half) / (1 + z**2 / trials)


def _trials(effect: Effect) -> float:
    # A share of 0 or 1 has no spread, and then each prompt is a trial.
    spread = effect.value * (1 - effect.value)
    if not effect.error or spread <= 0:
        return float(effect.prompts)
    return min(spread / effect.error**2, float(effect.comparisons))


def _tail(finding: Finding, least: float) -> float:
    """The chance of as much where the judge is fair; NaN where nothing is tested."""
    effect = finding.effect
    if effect is None or not effect.is_known:
        return math.nan
    if finding.exact is not None:
        return finding.exact
    if finding.kind == "difference":
        return effect.tail
    error = math.sqrt(least * (1 - least) / _trials(effect))
    # One-sided: a share below `least` is no finding.
    half = student_tail((effect.value - least) / error, effect.freedom) / 2
    return half if effect.value > least else 1 - half


def _probe(
    finding: Finding,
    p: float,
    adjusted: float,
    alpha: float,
    level: float,
    least: float,
    prompts: int,
) -> Probe:
    effect, why, needs = finding.effect, finding.why, None
    verdict: Verdict = "not tested"
    numbers: dict[str, float | None] = dict.fromkeys(("effect", "low", "high", "detectable"))
    if effect is not None and not effect.prompts:
        why = "no two answers that were compared differ in it"
    elif effect is not None and not effect.is_known:
        verdict = "cannot tell"
        why = f"{effect.prompts:,} prompts bear on it, expected {FEWEST_PROMPTS} or more"
        if effect.prompts >= FEWEST_PROMPTS:
            why = "a few prompts have nearly all of it, or there are few for what is held equal"
        else:
            needs = -(-FEWEST_PROMPTS * prompts // effect.prompts)
        numbers["effect"] = _plain(effect.value)
    elif effect is not None:
        is_share = finding.kind == "share"
        low, high = share_ends(effect, level) if is_share else effect.ends(level)
        detectable = effect.detectable(alpha, finding.variance)
        verdict = _verdict(is_share, adjusted < 1 - level, low, high, detectable, least)
        if verdict == "cannot tell":
            gap = least if not is_share else abs(effect.value - least)
            needs = _prompts(effect, detectable, gap, alpha if is_share else None, least)
            if needs is not None:  # of such prompts as the file has
                needs = -(-needs * prompts // effect.prompts)
            why = _lacks(p, adjusted, level, needs, prompts)
        numbers = {"effect": effect.value, "low": low, "high": high}
        numbers["detectable"] = None if is_share else detectable
        numbers = {name: _plain(value) for name, value in numbers.items()}
    return Probe(
        name=finding.name,
        what=finding.what,
        verdict=verdict,
        **numbers,
        p=_plain(p),
        p_adjusted=_plain(adjusted),
        prompts=effect.prompts if effect else 0,
        comparisons=effect.comparisons if effect else 0,
        needs=needs,
        why=why,
        caveat=finding.caveat if verdict in _CAREFUL[finding.holds] else "",
        numbers={k: v for k, x in finding.numbers.items() if (v := _plain(x)) is not None},
    )


def _verdict(
    is_share: bool, is_found: bool, low: float, high: float, detectable: float, least: float
) -> Verdict:
    if is_share:
        if is_found:
            return "found"
        return "not found" if high <= least else "cannot tell"
    if is_found:
        return "small" if -least < low and high < least else "found"
    return "not found" if detectable <= least else "cannot tell"


def _prompts(
    effect: Effect, detectable: float, gap: float, alpha: float | None, least: float
) -> int | None:
    """How many prompts like these it takes; None where that is beyond reason."""
    if alpha is None:
        needs = effect.prompts * (detectable / gap) ** 2
    else:
        normal = NormalDist().inv_cdf
        wide = normal(1 - alpha) * math.sqrt(least * (1 - least))
        wide += normal(POWER) * math.sqrt(max(effect.value * (1 - effect.value), 0.0))
        trials = (wide / gap) ** 2 if gap else math.inf
        needs = effect.prompts * trials / _trials(effect)
    return math.ceil(needs) if needs < _MOST_PROMPTS else None


def _lacks(p: float, adjusted: float, level: float, needs: int | None, prompts: int) -> str:
    why = f"an effect that matters takes {needs:,} prompts" if needs else "it is at the border"
    if needs is not None and needs <= prompts:
        why = "it is near the border"
    if p < 1 - level <= adjusted:
        why = f"{why}; alone it would be found, among all tests it may be chance"
    return why


def _plain(value: float | None) -> float | None:
    """A number for people and JSON, or None."""
    return None if value is None or not np.isfinite(value) else round(float(value), 9)


def share_of(values: Floats) -> float:
    """The mean of what is known; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan

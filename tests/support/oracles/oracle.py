"""What a plan means, in plain Python: written from `docs/semantics.md` and from nothing else; slow,
short, obviously right.

Scores that are computed are computed exactly, as the decimal numbers that they are printed as
(`0.1` is one tenth), then rounded to 9 decimals. Everything else is float64.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from oracle_rows import (
    Candidate,
    any_messages,
    by_group,
    candidates,
    conclusion,
    exact,
    hashed,
    in_one_form,
    in_order,
    lot,
    mix,
    nine,
    number,
    root9,
    text,
)

from prefmill.errors import BadArgument, ThresholdsUnfit
from prefmill.plans import Advantage, BestOf, Pairs, Unpaired
from prefmill.table.roles import Roles


@dataclass
class Result:
    """`pairs` are (prompt, chosen, rejected, chosen_score, rejected_score), of labels (prompt,
    completion, label, score), of best-of-K (prompt, completion, score, rank) and with length
    control the adjusted score, by majority how many agree, of
    advantages (prompt, completion, score, advantage)."""

    pairs: list[tuple]
    positions: list[tuple[int, ...]]
    report: dict


def pairs(rows: list[dict], plan: Pairs, roles: Roles) -> Result:
    found, dropped, groups_in = candidates(rows, plan, roles)
    plan = with_thresholds(plan, [c.score for c in found])
    kept: list[tuple[Candidate, Candidate]] = []
    not_selected = used_rows = groups_used = 0
    for group in by_group(found):
        group.sort(key=in_order(plan))
        all_rows = sum(len(c.rows) for c in group)
        standing = proposed(group, plan, lot(group[0].row, plan, roles))
        mine = [
            (group[c - 1], group[r - 1])
            for c, r in standing
            if text(group[c - 1], roles) != text(group[r - 1], roles)
        ]
        if not mine:
            dropped["identical_text" if standing else why_none(group, plan)] += all_rows
            continue
        used = sum(
            len(rows) for rows in {c.position: c.rows for pair in mine for c in pair}.values()
        )
        kept += mine
        groups_used += 1
        used_rows += used
        not_selected += all_rows - used
    told = [(c.row[roles.prompt], text(c, roles), text(r, roles)) for c, r in kept]
    chat = any_messages(rows, roles)
    out = [
        (*in_one_form(texts, chat), c.score, r.score)
        for texts, (c, r) in zip(told, kept, strict=True)
    ]
    return result(
        out,
        [(c.position, r.position) for c, r in kept],
        len(rows),
        used_rows,
        not_selected,
        dropped,
        groups_in,
        groups_used,
    )


def unpaired(rows: list[dict], plan: Unpaired, roles: Roles) -> Result:
    found, dropped, groups_in = candidates(rows, plan, roles)
    plan = with_thresholds(plan, [c.score for c in found])
    kept: list[
        tuple[int, int, Candidate]
    ] = []  # ordinal inside the group, ordinal of the group, candidate
    for g, group in enumerate(by_group(found)):
        for i, c in enumerate(sorted(group, key=lambda c: c.position)):
            if plan.rejected_below <= c.score < plan.chosen_min:
                dropped["between_thresholds"] += len(c.rows)
            else:
                kept.append((i, g, c))
    labelled = [c for _, _, c in sorted(kept, key=lambda k: k[:2])]
    chat = any_messages(rows, roles)
    out = [
        (
            *in_one_form((c.row[roles.prompt], text(c, roles)), chat),
            c.score >= plan.chosen_min,
            c.score,
        )
        for c in labelled
    ]
    used = sum(len(c.rows) for c in labelled)
    told = result(
        out,
        [(c.position,) for c in labelled],
        len(rows),
        used,
        0,
        dropped,
        groups_in,
        len({c.group for c in labelled}),
    )
    labels = [row[2] for row in out]
    return Result(
        told.pairs,
        told.positions,
        told.report | {"labels": {"true": labels.count(True), "false": labels.count(False)}},
    )


def with_thresholds(plan: Pairs | Unpaired, scores: list[float]) -> Pairs | Unpaired:
    """`plan` with numbers for thresholds that are `auto` or quantiles."""
    shares = {"chosen_min": plan.chosen_quantile, "rejected_below": plan.rejected_quantile}
    given = {name: quantile(scores, share) for name, share in shares.items() if share}
    automatic = [name for name in shares if getattr(plan, name) == "auto" and name not in given]
    distinct = set(scores)
    nothing_to_divide = not distinct or (len(distinct) == 1 and isinstance(plan, Pairs))
    unfit = ThresholdsUnfit("default thresholds do not divide these: smallest score seen ...")
    if not automatic and not given:
        return plan
    if given:
        usual = dict.fromkeys(shares, next(iter(given.values())))
    elif nothing_to_divide or min(distinct) < 4 <= max(distinct):
        usual = dict.fromkeys(shares, 4.0)
    elif distinct == {0.0, 0.5, 1.0}:
        usual = {"chosen_min": 1.0, "rejected_below": 0.5}
    elif len(distinct) == 2 and all(map(float.is_integer, distinct)) and distinct != {4.0, 5.0}:
        usual = dict.fromkeys(shares, max(distinct))
    else:
        raise unfit
    numbers = {name: usual[name] for name in automatic} | given
    plan = replace(plan, **numbers, chosen_quantile=None, rejected_quantile=None)
    high = -math.inf if plan.chosen_min is None else plan.chosen_min
    low = math.inf if plan.rejected_below is None else plan.rejected_below
    if automatic and not nothing_to_divide and (max(distinct) < high or min(distinct) >= low):
        raise unfit
    return plan


def quantile(scores: list[float], share: float) -> float:
    """The smallest score with at least this share of all scores at or below it."""
    if not scores:
        return 4.0
    q = Fraction(round(Fraction(str(share)), 9))
    return min(s for s in scores if sum(x <= s for x in scores) >= q * len(scores))


def best_of(rows: list[dict], plan: BestOf, roles: Roles) -> Result:
    found, dropped, groups_in = candidates(rows, plan, roles)
    if plan.pick == "rso" and plan.scope == "pool":
        raise BadArgument("pick 'rso' accepts inside a prompt")
    low = [c for c in found if plan.min_score is not None and c.score < plan.min_score]
    if low:
        dropped["below_min_score"] = sum(len(c.rows) for c in low)
    fit = None
    if plan.length_control:
        fit = length_fit(found, roles)
        for c in found:
            gap = exact(fit["slope"]) * (length(c, roles) - exact(fit["mean"])) / 1000
            c.given, c.score = c.score, nine(exact(c.score) - gap)
    left = [c for c in found if c not in low]
    votes = (
        Counter((c.group, conclusion(c.row, roles)) for c in left)
        if plan.pick == "majority"
        else None
    )
    voters, left = left, left if votes is None else majority(left, votes, plan, roles)
    kept: list[tuple[Candidate, int]] = []
    for group in by_group(left) if plan.scope == "prompt" else [left]:
        group = sorted(group, key=in_order(plan))
        h = lot(group[0].row, plan, roles) if plan.scope == "prompt" else hashed("", plan.seed)
        kept += [
            (group[r - 1], len(group) - r + 1)
            for r in sorted(picked_ranks([c.score for c in group], plan, h), reverse=True)
        ]
    used, all_rows = sum(len(c.rows) for c, _ in kept), sum(len(c.rows) for c in voters)
    out = [
        (
            c.row[roles.prompt],
            text(c, roles),
            *((c.given, rank, c.score) if fit else (c.score, rank)),
            *([votes[c.group, conclusion(c.row, roles)]] if votes else []),
        )
        for c, rank in kept
    ]
    groups_used = len({c.group for c, _ in kept})
    told = result(
        out,
        [(c.position,) for c, _ in kept],
        len(rows),
        used,
        all_rows - used,
        dropped,
        groups_in,
        groups_used,
    )
    return Result(told.pairs, told.positions, told.report | ({"length": fit} if fit else {}))


def majority(
    voters: list[Candidate], votes: Counter, plan: BestOf, roles: Roles
) -> list[Candidate]:
    """The candidates that come to the answer of most of their group."""
    left = []
    for group in by_group(voters):
        order = in_order(plan)
        won = max(group, key=lambda c: (votes[c.group, conclusion(c.row, roles)], order(c)))
        left += [c for c in group if conclusion(c.row, roles) == conclusion(won.row, roles)]
    return left


def picked_ranks(scores: list[float], plan: BestOf, h: int) -> list[int]:
    """The ranks that are picked of candidates with these scores, worst first."""
    n, k = len(scores), plan.k
    ranks = list(range(1, n + 1))
    if k >= n:
        return ranks
    start = (n - k) // 2
    drawn = sorted(ranks, key=lambda r: (mix(h % 2**32 ^ r), r))
    if plan.pick == "rso":
        return accepted(
            drawn, scores, k, plan.beta, lambda r, t: mix(mix(h % 2**32 ^ r) ^ t) / 2**32
        )
    return {
        "majority": ranks[n - k :],
        "best": ranks[n - k :],
        "worst": ranks[:k],
        "median": ranks[start : start + k],
        "random": drawn[:k],
    }[plan.pick]


def accepted(
    order: list[int], scores: list[float], k: int, beta: float, u: Callable[[int, int], float]
) -> list[int]:
    """Algorithm 1 of Liu et al. over the ranks in `order`; `u` is the draw of a rank in a pass."""
    taken: list[int] = []
    t = 0
    while len(taken) < k:
        t += 1
        left = [r for r in order if r not in taken]
        best = max(scores[r - 1] for r in left)
        for r in left:
            if u(r, t) < math.exp((scores[r - 1] - best) / beta) and len(taken) < k:
                taken.append(r)
    return taken


def length(candidate: Candidate, roles: Roles) -> int:
    said = candidate.row[roles.completion]
    return (
        len(said)
        if isinstance(said, str)
        else sum(len(message["content"] or "") for message in said)
    )


def length_fit(found: list[Candidate], roles: Roles) -> dict:
    xx = xy = yy = Fraction(0)
    for group in by_group(found):
        lengths, scores = (
            [Fraction(length(c, roles)) for c in group],
            [exact(c.score) for c in group],
        )
        along, over = (
            [x - sum(values) / len(values) for x in values] for values in (lengths, scores)
        )
        xx, yy = xx + sum(x * x for x in along), yy + sum(y * y for y in over)
        xy += sum(x * y for x, y in zip(along, over, strict=True))
    slope = nine(1000 * xy / xx) if xx else 0.0
    correlation = (1 if xy > 0 else -1) * root9(xy**2 / (xx * yy)) if xx and yy else None
    mean = nine(Fraction(sum(length(c, roles) for c in found), len(found))) if found else None
    return {"slope": slope, "correlation": correlation, "mean": mean}


def advantages(rows: list[dict], plan: Advantage, roles: Roles) -> Result:
    if roles.weight and roles.logprob:
        raise BadArgument("one policy is asked for")
    if (roles.weight or roles.logprob) and plan.method == "rank":
        raise BadArgument("rank knows no policy")
    found, dropped, groups_in = candidates(rows, plan, roles)
    kept: list[tuple[Candidate, float]] = []
    for group in by_group(found):
        p = policy([c.row for c in group], roles)
        if p is None:
            dropped["no_weight"] += sum(len(c.rows) for c in group)
        else:
            kept += zip(group, advantages_of([exact(c.score) for c in group], p, plan), strict=True)
    kept.sort(key=lambda found: found[0].position)
    out = [(c.row[roles.prompt], text(c, roles), c.score, value) for c, value in kept]
    used, groups_used = sum(len(c.rows) for c, _ in kept), len({c.group for c, _ in kept})
    return result(
        out, [(c.position,) for c, _ in kept], len(rows), used, 0, dropped, groups_in, groups_used
    )


def policy(group: list[dict], roles: Roles) -> list[Fraction] | None:
    """The probability of each row, or None where all weights are 0."""
    if roles.logprob:
        logs = [number(row[roles.logprob]) for row in group]
        with localcontext(prec=60):
            weights = [Fraction((Decimal(log) - Decimal(max(logs))).exp()) for log in logs]
    else:
        weights = [
            exact(number(row[roles.weight])) if roles.weight else Fraction(1) for row in group
        ]
    return [w / sum(weights) for w in weights] if any(weights) else None


def advantages_of(q: list[Fraction], p: list[Fraction], plan: Advantage) -> list[float]:
    n, v = len(q), sum(share * x for share, x in zip(p, q, strict=True))
    if min(q) == max(q):
        return [0.0] * n
    if plan.method == "centered":
        return [nine(x - v) for x in q]
    if plan.method == "rank":
        return [nine(Fraction(sum(y < x for y in q) - sum(y > x for y in q), n - 1)) for x in q]
    nothing = Fraction(1, 10**12)
    if plan.method == "rloo":
        return [
            nine((x - v) / (1 - share)) if 1 - share >= nothing else 0.0
            for x, share in zip(q, p, strict=True)
        ]
    spare = 1 - sum(share**2 for share in p)
    if spare < nothing:
        return [0.0] * n
    variance = sum(share * (x - v) ** 2 for share, x in zip(p, q, strict=True)) / spare
    with localcontext(prec=60):
        deviation = Fraction((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt())
    return [nine((x - v) / (deviation + exact(plan.epsilon))) for x in q]


def result(out, positions, rows_in, used, not_selected, dropped, groups_in, groups_used) -> Result:
    assert rows_in == used + not_selected + sum(dropped.values()), (
        rows_in,
        used,
        not_selected,
        dropped,
    )
    counts = {
        "rows_in": rows_in,
        "rows_used": used,
        "rows_not_selected": not_selected,
        "dropped": dict(dropped),
    }
    return Result(
        out,
        positions,
        counts | {"groups_in": groups_in, "groups_used": groups_used, "pairs_out": len(out)},
    )


# Candidates -> pairs


def proposed(group: list[Candidate], plan: Pairs, h: int) -> list[tuple[int, int]]:
    """The (chosen rank, rejected rank) that stand and that the cap keeps, in output order; `group`
    is sorted, worst first.
    """
    n, s = len(group), [math.nan, *(c.score for c in group)]
    high = -math.inf if plan.chosen_min is None else plan.chosen_min
    low = math.inf if plan.rejected_below is None else plan.rejected_below

    def stands(c: int, r: int) -> bool:
        return s[c] > s[r] and s[c] >= high and s[r] < low and s[c] - s[r] >= plan.min_margin

    tops = range(n, max(n - (plan.top_k or n), 0), -1)
    last = min(plan.bottom_k or n, n)  # the best rank that may be rejected
    if plan.strategy in ("all", "threshold"):
        ranks: Iterable[tuple[int, int]] = (
            (c, r) for c in tops for r in range(1, min(c - 1, last) + 1)
        )
    elif plan.strategy == "adjacent":
        ranks = ((c, c - 1) for c in tops if 1 <= c - 1 <= last)
    else:
        ranks = [(n, r) for r in range(1, min(n - 1, last) + 1)]
    standing = [(c, r) for c, r in ranks if stands(c, r)]
    if plan.strategy == "best_worst":
        standing = [(c, r) for c, r in standing if r == 1]
    if plan.strategy == "best_random" and standing:
        assert [r for _, r in standing] == list(range(1, len(standing) + 1))
        standing = [(n, 1 + h % len(standing))]
    cap = plan.max_pairs_per_prompt or len(standing)
    return sorted(
        sorted(standing, key=lambda cr: (mix(mix(h % 2**32 ^ cr[0]) ^ cr[1]), *cr))[:cap],
        key=lambda cr: (-cr[0], cr[1]),
    )


def why_none(group: list[Candidate], plan: Pairs) -> str:
    worst, best = group[0].score, group[-1].score
    reasons = {
        "single_completion": len(group) < 2,
        "tie": best == worst,
        "below_chosen_min": plan.chosen_min is not None and best < plan.chosen_min,
        "not_below_rejected": plan.rejected_below is not None and worst >= plan.rejected_below,
        "below_min_margin": best - worst < plan.min_margin,
        "no_adjacent_pair": plan.strategy == "adjacent",
    }
    return next(reason for reason, holds in reasons.items() if holds)


def counts(report: Any) -> dict[str, Any]:
    """What a report of prefmill counts, in the form of this module's reports."""
    names = ("rows_in", "rows_used", "rows_not_selected", "groups_in", "groups_used", "pairs_out")
    labels = {} if report.labels is None else {"labels": dict(report.labels)}
    return (
        {name: getattr(report, name) for name in names} | {"dropped": dict(report.dropped)} | labels
    )

"""What a plan means, in plain Python: written from `docs/semantics.md` and from nothing else; slow,
short, obviously right.

Scores that are computed are computed exactly, as the decimal numbers that they are printed as
(`0.1` is one tenth), then rounded to 9 decimals. Everything else is float64.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from prefmill.errors import BadArgument, BadScore, ThresholdsUnfit
from prefmill.plans import Advantage, BestOf, Pairs, Plan, Unpaired
from prefmill.table.roles import Roles

NUMBER = re.compile(
    r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE
)
WORDS = {"true": 1.0, "false": 0.0}
RAISED = ("null_prompt", "null_completion", "null_score", "bad_score", "non_finite_score")


@dataclass
class Result:
    """`pairs` are (prompt, chosen, rejected, chosen_score, rejected_score), of labels (prompt,
    completion, label, score), of best-of-K (prompt, completion, score, rank) and with length
    control the adjusted score, of advantages (prompt, completion, score, advantage)."""

    pairs: list[tuple]
    positions: list[tuple[int, ...]]
    report: dict


@dataclass
class Candidate:
    group: str
    row: dict
    score: float
    position: int
    id: Any
    rows: list[int]  # positions of all its judgements
    given: float = 0.0  # with length control: its score as it was


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
    """`plan` with numbers for thresholds that are `auto`."""
    automatic = [name for name in ("chosen_min", "rejected_below") if getattr(plan, name) == "auto"]
    distinct = set(scores)
    if not automatic:
        return plan
    nothing_to_divide = not distinct or (len(distinct) == 1 and isinstance(plan, Pairs))
    if nothing_to_divide or min(distinct) < 4 <= max(distinct):
        usual = 4.0
    elif len(distinct) == 2 and all(map(float.is_integer, distinct)) and distinct != {4.0, 5.0}:
        usual = max(distinct)
    else:
        raise ThresholdsUnfit("the default thresholds do not divide these scores")
    plan = replace(plan, **dict.fromkeys(automatic, usual))
    high = -math.inf if plan.chosen_min is None else plan.chosen_min
    low = math.inf if plan.rejected_below is None else plan.rejected_below
    if not nothing_to_divide and (max(distinct) < high or min(distinct) >= low):
        raise ThresholdsUnfit("the default thresholds do not divide these scores")
    return plan


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
    kept: list[tuple[Candidate, int]] = []
    for group in by_group(left) if plan.scope == "prompt" else [left]:
        group = sorted(group, key=in_order(plan))
        h = lot(group[0].row, plan, roles) if plan.scope == "prompt" else hashed("", plan.seed)
        kept += [
            (group[r - 1], len(group) - r + 1)
            for r in sorted(picked_ranks([c.score for c in group], plan, h), reverse=True)
        ]
    used, all_rows = sum(len(c.rows) for c, _ in kept), sum(len(c.rows) for c in left)
    out = [
        (
            c.row[roles.prompt],
            text(c, roles),
            *((c.given, rank, c.score) if fit else (c.score, rank)),
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


# Rows -> candidates


def candidates(rows: list[dict], plan: Plan, roles: Roles) -> tuple[list[Candidate], Counter, int]:
    """The candidates that are left, the rows dropped so far by reason, and the number of groups
    that have one.
    """
    for missing, what in (
        (plan.tie_break == "id" and not roles.id, "tie_break 'id' needs an id role"),
        (
            isinstance(plan, BestOf) and plan.stages == "last" and not roles.stage,
            "stages 'last' needs a stage role",
        ),
        (plan.normalize != "none" and not roles.annotator, "normalize needs an annotator role"),
        (
            plan.weights and roles.aspect and plan.aggregate == "none",
            "weights over aspects need aggregate",
        ),
    ):
        if missing:
            raise BadArgument(what)
    dropped: Counter = Counter()
    left: dict[int, float] = {}
    last_only = isinstance(plan, BestOf) and plan.stages == "last"
    last = max((s for s in (stage(row, roles) for row in rows) if s is not None), default=None)
    for position, row in enumerate(rows):
        reason, score = read(row, plan, roles)
        if last_only and not reason:
            mine = stage(row, roles)
            reason = "null_stage" if mine is None else "earlier_stage" if mine < last else None
        if reason in RAISED and plan.on_invalid == "raise":
            raise BadScore(f"position {position}: {reason}")
        if reason:
            dropped[reason] += 1
        else:
            left[position] = score
    if plan.normalize != "none":
        scales: dict[tuple, list[int]] = {}
        for p in left:
            scales.setdefault(
                (rows[p][roles.annotator], rows[p][roles.aspect] if roles.aspect else None), []
            ).append(p)
        for positions in scales.values():
            left.update(
                zip(
                    positions, normalized(plan.normalize, [left[p] for p in positions]), strict=True
                )
            )
    merged: dict[tuple, list[int]] = {}
    for p in left:
        merged.setdefault(
            (key(rows[p], roles), p if plan.aggregate == "none" else rows[p][roles.completion]), []
        ).append(p)
    found = []
    for (group, _), positions in merged.items():
        reason, score = judged(
            [(rows[p][roles.aspect] if roles.aspect else None, left[p]) for p in positions],
            plan,
            roles,
        )
        if reason:
            dropped[reason] += len(positions)
            continue
        first = (
            min(positions, key=lambda p: (rows[p][roles.id], p))
            if plan.tie_break == "id"
            else positions[0]
        )
        found.append(
            Candidate(
                group,
                rows[first],
                score,
                first,
                rows[first][roles.id] if roles.id else None,
                positions,
            )
        )
    return found, dropped, len({c.group for c in found})


def read(row: dict, plan: Plan, roles: Roles) -> tuple[str | None, float]:
    """Why a row is dropped, or its score."""
    weights = (
        {roles.score: -1 if roles.negate else 1}
        if roles.aspect or not plan.weights
        else plan.weights
    )
    values = [row[column] for column in weights]
    if any(row[column] is None for column in (roles.prompt, *roles.group)):
        return "null_prompt", 0
    if row[roles.completion] is None:
        return "null_completion", 0
    if any(value is None for value in values):
        return "null_score", 0
    if any(isinstance(value, str) and not spells_number(value) for value in values):
        return "bad_score", 0
    numbers = [number(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        return "non_finite_score", 0
    if weights is plan.weights:
        score = nine(
            sum(exact(w) * exact(x) for w, x in zip(weights.values(), numbers, strict=True))
        )
        if not math.isfinite(score):
            return "non_finite_score", 0
    else:
        score = -numbers[0] if roles.negate else numbers[0]
    if plan.normalize != "none" and row[roles.annotator] is None:
        return "null_annotator", 0
    if roles.aspect and row[roles.aspect] not in (plan.weights or {}):
        return "unweighted_aspect", 0
    if plan.tie_break == "id" and row[roles.id] is None:
        return "null_id", 0
    if named := (roles.weight or roles.logprob) if isinstance(plan, Advantage) else None:
        weight = number(row[named])
        if not math.isfinite(weight) or (roles.weight and weight < 0):
            return "bad_weight", 0
    return None, score


def spells_number(value: str) -> bool:
    value = value.strip(" \t\n\v\f\r")
    return bool(NUMBER.fullmatch(value)) or value.lower() in WORDS


def number(value: Any) -> float:
    """The number that a value means; NaN if it means none."""
    if isinstance(value, str):
        value = value.strip(" \t\n\v\f\r")
        if value.lower() in WORDS:
            return WORDS[value.lower()]
        return float(value) if NUMBER.fullmatch(value) else math.nan
    return math.nan if value is None else float(value)


def normalized(how: str, scores: list[float]) -> list[float]:
    n = len(scores)
    if how == "rank":
        ordered = sorted(scores)
        # equal scores have the ranks left + 1 to right, on average (left + 1 + right) / 2
        return [
            nine(Fraction(bisect_left(ordered, s) + bisect_right(ordered, s), 2 * n))
            for s in scores
        ]
    values = [exact(s) for s in scores]
    mean = sum(values) / n
    variance = sum((x - mean) ** 2 for x in values) / n
    return [
        (1 if x > mean else -1) * root9((x - mean) ** 2 / variance) if variance else 0.0
        for x in values
    ]


def judged(votes: list[tuple[Any, float]], plan: Plan, roles: Roles) -> tuple[str | None, float]:
    """Why a candidate with these (aspect, score) is dropped, or its score."""
    if plan.aggregate == "none":
        return None, votes[0][1]
    weights = plan.weights if roles.aspect else {None: 1}
    scores = [[s for a, s in votes if a == aspect] for aspect in weights]
    if not all(scores):
        return "missing_aspect", 0
    if min(map(len, scores)) < plan.min_votes:
        return "too_few_votes", 0
    merged = [aggregated(plan.aggregate, s) for s in scores]
    if None in merged:
        return "no_majority", 0
    if not roles.aspect and plan.aggregate in ("max", "min", "majority"):
        return None, float(merged[0])
    return None, nine(sum(exact(w) * m for w, m in zip(weights.values(), merged, strict=True)))


def aggregated(how: str, scores: list[float]) -> Fraction | None:
    values = sorted(exact(s) for s in scores)
    n = len(values)
    if how == "majority":
        (score, most), *others = Counter(values).most_common()
        return score if not others or others[0][1] < most else None
    if how == "median":
        return (values[(n - 1) // 2] + values[n // 2]) / 2
    return {"mean": sum(values) / n, "max": values[-1], "min": values[0]}[how]


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


# Conversations


def any_messages(rows: list[dict], roles: Roles) -> bool:
    return any(
        isinstance(row[column], list) for row in rows for column in (roles.prompt, roles.completion)
    )


def in_one_form(texts: tuple, chat: bool) -> tuple:
    """A prompt and its completions, all as text or all as messages."""
    return (
        tuple(messages(said, "assistant" if i else "user") for i, said in enumerate(texts))
        if chat
        else texts
    )


def messages(said: str | list[dict], speaker: str) -> list[dict]:
    if isinstance(said, str):
        return [{"role": speaker, "content": said}]
    return [message(m) for m in said]


def message(m: dict) -> dict:
    who, what = ("role", "content") if "role" in m and "content" in m else ("from", "value")
    role = {"human": "user", "prompter": "user", "gpt": "assistant"}.get(m[who], m[who])
    others = {key: value for key, value in m.items() if key not in (who, what, "role", "content")}
    return {"role": role, "content": m[what], **others}


# Groups, chance, numbers


def key(row: dict, roles: Roles) -> str:
    return json.dumps(
        [row[column] for column in roles.group or (roles.prompt,)], sort_keys=True, default=str
    )


def by_group(found: list[Candidate]) -> list[list[Candidate]]:
    """Candidates by group, groups by their first position."""
    groups: dict[str, list[Candidate]] = {}
    for c in sorted(found, key=lambda c: c.position):
        groups.setdefault(c.group, []).append(c)
    return list(groups.values())


def in_order(plan: Plan):
    """The key of the order inside a group."""
    return lambda c: (
        (c.score, c.id, c.position) if plan.tie_break == "id" else (c.score, c.position)
    )


def stage(row: dict, roles: Roles) -> int | None:
    value = row[roles.stage] if roles.stage else None
    if not isinstance(value, str):
        return value
    number = (
        float(value.strip(" \t\n\v\f\r"))
        if NUMBER.fullmatch(value.strip(" \t\n\v\f\r"))
        else math.nan
    )
    return int(number) if abs(number) < 2**53 and number == int(number) else None


def text(candidate: Candidate, roles: Roles) -> str:
    return candidate.row[roles.completion]


def lot(row: dict, plan: Pairs | BestOf, roles: Roles) -> int:
    """h(prompt)."""

    def sized(value: object) -> str:
        spelled = "" if value is None else str(value)
        return f"{len(spelled.encode())}:{spelled}"

    spelled = row[roles.prompt]
    if roles.group:
        spelled = "".join(sized(row[column]) for column in roles.group)
    elif not isinstance(spelled, str):
        keys = ("role", "content"), ("from", "value")
        who, what = next(pair for pair in keys if all(set(pair) <= m.keys() for m in spelled))
        spelled = "".join(sized(message[who]) + sized(message[what]) for message in spelled)
    return hashed(spelled, plan.seed)


def hashed(spelled: str, seed: int) -> int:
    return int.from_bytes(hashlib.md5(f"{seed}:{spelled}".encode()).digest()[:8], "little")


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def exact(x: float) -> Fraction:
    return Fraction(repr(x))


def nine(x: Fraction) -> float:
    """9 decimals, half away from zero."""
    sign = 1 if x > 0 else -1
    try:
        return sign * float(Fraction(int(abs(x) * 10**9 + Fraction(1, 2)), 10**9))
    except OverflowError:
        return sign * math.inf


def root9(x: Fraction) -> float:
    """The square root to 9 decimals: floor((t + 1) / 2) where t = floor(2 * root * 10**9)."""
    return float(Fraction((math.isqrt(int(4 * x * 10**18)) + 1) // 2, 10**9))


def counts(report: Any) -> dict[str, Any]:
    """What a report of prefmill counts, in the form of this module's reports."""
    names = ("rows_in", "rows_used", "rows_not_selected", "groups_in", "groups_used", "pairs_out")
    labels = {} if report.labels is None else {"labels": dict(report.labels)}
    return (
        {name: getattr(report, name) for name in names} | {"dropped": dict(report.dropped)} | labels
    )

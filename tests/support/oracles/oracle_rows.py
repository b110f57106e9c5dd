"""What a row means to the oracle: its score, its texts, its group.

Written from `docs/semantics.md` and from nothing else, as `oracle.py` is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prefmill.errors import BadArgument, BadScore
from prefmill.plans import Advantage, BestOf, Pairs, Plan
from prefmill.table.roles import Roles

NUMBER = re.compile(
    r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE
)

WORDS = {"true": 1.0, "false": 0.0}

RAISED = ("null_prompt", "null_completion", "null_score", "bad_score", "non_finite_score")


@dataclass
class Candidate:
    group: str
    row: dict
    score: float
    position: int
    id: Any
    rows: list[int]  # positions of all its judgements
    given: float = 0.0  # with length control: its score as it was


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
        (
            isinstance(plan, BestOf) and plan.pick == "majority" and not roles.conclusion,
            "pick 'majority' needs a conclusion role",
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
        if isinstance(plan, BestOf) and plan.pick == "majority" and not reason:
            reason = None if conclusion(row, roles) else "no_conclusion"
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


def conclusion(row: dict, roles: Roles) -> str:
    """What a completion comes to, as text; empty: nothing."""
    value = row[roles.conclusion]
    return "" if value is None else str(value)


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

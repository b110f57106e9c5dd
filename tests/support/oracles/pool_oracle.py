"""What the statistics macros mean, in plain Python and exact fractions; written from
docs/semantics.md and from no SQL.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from fractions import Fraction

Row = dict[str, object]


def usable(rows: list[Row], *needed: str) -> list[Row]:
    """Rows that count, with their position; `needed` are further roles that must not be null."""
    kept = []
    for position, row in enumerate(rows):
        score = row["score"]
        if (
            row["prompt"] is None
            or row["completion"] is None
            or score is None
            or not math.isfinite(score)
        ):
            continue
        if all(row[role] is not None for role in needed):
            kept.append({**row, "position": position})
    return kept


def groups(rows: list[Row], *keys: str) -> dict[tuple, list[Row]]:
    found: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return found


def rank_candidates(rows: list[Row]) -> list[tuple]:
    out = []
    for (prompt,), members in groups(usable(rows), "prompt").items():
        ordered = sorted(members, key=lambda r: (r["score"], r["position"]), reverse=True)
        top = ordered[0]["score"]
        out += [
            (prompt, r["completion"], r["score"], rank, len(members), top - r["score"])
            for rank, r in enumerate(ordered, 1)
        ]
    return out


def pool_stats(rows: list[Row]) -> dict[str, tuple]:
    out = {}
    for (prompt,), members in groups(usable(rows), "prompt").items():
        scores = [r["score"] for r in members]
        lengths = [len(r["completion"]) for r in members]
        varied = len(set(scores)) > 1 and len(set(lengths)) > 1
        out[prompt] = (
            len(scores),
            statistics.fmean(scores),
            statistics.pstdev(scores),
            max(scores),
            statistics.median(scores),
            min(scores),
            scores.count(max(scores)),
            statistics.correlation(scores, lengths) if varied else None,
        )
    return out


def wilson(p: Fraction, n: Fraction) -> tuple[float, float]:
    """The two roots q of (p - q)^2 = z^2 q (1 - q) / n: what Wilson's interval is."""
    z = statistics.NormalDist().inv_cdf(0.975)
    a, b, c = 1 + z * z / float(n), -(2 * float(p) + z * z / float(n)), float(p) ** 2
    root = math.sqrt(max(b * b - 4 * a * c, 0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def win_rates(rows: list[Row], baseline: str | None = None) -> dict[str, tuple]:
    """By source: prompts, wins, losses, ties, win rate, low, high, effective n."""
    rows = usable(rows, "source")
    by_prompt = groups(rows, "prompt").values()
    out = {}
    for source in {r["source"] for r in rows} - {baseline}:
        tally, sizes = Counter(), []
        for members in by_prompt:
            met = 0
            for mine, other in itertools.product(members, members):
                if (
                    mine["source"] != source
                    or other["source"] == source
                    or baseline not in (None, other["source"])
                ):
                    continue
                met += 1
                tally[
                    "win"
                    if mine["score"] > other["score"]
                    else "loss"
                    if mine["score"] < other["score"]
                    else "tie"
                ] += 1
            sizes += [met] if met else []
        if not sizes:
            out[source] = (0, 0, 0, 0, None, None, None, None)
            continue
        rate = (tally["win"] + Fraction(tally["tie"], 2)) / sum(sizes)
        n = Fraction(sum(sizes) ** 2, sum(m * m for m in sizes))
        out[source] = (
            len(sizes),
            tally["win"],
            tally["loss"],
            tally["tie"],
            float(rate),
            *wilson(rate, n),
            float(n),
        )
    return out


def last_words(rows: list[Row]) -> list[dict[str, Fraction]]:
    """For every unit the score that each annotator gave it last."""
    units: dict[tuple, dict] = defaultdict(dict)
    for r in usable(rows, "annotator"):
        units[r["prompt"], r["completion"]][r["annotator"]] = Fraction(r["score"])
    return [unit for unit in units.values() if len(unit) > 1]


def alpha(units: list[dict[str, Fraction]], level: str) -> float | None:
    """Krippendorff's alpha by its coincidence matrix (2011, section D): every ordered pair of
    values of a unit counts 1 / (m - 1).
    """

    def delta(a: Fraction, b: Fraction) -> Fraction:
        return (a - b) ** 2 if level == "interval" else Fraction(a != b)

    matrix: Counter = Counter()
    for unit in units:
        for a, b in itertools.permutations(unit.values(), 2):
            matrix[a, b] += Fraction(1, len(unit) - 1)
    margins: Counter = Counter()
    for (a, _), count in matrix.items():
        margins[a] += count
    n = sum(margins.values())
    seen = sum(count * delta(a, b) for (a, b), count in matrix.items())
    expected = sum(margins[a] * margins[b] * delta(a, b) for a in margins for b in margins)
    return float(1 - (n - 1) * seen / expected) if expected else None


def agreement(rows: list[Row], level: str) -> dict[tuple, tuple]:
    """By pair of annotators, (None, None) for all: units, share of equal scores, kappa, alpha."""
    units = last_words(rows)
    pairs = [(a, b) for unit in units for a, b in itertools.combinations(unit.values(), 2)]
    share = float(Fraction(sum(a == b for a, b in pairs), len(pairs))) if pairs else None
    out = {(None, None): (len(units), share, None, alpha(units, level))}
    for one, other in itertools.combinations(sorted({name for unit in units for name in unit}), 2):
        both = [(unit[one], unit[other]) for unit in units if one in unit and other in unit]
        if not both:
            continue
        n = len(both)
        seen = Fraction(sum(a == b for a, b in both), n)
        left, right = Counter(a for a, _ in both), Counter(b for _, b in both)
        chance = sum(Fraction(left[v], n) * Fraction(right[v], n) for v in left)
        out[one, other] = (
            n,
            float(seen),
            float((seen - chance) / (1 - chance)) if chance != 1 else None,
            None,
        )
    return out

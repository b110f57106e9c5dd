"""What votes mean, in loops over plain Python; written from docs/semantics.md ("Votes").

Strengths are fixed points, as the papers give them (Hunter 2004, Davidson 1970), and not Newton's;
intervals come from second differences of the log-likelihood.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from statistics import NormalDist

import numpy as np

Row = dict[str, object]
Z = NormalDist().inv_cdf(0.975)


def ballots(rows: list[Row]) -> list[list[Row]]:
    found: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.get("group", row["prompt"]), row.get("annotator")].append(row)
    return list(found.values())


def side(row: Row, over: str) -> tuple:
    return (row["source"],) if over == "source" else (row["prompt"], row["completion"])


def comparisons(rows: list[Row], over: str) -> list[dict]:
    """one, two, outcome, unit; in the order of ballots."""
    found = []
    for number, ballot in enumerate(ballots(rows)):
        for a, b in itertools.combinations(ballot, 2):
            if side(a, over) == side(b, over):
                continue
            outcome = 1.0 if a["score"] > b["score"] else 0.0 if a["score"] < b["score"] else 0.5
            unit = a["prompt"] if over == "source" else number
            found.append(
                {
                    "one": side(a, over),
                    "two": side(b, over),
                    "outcome": outcome,
                    "unit": unit,
                    "judge": a.get("annotator"),
                    "answers": (
                        (a["prompt"], a["completion"], a.get("source")),
                        (b["prompt"], b["completion"], b.get("source")),
                    ),
                }
            )
    return found


def sides(rows: list[Row], over: str) -> list[tuple]:
    return list(dict.fromkeys(side(row, over) for row in rows))


def parts(names: list[tuple], edges: list[tuple]) -> list[list[tuple]]:
    neighbours: dict[tuple, set] = {name: set() for name in names}
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    found, seen = [], set()
    for name in names:
        if name not in seen:
            front, part = [name], {name}
            while front:
                front = [n for x in front for n in neighbours[x] if n not in part]
                part |= set(front)
            seen |= part
            found.append([n for n in names if n in part])
    return found


def endless(part: list[tuple], beats: set[tuple]) -> bool:
    """Whether some side cannot be reached from some other by wins and ties."""
    reach = {(a, b) for a, b in beats if a in part and b in part}
    for middle, a, b in itertools.product(part, part, part):
        if (a, middle) in reach and (middle, b) in reach:
            reach.add((a, b))
    return any((a, b) not in reach for a, b in itertools.permutations(part, 2))


def wins_and_ties(votes: list[dict]) -> set[tuple]:
    beats = {(v["one"], v["two"]) for v in votes if v["outcome"] > 0}
    return beats | {(v["two"], v["one"]) for v in votes if v["outcome"] < 1}


def dependence(votes: list[dict]) -> list[float]:
    met: Counter = Counter()
    for vote in votes:
        met[vote["one"], vote["unit"]] += 1
        met[vote["two"], vote["unit"]] += 1
    return [float(max(met[v["one"], v["unit"]], met[v["two"], v["unit"]])) for v in votes]


def fixed_point(names, step, rounds=200_000):
    """Repeat `step` on worths until nothing moves."""
    worth = dict.fromkeys(names, 1.0)
    for _ in range(rounds):
        new = step(worth)
        moved = max(abs(math.log(new[n] / worth[n])) for n in names)
        worth = new
        if moved < 1e-14:
            break
    return worth


def bradley_terry(rows: list[Row], over: str = "prompt", prior: float | None = None) -> dict:
    """By side: score, low, high, votes."""
    votes = comparisons(rows, over)
    weights = dependence(votes)
    out = {}
    for part in parts(sides(rows, over), [(v["one"], v["two"]) for v in votes]):
        if len(part) == 1:
            out[part[0]] = (None, None, None, 0)
            continue
        mine = [(v, w) for v, w in zip(votes, weights, strict=True) if v["one"] in part]
        padding = prior
        if prior is None:
            padding = 1.0 if endless(part, wins_and_ties([v for v, _ in mine])) else 0.0

        def step(worth, mine=mine, padding=padding):
            won = dict.fromkeys(worth, padding / 2)
            met = {name: padding / (value + 1) for name, value in worth.items()}
            for vote, _ in mine:
                one, two = vote["one"], vote["two"]
                won[one] += vote["outcome"]
                won[two] += 1 - vote["outcome"]
                for name in (one, two):
                    met[name] += 1 / (worth[one] + worth[two])
            return {name: won[name] / met[name] for name in worth}

        worth = fixed_point(part, step)

        def loss(theta, factor, part=part, mine=mine, padding=padding):
            at = dict(zip(part, theta, strict=True))
            total = sum(padding * (softplus(t) + softplus(-t)) / 2 for t in theta)
            for vote, weight in mine:
                gap = at[vote["one"]] - at[vote["two"]]
                lost = vote["outcome"] * softplus(-gap) + (1 - vote["outcome"]) * softplus(gap)
                total += (weight if factor else 1.0) * lost
            return total

        told = Counter(n for v, _ in mine for n in (v["one"], v["two"]))
        out |= with_intervals(worth, part, loss, told, padding)
    return out


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def with_intervals(worth, part, loss, told, padding) -> dict:
    logs = np.array([math.log(worth[name]) for name in part])
    size = len(part)
    center = np.eye(size) - 1 / size
    information = second(lambda x: loss(x, False), logs)
    variance = second(lambda x: loss(x, True), logs)
    # Without a prior a shift of all strengths changes nothing, and is no direction to invert.
    inverse = np.linalg.inv(information + (0 if padding else 1 / size))
    errors = np.sqrt(np.diag(center @ inverse @ variance @ inverse @ center))
    scores = logs - logs.mean()
    return {
        name: (score, score - Z * error, score + Z * error, told[name])
        for name, score, error in zip(part, scores, errors, strict=True)
    }


def second(f, x, h=1e-3):
    """Second differences of f at x."""
    n = len(x)
    out = np.zeros((n, n))
    for i, j in itertools.product(range(n), range(n)):
        a, b = np.zeros(n), np.zeros(n)
        a[i], b[j] = h, h
        out[i, j] = (f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)) / (4 * h * h)
    return out


def davidson(rows: list[Row]) -> tuple[dict, float]:
    """Of one part that has a finite maximum, over answers of ballots of two: score and interval of
    each side, and the tie parameter; by the equations of Davidson 1970, section 3.
    """
    votes = comparisons(rows, "prompt")
    names = sides(rows, "prompt")
    worth, nu = dict.fromkeys(names, 1.0), 1.0
    for _ in range(100_000):
        points, met = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        tied = 0.0
        for vote in votes:
            one, two = vote["one"], vote["two"]
            root = math.sqrt(worth[one] * worth[two])
            whole = worth[one] + worth[two] + nu * root
            points[one] += 2 * vote["outcome"]
            points[two] += 2 * (1 - vote["outcome"])
            met[one] += (2 + nu * math.sqrt(worth[two] / worth[one])) / whole
            met[two] += (2 + nu * math.sqrt(worth[one] / worth[two])) / whole
            tied += root / whole
        new = {name: points[name] / met[name] for name in names}
        ties = sum(v["outcome"] == 0.5 for v in votes)
        moved = max(abs(math.log(new[n] / worth[n])) for n in names)
        moved = max(moved, abs(math.log(ties / tied / nu)))
        worth, nu = new, ties / tied
        if moved < 1e-13:
            break

    def loss(x):
        at = dict(zip(names, x[:-1], strict=True))
        total = 0.0
        for vote in votes:
            one, two = math.exp(at[vote["one"]]), math.exp(at[vote["two"]])
            tie = math.exp(x[-1]) * math.sqrt(one * two)
            chance = {1.0: one, 0.0: two, 0.5: tie}[vote["outcome"]]
            total -= math.log(chance / (one + two + tie))
        return total

    logs = np.array([*(math.log(worth[n]) for n in names), math.log(nu)])
    information = second(loss, logs)
    size = len(names)
    information[:size, :size] += 1 / size
    inverse = np.linalg.inv(information)[:size, :size]
    center = np.eye(size) - 1 / size
    errors = np.sqrt(np.diag(center @ inverse @ center))
    scores = logs[:-1] - logs[:-1].mean()
    each = zip(names, scores, errors, strict=True)
    return {n: (s, s - Z * e, s + Z * e) for n, s, e in each}, nu


def choices(ballot: list[Row], over: str) -> list[tuple[tuple, list[tuple], float]]:
    """(chosen, of whom, weight) of a ranking."""
    ordered = sorted(ballot, key=lambda r: -r["score"])
    found = []
    for row in ordered:
        rest = [side(r, over) for r in ordered if r["score"] <= row["score"]]
        tied = sum(r["score"] == row["score"] for r in ordered)
        last = tied == len(rest)
        found.append((side(row, over), rest, (tied - 1) / tied if last else 1.0))
    return found


def plackett_luce(rows: list[Row], over: str = "prompt", prior: float | None = None) -> dict:
    """By side: score, low, high, votes."""
    cast = [b for b in ballots(rows) if len(b) > 1]
    of_unit = Counter(b[0]["prompt"] if over == "source" else id(b) for b in cast)
    made = []
    for ballot in cast:
        unit = ballot[0]["prompt"] if over == "source" else id(ballot)
        made += [(*choice, of_unit[unit]) for choice in choices(ballot, over)]
    votes = comparisons(rows, over)
    told = Counter(n for v in votes for n in (v["one"], v["two"]))
    out = {}
    for part in parts(sides(rows, over), [(v["one"], v["two"]) for v in votes]):
        if len(part) == 1:
            out[part[0]] = (None, None, None, 0)
            continue
        mine = [c for c in made if c[0] in part]
        padding = prior
        if prior is None:
            own = [v for v in votes if v["one"] in part]
            padding = 1.0 if endless(part, wins_and_ties(own)) else 0.0

        def step(worth, mine=mine, padding=padding):
            won = dict.fromkeys(worth, padding / 2)
            met = {name: padding / (value + 1) for name, value in worth.items()}
            for chosen, rest, weight, _ in mine:
                won[chosen] += weight
                whole = sum(worth[n] for n in rest)
                for name in rest:
                    met[name] += weight / whole
            return {name: won[name] / met[name] for name in worth}

        worth = fixed_point(part, step)

        def loss(theta, factor, part=part, mine=mine, padding=padding):
            at = dict(zip(part, theta, strict=True))
            total = sum(padding * (softplus(t) + softplus(-t)) / 2 for t in theta)
            for chosen, rest, weight, units in mine:
                lost = math.log(sum(math.exp(at[n] - at[chosen]) for n in rest))
                total += weight * lost * (units if factor else 1)
            return total

        out |= with_intervals(worth, part, loss, told, padding)
    return out


def elo(rows: list[Row], over: str = "prompt", k: float = 32.0) -> dict:
    rating = dict.fromkeys(sides(rows, over), 0.0)
    for vote in comparisons(rows, over):
        one, two = vote["one"], vote["two"]
        expected = 1 / (1 + 10 ** ((rating[two] - rating[one]) / 400))
        rating[one] += k * (vote["outcome"] - expected)
        rating[two] -= k * (vote["outcome"] - expected)
    return rating


def tasks(rows: list[Row]) -> dict[tuple, list[tuple]]:
    """By two answers, in the order of the input: (judge, points of the first answer)."""
    order = {}
    for row in rows:
        order.setdefault((row["prompt"], row["completion"], row.get("source")), len(order))
    found: dict[tuple, list[tuple]] = defaultdict(list)
    for vote in comparisons(rows, "prompt"):
        (a, b), points = vote["answers"], vote["outcome"]
        if order[a] > order[b]:
            a, b, points = b, a, 1 - points
        found[a, b].append((vote["judge"], points))
    return found


def dawid_skene(rows: list[Row], rounds: int = 200) -> tuple[dict, dict]:
    """The points of each task's first answer, and each judge's chance of the true label."""
    votes = tasks(rows)
    labels = sorted({label for said in votes.values() for _, label in said})
    judges = list(dict.fromkeys(judge for said in votes.values() for judge, _ in said))
    chance = {
        t: {k: sum(label == k for _, label in said) / len(said) for k in labels}
        for t, said in votes.items()
    }
    for _ in range(rounds):
        prior = {k: sum(c[k] for c in chance.values()) / len(chance) for k in labels}
        given = {(j, k, m): 0.0 for j in judges for k in labels for m in labels}
        for task, said in votes.items():
            for judge, label in said:
                for k in labels:
                    given[judge, k, label] += chance[task][k]
        for j, k in itertools.product(judges, labels):
            whole = sum(given[j, k, m] for m in labels)
            for m in labels:
                given[j, k, m] = given[j, k, m] / whole if whole else 0.0
        new = {}
        for task, said in votes.items():
            product = {
                k: prior[k] * math.prod(given[j, k, label] for j, label in said) for k in labels
            }
            new[task] = {k: p / sum(product.values()) for k, p in product.items()}
        moved = max(abs(new[t][k] - chance[t][k]) for t in votes for k in labels)
        chance = new
        if moved < 1e-5:
            break
    points = {t: sum(k * p for k, p in c.items()) for t, c in chance.items()}
    sure = {j: sum(prior[k] * given[j, k, k] for k in labels) for j in judges}
    return points, sure


def mace(rows: list[Row], rounds: int = 200) -> tuple[dict, dict]:
    """The points of each task's first answer, and each judge's chance not to guess."""
    votes = tasks(rows)
    labels = sorted({label for said in votes.values() for _, label in said})
    judges = list(dict.fromkeys(judge for said in votes.values() for judge, _ in said))
    smooth = 0.01 / len(labels)
    chance = {
        t: {k: sum(label == k for _, label in said) / len(said) for k in labels}
        for t, said in votes.items()
    }
    care = dict.fromkeys(judges, 0.5)
    habit = {(j, k): 1 / len(labels) for j in judges for k in labels}
    for _ in range(rounds):
        knew, cast = dict.fromkeys(judges, smooth), dict.fromkeys(judges, 2 * smooth)
        guessed = dict.fromkeys(habit, smooth)
        for task, said in votes.items():
            for j, label in said:
                guess = (1 - care[j]) * habit[j, label]
                share = chance[task][label] * care[j] / (care[j] + guess)
                knew[j] += share
                cast[j] += 1
                guessed[j, label] += 1 - share
        care = {j: knew[j] / cast[j] for j in judges}
        whole = {j: sum(guessed[j, k] for k in labels) for j in judges}
        habit = {(j, k): guessed[j, k] / whole[j] for j, k in guessed}
        new = {}
        for task, said in votes.items():
            product = {
                k: math.prod(
                    (1 - care[j]) * habit[j, label] + (care[j] if label == k else 0)
                    for j, label in said
                )
                for k in labels
            }
            new[task] = {k: p / sum(product.values()) for k, p in product.items()}
        moved = max(abs(new[t][k] - chance[t][k]) for t in votes for k in labels)
        chance = new
        if moved < 1e-5:
            break
    return {t: sum(k * p for k, p in c.items()) for t, c in chance.items()}, care


def agreed_rates(rows: list[Row], points: dict) -> dict:
    """By answer: the mean of its points over its tasks."""
    found: dict[tuple, list[float]] = defaultdict(list)
    for (a, b), share in points.items():
        found[a[:2]].append(share)
        found[b[:2]].append(1 - share)
    return {name: sum(shares) / len(shares) for name, shares in found.items()}

"""Floors of pairs: what guesses get right that know nothing of quality.

sides ──bets (1: the chosen one, -1: the other, 0: no opinion)──▶ sums by prompt ──▶ a share,
its interval, a test, and the same share after labels were drawn anew
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import duckdb

from prefmill.reports.found import Floor
from prefmill.rules.intervals import wilson
from prefmill.rules.tails import holm, sign_tail
from prefmill.shown import amount

#: With fewer pairs nothing is said of a guess.
FEWEST = 10
#: Below this distance from one half a floor is too low to matter, as `least` of an audit is.
LEAST = 0.05
#: A clean set has any high floor in one of a thousand reports.
CHANCE = 0.001

#: The guesses: what each picks, what is missing where it never has an opinion, and its bet.
_GUESSES = {
    "length": (
        "the longer answer",
        "the answers of every pair are of one length",
        "sign(c_chars - r_chars)",
    ),
    "lists": (
        "the answer that has a list",
        "no pair has a list in one of its answers only",
        "c_lists::INTEGER - r_lists::INTEGER",
    ),
    "language": (
        "the answer in the language of its prompt",
        "no pair has one answer in the language of its prompt, and one in another",
        "coalesce(c_native::INTEGER - r_native::INTEGER, 0)",
    ),
    "position": (
        "the answer that stands first in the file",
        "the chosen answer is the first one by the file's columns",
        "sign(r_pos - c_pos)",
    ),
    "source": (
        "the answer of the source that wins more of other prompts",
        "no column names the source (--source COLUMN)",
        "",
    ),
}
#: What has no opinion of a pair whose texts are the same, or whose labels are drawn anew.
_SWAPPED = ", ".join(
    f"CASE WHEN flip THEN {one}_{name} ELSE {other}_{name} END AS {other}_{name}"
    for name in ("pos", "answer", "chars", "lists", "native", "source")
    for one, other in ("cr", "rc")
)
_SUMS = """
    WITH per AS (
      SELECT sum((bet > 0)::INTEGER)::DOUBLE AS s, count(*)::DOUBLE AS m
      FROM ({bets}) WHERE bet <> 0 GROUP BY prompt)
    SELECT coalesce(sum(s), 0), coalesce(sum(m), 0), coalesce(sum(s * s), 0),
           coalesce(sum(s * m), 0), coalesce(sum(m * m), 0) FROM per
"""
#: Prompts are dealt into two halves: what sources win of one is the guess about the other.
_BY_SOURCE = """
    WITH games AS (
      SELECT prompt, prompt & 1 AS half, c_source AS c, r_source AS r FROM {sides}
      WHERE NOT same AND c_source <> r_source),
    met AS (SELECT half, c AS source, 1 AS won FROM games
            UNION ALL SELECT half, r, 0 FROM games),
    rates AS (SELECT half, source, sum(won) / count(*) AS rate FROM met GROUP BY half, source)
    SELECT g.prompt, coalesce(sign(c.rate - r.rate), 0) AS bet FROM games g
    LEFT JOIN rates c ON c.source = g.c AND c.half <> g.half
    LEFT JOIN rates r ON r.source = g.r AND r.half <> g.half
"""


def floors(con: duckdb.DuckDBPyConnection, *, placed: bool) -> list[Floor]:
    """The floors of the pairs of the table `sides`; `placed` says whether the place of an answer
    is not that of its column.
    """
    shuffled = f"SELECT * REPLACE ({_SWAPPED}) FROM sides"
    con.execute(f"CREATE TEMP VIEW shuffled AS {shuffled}")
    found = []
    for name, (what, why, bet) in _GUESSES.items():
        if name == "position" and not placed:
            found.append(Floor(name, what, why=why))
            continue
        if name == "source" and _has_sources(con):
            why = "no two prompts compare sources that differ"
        right, *sums = _asked(con, bet, "sides")
        again = _asked(con, bet, "shuffled")
        found.append(floor(name, what, why, right, sums, again))
    adjusted = holm([math.nan if each.p is None else each.p for each in found])
    return [
        each if each.p is None else replace(each, p_adjusted=p)
        for each, p in zip(found, adjusted, strict=True)
    ]


def _has_sources(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether a column names the sources of answers."""
    (row,) = con.execute("SELECT count(c_source) > 0 FROM sides").fetchall()
    return bool(row[0])


def _asked(con: duckdb.DuckDBPyConnection, bet: str, sides: str) -> tuple[float, ...]:
    bets = f"SELECT prompt, {bet} AS bet FROM {sides} WHERE NOT same"
    query = _SUMS.format(bets=bets if bet else _BY_SOURCE.format(sides=sides))
    (row,) = con.execute(query).fetchall()
    return tuple(map(float, row))


def floor(
    name: str, what: str, why: str, right: float, sums: Sequence[float], again: Sequence[float]
) -> Floor:
    """One floor, of sums over prompts: pairs, squares of right ones, products, squares of pairs.

    Pairs of one prompt share answers. Their variance between prompts says how many independent
    pairs they are worth (Kish's design effect), never more than there are.

    >>> one = floor("length", "the longer", "", 70, (100, 70, 70, 100), (52, 100))
    >>> one.share, round(one.low, 3), round(one.high, 3), one.p < 0.001, one.shuffled
    (0.7, 0.604, 0.781, True, 0.52)
    """
    pairs = sums[0]
    if not pairs:
        return Floor(name, what, why=why)
    share = right / pairs
    worth = independent(right, sums)
    low, high = (min(1.0, max(0.0, end)) for end in wilson(share, worth))
    if worth > 0.999 * pairs:
        p = sign_tail(int(right), int(pairs - right))
    else:
        p = math.erfc(abs(share - 0.5) * 2 * math.sqrt(worth) / math.sqrt(2))
    few = ""
    if pairs < FEWEST:
        few = f"{amount(pairs, 'pair is', 'pairs are')} too few to tell"
    # A drawn label gives a guess by source other opinions, so it has pairs of its own.
    drawn = again[0] / again[1] if again[1] else None
    return Floor(name, what, int(pairs), share, low, high, p, shuffled=drawn, why=few)


def independent(right: float, sums: Sequence[float]) -> float:
    """How many independent pairs the pairs of `floor` are worth.

    >>> independent(70, (100, 70, 70, 100)), round(independent(70, (100, 700, 700, 1000)), 6)
    (100.0, 10.0)
    """
    pairs, ss, sm, mm = sums
    share = right / pairs
    even = pairs * share * (1 - share)
    clustered = ss - 2 * share * sm + share * share * mm
    # Clusters may not make pairs worth more than they are; where all are right nothing is known.
    return pairs / max(1.0, clustered / even) if even else pairs * pairs / mm


def is_high(floor: Floor) -> bool:
    """Whether a floor is there beyond chance, and large enough to matter."""
    if floor.share is None or floor.p_adjusted is None or floor.pairs < FEWEST:
        return False
    return floor.p_adjusted < CHANCE and abs(floor.share - 0.5) >= LEAST

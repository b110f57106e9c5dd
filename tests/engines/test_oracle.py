"""The oracle itself, against results worked out by hand."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from fractions import Fraction

import oracle
import oracle_rows
import pytest

from prefmill.errors import BadArgument, BadScore
from prefmill.plans import BestOf, Pairs, Unpaired
from prefmill.table.roles import Roles

OPEN = {"chosen_min": None, "rejected_below": None}


def rows(*triples: tuple) -> list[dict]:
    return [
        dict(zip(("prompt", "completion", "score", "who", "aspect", "id"), t, strict=False))
        for t in triples
    ]


def ranked(scores: list, **plan: object) -> list[tuple[int, ...]]:
    """Positions of the pairs of one prompt "p" whose row i has score `scores[i]`."""
    return oracle.pairs(
        rows(*(("p", str(i), s) for i, s in enumerate(scores))), Pairs(**{**OPEN, **plan}), Roles()
    ).positions


# Numbers


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "+1",
        "-1",
        "1.",
        ".5",
        "1e5",
        "1E-5",
        "1.5e+5",
        "nan",
        "-NaN",
        "inf",
        "Infinity",
        "+INFINITY",
    ],
)
def test_number(text: str) -> None:
    assert oracle_rows.NUMBER.fullmatch(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "+",
        "e5",
        ".e5",
        "1e",
        "1e+",
        "1 2",
        "1_0",
        "0x1",
        "1,5",
        "--1",
        "infi",
        "nan()",
        "٣",
        "1\n",
    ],
)
def test_no_number(text: str) -> None:
    assert not oracle_rows.NUMBER.fullmatch(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ("null_score", 0)),
        ("x", ("bad_score", 0)),
        ("1e999", ("non_finite_score", 0)),
        (float("nan"), ("non_finite_score", 0)),
        (Decimal("1.5"), (None, 1.5)),
        (True, (None, 1.0)),
        (" 2\n", (None, 2.0)),
        ("\u00a02", ("bad_score", 0)),
    ],
)
def test_read(value: object, expected: tuple) -> None:
    assert (
        oracle_rows.read({"prompt": "p", "completion": "c", "score": value}, Pairs(), Roles())
        == expected
    )


def test_nine_is_half_away_from_zero() -> None:
    halves = [Fraction(n, 2 * 10**9) for n in (-3, -1, 0, 1, 3)]
    assert [oracle_rows.nine(x) for x in halves] == [-2e-9, -1e-9, 0, 1e-9, 2e-9]
    assert oracle_rows.nine(Fraction(1, 3)) == 0.333333333
    assert oracle_rows.nine(Fraction(10) ** 400) == float("inf")


def test_root9() -> None:
    assert oracle_rows.root9(Fraction(2)) == 1.414213562  # 1.41421356237
    assert oracle_rows.root9(Fraction(3)) == 1.732050808  # 1.73205080757
    assert oracle_rows.root9(Fraction(9, 4)) == 1.5
    assert oracle_rows.root9(Fraction(1, 4 * 10**18)) == 1e-9  # half a unit


def test_exact_reads_what_is_printed() -> None:
    assert oracle_rows.exact(0.1) + oracle_rows.exact(0.2) == oracle_rows.exact(0.3)


def test_zscore() -> None:
    # mean 5, variance (9 + 1 + 1 + 1 + 0 + 0 + 4 + 16) / 8 = 4
    assert oracle_rows.normalized("zscore", [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == [
        -1.5,
        -0.5,
        -0.5,
        -0.5,
        0,
        0,
        1,
        2,
    ]
    assert oracle_rows.normalized("zscore", [0.1, 0.1, 0.1]) == [0, 0, 0]
    assert oracle_rows.normalized("zscore", [3.0]) == [0]


def test_rank() -> None:
    assert oracle_rows.normalized("rank", [3.0, 1.0, 2.0]) == [0.833333333, 0.166666667, 0.5]
    assert oracle_rows.normalized("rank", [1.0, 1.0, 0.0, 2.0]) == [
        0.5,
        0.5,
        0.125,
        0.875,
    ]  # ranks 2.5, 2.5, 1, 4
    assert oracle_rows.normalized("rank", [-0.0, 0.0]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("how", "scores", "expected"),
    [
        ("mean", [1, 2, 4], Fraction(7, 3)),
        ("median", [4, 1, 2], 2),
        ("median", [4, 1, 2, 9], 3),
        ("max", [1, 3, 2], 3),
        ("min", [2, 1, 3], 1),
        ("majority", [1, 2, 2], 2),
        ("majority", [1, 2], None),
        ("majority", [1, 1, 2, 2, 3], None),
        ("majority", [7], 7),
    ],
)
def test_aggregated(how: str, scores: list, expected: object) -> None:
    assert oracle_rows.aggregated(how, [float(s) for s in scores]) == expected


# Chance


def test_mix_one_step_at_a_time() -> None:
    assert oracle_rows.mix(0) == 0
    x = 1 * 0x7FEB352D  # 1 >> 16 is 0; the product is below 2**32
    x ^= x >> 15
    x = (x * 0x846CA68B) & 0xFFFFFFFF
    assert oracle_rows.mix(1) == x ^ (x >> 16) == 1753845952


def test_lot() -> None:
    plan = Pairs(seed=7)
    digest = hashlib.md5(b"7:p").digest()
    expected = sum(byte << 8 * i for i, byte in enumerate(digest[:8]))
    assert oracle_rows.lot({"prompt": "p"}, plan, Roles()) == expected == 493504089788954246
    messages = [{"role": "user", "content": "é"}, {"role": None, "content": ""}]
    assert oracle_rows.lot({"prompt": messages}, plan, Roles()) == int.from_bytes(
        hashlib.md5("7:4:user2:é0:0:".encode()).digest()[:8], "little"
    )
    grouped = oracle_rows.lot({"prompt": "p", "g": "ü", "n": -3}, plan, Roles(group=("n", "g")))
    assert grouped == int.from_bytes(hashlib.md5("7:2:-32:ü".encode()).digest()[:8], "little")


def test_best_random_draws_by_hand() -> None:
    # h("0:p") mod 3 = 2, so rank 3 of 4; mod 2 = 0, so rank 1 of the two below 3
    assert int.from_bytes(hashlib.md5(b"0:p").digest()[:8], "little") == 3818181139522578338
    assert ranked([1, 2, 3, 4], strategy="best_random") == [(3, 2)]
    assert ranked([1, 2, 3, 4], strategy="best_random", rejected_below=3) == [(3, 0)]


def test_cap_order_by_hand() -> None:
    h = 3818181139522578338 % 2**32
    order = sorted(
        (oracle_rows.mix(oracle_rows.mix(h ^ c) ^ r), c, r) for c in (2, 3) for r in range(1, c)
    )
    assert [(c, r) for _, c, r in order] == [(3, 2), (2, 1), (3, 1)]
    assert ranked([1, 2, 3], strategy="all", max_pairs_per_prompt=1) == [(2, 1)]
    assert ranked([1, 2, 3], strategy="all", max_pairs_per_prompt=2) == [(2, 1), (1, 0)]
    assert ranked([1, 2, 3], strategy="all", max_pairs_per_prompt=3) == [(2, 0), (2, 1), (1, 0)]


# Pairs


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("best_worst", [(2, 1)]),
        ("best_rest", [(2, 1), (2, 3), (2, 0)]),
        ("adjacent", [(2, 0), (0, 3), (3, 1)]),
        ("all", [(2, 1), (2, 3), (2, 0), (0, 1), (0, 3), (3, 1)]),
    ],
)
def test_strategies(strategy: str, expected: list) -> None:
    assert ranked([30, 10, 40, 20], strategy=strategy) == expected


def test_top_and_bottom() -> None:
    assert ranked([1, 2, 3, 4], strategy="all", top_k=1) == [(3, 0), (3, 1), (3, 2)]
    assert ranked([1, 2, 3, 4], strategy="all", bottom_k=1) == [(3, 0), (2, 0), (1, 0)]
    assert ranked([1, 2, 3, 4], strategy="adjacent", top_k=2, bottom_k=2) == [(2, 1)]
    assert ranked([1, 2], strategy="all", top_k=9, bottom_k=9) == [(1, 0)]


def test_margin_is_a_float_difference() -> None:
    assert ranked([0.2, 0.3], min_margin=0.1) == []  # 0.3 - 0.2 is 0.09999999999999998
    assert ranked([1e308, -1e308], min_margin=1) == [(0, 1)]


@pytest.mark.parametrize(
    ("scores", "plan", "reason"),
    [
        ([5], {}, "single_completion"),
        ([5, 5], {"chosen_min": 9}, "tie"),
        ([5, 4], {"chosen_min": 9, "rejected_below": 1}, "below_chosen_min"),
        ([9, 4], {"chosen_min": 9, "rejected_below": 1, "min_margin": 9}, "not_below_rejected"),
        ([9, 0], {"chosen_min": 9, "rejected_below": 1, "min_margin": 10}, "below_min_margin"),
        ([3, 2, 1], {"strategy": "adjacent", "min_margin": 2}, "no_adjacent_pair"),
    ],
)
def test_why_no_pair(scores: list, plan: dict, reason: str) -> None:
    found = oracle.pairs(
        rows(*(("p", str(i), s) for i, s in enumerate(scores))), Pairs(**{**OPEN, **plan}), Roles()
    )
    assert found.report["dropped"] == {reason: len(scores)}


def test_accounting() -> None:
    drops = [
        (None, "a", 5),
        ("p", "x", None),
        ("q", "a", 5),
        ("q", "b", 5),
        ("r", "a", 5),
        ("s", "t", 5),
        ("s", "t", 1),
    ]
    table = rows(("p", "a", 5), ("p", "b", 3), ("p", "c", 1), *drops)
    assert oracle.pairs(table, Pairs(), Roles()).report == {
        "rows_in": 10,
        "rows_used": 2,
        "rows_not_selected": 1,
        "dropped": {
            "null_prompt": 1,
            "null_score": 1,
            "tie": 2,
            "single_completion": 1,
            "identical_text": 2,
        },
        "groups_in": 4,
        "groups_used": 1,
        "pairs_out": 1,
    }


def test_rows_of_merged_candidates_are_counted() -> None:
    table = rows(
        ("p", "a", 5), ("p", "a", 5), ("p", "b", 1), ("p", "c", 3), ("p", "c", 3), ("p", "c", 3)
    )
    found = oracle.pairs(table, Pairs(aggregate="mean"), Roles())
    assert found.pairs == [("p", "a", "b", 5, 1)]
    assert (found.report["rows_used"], found.report["rows_not_selected"]) == (3, 3)


def test_ids() -> None:
    table = rows(
        ("p", "a", 5, None, None, 10),
        ("p", "b", 5, None, None, 9),
        ("p", "c", 1, None, None, 10),
        ("p", "d", 1, None, None, 9),
    )
    assert oracle.pairs(table, Pairs(tie_break="id"), Roles(id="id")).positions == [(0, 3)]
    assert oracle.pairs(table, Pairs(), Roles(id="id")).positions == [(1, 2)]


def test_aspects() -> None:
    table = rows(
        ("p", "a", 1, None, "h"),
        ("p", "a", 2, None, "s"),
        ("p", "b", 3, None, "h"),
        ("p", "b", 4, None, "s"),
        ("p", "b", 9, None, "x"),
    )
    plan = Pairs(**OPEN, aggregate="mean", weights={"h": 1, "s": 10})
    found = oracle.pairs(table, plan, Roles(aspect="aspect"))
    assert found.pairs == [("p", "b", "a", 43, 21)]
    assert found.report["dropped"] == {"unweighted_aspect": 1}


def test_labels_interleave() -> None:
    table = rows(("p", "a", 5), ("p", "b", 1), ("q", "c", 4), ("p", "d", 3), ("q", "e", 2))
    found = oracle.unpaired(table, Unpaired(rejected_below=3), Roles())
    assert found.positions == [(0,), (2,), (1,), (4,)]
    assert [label for _, _, label, _ in found.pairs] == [True, True, False, False]
    assert found.report["dropped"] == {"between_thresholds": 1}


@pytest.mark.parametrize(
    ("pick", "n", "k", "expected"),
    [
        ("best", 5, 2, [4, 5]),
        ("worst", 5, 2, [1, 2]),
        ("median", 5, 1, [3]),
        ("median", 4, 1, [2]),
        ("median", 5, 2, [2, 3]),
        ("median", 4, 2, [2, 3]),
        ("median", 5, 4, [1, 2, 3, 4]),
        ("median", 2, 3, [1, 2]),
        ("random", 3, 3, [1, 2, 3]),
    ],
)
def test_picked_ranks(pick: str, n: int, k: int, expected: list) -> None:
    assert oracle.picked_ranks([0.0] * n, BestOf(pick=pick, k=k), 0) == expected


def test_random_ranks_by_hand() -> None:
    order = sorted((oracle_rows.mix(5 ^ r), r) for r in range(1, 6))
    assert oracle.picked_ranks([0.0] * 5, BestOf(pick="random", k=2), 7 * 2**32 + 5) == [
        r for _, r in order[:2]
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (None, None),
        ("3", 3),
        (" 3.0\n", 3),
        ("3.5", None),
        ("x", None),
        ("nan", None),
        ("1e20", None),
    ],
)
def test_stage(value: object, expected: object) -> None:
    assert oracle_rows.stage({"round": value}, Roles(stage="round")) == expected


def test_raise_names_the_first_position() -> None:
    with pytest.raises(BadScore, match="position 1: null_completion"):
        oracle.pairs(
            rows(("p", "a", 5), ("p", None, 5), (None, "a", 5)), Pairs(on_invalid="raise"), Roles()
        )


@pytest.mark.parametrize("plan", [Pairs(tie_break="id"), Pairs(normalize="rank")])
def test_roles_that_a_plan_needs(plan: Pairs) -> None:
    with pytest.raises(BadArgument, match="needs an"):
        oracle.pairs([], plan, Roles())


def test_a_large_table_is_quick() -> None:
    table = rows(*((f"p{i % 100}", str(i), (i * 7919) % 1000 / 10) for i in range(4_000)))
    assert oracle.pairs(table, Pairs(**OPEN, strategy="all"), Roles()).report["groups_used"] == 100

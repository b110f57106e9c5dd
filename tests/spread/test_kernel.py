"""A plan over a table in parts: any division gives the rows, order and report of a frame."""

from __future__ import annotations

import hashlib

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from engines import COUNTS, assert_same, rows_of
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import bag, common
from parts import ROW, in_buckets, numbered
from strategies import Problem, problems

import prefmill.polars
from prefmill.engines.buckets import bucket_of
from prefmill.engines.kernel import BUCKET, kernel_of
from prefmill.errors import BadArgument, BadInput, BadScore, ColumnMissing, ThresholdsUnfit
from prefmill.plans import Advantage, BestOf, Pairs, Unpaired
from prefmill.table.roles import Roles

NO_BOUNDS = {"chosen_min": None, "rejected_below": None}
POOL = pa.table(
    {
        "prompt": ["p", "q", "p", "q", "p", None],
        "completion": list("abcdef"),
        "score": [5.0, 2.0, 1.0, 2.0, 5.0, 3.0],
        "model": ["m1", "m2", "m3", "m4", "m5", "m6"],
    }
)


def locally(table: pa.Table, plan, names: dict, keep=()) -> tuple[pl.DataFrame, dict]:
    frame = pl.DataFrame(pl.from_arrow(table))
    rows = plan.lazy(frame, keep=keep, **names).collect()
    report = prefmill.polars.report(plan, frame, **names)
    return rows, {name: getattr(report, name) for name in COUNTS}


@common
@given(
    problem=problems(),
    buckets=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_any_division_gives_the_same(problem: Problem, buckets: int, sizes: list[int]) -> None:
    assume(not problem.plan.wide or problem.plan.quantiles)
    assume(getattr(problem.plan, "normalize", "none") == "none")
    table = problem.table()
    try:
        rows, report = locally(table, problem.plan, problem.roles)
    except (ThresholdsUnfit, pl.exceptions.ComputeError):  # which one, the engine decides
        with pytest.raises(ThresholdsUnfit):
            in_buckets(numbered(table), problem.plan, problem.roles, buckets=buckets, sizes=sizes)
        return
    got, counted = in_buckets(
        numbered(table), problem.plan, problem.roles, buckets=buckets, sizes=sizes
    )
    expected = rows_of(rows.to_arrow(), problem.plan), report
    assert_same(
        repr(problem), "buckets", (rows_of(got.to_arrow(), problem.plan), counted), expected
    )


@common
@given(problem=problems(), buckets=st.integers(1, 5))
def test_ids_are_enough_where_they_differ(problem: Problem, buckets: int) -> None:
    assume(not problem.plan.wide)
    problem.columns["id"] = list(range(problem.rows))
    problem.roles["id"] = "id"
    plan = type(problem.plan)(**{**vars(problem.plan), "tie_break": "id"})
    table = problem.table()
    try:
        rows, report = locally(table, plan, problem.roles)
    except (ThresholdsUnfit, pl.exceptions.ComputeError):
        return
    got, counted = in_buckets(table, plan, problem.roles, buckets=buckets, position=None)
    assert bag(rows_of(got.to_arrow(), plan)) == bag(rows_of(rows.to_arrow(), plan))
    assert {name: counted[name] for name in COUNTS} == report


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (Pairs(), {"each": "answers,scores"}),
        (Unpaired(chosen_quantile=0.5), {"each": "answers,scores"}),
        (BestOf(k=2, pick="random"), {"each": "answers,scores"}),
        (Pairs(strategy="best_random"), {"completion": "one,two", "winner": "won"}),
        (Pairs(strategy="all"), {"completion": "one,two", "winner": "won", "system": "rules"}),
        (Advantage(method="rank"), {"each": "answers,scores", "group": "prompt,topic"}),
    ],
)
def test_records_become_rows_in_parts(plan, names: dict) -> None:
    records = pa.table(
        {
            "prompt": ["p", "q", "p", "r"],
            "topic": ["t", "t", "u", "u"],
            "answers": [["a", "b"], ["c"], ["d", "e", "f"], []],
            "scores": [[5, 1], [2], [4, 1, 5], []],
            "one": ["a", "b", "c", "d"],
            "two": ["e", "f", "g", "h"],
            "won": ["A", "B", "tie", "nobody"],
            "rules": ["Be brief.", "Be brief.", None, "Be kind."],
        }
    )
    rows, report = locally(records, plan, names, keep=["topic"])
    frame = pl.DataFrame(pl.from_arrow(records))
    for sizes in ([1], [3], [9]):
        got, counted = in_buckets(numbered(records), plan, names, sizes=sizes, keep=["topic"])
        assert got.equals(rows.cast(dict(got.schema)))
        assert {name: counted[name] for name in COUNTS} == report
        assert counted.records == prefmill.polars.report(plan, frame, **names).records


def test_columns_come_along_and_texts_keep_their_types() -> None:
    asked = pa.array([[{"role": "user", "content": text}] for text in "pqpqp"])
    table = pa.table(
        {
            "messages": asked,
            "answer": pa.array(list("abcde")).dictionary_encode(),
            "rating": pa.array([5, 2, 1, 1, 4], pa.int8()),
            "tools": pa.array(["x", "y", "x", "y", "x"]),
            "when": pa.array([1, 2, 3, 4, 5], pa.timestamp("us", tz="UTC")),
            "nothing": pa.nulls(5),
        }
    )
    names = {"prompt": "messages", "completion": "answer", "score": "rating"}
    plan = Pairs(strategy="all", **NO_BOUNDS)
    rows, _ = locally(table, plan, names, keep=["when", "nothing"])
    for large in (False, True):
        got, _ = in_buckets(
            numbered(table), plan, names, keep=["when", "nothing"], large=large, buckets=3
        )
        assert got.rows() == rows.rows()
        assert got.columns == rows.columns


def test_nothing_in_is_nothing_out() -> None:
    empty = numbered(POOL).slice(0, 0)
    for plan in (Pairs(), Unpaired(), BestOf(), Advantage()):
        got, counted = in_buckets(empty, plan, {})
        rows, report = locally(empty, plan, {})
        assert got.equals(rows.cast(dict(got.schema)))
        assert {name: counted[name] for name in COUNTS} == report


def test_parts_with_other_types_are_brought_to_one() -> None:
    whole = numbered(POOL)
    kernel = kernel_of(BestOf(), whole.schema, {}, where="test", buckets=2, position=ROW)
    other = pa.table(
        {
            "score": pa.array([1, 2], pa.int32()),
            "prompt": pa.array(["p", "q"], pa.large_string()),
            "completion": pa.array(["x", None], pa.string_view()),
            ROW: pa.array([7, 8], pa.uint8()),
        }
    )
    assert kernel.rows_of(other).schema == kernel.rows_of(whole).schema == kernel.rows
    words = other.set_column(0, "score", pa.array(["good", "bad"]))
    with pytest.raises(BadInput, match="does not have the types of the whole"):
        kernel.rows_of(words)


# Buckets


def test_equal_keys_have_equal_buckets_whatever_their_type() -> None:
    texts = ["p", "q", "é", "", "p"]
    plain = bucket_of(pl.DataFrame({"prompt": texts}), Roles(), 997)
    assert plain.is_between(0, 996).all()
    assert plain[0] == plain[4]
    coded = pl.DataFrame({"prompt": pl.Series(texts, dtype=pl.Categorical)})
    assert bucket_of(coded, Roles(), 997).to_list() == plain.to_list()
    digest = hashlib.md5(b"bucket:p").digest()
    assert plain[0] == int.from_bytes(digest[:8], "little") % 997


def test_groups_and_message_lists_have_buckets() -> None:
    lists = [[{"role": "user", "content": text}] for text in ("p", "q", "p")]
    parts = [[{"role": "user", "content": [{"text": text}]}] for text in ("p", "q", "p")]
    frame = pl.DataFrame({"a": ["x", "xy", "x"], "b": ["yz", "z", "yz"], "m": lists, "n": parts})
    for roles in (Roles(group=("a", "b")), Roles(prompt="m"), Roles(prompt="n")):
        one, two, again = bucket_of(frame, roles, 1 << 40)
        assert one == again != two
    nulls = pl.DataFrame({"prompt": [None], "a": ["x"], "b": pl.Series([None], dtype=pl.String)})
    assert bucket_of(nulls, Roles(), 9).to_list() == [0]
    assert bucket_of(nulls, Roles(group=("a", "b")), 9).to_list() == [0]


# What is refused


@pytest.mark.parametrize(
    ("plan", "names", "match"),
    [
        (Pairs(), {}, r"the later one of equal scores wins.*position='COLUMN'.*tie_break='id'"),
        (BestOf(pick="random"), {}, "rows have no order here"),
        (Pairs(normalize="rank"), {"annotator": "model"}, "normalize 'rank' looks at the rows"),
        (Pairs(normalize="rank", chosen_quantile=0.5), {"annotator": "model"}, "normalize 'rank'"),
        (BestOf(scope="pool"), {}, "scope 'pool' looks at the rows"),
        (
            Pairs(),
            {"completion": "completion,model", "winner": "score", "repeats": "drop"},
            "repeats 'drop' looks",
        ),
        (
            Pairs(tie_break="id"),
            {"id": "model", "completion": "completion,model", "winner": "score"},
            "records have no number",
        ),
    ],
)
def test_what_needs_more_than_buckets_is_refused(plan, names: dict, match: str) -> None:
    with pytest.raises(BadArgument, match=f"(?s){match}"):
        kernel_of(plan, POOL.schema, names, where="test", buckets=2)


def test_the_first_of_merged_rows_needs_an_order() -> None:
    plan = Advantage(aggregate="mean")
    kernel_of(plan, POOL.schema, {}, where="test", buckets=2)
    with pytest.raises(BadArgument, match="the first judgement of an answer gives 'model'"):
        kernel_of(plan, POOL.schema, {}, where="test", buckets=2, keep=["model"])


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"position": "rows"}, "position is no column of the input; got 'rows'"),
        ({"position": "score"}, "must be whole numbers; got double"),
        ({"ordered": True}, "ordered needs an order of rows"),
        ({"buckets": 0}, "buckets must be a whole number >= 1; got 0"),
        ({"keep": ["modell"]}, "keep names no column"),
    ],
)
def test_arguments_that_cannot_be_meant(more: dict, match: str) -> None:
    with pytest.raises(BadArgument, match=match):
        kernel_of(Unpaired(), POOL.schema, {}, **{"where": "test", "buckets": 2, **more})


def test_columns_of_maps_and_of_one_name_are_refused() -> None:
    maps = pa.array([[("k", 1)]] * 6, pa.map_(pa.string(), pa.int64()))
    table = POOL.append_column("m", maps)
    kernel_of(Unpaired(), table.schema, {}, where="test", buckets=2)
    with pytest.raises(BadArgument, match="the column 'm' holds maps"):
        kernel_of(Unpaired(), table.schema, {}, where="test", buckets=2, keep=["m"])
    twice = pa.schema([*POOL.schema, POOL.schema.field("score")])
    with pytest.raises(BadArgument, match=r"duplicate column names \['score'\]"):
        kernel_of(Unpaired(), twice, {}, where="test", buckets=2)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(ColumnMissing, match="no column 'question'"):
        kernel_of(Unpaired(), POOL.schema, {"prompt": "question"}, where="test", buckets=2)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ([0, 1, 2, 3, None, 5], "position 'the row' is null in 1 rows"),
        ([0, 1, 0, 3, 4, 5], "position 'the row' is the same in several rows"),
        (pa.array([0, 1, 2, 3, 4, 2**63], pa.uint64()), "beyond 63 bits; got 9223372036854775808"),
    ],
)
def test_positions_that_are_none(numbers, match: str) -> None:
    kind = getattr(numbers, "type", pa.int64())
    with pytest.raises(BadInput, match=match):
        in_buckets(POOL.append_column(ROW, pa.array(numbers, kind)), BestOf(), {})


def test_records_need_numbers_of_their_own() -> None:
    records = pa.table({"prompt": ["p", "p"], "a": ["x", "y"], "b": ["z", "w"], "won": ["a", "b"]})
    names = {"completion": "a,b", "winner": "won"}
    twice = records.append_column(ROW, pa.array([4, 4]))
    for sizes in ([1], [2]):
        with pytest.raises(BadInput, match="the same in several rows"):
            in_buckets(twice, Pairs(), names, sizes=sizes)
    far = records.append_column(ROW, pa.array([0, 2**50]))
    with pytest.raises(BadInput, match=r"its position is below.*1,125,899,906,842,624"):
        in_buckets(far, Pairs(), names)


def test_equal_ids_do_not_order_equal_scores() -> None:
    plan = BestOf(tie_break="id")
    twice = POOL.append_column("id", pa.array([1, 2, 3, 2, 4, 5]))
    with pytest.raises(BadInput, match="one score and one id; got id 2"):
        in_buckets(twice, plan, {"id": "id"}, position=None)
    with pytest.raises(BadInput, match="position='COLUMN'"):
        in_buckets(twice, Pairs(tie_break="id", **NO_BOUNDS), {"id": "id"}, position=None)
    rows, _ = in_buckets(numbered(twice), plan, {"id": "id"})
    assert rows["completion"].to_list() == ["e", "d"]


def test_errors_name_a_row_only_where_its_number_is_known() -> None:
    bad = POOL.slice(0, 5).set_column(2, "score", pa.array([5, 2, 1, 2, None]))
    plan = Pairs(on_invalid="raise", **NO_BOUNDS)
    with pytest.raises(BadScore, match="row 4 cannot be used; got null_score"):
        in_buckets(numbered(bad), plan, {})
    with pytest.raises(BadScore, match="a row cannot be used; got null_score"):
        in_buckets(bad, Unpaired(on_invalid="raise"), {}, position=None)
    lists = pa.table({"prompt": ["p", "q"], "a": [["x"], ["y", "z"]], "s": [[1], [2]]})
    names = {"each": "a,s"}
    with pytest.raises(BadInput, match="the lists of row 1 have different lengths"):
        in_buckets(numbered(lists), plan, names, sizes=[1])
    with pytest.raises(BadInput, match="the lists of a row have different lengths"):
        in_buckets(lists, Unpaired(), names, sizes=[1], position=None)


def test_only_what_is_used_is_brought_together() -> None:
    wide = numbered(POOL).append_column("payload", pa.array(["x" * 1000] * 6))
    kernel = kernel_of(Pairs(), wide.schema, {}, where="test", buckets=2, position=ROW)
    assert set(kernel.records.names) == {"prompt", "completion", "score", ROW}
    assert "payload" not in kernel.rows.names
    rows = kernel.rows_of(wide)
    assert pc.max(rows[BUCKET]).as_py() <= 1

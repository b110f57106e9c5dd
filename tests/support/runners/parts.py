"""A plan over a table in parts, as an engine would run it: in this process, part after part."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from prefmill.engines.kernel import BUCKET, Kernel, descending, kernel_of, report_of
from prefmill.engines.tellings import account_in, report_in, told
from prefmill.rules.tallies import Look, added
from prefmill.table.report import PairReport

ROW = "the row"
#: What plans say that are refused here, because they look at the rows of several prompts.
WIDE = "looks at the rows of all prompts at once"


def is_wide(case: dict) -> bool:
    """Whether the plan of a case looks at several prompts together, by its fields alone."""
    plan = case.get("plan", {})
    wide = {"scope": "pool", "stages": "last", "length_control": True}
    return plan.get("normalize", "none") != "none" or any(
        plan.get(name) == value for name, value in wide.items()
    )


def numbered(table: pa.Table) -> pa.Table:
    """`table` with the number of each row."""
    return table.append_column(ROW, pa.array(range(table.num_rows), pa.int64()))


def cut(table: pa.Table, sizes: Sequence[int]) -> list[pa.Table]:
    """Parts of these sizes, in turn; of an empty table one that is empty."""
    parts, start, turn = [], 0, 0
    while start < table.num_rows:
        size = sizes[turn % len(sizes)]
        parts.append(table.slice(start, size))
        start, turn = start + size, turn + 1
    return parts or [table]


def sent(kernel: Kernel) -> Kernel:
    """The kernel as a worker gets it."""
    return pickle.loads(pickle.dumps(kernel))


def in_buckets(
    table: pa.Table,
    plan,
    names: dict,
    *,
    buckets: int = 4,
    sizes: Sequence[int] = (3,),
    position: str | None = ROW,
    keep: Sequence[str] = (),
    large: bool = False,
) -> tuple[pl.DataFrame, PairReport]:
    """The rows of output, in the order of a local run where there are positions; and the report."""
    made = kernel_of(
        plan,
        table.schema,
        names,
        where="test",
        buckets=buckets,
        keep=keep,
        position=position,
        ordered=position is not None,
        large=large,
    )
    kernel = sent(made)
    parts = cut(table, sizes)
    rows = pa.concat_tables([kernel.rows_of(part) for part in parts])
    assert rows.schema == kernel.rows
    together = [rows.filter(pc.equal(rows[BUCKET], number)) for number in range(buckets)]

    def count(look: Look) -> pl.DataFrame:
        source = [kernel.rows_of(part) for part in parts] if kernel.scores_stand else together
        return added(kernel.tallied(each, look) for each in source)

    kernel = sent(kernel.settled(count))
    out = pa.concat_tables([kernel.selected(each) for each in together])
    assert out.schema == kernel.out
    frame = pl.DataFrame(pl.from_arrow(out))
    if kernel.order:
        order = list(kernel.order)
        frame = frame.sort(order, descending=descending(kernel)).drop(order)
    reports = [report_in(told(kernel.counted(each))["told"][0].as_py()) for each in together]
    accounts = []
    if kernel.how is not None:
        accounts = [account_in(told(kernel.account(each))["told"][0].as_py()) for each in parts]
    return frame, report_of(kernel, reports, accounts)

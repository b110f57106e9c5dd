"""The door to Ray Data: plans over a `ray.data.Dataset`, which give another one.

    import ray, prefmill.ray

    feedback = ray.data.read_parquet("s3://bucket/feedback/")
    pairs = prefmill.ray.pairs(feedback, chosen_min=4, rejected_below=4, position="row")
    pairs.write_parquet("s3://bucket/pairs/")

A row's bucket is a hash of its prompt. Rows come together by bucket (`repartition(keys=...)`), and
each block goes through the steps that run locally, as one Arrow table. The workers need prefmill
installed, in this version.

Every kind of plan is a function of this module, by its word: `pairs`, `unpaired`, `best_of`,
`advantages`. The arguments are the fields of the plan, the words of `prefmill.Rows` (columns of
roles, and how raw records become rows), and those of `apply`.

- **Order.** Rows of a Dataset have none once they are shuffled. Where the order of equal scores
  decides, name a column of whole numbers (`position=`), or order them by ids (`tie_break="id"`).
  Otherwise it is refused.
- **Laziness.** Nothing runs until the result is used. Thresholds that wait for the scores (the
  default) are looked up in one narrow pass at once; quantiles take up to four.
- **All rows at once.** `normalize`, `scope="pool"`, `stages="last"`, `length_control` and
  `repeats="drop"` look at several prompts together, and are refused: `prefmill.run` has them.
- **Death.** A worker or a node may die; the program that made the Dataset may not. For jobs that
  go on after it there is `prefmill.run(..., engine="ray")`, over files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import polars as pl
import pyarrow as pa

from prefmill.arguments import closed
from prefmill.engines.kernel import BUCKET, Kernel, descending, kernel_of, report_of
from prefmill.engines.tellings import TOLD, account_in, report_in, told
from prefmill.errors import BadArgument, BadInput, MissingPackage
from prefmill.plans import FEEDBACK_KINDS, FeedbackPlan
from prefmill.plans.signature import function_of
from prefmill.rules.tallies import Look, added
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames

if TYPE_CHECKING:
    from prefmill.plans import AdvantageOptions, BestOfOptions, PairsOptions, UnpairedOptions

    class Spread(TypedDict, total=False):
        """The arguments of `apply` that say how rows are brought together."""

        position: str | None
        blocks: int | None
        ordered: bool

    class _Pairs(PairsOptions, Spread, total=False): ...

    class _Unpaired(UnpairedOptions, Spread, total=False): ...

    class _BestOf(BestOfOptions, Spread, total=False): ...

    class _Advantages(AdvantageOptions, Spread, total=False): ...

    # What editors and type checkers see of the functions that the loop below makes.
    def pairs(ds: Any, **options: Unpack[_Pairs]) -> Any: ...
    def unpaired(ds: Any, **options: Unpack[_Unpaired]) -> Any: ...
    def best_of(ds: Any, **options: Unpack[_BestOf]) -> Any: ...
    def advantages(ds: Any, **options: Unpack[_Advantages]) -> Any: ...


__all__ = ["apply", "report", *FEEDBACK_KINDS]

_WHERE = "ray"
#: Buckets for each block: many, so that blocks are of one size.
_IN_BLOCK = 64
#: Of how many bytes a block is at most, and at least where it is for the sake of another CPU.
_BLOCK_BYTES, _WORTH_BYTES = 128 << 20, 4 << 20


@closed("ray")
def apply(
    plan: FeedbackPlan,
    ds: Any,
    *,
    keep: Sequence[str] = (),
    position: str | None = None,
    blocks: int | None = None,
    ordered: bool = False,
    **roles: Unpack[RoleNames],
) -> Any:
    """`plan` over the `ray.data.Dataset` `ds`, as another one.

    Args:
        ds: its blocks have the same columns.
        keep: further columns: of pairs `chosen_NAME` and `rejected_NAME`, of the others `NAME`.
        position: a column of whole numbers, different in every row, that orders rows: the later
            one of equal scores wins.
        blocks: into how many blocks prompts are brought together. A block is in the memory of one
            worker, about three times: 64 to 256 MB are good. By default 128 MB each, and at least
            as many as the cluster has CPUs.
        ordered: rows come in the order of a local run, which `position` decides. Cost: a sort of
            all rows of output. By default they are in order inside of a block.
        roles: words of `prefmill.Rows`.

    Columns are those of `plan.lazy`: text is `large_string`, scores are `double`. Only the columns
    that are used are shuffled, once. Small nodes want a small
    `DataContext.shuffle_input_batch_bytes` (Ray reserves twice that for a task; by default it is
    1 GiB). Raises what `plan.lazy` raises, `BadArgument` for what cannot run in buckets, and
    `ThresholdsUnfit`. Errors in a worker are Ray's, with the text of ours.
    """
    made = _kernel(plan, ds, roles, blocks, keep=keep, position=position, ordered=ordered)
    kernel, read, count = made
    out = _mapped(_together(kernel, read, count), kernel.selected)
    if not kernel.order:
        return out
    order = list(kernel.order)
    return out.sort(order, descending=descending(kernel)).drop_columns(order)


@closed("ray")
def report(
    plan: FeedbackPlan,
    ds: Any,
    *,
    position: str | None = None,
    blocks: int | None = None,
    **roles: Unpack[RoleNames],
) -> PairReport:
    """What `plan` uses of `ds` and why it drops the rest: `prefmill.PairReport`, as a local run.

    Arguments as of `apply`. Cost: a run as large as that of `apply`, which writes nothing; records
    that become rows are counted in a second, narrow one.
    """
    kernel, read, count = _kernel(plan, ds, roles, blocks, position=position)
    counted = _mapped(_together(kernel, read, count), lambda rows: told(kernel.counted(rows)))
    reports = [report_in(text) for text in _texts(counted)]
    if kernel.how is None:
        return report_of(kernel, reports, ())
    accounts = _mapped(read, lambda part: told(kernel.account(part)))
    return report_of(kernel, reports, [account_in(text) for text in _texts(accounts)])


def _kernel(
    plan: FeedbackPlan, ds: Any, roles: RoleNames, blocks: int | None, **options: Any
) -> tuple[Kernel, Any, int]:
    """The kernel, `ds` with the columns that it reads, and how many blocks there will be."""
    _check(ds, blocks)
    count = blocks or _blocks(ds)
    options |= {"where": _WHERE, "large": True, "buckets": count * _IN_BLOCK}
    kernel = kernel_of(plan, _arrow_schema(ds), roles, **options)
    read = ds.select_columns(kernel.records.names)
    return _settled(kernel, read, count), read, count


def _check(ds: Any, blocks: int | None) -> None:
    try:
        from ray.data import Dataset
    except ImportError:
        raise MissingPackage.for_extra(_WHERE, "ray[data]", "ray") from None
    if not isinstance(ds, Dataset):
        raise BadArgument(
            f"{_WHERE}: cannot run over a {type(ds).__name__}; expected a ray.data.Dataset.",
            hint="ray.data.read_parquet(...) makes one of files.",
        )
    if blocks is not None and (type(blocks) is not int or blocks < 1):
        raise BadArgument(f"{_WHERE}: blocks must be a whole number >= 1; got {blocks!r}.")


def _arrow_schema(ds: Any) -> pa.Schema:
    schema = ds.schema()
    if schema is None:
        raise BadInput(
            f"{_WHERE}: the Dataset has no rows, and nothing says what its columns are.",
            hint="make it of a table with a schema: ray.data.from_arrow(table).",
        )
    if all(isinstance(kind, pa.DataType) for kind in schema.types):
        return pa.schema(list(zip(schema.names, schema.types, strict=True)))
    # Of a block of pandas the values say what is in a column of objects.
    return ds.take_batch(1000, batch_format="pyarrow").schema


def _blocks(ds: Any) -> int:
    """How many blocks prompts are brought together into, where nobody says it."""
    import ray

    try:
        size = ds._logical_plan.dag.infer_metadata().size_bytes
    except AttributeError:  # the one private name: `ds.size_bytes()` may run all that comes before
        size = None
    if size is None:
        return int(ds.context.default_hash_shuffle_parallelism)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for_all_cores = min(int(resources.get("CPU", 1)), -(-int(size) // _WORTH_BYTES))
    return max(1, -(-int(size) // _BLOCK_BYTES), for_all_cores)


def _settled(kernel: Kernel, read: Any, count: int) -> Kernel:
    """With numbers for thresholds that wait for the scores: one pass for each look."""

    def tally(look: Look) -> pl.DataFrame:
        if kernel.scores_stand:
            made = _mapped(read, lambda part: _tallied(kernel, kernel.rows_of(part), look))
        else:
            together = _together(kernel, read, count)
            made = _mapped(together, lambda rows: _tallied(kernel, rows, look))
        return added(pl.DataFrame(pl.from_arrow(table)) for table in _tables(made))

    return kernel.settled(tally)


def _tallied(kernel: Kernel, rows: pa.Table, look: Look) -> pa.Table:
    return kernel.tallied(rows, look).to_arrow()


def _together(kernel: Kernel, read: Any, count: int) -> Any:
    """The rows, whole prompts in each block."""
    return _mapped(read, kernel.rows_of).repartition(count, keys=[BUCKET])


def _mapped(ds: Any, work: Callable[[pa.Table], pa.Table]) -> Any:
    """What `work` makes of each block of `ds`, as a whole."""

    def block(table: pa.Table) -> pa.Table:
        return work(table)

    return ds.map_batches(block, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)


def _tables(ds: Any) -> Iterator[pa.Table]:
    yield from ds.iter_batches(batch_size=None, batch_format="pyarrow")


def _texts(ds: Any) -> list[str]:
    return [text for table in _tables(ds) for text in table[TOLD.names[0]].to_pylist()]


def _work(plan: FeedbackPlan, ds: Any, roles: RoleNames, **options: Any) -> Any:
    return apply(plan, ds, **options, **roles)


_MORE: dict[str, Any] = {"keep": (), "position": None, "blocks": None, "ordered": False}
for _word, _kind in FEEDBACK_KINDS.items():
    globals()[_word] = function_of(_kind, _work, module=__name__, data="ds", more=_MORE)

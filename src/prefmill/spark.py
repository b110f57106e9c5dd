"""The door to Spark: plans over the DataFrames of Spark 4, Spark Connect and Sail.

    import prefmill as pm, prefmill.spark

    feedback = spark.read.parquet("feedback/")
    pairs = prefmill.spark.run(pm.Pairs(chosen_min=4, rejected_below=4), feedback, position="row")
    pairs.write.parquet("pairs/")

A row's bucket is a hash of its prompt. Rows come together by bucket (`groupBy("bucket")`), and each
bucket goes through the steps that run locally, as one Arrow table (`applyInArrow`). The workers
need prefmill installed, in this version.

Every kind of plan is a function of this module as well: `pairs`, `unpaired`, `best_of`,
`advantages`. The arguments are the fields of the plan, the words of `prefmill.Rows` (columns of
roles, and how raw records become rows), and those of `run`.

- **Order.** Rows of a DataFrame have none. Where the order of equal scores decides, name a column
  of whole numbers (`position=`), or order them by ids (`tie_break="id"`). Otherwise it is refused.
- **Laziness.** Nothing runs until the result is used. Thresholds that wait for the scores (the
  default) are looked up in one narrow job at once; quantiles take up to four.
- **All rows at once.** `normalize`, `scope="pool"`, `stages="last"`, `length_control` and
  `repeats="drop"` look at several prompts together, and are refused: `prefmill.run` has them.
- **Errors** in a worker are Spark's `PythonException`, with the text of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

import polars as pl
import pyarrow as pa

from prefmill.arguments import closed
from prefmill.engines.kernel import BUCKET, Kernel, descending, kernel_of, report_of
from prefmill.engines.tellings import TOLD, account_in, report_in, told
from prefmill.errors import BadArgument, MissingPackage
from prefmill.plans import FEEDBACK_KINDS, FeedbackPlan
from prefmill.plans.signature import function_of
from prefmill.rules.tallies import COLUMNS, Look
from prefmill.table.report import PairReport
from prefmill.table.roles import RoleNames

if TYPE_CHECKING:
    from prefmill.plans import AdvantageOptions, BestOfOptions, PairsOptions, UnpairedOptions

    class Spread(TypedDict, total=False):
        """The arguments of `run` that say how rows are brought together."""

        position: str | None
        buckets: int | None
        ordered: bool

    class _Pairs(PairsOptions, Spread, total=False): ...

    class _Unpaired(UnpairedOptions, Spread, total=False): ...

    class _BestOf(BestOfOptions, Spread, total=False): ...

    class _Advantages(AdvantageOptions, Spread, total=False): ...

    # What editors and type checkers see of the functions that the loop below makes.
    def pairs(df: Any, **options: Unpack[_Pairs]) -> Any: ...
    def unpaired(df: Any, **options: Unpack[_Unpaired]) -> Any: ...
    def best_of(df: Any, **options: Unpack[_BestOf]) -> Any: ...
    def advantages(df: Any, **options: Unpack[_Advantages]) -> Any: ...


__all__ = ["report", "run", *FEEDBACK_KINDS]

_Work: TypeAlias = Callable[[pa.Table], pa.Table]

_WHERE = "spark"
#: Spark's own default of `spark.sql.shuffle.partitions`, where the session has no number.
_BUCKETS = 200
_TALLY = pl.DataFrame(schema=COLUMNS).to_arrow().schema


@closed("spark")
def run(
    plan: FeedbackPlan,
    df: Any,
    *,
    keep: Sequence[str] = (),
    position: str | None = None,
    buckets: int | None = None,
    ordered: bool = False,
    **roles: Unpack[RoleNames],
) -> Any:
    """`plan` over the Spark DataFrame `df`, as another one.

    Args:
        df: of `pyspark` or `pyspark-client`, from version 4.0 on; no stream.
        keep: further columns: of pairs `chosen_NAME` and `rejected_NAME`, of the others `NAME`.
        position: a column of whole numbers, different in every row, that orders rows: the later
            one of equal scores wins. `monotonically_increasing_id()` makes one.
        buckets: how many groups the prompts are divided into, by default as many as
            `spark.sql.shuffle.partitions`. A bucket is in the memory of one worker, about three
            times: 64 to 256 MB are good.
        ordered: rows come in the order of a local run, which `position` decides. Cost: a sort of
            all rows of output. By default they are in order inside of a bucket.
        roles: words of `prefmill.Rows`.

    Columns are those of `plan.lazy`. Text is `string`, scores are `double`. Only the columns that
    are used are shuffled, once. Raises what `plan.lazy` raises, `BadArgument` for what cannot run
    in buckets, and `ThresholdsUnfit`.
    """
    more = {"keep": keep, "position": position, "ordered": ordered}
    kernel = _settled(_kernel(plan, df, roles, buckets, **more), df)
    out = _of_buckets(kernel, df, kernel.selected, kernel.out)
    if not kernel.order:
        return out
    columns = zip(kernel.order, descending(kernel), strict=True)
    return out.orderBy(*(out[n].desc() if down else out[n].asc() for n, down in columns)).drop(
        *kernel.order
    )


@closed("spark")
def report(
    plan: FeedbackPlan,
    df: Any,
    *,
    position: str | None = None,
    buckets: int | None = None,
    **roles: Unpack[RoleNames],
) -> PairReport:
    """What `plan` uses of `df` and why it drops the rest: `prefmill.PairReport`, as a local run.

    Arguments as of `run`. Cost: a job as large as that of `run`, which writes nothing; records that
    become rows are counted in a second, narrow one.
    """
    kernel = _settled(_kernel(plan, df, roles, buckets, position=position), df)
    counted = _of_buckets(kernel, df, lambda rows: told(kernel.counted(rows)), TOLD)
    reports = [report_in(text) for text in _texts(counted)]
    if kernel.how is None:
        return report_of(kernel, reports, ())
    accounts = _of_parts(kernel, df, lambda part: told(kernel.account(part)), TOLD)
    return report_of(kernel, reports, [account_in(text) for text in _texts(accounts)])


def _kernel(
    plan: FeedbackPlan, df: Any, roles: RoleNames, buckets: int | None, **options: Any
) -> Kernel:
    types = _types()
    if not (hasattr(df, "mapInArrow") and hasattr(df, "sparkSession")):
        raise BadArgument(
            f"{_WHERE}: cannot run over a {type(df).__name__}; expected a DataFrame of Spark 4.",
            hint="of Polars frames: plan.lazy(frame); of files: prefmill.run.",
        )
    if df.isStreaming:
        raise BadArgument(
            f"{_WHERE}: a stream has never all rows of a prompt; got a streaming DataFrame.",
            hint="run it inside of foreachBatch, if each batch has whole prompts.",
        )
    zone = {"timezone": "UTC"} if "timezone" in signature(types.to_arrow_schema).parameters else {}
    schema = types.to_arrow_schema(df.schema, **zone)  # 4.0 says UTC by itself
    wanted = _default_buckets(df) if buckets is None else buckets
    return kernel_of(plan, schema, roles, where=_WHERE, buckets=wanted, **options)


def _types() -> Any:
    try:
        from pyspark.sql.pandas import types
    except ImportError:
        raise MissingPackage.for_extra(_WHERE, "pyspark", "spark") from None
    return types


def _default_buckets(df: Any) -> int:
    try:
        return max(1, int(df.sparkSession.conf.get("spark.sql.shuffle.partitions")))
    except (TypeError, ValueError):  # "auto", on some platforms
        return _BUCKETS


def _settled(kernel: Kernel, df: Any) -> Kernel:
    """With numbers for thresholds that wait for the scores: one job for each look."""
    from pyspark.sql import functions

    def count(look: Look) -> pl.DataFrame:
        def tally(rows: pa.Table) -> pa.Table:
            return kernel.tallied(rows, look).to_arrow()

        if kernel.scores_stand:
            bins = _of_parts(
                kernel, df, lambda part: tally(kernel.rows_of(part)), _TALLY, texts=False
            )
        else:
            bins = _of_buckets(kernel, df, tally, _TALLY)
        sums = {"count": functions.sum, "low": functions.min, "high": functions.max}
        added = bins.groupBy("bin").agg(*(do(name).alias(name) for name, do in sums.items()))
        frame = pl.DataFrame(pl.from_arrow(added.toArrow()))
        return frame.select(pl.col(name).cast(kind) for name, kind in COLUMNS.items()).sort("low")

    return kernel.settled(count)


# On the way columns have names of letters and digits: Sail 0.7 reads a dot in the name of a column
# of `mapInArrow` as a path.


def _of_parts(
    kernel: Kernel, df: Any, work: _Work, schema: pa.Schema, *, texts: bool = True
) -> Any:
    """What `work` makes of each part of the columns that are read.

    Without `texts` these are empty: to know the scores it is enough whether one is there.
    """
    from pyspark.sql import functions

    names = kernel.records.names
    emptied = set() if texts else _only_texts(kernel)
    columns = []
    for name, plain in zip(names, _plain(kernel.records).names, strict=True):
        column = df["`" + name.replace("`", "``") + "`"]
        if name in emptied:
            column = functions.when(column.isNotNull(), functions.lit(""))
        columns.append(column.alias(plain))

    def parts(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            part = pa.Table.from_batches([batch]).rename_columns(names)
            yield from work(part).to_batches()

    return df.select(*columns).mapInArrow(parts, _spark_schema(schema))


def _of_buckets(kernel: Kernel, df: Any, work: _Work, schema: pa.Schema) -> Any:
    """What `work` makes of each bucket of rows."""
    names, plain = kernel.rows.names, _plain(kernel.rows)

    def numbered(part: pa.Table) -> pa.Table:
        return kernel.rows_of(part).rename_columns(plain.names)

    def bucket(table: pa.Table) -> pa.Table:
        return work(table.rename_columns(names))

    rows = _of_parts(kernel, df, numbered, plain)
    return rows.groupBy(BUCKET).applyInArrow(bucket, _spark_schema(schema))


def _plain(schema: pa.Schema) -> pa.Schema:
    """`schema` with names of letters and digits."""
    return pa.schema(
        [
            pa.field(field.name if field.name == BUCKET else f"c{place}", field.type)
            for place, field in enumerate(schema)
        ]
    )


def _only_texts(kernel: Kernel) -> set[str]:
    """Columns of text of which only nulls matter to scores."""
    if kernel.how is not None:
        return set()
    columns = kernel.plan.program(kernel.roles).read.columns()
    texts = {columns.pop("_prompt"), columns.pop("_completion")} - {*columns.values()}
    return {name for name in texts if pa.types.is_string(kernel.records.field(name).type)}


def _spark_schema(schema: pa.Schema) -> Any:
    return _types().from_arrow_schema(schema, prefer_timestamp_ntz=True)


def _texts(df: Any) -> list[str]:
    texts: list[str] = df.toArrow()[TOLD.names[0]].to_pylist()
    return texts


def _work(plan: FeedbackPlan, df: Any, roles: RoleNames, **options: Any) -> Any:
    return run(plan, df, **options, **roles)


_MORE: dict[str, Any] = {"keep": (), "position": None, "buckets": None, "ordered": False}
for _word, _kind in FEEDBACK_KINDS.items():
    globals()[_word] = function_of(_kind, _work, module=__name__, data="df", more=_MORE)

"""The door to Ray Data: every plan gives the rows, order and report of a local run.

One Ray for the module, of four CPUs: with fewer its workers start anew for every shuffle. Each run
takes a second or more, so there is one for each kind of thing, over a pool that has all of it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from parts import ROW, numbered

import prefmill as pm
import prefmill.polars
import prefmill.ray
from prefmill.errors import BadArgument, MissingPackage, ThresholdsUnfit

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: Seconds that one test may take: Ray's usual failure is that it hangs.
LIMIT_S = 240


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.shuffle_input_batch_bytes = 4 << 20
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"the test took {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pool(rows: int = 2000) -> pa.Table:
    """Rated answers with ties, repeats, nulls, messages, tools."""
    number = range(rows)
    prompts = [
        None if n % 97 == 5 else [{"role": "user", "content": f"q{n * 7919 % 311}"}] for n in number
    ]
    return numbered(
        pa.table(
            {
                "prompt": prompts,
                "completion": [f"answer {n * 31 % 3}" for n in number],
                "score": [None if n % 89 == 3 else float(n * 17 % 11) / 2 for n in number],
                "tools": [f"t{n * 7919 % 311}" for n in number],
                "conclusion": [str(n % 2) for n in number],
                "a.b": pa.array(number, pa.int16()),
            }
        )
    )


def dataset(ray: Any, table: pa.Table, size: int = 333) -> Any:
    parts = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    return ray.data.from_arrow(parts or [table])


def rows_of(ds: Any) -> pl.DataFrame:
    tables = list(ds.iter_batches(batch_size=None, batch_format="pyarrow"))
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))


#: The first ones every day, and the rest where there is time.
PLANS = [
    pm.Pairs(strategy="all", max_pairs_per_prompt=3, top_k=3),
    pm.Unpaired(),
    pm.BestOf(k=2, pick="rso"),
    *(
        pm.Pairs(strategy=strategy, chosen_min=None, rejected_below=None, min_margin=0.5)
        for strategy in ("best_worst", "best_random", "best_rest", "adjacent")
    ),
    pm.Pairs(strategy="threshold", chosen_quantile=0.7, rejected_quantile=0.3),
    pm.Pairs(aggregate="mean", chosen_quantile=0.6),
    *(pm.BestOf(k=2, pick=pick) for pick in ("best", "median", "worst", "random")),
    pm.BestOf(k=3, pick="majority", min_score=1.0),
    *(pm.Advantage(method=method) for method in ("centered", "grpo", "rloo", "rank")),
]


def on_ray(ray: Any, plan: Any, ordered: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows from Ray, and those of a local run."""
    table, keep = pool(), ["a.b"]
    options = {"keep": keep, "position": ROW, "blocks": 3, "ordered": ordered}
    made = prefmill.ray.apply(plan, dataset(ray, table), **options)
    return rows_of(made), plan.lazy(pl.DataFrame(table), keep=keep).collect()


#: A start of workers for each shuffle makes one run of these 20 s on a busy machine.
DAILY = 3


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(plan, marks=() if number < DAILY else pytest.mark.torture)
        for number, plan in enumerate(PLANS)
    ],
    ids=lambda plan: f"{plan.kind}-{plan.hash()}",
)
def test_a_pool_on_ray(ray: Any, plan: Any) -> None:
    got, local = on_ray(ray, plan, ordered=False)
    by = [name for name in local.columns if local[name].dtype.is_numeric()]
    assert got.sort(by).equals(local.sort(by))
    assert local.height > 100


def test_the_order_is_that_of_a_local_run(ray: Any) -> None:
    got, local = on_ray(ray, PLANS[0], ordered=True)
    assert got.equals(local)


@pytest.mark.parametrize("plan", PLANS[:2], ids=lambda plan: plan.kind)
def test_the_report_is_that_of_a_local_run(ray: Any, plan: Any) -> None:
    table = pool()
    report = prefmill.ray.report(plan, dataset(ray, table), position=ROW, blocks=3)
    assert report == prefmill.polars.report(plan, pl.DataFrame(table))


def test_no_prompt_is_seen_in_two_calls(ray: Any, tmp_path: Any, monkeypatch: Any) -> None:
    """Ray does not promise it: a keyed partition stays one block, and a block is one call."""
    from prefmill.engines.kernel import Kernel

    seen = Kernel.selected
    folder = str(tmp_path)

    def told(self: Kernel, bucket: pa.Table) -> pa.Table:
        import uuid

        import pyarrow.parquet as pq

        pq.write_table(bucket, f"{folder}/{uuid.uuid4().hex}.parquet")
        return seen(self, bucket)

    table = pool(4000)
    kernel, read, _ = prefmill.ray._kernel(
        pm.Advantage(), dataset(ray, table, 100), {}, 7, position=ROW
    )
    together = prefmill.ray._together(kernel, read, 7)
    made = prefmill.ray._mapped(together, lambda rows: told(kernel, rows))
    assert made.count() == pm.Advantage().lazy(pl.DataFrame(table)).collect().height
    calls = [pl.read_parquet(file) for file in tmp_path.glob("*.parquet")]
    calls = [call for call in calls if call.height]
    assert len(calls) == 7
    prompts = [set(call["prompt"].list.first().struct.field("content")) - {None} for call in calls]
    assert len(set().union(*prompts)) == sum(map(len, prompts)) == 311
    assert sum(call.height for call in calls) == 4000


def test_functions_records_and_few_rows(ray: Any) -> None:
    records = pa.table({"question": ["p"], "answers": [["a", "b"]], "scores": [[5, 1]]})
    ds = dataset(ray, numbered(records))
    made = prefmill.ray.pairs(ds, each="answers,scores", position=ROW, blocks=4)
    assert rows_of(made).rows() == [("p", "a", "b", 5.0, 1.0)]
    report = prefmill.ray.report(pm.Pairs(), ds, each="answers,scores", position=ROW, blocks=2)
    assert report == prefmill.polars.pair_report(pl.DataFrame(records), each="answers,scores")


def test_pandas_blocks_and_the_default_number_of_blocks(ray: Any) -> None:
    frame = pool(400).select(["completion", "score", "tools", ROW]).to_pandas()
    labels = prefmill.ray.unpaired(
        ray.data.from_pandas(frame), prompt="tools", chosen_min=3, rejected_below=2
    )
    local = prefmill.polars.unpaired(
        pl.DataFrame(pool(400)), prompt="tools", chosen_min=3, rejected_below=2
    ).collect()
    columns = ["prompt", "completion", "label", "score"]
    assert sorted(rows_of(labels).select(columns).rows()) == sorted(local.select(columns).rows())


def test_nothing_runs_before_it_is_used(ray: Any, tmp_path: Any) -> None:
    """Unless thresholds wait for the scores."""
    mark = tmp_path / "read"

    def marked(table: pa.Table) -> pa.Table:
        mark.touch()
        return table

    ds = dataset(ray, pool(30)).map_batches(marked, batch_format="pyarrow")
    made = prefmill.ray.unpaired(ds, chosen_min=4, rejected_below=4, blocks=2)
    mark.unlink(missing_ok=True)  # the columns of what a function gives are known by running it
    assert not mark.exists()
    made.take_all()
    assert mark.exists()


def test_what_is_refused(ray: Any) -> None:
    ds = dataset(ray, pool(200))
    with pytest.raises(BadArgument, match=r"(?s)ray: the later one of equal.*position='COLUMN'"):
        prefmill.ray.apply(pm.Pairs(), ds)
    with pytest.raises(BadArgument, match=r"expected a ray\.data\.Dataset"):
        prefmill.ray.apply(pm.Pairs(), "feedback.parquet")
    with pytest.raises(BadArgument, match="blocks must be a whole number >= 1; got 0"):
        prefmill.ray.unpaired(ds, blocks=0)
    good = dataset(ray, pool(200).slice(10))
    with pytest.raises(ThresholdsUnfit, match="smallest score seen 10, largest score seen 198"):
        prefmill.ray.unpaired(good, score="a.b", blocks=2)
    plan = pm.Unpaired(chosen_min=4, rejected_below=2, on_invalid="raise")
    with pytest.raises(Exception, match=r"(?s)row \d+ cannot be used; got null_(score|prompt)"):
        prefmill.ray.report(plan, ds, position=ROW, blocks=2)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(KeyError):
        monkeypatch.delitem(sys.modules, "ray.data")
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingPackage, match=r"(?s)'ray\[data\]' is not installed.*\[ray\]"):
        prefmill.ray.apply(pm.Pairs(), object())

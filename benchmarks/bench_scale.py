"""Pairs on one machine and on engines of many: local, Ray, Ray Data, Spark (Sail), jobs by hand.

    python benchmarks/bench_scale.py --rows 10000000 --dir /tmp/bench > scale.md
    python benchmarks/bench_scale.py --moves --rows 1000000 --dir /tmp/bench
    python benchmarks/bench_scale.py --simulate 100000000 --dir /tmp/bench

The task is that of bench_pairs.py. Each run is a process of its own. The peak is that of the whole
tree of processes, as shares of pages (PSS), looked at from outside; beside it the largest process.
`--moves` prints how many bytes move for each byte of input. `--simulate` measures tasks of partial
runs at two sizes, and what they make of so many rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from machine import describe, headline

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
PAIR = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
LIBRARIES = ("prefmill", "ray", "pysail", "pyspark-client", "polars", "duckdb", "pyarrow", "numpy")
#: Ray Data has workers of their own for its reducing tasks, so it is given more places.
DATA_CPUS, STORE_BYTES, BATCH_BYTES, BUCKETS = 4, 1 << 30, 64 << 20, 16
NAMES = {
    "local": "prefmill, one process (`--engine duckdb`)",
    "ray-storage": "prefmill `--engine ray --shuffle storage`, 2 workers",
    "ray-memory": "prefmill `--engine ray --shuffle memory`, 2 workers",
    "ray-storage-1": "prefmill `--engine ray --shuffle storage`, 1 worker",
    "ray-memory-1": "prefmill `--engine ray --shuffle memory`, 1 worker",
    "ray-data": "`prefmill.ray.pairs` over a Dataset",
    "ray-data-hand": "Ray Data by hand: `groupby().map_groups()`",
    "spark": "`prefmill.spark.pairs` (Sail)",
    "spark-hand": "Spark by hand: `max` and `min` of a struct (Sail)",
    "spark-python": "Spark by hand: `applyInArrow` by prompt (Sail)",
}
#: One prompt a call of Python: hours at ten million rows.
SLOW = ("ray-data-hand", "spark-python")


# What a child does: `work` is a pair of functions, that start and end an engine, and the job.


class Clock:
    """Seconds of the start and of the end of a cluster."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **options | fixed)
            finally:
                self.seconds += time.perf_counter() - started

        return run


def child(name: str, source: str, target: str, note: str) -> None:
    """One run; what only its process knows goes to `note`."""
    clock, told = Clock(), {}
    started = time.perf_counter()
    if name == "local" or name.startswith(("ray-storage", "ray-memory")):
        told = _by_prefmill(name, source, target, clock)
    elif name.startswith("ray-data"):
        _on_ray_data(name, source, target, clock)
    else:
        _on_spark(name, source, target, clock)
    seconds = time.perf_counter() - started
    told |= {"seconds": seconds, "cluster_s": clock.seconds}
    Path(note).write_text(json.dumps(told), encoding="utf-8")


def _by_prefmill(name: str, source: str, target: str, clock: Clock) -> dict[str, Any]:
    import prefmill as pm
    from prefmill.disk.ledger import Ledger

    told: dict[str, Any] = {}
    options: dict[str, Any] = {"engine": "duckdb"}
    if name != "local":
        import ray

        _, shuffle, *workers = name.split("-")
        cpus = int(workers[0]) if workers else 2
        ray.init = clock.timed(ray.init, num_cpus=cpus, object_store_memory=STORE_BYTES)
        ray.shutdown = clock.timed(ray.shutdown)
        finish = Ledger.finish

        def measured(ledger: Ledger, counts: Any) -> None:
            told["stages"] = sizes_of(Path(ledger.folder))
            finish(ledger, counts)

        Ledger.finish = measured  # type: ignore[method-assign]
        options = {"engine": "ray", "shuffle": shuffle}
    report = pm.run(pm.Pairs(), source, target, **options)
    return told | {"worker_mb": getattr(report, "worker_rss_mb", 0), "pairs": report.pairs_out}


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of the files of each stage."""
    sizes: dict[str, int] = {}
    for path in folder.rglob("*.arrow"):
        stage = path.stem.rpartition("-")[0]
        sizes[stage] = sizes.get(stage, 0) + path.stat().st_size
    return sizes


def _on_ray_data(name: str, source: str, target: str, clock: Clock) -> None:
    import handwritten_ray as jobs
    import ray

    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    clock.timed(ray.init)(
        address="local", num_cpus=DATA_CPUS, object_store_memory=STORE_BYTES, **options
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.shuffle_input_batch_bytes = BATCH_BYTES
    (jobs.by_hand if name.endswith("hand") else jobs.by_prefmill)(source, target)
    clock.timed(ray.shutdown)()


def _on_spark(name: str, source: str, target: str, clock: Clock) -> None:
    import warnings

    warnings.simplefilter("ignore")  # pyspark-client warns of pandas 3
    import handwritten_spark as jobs
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    def start() -> tuple[Any, Any]:
        server = SparkConnectServer("127.0.0.1", 0)
        server.start(background=True)
        address = "sc://{}:{}".format(*server.listening_address)
        return server, SparkSession.builder.remote(address).getOrCreate()

    server, spark = clock.timed(start)()
    ways = {"spark": jobs.by_prefmill, "spark-hand": jobs.by_hand, "spark-python": jobs.in_python}
    ways[name](spark.read.parquet(source)).write.parquet(target)
    spark.stop()
    server.stop()


# The parent


class Watch(threading.Thread):
    """The tree of processes below `pid`: the largest sum of PSS, and the largest RSS of one."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.tree, self.one, self.over = pid, 0, 0, threading.Event()

    def run(self) -> None:
        import psutil

        while not self.over.wait(0.5):
            with suppress(psutil.Error):
                root = psutil.Process(self.pid)
                pss = [self._pss(each.pid) for each in [root, *root.children(recursive=True)]]
                self.tree = max(self.tree, sum(share for share, _ in pss))
                self.one = max(self.one, *(size for _, size in pss))

    def _pss(self, pid: int) -> tuple[int, int]:
        found = {"Pss:": 0, "Rss:": 0}
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]:
                name, size, *_ = line.split()
                if name in found:
                    found[name] = int(size) * 1024
        return found["Pss:"], found["Rss:"]


def measured(name: str, source: Path, folder: Path, timeout: float) -> dict[str, Any]:
    """One run in a process of its own."""
    home = folder / f"scale-{name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    target, note = home / "pairs.parquet", home / "note.json"
    subprocess.run(["sync"], check=False)
    with source.open("rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    env = os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{HERE}"}
    command = [sys.executable, __file__, "--child", name, str(source), str(target), str(note)]
    started = time.perf_counter()
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        watch = Watch(process.pid)
        watch.start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = "timeout"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wall = time.perf_counter() - started
    watch.over.set()
    watch.join()
    if code != 0 or not note.exists():
        tail = (home / "log").read_text(errors="replace").strip().splitlines()[-1:]
        return {"name": name, "failed": f"{code}: {' '.join(tail)[:160]}"}
    digest = [sys.executable, __file__, "--digest", str(target)]
    said = subprocess.run(digest, env=env, capture_output=True, text=True, check=True).stdout
    told = json.loads(note.read_text("utf-8")) | json.loads(said)
    shutil.rmtree(home)
    return told | {"name": name, "wall": wall, "tree": watch.tree, "one": watch.one}


def digest(target: Path) -> dict[str, Any]:
    """Rows and bytes of an output, and hashes of its rows: in their order, and in none."""
    import polars as pl
    import pyarrow.parquet as pq

    files = sorted(target.rglob("*.parquet")) if target.is_dir() else [target]
    rows, total, ordered = 0, 0, hashlib.sha256()
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(100_000, columns=list(PAIR)):
            frame = pl.DataFrame(batch).select(
                *(pl.col(name).cast(pl.String) for name in PAIR[:3]),
                *(pl.col(name).cast(pl.Float64) for name in PAIR[3:]),
            )
            hashes = frame.hash_rows(seed=1)
            ordered.update(hashes.to_numpy().tobytes())
            total += int(hashes.cast(pl.Int128).sum())
            rows += frame.height
    written = sum(file.stat().st_size for file in files)
    return {
        "rows": rows,
        "bytes": written,
        "ordered": ordered.hexdigest()[:12],
        "multiset": f"{total % (1 << 64):016x}"[:12],
    }


def data_of(folder: Path, rows: int, *, seed: int = 0, lies: str = "random") -> Path:
    """Feedback with a column `row`; `lies` is `random`, or `together`: by prompt."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq
    from data import write_feedback, write_pool

    path = folder / f"scale-{lies}-{rows}-{seed}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    say(f"making {path.name}")
    made, part = folder / "scale-made.parquet", path.with_suffix(".part")
    (write_pool if lies == "pool" else write_feedback)(made, rows, seed=seed)
    if lies != "random":
        frame = pl.read_parquet(made).sort("id").with_columns(row=pl.int_range(pl.len()))
        frame.write_parquet(part, row_group_size=122_880)
    else:
        file, at = pq.ParquetFile(made), 0
        schema = file.schema_arrow.append(pa.field("row", pa.int64()))
        with pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=False) as writer:
            for batch in file.iter_batches(122_880):
                numbers = pa.array(range(at, at + len(batch)), pa.int64())
                table = pa.Table.from_batches([batch]).append_column("row", numbers)
                writer.write_table(table.cast(schema))
                at += len(batch)
    made.unlink()
    part.rename(path)
    return path


def say(text: str) -> None:
    """Progress, beside the report."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def compare(options: argparse.Namespace) -> None:
    """The table side by side."""
    names = options.only or [n for n in NAMES if options.rows <= 1_000_000 or n not in SLOW]
    source = data_of(options.dir, options.rows, seed=options.seed)
    machine = describe(LIBRARIES)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.repeat):
        for name in names:
            if any("failed" in run for run in runs[name]):
                continue
            run = measured(name, source, options.dir, options.timeout)
            runs[name].append(run)
            told = run.get("failed") or f"{run['wall']:.1f} s, {run['rows']:,} pairs"
            say(f"round {turn + 1} of {options.repeat}: {name}: {told}")
            (options.dir / "scale-runs.json").write_text(json.dumps(runs, indent=1), "utf-8")
    machine["load_after"] = os.getloadavg()[0]
    print("\n".join(headline(machine)))
    print(f"`python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}`")
    mb = source.stat().st_size / 1e6
    print(f"Input: {options.rows:,} rows, {mb:,.1f} MB of zstd Parquet, seed {options.seed}.\n")
    print(
        "| run | seconds: median (min-max) | without the cluster's start and end | ÷ local |"
        " peak MB, all processes | peak MB, largest | shuffle MB | output MB | pairs |"
        " hash in order | hash of rows |"
    )
    print(f"|---|{'--:|' * 8}---|---|")
    good = {name: made for name, made in runs.items() if made and "failed" not in made[-1]}
    base = statistics.median(r["wall"] for r in good["local"]) if "local" in good else None
    for name in names:
        print(_row(name, runs[name], base))
    hashes = {made[-1]["multiset"] for made in good.values()}
    alike = "all alike" if len(hashes) == 1 else "**they differ**"
    print(f"\nRows of {len(good)} outputs: {alike}.")
    for way in ("storage", "memory"):
        if (one := good.get(f"ray-{way}-1")) and (two := good.get(f"ray-{way}")):
            times = [statistics.median(r["wall"] - r["cluster_s"] for r in m) for m in (one, two)]
            print(f"{way}: two workers are {times[0] / times[1]:.2f} times as fast as one.")
    if len(hashes) > 1:
        sys.exit(1)


def _row(name: str, made: list[dict[str, Any]], base: float | None) -> str:
    if not made or "failed" in made[-1]:
        return f"| {NAMES[name]} | failed: {made[-1]['failed'] if made else ''} |"
    walls = sorted(run["wall"] for run in made)
    inner = statistics.median(run["wall"] - run["cluster_s"] for run in made)
    last, median = made[-1], statistics.median(walls)
    stages = last.get("stages")
    shuffle = f"{sum(stages.values()) / 1e6:,.0f}" if stages else "–"
    ratio = f"{median / base:.2f}" if base else "–"
    tree, one = (max(run[which] for run in made) / 1e6 for which in ("tree", "one"))
    return (
        f"| {NAMES[name]} | {median:.1f} ({walls[0]:.1f}-{walls[-1]:.1f}) | {inner:.1f} | {ratio} |"
        f" {tree:,.0f} | {one:,.0f} | {shuffle} | {last['bytes'] / 1e6:,.0f} |"
        f" {last['rows']:,} | {last['ordered']} | {last['multiset']} |"
    )


# Bytes that move, and partial runs: tasks one after another, in this process


def moves(options: argparse.Namespace) -> None:
    """Bytes between stages for each byte of input, packed as on a network."""
    import pyarrow.parquet as pq

    import prefmill as pm
    from prefmill.disk.ledger import Ledger
    from prefmill.runs.cluster import spread
    from prefmill.runs.cluster.executor import Inline
    from prefmill.runs.cluster.pieces import Shelf

    stages: dict[str, int] = {}
    finish = Ledger.finish

    def kept(ledger: Ledger, counts: Any) -> None:
        stages.update(sizes_of(Path(ledger.folder)))
        finish(ledger, counts)

    Ledger.finish = kept  # type: ignore[method-assign]
    shown = ("narrow", "wanted", "rank", "fetch")
    print(f"`python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}`\n")
    print("Bytes for each byte of the input, as Arrow in memory and as it is packed.\n")
    print("| input | plan | Arrow MB | Parquet MB | pieces |", " | ".join(shown), "| all |")
    print(f"|---|---|--:|--:|---|{'--:|' * 5}")
    for lies in ("random", "together", "pool"):
        source = data_of(options.dir, options.rows, seed=options.seed, lies=lies)
        file = pq.ParquetFile(source)
        columns = ["prompt", "completion", "score"]
        size = sum(batch.nbytes for batch in file.iter_batches(columns=columns))
        for plan in (pm.Pairs() if lies != "pool" else pm.BestOf(k=4), pm.BestOf()):
            for packed in (True, False):
                place = spread._place
                spread._place = lambda spreading, job, tasks, store, resumed, own=not packed: (
                    spread.Place(tasks, Shelf(store, own=own))
                )
                target = options.dir / "scale-moves" / "out.parquet"
                shutil.rmtree(target.parent, ignore_errors=True)
                target.parent.mkdir(parents=True)
                stages.clear()
                spread.run(plan, str(source), str(target), executor=Inline())
                spread._place = place
                pieces = [stages.get(stage, 0) for stage in shown]
                cells = [f"{each / size:.4f}" for each in [*pieces, sum(pieces)]]
                what = f"{type(plan).__name__}{f' k={plan.k}' if hasattr(plan, 'k') else ''}"
                print(
                    f"| {lies} | {what} | {size / 1e6:,.0f} | {source.stat().st_size / 1e6:,.0f} |"
                    f" {'packed' if packed else 'as they are'} | {' | '.join(cells)} |",
                    flush=True,
                )


def simulate(options: argparse.Namespace) -> None:
    """Seconds of each stage's tasks at two sizes of one cut, and what they make of all rows.

    A third run has the pieces of the whole run: as many buckets and splits, of fewer rows each. Its
    surplus over the second one is what a piece costs by itself.
    """
    import prefmill as pm
    from prefmill.runs.cluster import spread
    from prefmill.runs.cluster.driver import Cut
    from prefmill.runs.cluster.executor import Inline

    split_rows, bucket_rows = 250_000, 500_000
    splits, buckets = (-(-options.simulate // each) for each in (split_rows, bucket_rows))

    def run_of(rows: int, cut: Cut) -> dict[str, float]:
        source = data_of(options.dir, rows, seed=options.seed)
        seconds: dict[str, float] = {}

        class Timed(Inline):
            def run(self, work: Any, stage: Any, numbers: Any) -> Any:
                for number in numbers:
                    started = time.perf_counter()
                    (done,) = super().run(work, stage, [number])
                    took = time.perf_counter() - started
                    seconds[stage.name] = seconds.get(stage.name, 0.0) + took
                    yield done

        target = options.dir / "scale-simulated" / "out.parquet"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir(parents=True)
        started = time.perf_counter()
        spread.run(pm.Pairs(), str(source), str(target), executor=Timed(), cut=cut)
        whole = time.perf_counter() - started
        seconds["assemble and the rest"] = whole - sum(seconds.values())
        shutil.rmtree(target.parent)
        say(f"{rows:,} rows, {cut.buckets} buckets: {whole:.1f} s")
        return seconds

    def cut(rows: int) -> Cut:
        return Cut(split_rows, max(1, rows // bucket_rows), 192 << 20, 800)

    small, large = options.sizes
    machine = describe(LIBRARIES)
    run_of(small, cut(small))  # not counted: caches, imports
    one, two = run_of(small, cut(small)), run_of(large, cut(large))
    fine = Cut(-(-large // splits), buckets, 192 << 20, 800)
    fan = run_of(large, fine)
    machine["load_after"] = os.getloadavg()[0]
    print("\n".join(headline(machine)))
    print(f"`python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}`\n")
    print(f"Splits of {split_rows:,} rows, buckets of {bucket_rows:,}, one task at a time.\n")
    print(
        f"| stage | µs a row, {small:,} | µs a row, {large:,} | ratio |"
        f" seconds of {options.simulate:,} rows | of them for {splits} × {buckets} pieces |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    total = 0.0
    for stage in two:
        each = [one[stage] / small * 1e6, two[stage] / large * 1e6]
        extra = max(0.0, fan[stage] - two[stage])
        whole = two[stage] / large * options.simulate + extra
        total += whole
        print(
            f"| {stage} | {each[0]:.3f} | {each[1]:.3f} | {each[1] / each[0]:.2f} |"
            f" {whole:,.1f} | {extra:,.1f} |"
        )
    rows_a, rows_b = (sum(each.values()) / n * 1e6 for each, n in ((one, small), (two, large)))
    ratio = total / options.simulate * 1e6 / rows_b
    held = abs(rows_b / rows_a - 1) <= 0.15 and abs(ratio - 1) <= 0.15
    print(
        f"| all | {rows_a:.3f} | {rows_b:.3f} | {rows_b / rows_a:.2f} | {total:,.1f} | |\n\n"
        f"{options.simulate:,} rows: {ratio:.2f} times the time a row of {large:,} rows:"
        f" {'linear' if held else '**not linear**'} within 15 %."
    )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--digest"]:
        print(json.dumps(digest(Path(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, default=Path("/tmp/bench"))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of one run")
    parser.add_argument("--only", type=lambda text: text.split(","), help=", ".join(NAMES))
    parser.add_argument("--moves", action="store_true", help="bytes that move")
    parser.add_argument("--simulate", type=int, help="rows of a whole run")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(each) for each in text.split(",")],
        default=[1_000_000, 4_000_000],
        help="rows of its partial runs",
    )
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(NAMES):
        parser.error(f"no run {sorted(unknown)}; expected some of {list(NAMES)}")
    sys.path.insert(0, str(SOURCE))
    if options.moves:
        moves(options)
    elif options.simulate:
        simulate(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()

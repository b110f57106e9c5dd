"""The k best of every prompt from a Parquet file: prefmill and what people use instead, whole
processes side by side in one run.

    python benchmarks/bench_best.py --rows 10000000 > best.md
    python benchmarks/bench_best.py --rows 10000000 --together > together.md

How it is measured, and why so, is that of `bench_pairs.py`, whose harness this uses. The table goes
to stdout, progress to stderr. Exit code 1 if candidates disagree about the rows or prefmill fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_pairs import Candidate, free_memory, machine_of, ratio, say, touch_memory, turn
from best_baselines import BASELINES
from machine import in_child

HERE = Path(__file__).resolve().parent
PREFMILL = "prefmill"
TITLES = {
    PREFMILL: "prefmill best",
    "polars": "polars group_by, top_k_by over texts",
    "duckdb": "duckdb QUALIFY row_number()",
    "duckdb-ties": "duckdb QUALIFY, ties by row number",
    "duckdb-join": "duckdb row numbers first, then join",
    "duckdb-one": "the same without lists (top 1)",
    "pandas": "pandas sort_values, groupby, tail",
}
COLUMNS = (
    "candidate",
    "seconds: median (min–max)",
    "CPU s",
    "peak MB",
    "seconds ÷ prefmill (by round)",
    "prefmill ÷ it",
    "rows out",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the options ask for, print the report, return the exit code."""
    options = _options(arguments)
    with contextlib.ExitStack() as stack:
        if options.dir is None:
            options.dir = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="prefmill-bench-"))
            )
        options.dir = options.dir.resolve()
        options.dir.mkdir(parents=True, exist_ok=True)
        return _bench(options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog=f"NAMES: {', '.join(TITLES)}, with commas between.",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="candidates, 16 of a prompt (default %(default)s)",
    )
    parser.add_argument(
        "--k",
        type=lambda text: [int(k) for k in text.split(",")],
        default=[1, 4],
        help="how many are taken (default 1,4)",
    )
    parser.add_argument(
        "--only", type=lambda text: text.split(","), metavar="NAMES", help="run only these"
    )
    parser.add_argument(
        "--skip",
        type=lambda text: text.split(","),
        metavar="NAMES",
        default=[],
        help="do not run these",
    )
    parser.add_argument(
        "--repeat", type=int, default=3, help="counted rounds (default %(default)s)"
    )
    parser.add_argument(
        "--warmup",
        type=int,
        default=1,
        help="rounds before that are not counted (default %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=900,
        metavar="SECONDS",
        help="of one run (default %(default)s)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="where data and outputs go; data that is there is used (default: a temporary folder)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data (default %(default)s)")
    parser.add_argument(
        "--together",
        action="store_true",
        help="a pool as `score` writes it: candidates of a prompt stand together, and it says so",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw results there")
    parser.add_argument(
        "--no-touch",
        action="store_true",
        help="do not touch the memory first (on a machine that others use)",
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in [*(options.only or []), *options.skip] if name not in TITLES]:
        parser.error(f"unknown {unknown}; expected some of {list(TITLES)}")
    if options.repeat < 1 or options.warmup < 0 or options.rows < 16 or options.rows % 16:
        parser.error(
            "needs --repeat >= 1, --warmup >= 0, and --rows a multiple of 16 (candidates of a"
            " prompt)"
        )
    return options


def _bench(options: argparse.Namespace) -> int:
    name = "together" if options.together else "pool"
    source = options.dir / f"{name}-{options.rows}-{options.seed}.parquet"
    if not source.exists():
        say(f"writing {source}")
        in_child(_write_data, str(source), options.rows, options.seed, options.together)
    columns, rows, _ = in_child(_checksum, str(source))
    machine = machine_of(source, rows, columns)
    touched = 0 if options.no_touch else int(free_memory() * 0.6)
    if touched:
        say(f"touching {touched / 1e9:.1f} GB of memory")
        try:
            in_child(touch_memory, touched)
        except (BrokenProcessPool, MemoryError):
            touched = 0
    by_k = {k: _candidates(options, source, k) for k in options.k}
    for number in range(-options.warmup, options.repeat):
        for candidates in by_k.values():
            for candidate in candidates:
                if not candidate.reason:
                    turn(candidate, number, source, options, checksum=_checksum)
    machine["load_after"] = os.getloadavg()[0]
    problems = [problem for candidates in by_k.values() for problem in _disagreements(candidates)]
    print(_report(by_k, machine, options, touched, problems), flush=True)
    if options.json:
        raw = {"machine": machine, "options": vars(options), "problems": problems}
        raw["candidates"] = {k: [asdict(c) for c in candidates] for k, candidates in by_k.items()}
        options.json.write_text(json.dumps(raw, indent=2, default=str) + "\n", encoding="utf-8")
    for problem in problems:
        say(f"WRONG: {problem}")
    return (
        1
        if problems
        or any(
            c.reason for candidates in by_k.values() for c in candidates if c.name not in BASELINES
        )
        else 0
    )


def _candidates(options: argparse.Namespace, source: Path, k: int) -> list[Candidate]:
    found = []
    for name in TITLES:
        if name not in (options.only or TITLES) or name in options.skip:
            continue
        if name == "duckdb-one" and k > 1:
            continue
        output = options.dir / f"bench-best-{name}-{k}.parquet"
        if name == PREFMILL:
            command = [
                sys.executable,
                "-m",
                "prefmill",
                "best",
                str(source),
                "-o",
                str(output),
                "-k",
                str(k),
                "--overwrite",
                "--quiet",
            ]
        else:
            command = [
                sys.executable,
                str(HERE / "best_baselines.py"),
                name,
                str(k),
                str(source),
                str(output),
            ]
        found.append(Candidate(name, command, output))
    return found


def _disagreements(candidates: list[Candidate]) -> list[str]:
    """What is wrong with the outputs, in words; every counted and warm-up run is looked at."""
    runs = [(candidate.name, run) for candidate in candidates for run in candidate.runs]
    wanted = {(run.rows, run.checksum) for _, run in runs[:1]}
    return [
        f"{name}, round {run.round + 1}: {run.rows:,} rows, other ones than {runs[0][0]}'s"
        f" {runs[0][1].rows:,}"
        for name, run in runs
        if (run.rows, run.checksum) not in wanted
    ]


def _report(
    by_k: dict[int, list[Candidate]],
    machine: dict[str, Any],
    options: argparse.Namespace,
    touched: int,
    problems: list[str],
) -> str:
    lines = [
        f"{machine['date']}, {machine['system']}, {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['ram_gb']:.1f} GB RAM, "
        f"load {machine['load_before']:.1f} before and {machine['load_after']:.1f} after.",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".",
        f"Input: {machine['rows']:,} rows ({', '.join(machine['columns'])}),"
        f" {machine['bytes'] / 1e6:,.1f} MB of zstd Parquet, "
        f"seed {options.seed}.",
        f"Whole processes, {options.repeat} rounds in rotation after {options.warmup} not counted;"
        f" input in the page cache; {touched / 1e9:.1f} GB of memory touched before.",
    ]
    for k, candidates in by_k.items():
        lines += [
            "",
            f"Top {k}:",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|---{'|---:' * (len(COLUMNS) - 1)}|",
        ]
        base = next((c for c in candidates if c.name == PREFMILL), None)
        for candidate in candidates:
            runs = candidate.counted
            if candidate.reason or not runs:
                lines.append(
                    f"| {TITLES[candidate.name]} | {candidate.reason} {'| ' * (len(COLUMNS) - 2)}|"
                )
                continue
            seconds = [run.seconds for run in runs]
            held = None
            if base and base.counted:
                ours = statistics.median(run.seconds for run in base.counted)
                held = ours / statistics.median(seconds)
            cells = [
                TITLES[candidate.name],
                f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})",
                f"{statistics.median(run.cpu_seconds for run in runs):.2f}",
                f"{max(run.peak_mb for run in runs):,.0f}",
                ratio(candidate, base),
                "–" if held is None or candidate is base else f"{held:.2f}",
                f"{runs[-1].rows:,}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    said = (
        "**WRONG: the candidates disagree.**"
        if problems
        else "All runs of all candidates wrote the same rows (prompt, completion, score, id)."
    )
    return "\n".join([*lines, "", said, *(f"- {problem}" for problem in problems)])


# In children, so that this process stays small.


def _write_data(path: str, rows: int, seed: int, together: bool) -> None:
    from data import write_pool

    partial = Path(f"{path}.partial")
    write_pool(partial, rows, seed=seed, grouped=together)
    if together:
        _as_score_writes(partial, path)
        partial.unlink()
    else:
        partial.replace(path)


def _as_score_writes(source: Path, target: str) -> None:
    """The rows again, by the writer of `prefmill score` and with what it says of them."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from prefmill.writers.write import write

    batches = pq.ParquetFile(source).iter_batches(50_000)
    frames = (pl.DataFrame(pa.Table.from_batches([batch])) for batch in batches)
    schema = pl.scan_parquet(source).collect_schema()
    write(frames, schema, target, format="pool", together="prompt")


def _checksum(path: str) -> tuple[list[str], int, str]:
    """Columns, rows, and the sum over the rows of a hash of each, which no order of rows changes;
    the texts are read in full.
    """
    import duckdb

    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false")
    columns = con.read_parquet(path).columns
    hashed = "sum(hash(prompt, completion, score::DOUBLE, id::BIGINT)::HUGEINT)"
    query = f"SELECT count(*), {hashed} FROM read_parquet(?)"
    rows, total = con.execute(query, [path]).fetchall()[0]
    return columns, rows, str(total)


if __name__ == "__main__":
    sys.exit(main())

"""Every SQL macro over a Parquet pool inside a memory limit, beside what people write by hand in
DuckDB.

    python benchmarks/bench_sql.py --rows 10000000 > sql.md

Each query runs in a process of its own: a fresh connection with `memory_limit`, `threads` and a
spill folder, the input in the page cache. Its rows are folded into one number per column (a sum, of
texts the sum of their lengths), so that every column is made and none is written. Wall and CPU time
are those of the query, peak memory that of the whole process (DuckDB's limit leaves Python and its
libraries out). Where both sides mean the same, the sums are compared. The table goes to stdout,
progress to stderr. Exit code 1 if a macro fails or sums differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = "source := id % 8"
MODELS = "WITH p AS (SELECT prompt, round(score) AS score, id % 8 AS source FROM pool)"
TALLY = ", ".join(
    f"count(*) FILTER (a.score {sign} b.score) AS {name}"
    for sign, name in ((">", "wins"), ("<", "losses"), ("=", "ties"))
)
PARENT = "CASE WHEN id > 0 THEN (id - 1) // 4 END"  # every row a message with four replies
RATED = "score := round(score), annotator := id % 4) WHERE annotator IS NOT NULL"
MEET = (
    "SELECT a.annotator, b.annotator AS other, count(*) AS units FROM p a JOIN p b"
    " ON a.prompt = b.prompt AND a.unit = b.unit AND a.annotator < b.annotator GROUP BY ALL"
)
#: name: (macro, by hand or None, columns whose sums have to agree). `pool` is a view of the file.
QUERIES: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "best_of, k 1": (
        "FROM best_of(pool)",
        "SELECT prompt, arg_max(completion, score) AS completion, max(score) AS score FROM pool"
        " GROUP BY prompt",
        ("prompt", "completion", "score"),
    ),
    "best_of, k 4": (
        "FROM best_of(pool, k := 4)",
        "SELECT prompt, completion, score, row_number() OVER (PARTITION BY prompt ORDER BY score"
        " DESC) AS rank FROM pool QUALIFY rank <= 4",
        ("prompt", "completion", "score", "rank"),
    ),
    "preference_pairs": (
        "FROM preference_pairs(pool, chosen_min := NULL, rejected_below := NULL)",
        "SELECT prompt, arg_max(completion, score) AS chosen, arg_min(completion, score) AS"
        " rejected, max(score) AS chosen_score,"
        " min(score) AS rejected_score FROM pool GROUP BY prompt HAVING max(score) > min(score)",
        ("prompt", "chosen", "rejected", "chosen_score", "rejected_score"),
    ),
    "pair_report": (
        "SELECT rows_in, rows_used, pairs_out FROM pair_report(pool, chosen_min := NULL,"
        " rejected_below := NULL)",
        None,
        (),
    ),
    "unpaired": (
        "FROM unpaired(pool, chosen_min := 4, rejected_below := -4)",
        "SELECT prompt, completion, score >= 4 AS label, score FROM pool WHERE score >= 4 OR"
        " score < -4",
        ("prompt", "completion", "score"),
    ),
    "rank_candidates": (
        "FROM rank_candidates(pool)",
        "SELECT prompt, completion, score, row_number() OVER w AS rank, count(*) OVER (PARTITION"
        " BY prompt) AS n,"
        " max(score) OVER (PARTITION BY prompt) - score AS gap FROM pool WINDOW w AS (PARTITION"
        " BY prompt ORDER BY score DESC)",
        ("prompt", "completion", "score", "rank", "n", "gap"),
    ),
    "pool_stats": (
        "FROM pool_stats(pool)",
        "SELECT prompt, count(*) AS n, avg(score) AS mean, stddev_pop(score) AS spread, max(score)"
        " AS best, median(score) AS median,"
        " min(score) AS worst, corr(score, length(completion)) AS length_correlation FROM pool"
        " GROUP BY prompt",
        ("prompt", "n", "best", "worst", "mean", "spread", "median"),
    ),
    "win_rates": (
        f"FROM win_rates(pool, prompt := prompt, completion := 1, score := round(score), {SOURCE})",
        f"{MODELS} SELECT a.source, {TALLY} FROM p a JOIN p b ON a.prompt = b.prompt AND a.source"
        " <> b.source GROUP BY a.source",
        ("source", "wins", "losses", "ties"),
    ),
    "win_rates, baseline": (
        "FROM win_rates(pool, prompt := prompt, completion := 1, score := round(score),"
        f" {SOURCE}, baseline := 0)",
        f"{MODELS} SELECT a.source, {TALLY} FROM p a JOIN p b ON a.prompt = b.prompt WHERE"
        " b.source = 0 AND a.source <> 0 GROUP BY 1",
        ("source", "wins", "losses", "ties"),
    ),
    "agreement": (
        f"FROM agreement(pool, prompt := prompt, completion := id // 4, {RATED}",
        f"WITH p AS (SELECT prompt, id // 4 AS unit, id % 4 AS annotator FROM pool) {MEET}",
        ("annotator", "other", "units"),
    ),
    "agreement, units are texts": (
        f"FROM agreement(pool, prompt := prompt, completion := prompt || id // 4, {RATED}",
        "WITH p AS (SELECT prompt, prompt || id // 4 AS unit, id % 4 AS annotator FROM pool)"
        f" {MEET}",
        ("annotator", "other", "units"),
    ),
    "advantages": (
        "FROM advantages(pool, kind := 'grpo')",
        "SELECT prompt, completion, score, coalesce((score - avg(score) OVER w) /"
        " (stddev_samp(score) OVER w + 1e-4), 0) AS advantage"
        " FROM pool WINDOW w AS (PARTITION BY prompt)",
        ("prompt", "completion", "score"),
    ),
    "best_of_curve": ("FROM best_of_curve(pool)", None, ()),
    "best_of_curve, by": (
        "FROM best_of_curve(pool, prompt := prompt, completion := completion, score := score, by"
        " := id % 4)",
        None,
        (),
    ),
    "state_values": (
        "FROM state_values(pool, state := prompt, action := id, next_state := NULL, reward :="
        " score, gamma := 0.9)",
        "SELECT prompt AS state, id AS action, score AS q, avg(score) OVER (PARTITION BY prompt)"
        " AS v FROM pool",
        ("state", "action", "q"),
    ),
    "state_values, 12 levels": (
        f"FROM state_values(pool, state := coalesce({PARENT}, -1), action := id, next_state :="
        " id, reward := score, gamma := 0.9)",
        None,
        (),
    ),
    "tree_values": (
        f"FROM tree_values(pool, id := id, parent_id := {PARENT}, reward := score, gamma := 0.9)",
        None,
        (),
    ),
    "step_values": (
        f"FROM step_values(pool, id := id, parent_id := {PARENT}, success := score > 0)",
        None,
        (),
    ),
    "split_of": (
        "SELECT id, split_of(prompt, {'train': 0.9, 'test': 0.1}) AS split FROM pool",
        "SELECT id, CASE WHEN hash(prompt) % 10 < 9 THEN 'train' ELSE 'test' END AS split FROM"
        " pool",
        ("id",),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the options ask for, print the report, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="candidates, 16 of a prompt (default %(default)s)",
    )
    parser.add_argument(
        "--memory", default="2GB", help="DuckDB's memory_limit (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=1, help="rounds; the median is told (default %(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=900,
        metavar="SECONDS",
        help="of one query (default %(default)s)",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(";"),
        metavar="NAMES",
        help="run only these, with ; between",
    )
    parser.add_argument("--no-hand", action="store_true", help="only the macros")
    parser.add_argument(
        "--dir",
        type=Path,
        help="where data goes; data that is there is used (default: a temporary folder)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data (default %(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        if options.dir is None:
            options.dir = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="prefmill-bench-"))
            )
        options.dir = options.dir.resolve()
        options.dir.mkdir(parents=True, exist_ok=True)
        source = options.dir / f"pool-{options.rows}-{options.seed}.parquet"
        if options.one:
            print(json.dumps(_one(source, *options.one, options)))
            return 0
        return _bench(options, source)


def _bench(options: argparse.Namespace, source: Path) -> int:
    from machine import describe, headline

    if not source.exists():
        print(f"writing {source}", file=sys.stderr)
        write = "write_pool(sys.argv[1], int(sys.argv[2]), seed=int(sys.argv[3]))"
        code = f"import sys; from data import write_pool; {write}"
        # In a process of its own: a child begins with the peak memory of its parent.
        partial = source.with_suffix(".partial")
        subprocess.run(
            [sys.executable, "-c", code, str(partial), str(options.rows), str(options.seed)],
            check=True,
            cwd=HERE,
        )
        partial.replace(source)
    with source.open("rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    machine = describe(["duckdb", "pyarrow"])
    lines, wrong = [], []
    for name, (_, by_hand, shared) in QUERIES.items():
        if options.only and name not in options.only:
            continue
        ways = ["macro", *(["hand"] if by_hand and not options.no_hand else [])]
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(options.repeat):
            for way in ways:
                runs[way].append(_child(name, way, options))
        cells = [name]
        for way in ("macro", "hand"):
            found = runs.get(way, [])
            failed = next((run["error"] for run in found if "error" in run), None)
            if failed or not found:
                cells += [failed or "–", "–", "–"]
                wrong += [f"{name}: {failed}"] if failed and way == "macro" else []
            else:
                seconds, cpu = (
                    statistics.median(run[clock] for run in found) for clock in ("seconds", "cpu")
                )
                cells += [
                    f"{seconds:.1f}",
                    f"{cpu:.1f}",
                    f"{max(run['peak_mb'] for run in found):,.0f}",
                ]
        good = {
            way: found[-1]["sums"] for way, found in runs.items() if found and "sums" in found[-1]
        }
        if len(good) == 2:
            apart = [
                c
                for c in shared
                if abs(good["macro"][c] - good["hand"][c]) > 1e-6 * max(1.0, abs(good["hand"][c]))
            ]
            wrong += [
                f"{name}: sums of {c} differ: {good['macro'][c]} and {good['hand'][c]}"
                for c in apart
            ]
            for clock in ("seconds", "cpu"):
                macro, hand = (
                    statistics.median(run[clock] for run in runs[way]) for way in ("macro", "hand")
                )
                cells.append(f"{macro / hand:.2f}")
        else:
            cells += ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    machine["load_after"] = os.getloadavg()[0]
    head = [
        "macro",
        "s",
        "CPU s",
        "peak MB",
        "by hand, s",
        "CPU s",
        "peak MB",
        "macro ÷ by hand, s",
        "CPU s",
    ]
    print(
        "\n".join(
            [
                *headline(machine),
                f"{options.rows:,} rows, 16 of a prompt, {source.stat().st_size / 1e6:,.0f} MB of"
                " zstd Parquet;"
                f" memory_limit {options.memory}, {options.threads} threads, {options.repeat}"
                " round(s), one process each; input in the page cache.",
                "",
                f"| {' | '.join(head)} |",
                f"|---{'|---:' * (len(head) - 1)}|",
                *lines,
                "",
                *(f"**WRONG**: {said}" for said in wrong),
            ]
        )
    )
    return 1 if wrong else 0


def _child(name: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, way]
    for option in ("rows", "dir", "seed", "memory", "threads"):
        command += [f"--{option}", str(getattr(options, option))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"over {options.timeout:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["failed"])[-1][:80]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _one(source: Path, name: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one query; its seconds, the sum of each column, the peak of this process."""
    import duckdb

    from prefmill.duckdb import install

    with tempfile.TemporaryDirectory(dir=options.dir) as spill:
        con = duckdb.connect()
        for setting in (
            f"memory_limit = '{options.memory}'",
            f"threads = {options.threads}",
            f"temp_directory = '{spill}'",
            "enable_progress_bar = false",
        ):
            con.execute(f"SET {setting}")
        install(con)
        path = str(source).replace("'", "''")
        con.execute(f"CREATE VIEW pool AS FROM read_parquet('{path}')")
        query = QUERIES[name][0 if way == "macro" else 1]
        columns = con.execute(f"DESCRIBE {query}").fetchall()
        sums = ", ".join(
            f'sum(length("{column}"))'
            if kind == "VARCHAR"
            else f'sum("{column}"::INT)'
            if kind == "BOOLEAN"
            else f'sum("{column}")'
            for column, kind, *_ in columns
        )
        start, worked = time.perf_counter(), time.process_time()
        (row,) = con.execute(f"SELECT {sums} FROM ({query})").fetchall()
        seconds, cpu = time.perf_counter() - start, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )
    return {
        "seconds": seconds,
        "cpu": cpu,
        "peak_mb": peak,
        "sums": {
            column: float(value or 0) for (column, *_), value in zip(columns, row, strict=True)
        },
    }


if __name__ == "__main__":
    sys.exit(main())

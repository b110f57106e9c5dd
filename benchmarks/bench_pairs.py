"""Best-against-worst pairs from a Parquet file: prefmill and what people use instead, whole
processes side by side in one run.

    python benchmarks/bench_pairs.py --rows 1000000 > results.md

Every candidate is a child process: interpreter, imports, reading and writing all count. Wall time
is taken here, CPU time and peak memory are the kernel's (`wait4`). Candidates run in rotation (A B
C, A B C, ...), so that a slow minute of the machine hits all of them, and every ratio is also given
for each round by itself. Every output of every run is counted and checksummed.

Before the first run a child process writes to about 60 % of the free memory once: on a fresh
virtual machine the first touch of a page is several times slower than later ones, and whoever ran
first would pay for all. The input is read before every run, so that it comes from the page cache
for all, and the disk is synced, so that no one waits for what the one before has written.

The table goes to stdout, progress to stderr. Exit code 1 if candidates disagree about the pairs or
prefmill fails. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from baselines import BASELINES, TIES_OPEN
from machine import in_child

HERE = Path(__file__).resolve().parent
LIBRARIES = ("polars", "duckdb", "pyarrow", "datasets", "pandas", "numpy")
BIG = 10_000_000
PREFMILL, FLOOR = "prefmill", "copy"
COLUMNS = (
    "candidate",
    "seconds: median (min–max)",
    "CPU s",
    "peak MB",
    "seconds ÷ prefmill (by round)",
    "seconds ÷ copy (by round)",
    "rows out",
)

TITLES = {
    PREFMILL: "prefmill",
    "prefmill-2gb": "prefmill --memory-limit 2GB",
    FLOOR: "polars copy (no work, all columns)",
    "pandas": "pandas script + datasets.from_list",
    "polars": "polars group_by over texts",
    "duckdb": "duckdb arg_max over texts",
    "duckdb-ties-open": "duckdb arg_max, ties left open",
    "datasets": "datasets sort, batch(by_column), map",
}
TOO_BIG = {"pandas": "not run: out of memory on 24 GiB", "datasets": "not run"}


@dataclass
class Run:
    """One timed child process and what it left."""

    round: int  # below 0: warm-up, not counted
    seconds: float
    cpu_seconds: float
    peak_mb: float
    rows: int = 0
    checksum: str = ""


@dataclass
class Candidate:
    """One way to make the pairs, its runs, and why there are no more of them."""

    name: str
    command: list[str]
    output: Path
    runs: list[Run] = field(default_factory=list)
    reason: str = ""

    @property
    def counted(self) -> list[Run]:
        return [run for run in self.runs if run.round >= 0]

    def of_round(self, number: int) -> Run | None:
        return next((run for run in self.runs if run.round == number), None)


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
        "--rows", type=int, default=1_000_000, help="rows of feedback (default %(default)s)"
    )
    parser.add_argument("--only", type=_names, metavar="NAMES", help="run only these")
    parser.add_argument("--skip", type=_names, metavar="NAMES", default=[], help="do not run these")
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
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw results there")
    parser.add_argument(
        "--no-touch",
        action="store_true",
        help="do not touch the memory first (on a machine that others use)",
    )
    options = parser.parse_args(arguments)
    if options.repeat < 1 or options.warmup < 0 or options.rows < 4 or options.rows % 4:
        parser.error(
            "needs --repeat >= 1, --warmup >= 0, and --rows a multiple of 4 (answers of a prompt)"
        )
    if not [
        name for name in TITLES if name in (options.only or TITLES) and name not in options.skip
    ]:
        parser.error("nothing left to run")
    return options


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in TITLES]:
        raise argparse.ArgumentTypeError(f"unknown {unknown}; expected some of {list(TITLES)}")
    return names


def _bench(options: argparse.Namespace) -> int:
    source = options.dir / f"feedback-{options.rows}-{options.seed}.parquet"
    if not source.exists():
        say(f"writing {source}")
        in_child(_write_data, str(source), options.rows, options.seed)
    columns, rows, _ = in_child(_checksum, str(source))
    if rows != options.rows:
        sys.exit(f"{source} holds {rows} rows instead of {options.rows}; remove it and run again.")
    machine = machine_of(source, rows, columns)
    touched = 0 if options.no_touch else int(free_memory() * 0.6)
    if touched:
        say(f"touching {touched / 1e9:.1f} GB of memory")
        try:
            in_child(touch_memory, touched)
        # A container with less memory than the kernel reports.
        except (BrokenProcessPool, MemoryError):
            say("could not touch so much memory; going on without")
            touched = 0
    candidates = _candidates(options, source)
    for number in range(-options.warmup, options.repeat):
        for candidate in candidates:
            if not candidate.reason:
                turn(candidate, number, source, options, checksum=_checksum)
    machine["load_after"] = os.getloadavg()[0]
    problems = _disagreements(candidates, rows)
    print(_report(candidates, machine, options, touched, problems), flush=True)
    if options.json:
        raw = {
            "machine": machine,
            "options": vars(options),
            "problems": problems,
            "candidates": [asdict(c) for c in candidates],
        }
        options.json.write_text(json.dumps(raw, indent=2, default=str) + "\n", encoding="utf-8")
    for problem in problems:
        say(f"WRONG: {problem}")
    return 1 if problems or any(c.reason for c in candidates if c.name not in BASELINES) else 0


def _candidates(options: argparse.Namespace, source: Path) -> list[Candidate]:
    found = []
    for name in TITLES:
        if name not in (options.only or TITLES) or name in options.skip:
            continue
        output = options.dir / f"bench-pairs-{name}.parquet"
        if name in BASELINES:
            command = [sys.executable, str(HERE / "baselines.py"), name, str(source), str(output)]
        else:
            command = [
                sys.executable,
                "-m",
                "prefmill",
                "pairs",
                str(source),
                "-o",
                str(output),
                "--overwrite",
                "--quiet",
            ]
            if name == "prefmill-2gb":
                command += ["--memory-limit", "2GB"]
        big = options.rows >= BIG and not options.only
        found.append(Candidate(name, command, output, reason=TOO_BIG.get(name, "") if big else ""))
    return found


def turn(
    candidate: Candidate,
    number: int,
    source: Path,
    options: argparse.Namespace,
    *,
    checksum: Callable[[str], tuple[list[str], int, str]],
) -> None:
    """Run `candidate` once; a failure becomes its reason, and it gets no further turn. `checksum`
    gives columns, rows and sum of a file.
    """
    scratch = options.dir / "bench-scratch"
    with _without(scratch, candidate.output):
        scratch.mkdir()
        _read(source)
        os.sync()
        done = _timed(candidate.command, number, scratch, options.timeout)
        if isinstance(done, Run):
            try:
                _, done.rows, done.checksum = in_child(checksum, str(candidate.output))
            except Exception as error:  # whatever is wrong with the output is the candidate's
                done = f"failed: output unreadable ({_one_line(str(error))})"
    if isinstance(done, str):
        candidate.reason = done
        say(f"{candidate.name}: {done}")
        return
    candidate.runs.append(done)
    when = f"round {number + 1}" if number >= 0 else "warm-up"
    say(
        f"{when}: {candidate.name} {done.seconds:.2f} s, {done.peak_mb:.0f} MB, {done.rows:,} rows"
        " out"
    )


def _timed(command: list[str], number: int, scratch: Path, timeout: float) -> Run | str:
    """Run `command` and measure it from outside; the reason if it failed."""
    errors = scratch / "stderr"
    late = threading.Event()
    with errors.open("wb") as stderr:
        begin = time.perf_counter()
        # A process group of its own, so that a timeout ends its children too.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=_environment(scratch),
            start_new_session=True,
        )

        def stop() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            # If memory runs out, the kernel is to take the candidate, not its neighbours.
            with contextlib.suppress(OSError):
                Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            stop()
            raise
        finally:
            timer.cancel()
        seconds = time.perf_counter() - begin
    code = child.returncode = os.waitstatus_to_exitcode(status)
    if code == 0:
        unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
        return Run(number, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)
    if late.is_set():
        return f"stopped after {timeout:g} s"
    if code == -signal.SIGKILL:
        return f"killed after {seconds:.0f} s, most likely out of memory"
    said = [
        line
        for line in errors.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return f"failed: {_one_line(said[-1] if said else f'exit code {code}')}"


def _environment(scratch: Path) -> dict[str, str]:
    """Ours, with prefmill taken from this tree, and caches and spill files in `scratch`, which is
    new for every run.
    """
    paths = [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "hf"),
        "HF_DATASETS_CACHE": str(scratch / "hf" / "datasets"),
        "HF_HUB_OFFLINE": "1",
    }


@contextlib.contextmanager
def _without(*paths: Path) -> Iterator[None]:
    """Neither before nor after: a rerun must not find the cache or the output of the one before."""

    def remove() -> None:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


def _disagreements(candidates: list[Candidate], rows: int) -> list[str]:
    """What is wrong with the outputs, in words; every counted and warm-up run is looked at."""
    said = []
    expected: tuple[str, Run] | None = None
    # What can be checksummed sets the expectation.
    for candidate in sorted(candidates, key=lambda c: c.name in TIES_OPEN):
        for run in candidate.runs:
            where = f"{candidate.name}, round {run.round + 1}"
            if candidate.name == FLOOR:
                if run.rows != rows:
                    said.append(f"{where}: {run.rows:,} rows instead of {rows:,}")
                continue
            if expected is None:
                expected = (candidate.name, run)
            name, first = expected
            if run.rows != first.rows:
                said.append(f"{where}: {run.rows:,} pairs, {name} made {first.rows:,}")
            elif run.checksum != first.checksum and candidate.name not in TIES_OPEN:
                said.append(f"{where}: as many pairs as {name}, but other ones")
    return said


def _report(
    candidates: list[Candidate],
    machine: dict[str, Any],
    options: argparse.Namespace,
    touched: int,
    problems: list[str],
) -> str:
    by_name = {candidate.name: candidate for candidate in candidates}
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
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---{'|---:' * (len(COLUMNS) - 1)}|",
    ]
    for candidate in candidates:
        runs = candidate.counted
        if candidate.reason or not runs:
            lines.append(
                f"| {TITLES[candidate.name]} | {candidate.reason} {'| ' * (len(COLUMNS) - 2)}|"
            )
            continue
        seconds = [run.seconds for run in runs]
        cells = [
            TITLES[candidate.name],
            f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})",
            f"{statistics.median(run.cpu_seconds for run in runs):.2f}",
            f"{max(run.peak_mb for run in runs):,.0f}",
            ratio(candidate, by_name.get(PREFMILL)),
            ratio(candidate, by_name.get(FLOOR)),
            f"{runs[-1].rows:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _verdict(candidates, problems)])


def ratio(candidate: Candidate, base: Candidate | None) -> str:
    """Median over median, and the smallest and largest ratio of two runs of one round."""
    if base is None or base.reason or not base.counted:
        return "–"
    if base is candidate:
        return "1"
    both = statistics.median(run.seconds for run in candidate.counted) / statistics.median(
        run.seconds for run in base.counted
    )
    rounds = [
        run.seconds / other.seconds
        for run in candidate.counted
        if (other := base.of_round(run.round))
    ]
    return f"{both:.2f} ({min(rounds):.2f}–{max(rounds):.2f})"


def _verdict(candidates: list[Candidate], problems: list[str]) -> str:
    """One paragraph on whether all made the same pairs."""
    if problems:
        return "\n".join(
            ["**WRONG: the candidates disagree.**", "", *(f"- {problem}" for problem in problems)]
        )
    makers = [c for c in candidates if c.name != FLOOR and c.runs]
    summed = [c for c in makers if c.name not in TIES_OPEN]
    said = []
    if summed:
        first = summed[0].runs[0]
        runs = sum(len(c.runs) for c in summed)
        alike = "all alike" if runs > 1 else "nothing to compare with"
        names = ", ".join(c.name for c in summed)
        said.append(
            f"Checksum of (prompt, chosen, rejected, both scores): {first.checksum} of"
            f" {first.rows:,} pairs."
        )
        said.append(f"{runs} runs of {len(summed)} candidates ({names}): {alike}.")
    if counted := [c.name for c in makers if c.name in TIES_OPEN]:
        said.append(
            f"Only the count was compared of {', '.join(counted)}: among equal scores it may pick"
            " another answer."
        )
    if {"pandas", "datasets"} & {c.name for c in makers}:
        said.append(
            "pandas and datasets end in `datasets`' to_parquet, which writes snappy, cheaper than"
            " the zstd of the others."
        )
    return " ".join(said) or "No pairs were made, so none were compared."


def machine_of(source: Path, rows: int, columns: list[str]) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "prefmill": in_child(_prefmill_version)}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": cores,
        "ram_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "load_before": os.getloadavg()[0],
        "versions": versions,
        "source": str(source),
        "bytes": source.stat().st_size,
        "rows": rows,
        "columns": columns,
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def free_memory() -> int:
    """Bytes that nothing uses, the page cache neither; 0 where the kernel does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemFree:"):
                return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> None:
    """Read `path` to its end, so that it is in the page cache."""
    with path.open("rb", buffering=0) as file:
        block = bytearray(1 << 20)
        while file.readinto(block):
            pass


def _one_line(text: str) -> str:
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= 120 else line[:119] + "…"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write_data(path: str, rows: int, seed: int) -> None:
    from data import write_feedback

    partial = Path(f"{path}.partial")
    write_feedback(partial, rows, seed=seed)
    partial.replace(path)


def touch_memory(n_bytes: int) -> None:
    with contextlib.suppress(OSError):  # if this is too much, no other process is to die of it
        Path("/proc/self/oom_score_adj").write_text("1000")
    block = 1 << 26
    kept = [b"\1" * block for _ in range(n_bytes // block)]
    del kept


def _checksum(path: str) -> tuple[list[str], int, str]:
    """Columns, rows, and of pairs the sum over the rows of a hash of each, which no order of rows
    changes; the texts are read in full.
    """
    import duckdb

    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false")
    table = con.read_parquet(path)
    if "chosen" not in table.columns:
        return (
            table.columns,
            con.execute("SELECT count(*) FROM read_parquet(?)", [path]).fetchall()[0][0],
            "",
        )
    rows, total = con.execute(
        "SELECT count(*), sum(hash(prompt, chosen, rejected, chosen_score::DOUBLE,"
        " rejected_score::DOUBLE)::HUGEINT) FROM read_parquet(?)",
        [path],
    ).fetchall()[0]
    return table.columns, rows, str(total)


def _prefmill_version() -> str:
    sys.path.insert(0, str(HERE.parent / "src"))
    from prefmill._version import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())

"""Whether --memory-limit holds for the whole process, on inputs of many times the limit.

    python benchmarks/bench_memory.py --limits 512MB 1GB --dir /tmp/bench > memory.md

For each limit and size of text a Parquet file of random texts, four answers a prompt, is made, read
by `prefmill pairs` in a child, and deleted. The peak is the resident memory of the tree of
processes, looked at from outside a hundred times a second, and the kernel's own peak of the child.
It holds where the larger is at most a quarter over the limit. Afterwards the folder for temporary
files has to be empty.
"""

from __future__ import annotations

import argparse
import binascii
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from machine import describe, headline

SOURCE = Path(__file__).resolve().parent.parent / "src"
LIBRARIES = ("prefmill", "duckdb", "polars", "pyarrow")
UNITS = {"MB": 1_000_000, "GB": 1_000_000_000}
ANSWERS = 4
GROUP_BYTES = 32_000_000
OVER = 1.25


def bytes_of(text: str) -> int:
    """A size as `--memory-limit` reads it.

    >>> bytes_of("512MB")
    512000000
    """
    match = re.fullmatch(r"(\d+)(MB|GB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected 512MB, 4GB, ...")
    return int(match[1]) * UNITS[match[2]]


def write(path: Path, text_bytes: int, size: int) -> None:
    """A file of about `size` bytes of random texts, which no encoding makes smaller."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = max(1, GROUP_BYTES // text_bytes)
    names = ["prompt", "completion", "score"]
    kinds = [pa.string(), pa.string(), pa.int64()]
    chance = np.random.default_rng(0)
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    data = binascii.b2a_base64(os.urandom(rows * text_bytes * 3 // 4 + 3), newline=False)
    offsets = np.arange(rows + 1, dtype=np.int32) * text_bytes
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    # Every group has the same texts: what is measured does not depend on them.
    texts = pa.Array.from_buffers(pa.string(), rows, buffers)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for first in range(0, max(ANSWERS, size // text_bytes), rows):
            prompts = pa.array([f"prompt {n // ANSWERS}" for n in range(first, first + rows)])
            scores = pa.array(chance.integers(1, 6, rows))
            file.write_table(pa.table([prompts, texts, scores], schema=schema))


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in tree(int(child)))]


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes of a process in memory, by the kernel; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return 0
    match = re.search(rf"{field}:\s*(\d+) kB", text)
    return int(match[1]) * 1024 if match else 0


def run(source: Path, folder: Path, limit: str, engine: str) -> tuple[int, float, int, list[str]]:
    """Exit code, seconds, peak, and what is left in the temporary folder."""
    scratch, target = folder / "scratch", folder / "pairs.parquet"
    scratch.mkdir()
    command = [sys.executable, "-m", "prefmill", "pairs", str(source), "-o", str(target)]
    command += ["--engine", engine, "--memory-limit", limit, "--temp-dir", str(scratch), "--quiet"]
    started, peak = time.perf_counter(), 0
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, env=environment) as child:
        while child.poll() is None:
            together = sum(resident(pid) for pid in tree(child.pid))
            peak = max(peak, together, resident(child.pid, "VmHWM"))
            time.sleep(0.01)
    seconds = time.perf_counter() - started
    return child.returncode, seconds, peak, sorted(os.listdir(scratch))


def measure(folder: Path, limit: str, text_bytes: int, times: float, engine: str) -> str:
    """One line of the table."""
    folder.mkdir(parents=True)
    try:
        source = folder / "feedback.parquet"
        write(source, text_bytes, int(bytes_of(limit) * times))
        size = source.stat().st_size
        code, seconds, peak, left = run(source, folder, limit, engine)
    finally:
        shutil.rmtree(folder)
    share = peak / bytes_of(limit)
    verdict = "holds" if code == 0 and share <= OVER and not left else "fails"
    if code:
        verdict += f", exit code {code}"
    if left:
        verdict += f", left {left}"
    cells = [limit, f"{text_bytes:,} B", f"{size / 1e9:.2f} GB", engine, f"{peak / 1e6:,.0f} MB"]
    return f"| {' | '.join([*cells, f'{100 * share:.0f} %', verdict, f'{seconds:.0f}'])} |"


def main() -> None:
    """The table, a line for each limit and size of text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limits", nargs="+", default=["512MB", "1GB"])
    parser.add_argument("--texts", nargs="+", type=int, default=[600, 60_000])
    parser.add_argument("--times", type=float, default=10, help="size of the input, in limits")
    parser.add_argument("--engine", default="duckdb")
    parser.add_argument("--dir", type=Path, required=True)
    asked = parser.parse_args()
    machine = describe(LIBRARIES)
    machine["load_after"] = os.getloadavg()[0]
    print(*headline(machine), sep="\n")
    print("\n| limit | texts | input | engine | peak | of the limit | verdict | seconds |")
    print("|---|--:|--:|---|--:|--:|---|--:|")
    for limit in asked.limits:
        for text_bytes in asked.texts:
            place = asked.dir / f"memory-{limit}-{text_bytes}"
            print(measure(place, limit, text_bytes, asked.times, asked.engine), flush=True)


if __name__ == "__main__":
    main()

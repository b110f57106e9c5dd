"""A limit on memory is of the whole process: the kernel counts at most a quarter more."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounded import held_by

import prefmill as pm

MB = 1_000_000
#: What a peak may have on top of a limit.
ROOM = 1.25
COMMANDS = {
    "pairs": ["--strategy", "best_rest", "--no-thresholds"],
    "best": ["-k", "2"],
    "unpair": ["--chosen-min", "4", "--rejected-below", "3"],
    "advantages": [],
}


def feedback(path: Path, size: int, text: int, *, answers: int = 4) -> Path:
    """`size` bytes of texts that hardly compress, `text` bytes each."""
    draw = random.Random(7)
    raw = draw.randbytes(4 << 20).hex()
    rows, each = size // text, max(answers, 32 * MB // text // answers * answers)
    writer = None
    for start in range(0, rows, each):
        numbers = range(start, min(start + each, rows))
        places = [draw.randrange(len(raw) - text) for _ in numbers]
        table = pa.table(
            {
                "prompt": [f"prompt {number // answers}" for number in numbers],
                "completion": [
                    f"{number} {raw[place : place + text]}"
                    for number, place in zip(numbers, places, strict=True)
                ],
                "score": [number * 7919 % 5 + 1 for number in numbers],
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=False)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path


def check(command: str, source: Path, limit: int, folder: Path) -> None:
    scratch, target = folder / "scratch", folder / "out.parquet"
    scratch.mkdir()
    words = [command, source, "-o", target, *COMMANDS[command], "--temp-dir", scratch]
    held = held_by([*words, "--memory-limit", f"{limit // MB}MB"], temp_dir=scratch)
    assert held.code == 0, held.output
    assert pl.scan_parquet(target).select(pl.len()).collect().item() > 0
    assert held.peak <= ROOM * limit, f"{held.peak // MB} MB"
    assert list(scratch.iterdir()) == []


def test_row_groups_are_small_under_a_limit(tmp_path):
    """The encoder holds several, which with 64 MB each was more than all else together."""
    source = feedback(tmp_path / "rows.parquet", 60 * MB, 4_000)
    sizes = {}
    for limit in (None, 512 * MB):
        target = tmp_path / "pairs.parquet"
        plan = pm.Pairs(strategy="best_rest", chosen_min=None, rejected_below=None)
        pm.run(plan, source, target, memory_bytes=limit, overwrite=True)
        file = pq.ParquetFile(target).metadata
        groups = range(file.num_row_groups)
        sizes[limit] = max(file.row_group(group).total_byte_size for group in groups)
    assert sizes[512 * MB] <= 16 << 20 < sizes[None]


@pytest.mark.torture
def test_the_encoder_keeps_to_it_too(tmp_path):
    """1.5 M rows peaked at 761 MB when row groups had 64 MB."""
    check("pairs", feedback(tmp_path / "rows.parquet", 960 * MB, 640), 512 * MB, tmp_path)


@pytest.mark.torture
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", [600, 60_000])
@pytest.mark.parametrize("limit", [512 * MB, 1000 * MB])
def test_ten_times_the_limit(limit, text, command, tmp_path):
    """4 GB, whose input is 40 GB, is run by hand: `bounded.py` measures it."""
    if shutil.disk_usage(tmp_path).free < 40 * limit:
        pytest.skip("the disk has no room for an input of ten times the limit")
    check(command, feedback(tmp_path / "rows.parquet", 10 * limit, text), limit, tmp_path)

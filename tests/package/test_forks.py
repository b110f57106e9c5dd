"""A forked process is told that it cannot compute, and does not wait for ever; one that can,
does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

ENTRIES = {
    "run": "pm.run(pm.Pairs(), FILE, FILE + '.out.parquet')",
    "explain": "runs.explain(pm.Pairs(), FILE)",
    "check": "checks.check(FILE)",
    "pair_report of a file": "pm.pair_report(FILE)",
    "pair_report of a frame": "pm.pair_report(FRAME)",
    "lazy": "pm.Pairs().lazy(FRAME)",
    "lf.pref": "FRAME.lazy().pref.best_of()",
    "curve": "pm.curve(FILE)",
    "values": "pm.values(TREE)",
    "run of values": "pm.run(pm.Values(), TREE, FILE + '.values.parquet')",
    "step_values": "pm.step_values(TREE, success='reward')",
    "step_labels": "pm.step_labels(TREE)",
    "label_steps": "pm.label_steps(TREE, FILE + '.steps.parquet')",
    "score": "pm.score(FILE, FILE + '.scored.parquet', scorer=lambda batch: [1.0] * batch.num_rows,"
    " score_column='s')",
    "sample": "pm.sample(FILE, FILE + '.pool.parquet', sampler='none')",
    "datasets": "prefmill.datasets.pairs("
    "datasets.Dataset.from_dict(FRAME.to_dict(as_series=False)))",
}
IMPORTS = (
    "import datasets, prefmill.datasets, prefmill.polars, prefmill as pm\n"
    "from prefmill.runs import run as runs\nfrom prefmill.runs.looks import check as checks\n"
)
ROWS = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}
SETUP = (
    f"import os, sys, polars as pl\nFILE = sys.argv[1]\nFRAME = pl.DataFrame({ROWS!r})\n"
    "TREE = pl.DataFrame({'id': [1, 2], 'parent_id': [None, 1], 'reward': [0.0, 1.0]})\n"
)
USE_POLARS = "pl.LazyFrame({'a': [2, 1]}).select(pl.col('a').sort()).collect()\n"
FORK = """
import io, traceback
parent = os.fork()
if parent:
    _, status = os.waitpid(parent, 0)
    os._exit(os.waitstatus_to_exitcode(status))
"""


def tried(entries: list[str]) -> str:
    """Code that tries each of `entries` and prints what became of it."""
    return "".join(
        f"try:\n    {entry}\n    print('done', flush=True)\n"
        "except Exception as error:\n    print(type(error).__name__, error, flush=True)\n"
        for entry in entries
    )


def outcome(code: str, path: Path) -> list[str]:
    """What the forked child of a process that runs `code` prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("Hint:")]


@pytest.fixture
def feedback(tmp_path) -> Path:
    pl.DataFrame(ROWS).write_parquet(tmp_path / "feedback.parquet")
    return tmp_path / "feedback.parquet"


def test_every_entry_refuses_in_a_fork(feedback):
    code = SETUP + IMPORTS + USE_POLARS + FORK + tried(list(ENTRIES.values()))
    told = outcome(code, feedback)
    assert len(told) == len(ENTRIES)
    for name, line in zip(ENTRIES, told, strict=True):
        assert line.startswith("BadArgument"), (name, line)
        assert "this process was forked after Polars had been used" in line, (name, line)
    assert [path.name for path in feedback.parent.iterdir()] == ["feedback.parquet"]


def test_it_refuses_too_if_it_is_imported_in_the_fork_only(feedback):
    code = (
        SETUP
        + USE_POLARS
        + FORK
        + IMPORTS
        + "from prefmill import forks\nforks.PATIENCE_S = 2\n"
        + tried([ENTRIES["run"], ENTRIES["lazy"]])
    )
    for line in outcome(code, feedback):
        assert "this process was forked after Polars had been used" in line


def test_a_pool_of_processes_that_fork_gets_the_error(feedback):
    code = (
        SETUP
        + IMPORTS
        + USE_POLARS
        + "import multiprocessing, os\n"
        # A target each: of two runs on one the second has another error.
        + "def work(path):\n    out = f'{path}.{os.getpid()}.csv'\n"
        + "    try:\n        pm.run(pm.Pairs(), path, out)\n    "
        "    return 'done'\n"
        + "    except pm.PrefmillError as error:\n        return str(error)\n"
        + "with multiprocessing.get_context('fork').Pool(2) as pool:\n    print(*pool.map(work, "
        "[FILE] * 2), sep='\\n')\n"
    )
    told = outcome(code, feedback)
    assert len(told) == 2
    assert all("start workers with the method 'spawn'" in line or "forked" in line for line in told)


@pytest.mark.parametrize(
    "before", ["", IMPORTS, "import prefmill\n"], ids=["nothing", "all of it", "the package"]
)
def test_a_fork_of_a_process_that_has_not_used_polars_computes(before, feedback):
    """Threads that were not started are not lost."""
    setup = SETUP.replace("FRAME = pl.DataFrame", "make = lambda: pl.DataFrame").replace(
        "TREE = ", "# "
    )
    code = (
        setup
        + before
        + FORK
        + IMPORTS
        + "FRAME = make()\n"
        + tried([ENTRIES["run"], ENTRIES["lazy"], ENTRIES["pair_report of a frame"]])
    )
    assert outcome(code, feedback) == ["done"] * 3
    assert pl.read_parquet(f"{feedback}.out.parquet").height == 1


def test_a_process_that_was_started_is_no_fork(feedback):
    """One that runs the program of its parent: Polars answers, so it computes."""
    code = (
        "import os, subprocess, sys\n"
        "if not os.environ.get('INNER'):\n"
        "    os.environ['INNER'] = '1'\n"
        "    sys.exit(subprocess.run(sys.orig_argv).returncode)\n"
    ) + (SETUP + USE_POLARS + IMPORTS + tried([ENTRIES["run"]]))
    assert outcome(code, feedback) == ["done"]

"""docs/scaling.md runs as it stands: on a Ray of this machine, on Ray Data, on a Spark."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

PAGE = ROOT / "docs" / "scaling.md"
#: Seconds of the whole page: a Ray that starts, and another one, and Sail.
LIMIT = 240

# In a process of its own: what Ray and Spark leave behind ends with it. A file, since pyspark takes
# `python -c` for its own doctests.
RUN = """
import sys
from pathlib import Path
from pages import make_targets, run_page
page, folder = Path({page!r}), Path({folder!r})
wrong = run_page(page.read_text("utf-8"), folder, make_targets(), "docs/scaling.md")
sys.exit("\\n\\n".join(wrong) or 0)
"""


@pytest.mark.cluster
def test_every_block_of_the_page_of_scaling_runs(folder, tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("pysail")
    runners = ROOT / "tests" / "support" / "runners"
    script = tmp_path / "run_page.py"
    script.write_text(RUN.format(page=str(PAGE), folder=str(folder)), "utf-8")
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [runners, ROOT / "src"]))},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_numbers_of_the_page_are_those_of_the_code():
    from prefmill.connection import MB
    from prefmill.runs.cluster import driver, on_ray

    page = PAGE.read_text("utf-8")
    told = re.search(r"At most these are (\d+) MiB and (\d+) MiB", page)
    assert told
    assert [int(each) * MB for each in told.groups()] == [driver._TEXT_BYTES, driver._NARROW_BYTES]
    assert f"{driver._LEAST_ROWS:,} rows" in page
    assert f"at least {on_ray._LEAST_BYTES // MB} MB" in page
    assert f"a task, {on_ray._RETRIES + 1} times" in page


def test_the_files_that_the_page_names_are_there():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE.read_text("utf-8"))
    assert links
    assert [link for link in links if not (Path(PAGE.parent) / link).exists()] == []

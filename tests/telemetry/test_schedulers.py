"""The examples for schedulers: what can be seen without one, and with `make test-schedulers` each
in its own scheduler.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DAY = "2026-01-01"
SCHEDULERS = os.environ.get("PREFMILL_SCHEDULERS", "")
needs_schedulers = pytest.mark.skipif(
    not SCHEDULERS, reason="PREFMILL_SCHEDULERS names a folder of environments"
)


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data" / "rated" / DAY
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLES / "feedback.csv", folder)
    return tmp_path / "data"


def run(command: list[object], data: Path, **variables: object) -> str:
    """What a command prints, once it ended well."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PREFMILL_DATA": str(data), "HOME": str(data.parent)}
    environment |= {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        list(map(str, command)),
        cwd=data,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_line_of_the_crontab_runs(data):
    """As cron runs it: by a shell, with yesterday for the day."""
    line = (EXAMPLES / "crontab").read_text("utf-8").splitlines()[-1]
    command = line.split("*  ", 1)[1].replace(r"\%", "%")
    command = command.replace("/opt/prefmill/bin/prefmill", f"{sys.executable} -m prefmill")
    command = command.replace("cd /data", f"cd {data}").replace("$(date -u -d yesterday +%F)", DAY)
    assert command.count(DAY) == 1
    (data / "log").mkdir()
    (data / "pairs").mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, "PREFMILL_LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert pl.read_parquet(data / "pairs" / f"{DAY}.parquet").height == 2
    assert '"exit_code": 0' in (data / "log" / "pairs.jsonl").read_text()


def test_the_container_has_no_root_and_copies_what_is_there():
    text = (EXAMPLES / "Dockerfile").read_text("utf-8")
    copied = [
        name for line in re.findall(r"^COPY (?!--)(.+)$", text, re.M) for name in line.split()
    ]
    assert all((ROOT / name).exists() for name in copied if name != "./")
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.M)
    assert re.search(r'^ENTRYPOINT \["prefmill"\]$', text, re.M)  # a list: it gets the signals
    assert not [line for line in re.findall(r"^FROM (\S+)", text, re.M) if ":" not in line]


@needs_schedulers
def test_airflow_runs_the_dag(data, tmp_path):
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(EXAMPLES / "airflow_pairs.py", dags)
    airflow = Path(SCHEDULERS, "apache-airflow", "bin", "airflow").absolute()
    where = {"AIRFLOW_HOME": tmp_path / "home", "AIRFLOW__CORE__DAGS_FOLDER": dags}
    run([airflow, "db", "migrate"], data, **where)
    told = run([airflow, "dags", "test", "preference_pairs", DAY], data, **where)
    assert "DagRun failed" not in told, told
    assert pl.read_parquet(data / "pairs" / f"{DAY}.parquet").height == 2


@needs_schedulers
def test_dagster_materializes_the_asset(data):
    dagster = Path(SCHEDULERS, "dagster", "bin", "dagster").absolute()
    words = ["asset", "materialize", "-f", EXAMPLES / "dagster_pairs.py"]
    told = run([dagster, *words, "--select", "preference_pairs"], data)
    assert "RUN_SUCCESS" in told
    assert pl.read_parquet(data / "pairs.parquet").height == 2


@needs_schedulers
def test_prefect_runs_the_flow(data):
    python = Path(SCHEDULERS, "prefect", "bin", "python").absolute()
    wait = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": 300}
    told = run([python, EXAMPLES / "prefect_pairs.py", DAY], data, **wait)
    assert "2 pairs" in told
    assert pl.read_parquet(data / "pairs" / f"{DAY}.parquet").height == 2


@needs_schedulers
def test_the_steps_of_the_container_make_a_prefmill_that_runs(data, tmp_path):
    """What COPY and RUN of its first stage do, in a clean folder."""
    text = (EXAMPLES / "Dockerfile").read_text("utf-8").split("\n\nFROM")[0]
    build = tmp_path / "build"
    build.mkdir()
    for step, words in re.findall(r"^(COPY|RUN) (.+)$", text, re.M):
        if step == "RUN":
            command = words.replace("/opt/prefmill", str(tmp_path / "opt"))
            subprocess.run(command, shell=True, cwd=build, check=True)
            continue
        *names, target = words.split()
        for name in names:
            put = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            put(ROOT / name, build / (name if target == "./" else target))
    shutil.rmtree(build)
    made = data / "pairs.parquet"
    rated = data / "rated" / DAY / "feedback.csv"
    run([tmp_path / "opt" / "bin" / "prefmill", "pairs", rated, "-o", made], data)
    assert pl.read_parquet(made).height == 2

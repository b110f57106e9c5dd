"""The examples of clusters, as far as they can be held without AWS, Slurm and Airflow."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def cluster() -> dict:
    yaml = pytest.importorskip("yaml", reason="Ray brings PyYAML")
    return yaml.safe_load((EXAMPLES / "ray_cluster.yaml").read_text())


def test_the_cluster_is_one_to_rays_own_schema():
    autoscaler = pytest.importorskip("ray.autoscaler", reason="needs the extra prefmill[ray]")
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra prefmill[verify]")
    schema = json.loads(Path(autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(cluster(), schema)


def test_the_head_has_no_cpus_and_the_groups_fit():
    told = cluster()
    kinds = told["available_node_types"]
    head = kinds.pop(told["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert any("--num-cpus=0" in line for line in told["head_start_ray_commands"])
    assert set(kinds) == {"cpu", "gpu"}
    assert sum(kind["max_workers"] for kind in kinds.values()) == told["max_workers"]
    assert all(kind["node_config"]["IamInstanceProfile"] for kind in kinds.values())
    assert any("prefmill[ray" in line for line in told["setup_commands"])


def commands(text: str) -> list[str]:
    """Every command of prefmill that `text` tells to type, on one line each."""
    joined = re.sub(r"\\\n#?\s*", "", text)
    return re.findall(r"prefmill (?:pairs|score) [^\n]*", joined)


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "slurm.sh"])
def test_the_options_are_those_of_the_commands(name):
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    for command in commands((EXAMPLES / name).read_text()):
        verb = command.split()[1]
        helped = CliRunner().invoke(app, [verb, "--help"]).output
        for option in re.findall(r"--[a-z-]+", command):
            assert option in helped, (verb, option)


def test_the_task_of_airflow_is_idempotent():
    """Airflow's own pins and ours do not install together: the file is compiled and read."""
    text = (EXAMPLES / "airflow_ray.py").read_text()
    tree = ast.parse(text)
    compile(tree, "airflow_ray.py", "exec")
    (dag,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    (task,) = (node for node in dag.body if isinstance(node, ast.FunctionDef))
    (decorator,) = task.decorator_list
    assert {word.arg for word in decorator.keywords} >= {"retries", "execution_timeout"}
    assert "--engine ray --address $RAY_ADDRESS" in text
    # what a name is made of is equal in every try of a run
    assert not re.search(r"datetime\.now|uuid|time\.time|try_number", text)


def test_the_shell_script_parses():
    done = subprocess.run(["bash", "-n", str(EXAMPLES / "slurm.sh")], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_the_shell_script_is_clean():
    done = subprocess.run(
        ["shellcheck", str(EXAMPLES / "slurm.sh")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


#: Slurm's two commands, Ray's and ours, as far as the script asks for them.
STANDING_IN = {
    "scontrol": """
if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" > requeued; fi""",
    "srun": """
while [ "$1" != ray ]; do shift; done; exec "$@" """,
    "ray": """
echo "$@" >> ray.log
[ -e ray-is-broken ] && exit 0
while [ "$1" != -- ]; do shift; done; shift; exec "$@" """,
    "prefmill": """
printf '%s\\n' "$@" >> asked; echo . >> asked
if [ -e slow ]; then sleep 5; fi
if [ -e fails ]; then rm fails; exit 3; fi""",
}


@pytest.fixture
def allocation(tmp_path):
    """Run the script in a folder where stand-ins are the first in PATH."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STANDING_IN.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }

    def submit(*arguments: str) -> subprocess.Popen[bytes]:
        command = ["bash", str(EXAMPLES / "slurm.sh"), *arguments]
        with (tmp_path / "stderr").open("w") as stderr:
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=stderr)

    return tmp_path, submit


JOB = ("s3://b/in put/*.parquet", "s3://b/pairs.parquet")


def test_the_job_runs_the_same_command_after_a_failure(allocation):
    folder, submit = allocation
    (folder / "fails").touch()
    assert [submit(*JOB).wait(30) for _ in range(2)] == [3, 0]
    first, second, _ = (folder / "asked").read_text().split(".\n")
    assert first == second
    said = [
        "pairs",
        "{}",
        "-o",
        "{}",
        "--engine",
        "ray",
        "--address",
        "node1:20007",
    ]
    named = dict(zip([i for i, word in enumerate(said) if word == "{}"], JOB, strict=True))
    assert first.splitlines() == [named.get(i, word) for i, word in enumerate(said)]
    assert "--min-nodes 2 --num-cpus 16" in (folder / "ray.log").read_text()
    assert not list(folder.glob("prefmill-7-*"))


def test_a_cluster_that_did_not_start_is_a_failure(allocation):
    folder, submit = allocation
    (folder / "ray-is-broken").touch()
    assert submit(*JOB).wait(30) == 1
    assert "did not run to its end" in (folder / "stderr").read_text()
    assert not (folder / "asked").exists()


def test_a_job_out_of_time_is_queued_again(allocation):
    folder, submit = allocation
    (folder / "slow").touch()
    job = submit(*JOB)
    until = time.monotonic() + 20
    while not (folder / "asked").exists() and time.monotonic() < until:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 0
    assert (folder / "requeued").read_text() == "requeue 7\n"


def test_a_job_without_its_names_is_told(allocation):
    folder, submit = allocation
    assert submit("only-one").wait(30) == 2
    assert "INPUT OUTPUT" in (folder / "stderr").read_text()

